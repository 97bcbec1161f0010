/** What a differencing VHDX says of its parent, and which images it takes for it. */

import { describe, expect, test } from 'vitest';
import { MIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import type { Image } from '../../../../src/image/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { buildVhdx, fileBytes, guid, type VhdxPlan } from '../../../support/encoders/vhdx-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { edit, write } from './write-support.ts';

const FIRST = 'abcdefab-1111-4222-8333-444444444444';
const SECOND = 'fedcbafe-1111-4222-8333-555555555555';

const open = (plan: VhdxPlan): Image =>
  vhdxDriver.open(buildVhdx(plan), { tables: new TableAllocator(), report: () => {}, options: new Map() });

const child = (locator: VhdxPlan['locator'], more: Partial<VhdxPlan> = {}): Image =>
  open({ size: 4 * MIB, locator: locator!, ...more });

const PATHS: [string, string][] = [
  ['absolute_win32_path', '\\\\?\\C:\\vm\\base.vhdx'],
  ['relative_path', '..\\base.vhdx'],
  ['volume_path', '\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\vm\\base.vhdx'],
];

describe('the parent link', () => {
  test('places in the order of the specification, identities in lower case', () => {
    const { parent, variant, facts } = child([
      PATHS[0]!,
      ['parent_linkage', `{${FIRST.toUpperCase()}}`],
      PATHS[2]!,
      PATHS[1]!,
      ['parent_linkage2', `{${SECOND}}`],
      ['something_else', 'x'],
    ]);
    expect(parent?.places).toEqual([
      { path: '..\\base.vhdx', style: 'windows', origin: 'relative_path' },
      { path: PATHS[2]![1], style: 'windows', origin: 'volume_path' },
      { path: '\\\\?\\C:\\vm\\base.vhdx', style: 'windows', origin: 'absolute_win32_path' },
    ]);
    expect(parent?.identity).toBe(`data-write-guid ${FIRST} or ${SECOND}`);
    expect(variant).toBe('differencing');
    expect([...facts].filter(([name]) => name.startsWith('parent'))).toEqual([
      ['parent-linkage', FIRST],
      ['parent-linkage-2', SECOND],
      ['parent-relative-path', '..\\base.vhdx'],
      ['parent-volume-path', PATHS[2]![1]],
      ['parent-absolute-win32-path', '\\\\?\\C:\\vm\\base.vhdx'],
    ]);
  });

  test('an image alone has none', () => {
    const { parent, facts } = open({ size: MIB });
    expect(parent).toBeUndefined();
    expect([...facts.keys()].filter((name) => name.startsWith('parent'))).toEqual([]);
  });
});

describe('a candidate', () => {
  const one = (linkage: string, more: [string, string][] = []) =>
    child([['parent_linkage', linkage], PATHS[1]!, ...more]).parent!;
  const base = (more: Partial<VhdxPlan> = {}) =>
    open({ size: MIB, dataWriteGuid: guid(FIRST.toUpperCase()), ...more });

  test('has the data-write-guid of one linkage or the other', () => {
    expect(base().identity).toContainEqual({ name: 'data-write-guid', text: FIRST });
    expect(base().identity.map(({ name }) => name)).toEqual(['data-write-guid', 'virtual-disk-id']);
    expect(one(`{${FIRST}}`).compare(base())).toBeUndefined();
    expect(one(`{${FIRST.toUpperCase()}}`).compare(base())).toBeUndefined();
    expect(one(`{${SECOND}}`, [['parent_linkage2', `{${FIRST.toUpperCase()}}`]]).compare(base())).toBe(
      undefined,
    );
  });

  test('is not taken for its zeros, which Windows writes as the second linkage', () => {
    const zeros = '{00000000-0000-0000-0000-000000000000}';
    const link = one(`{${SECOND}}`, [['parent_linkage2', zeros]]);
    expect(link.identity).toBe(`data-write-guid ${SECOND}`);
    expect(link.compare(base({ dataWriteGuid: new Uint8Array(16) }))?.severity).toBe('other');
  });

  test('with another one is another image, whatever its virtual disk id', () => {
    expect(one(`{${SECOND}}`).compare(base())).toEqual({
      severity: 'other',
      wanted: `data-write-guid ${SECOND}`,
      found: `data-write-guid ${FIRST}`,
    });
  });

  test('only the current header counts', () => {
    const headers: VhdxPlan['headers'] = [
      { sequence: 8, dataWriteGuid: guid(SECOND) },
      { sequence: 7, dataWriteGuid: guid(FIRST) },
    ];
    expect(one(`{${FIRST}}`).compare(base({ headers }))?.severity).toBe('other');
    expect(one(`{${SECOND}}`).compare(base({ headers }))).toBeUndefined();
  });

  test('of another format has none', () => {
    const foreign = { ...base(), logicalSectorSize: 512, identity: [{ name: 'unique-id', text: FIRST }] };
    expect(one(`{${FIRST}}`).compare(foreign as Image)).toEqual({
      severity: 'other',
      wanted: `data-write-guid ${FIRST}`,
      found: 'none',
    });
  });

  test('with other logical sectors cannot be it, though everything else is right', () => {
    expect(one(`{${FIRST}}`).compare(base({ logical: 4096 }))).toEqual({
      severity: 'unfit',
      wanted: 'logical sectors of 512 bytes',
      found: '4096 bytes',
    });
    // Nor can one that is wrong in both ways be forced.
    expect(one(`{${SECOND}}`).compare(base({ logical: 4096 }))?.severity).toBe('unfit');
  });

  test('is not it any more when it was written to', () => {
    const file = fileBytes(buildVhdx({ size: MIB, dataWriteGuid: guid(FIRST) }));
    const { disk, memory } = edit(file);
    const parent = () =>
      vhdxDriver.open(new MemorySource(memory.bytes), {
        tables: new TableAllocator(),
        report: () => {},
        options: new Map(),
      });
    expect(one(`{${FIRST}}`).compare(parent())).toBeUndefined();
    write(disk, 0, Uint8Array.of(1));
    expect(one(`{${FIRST}}`).compare(parent())?.severity).toBe('other');
  });
});
