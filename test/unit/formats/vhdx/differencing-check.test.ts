/** What `check` finds in a VHDX that has a parent, and what is therefore not written to. */

import { describe, expect, test } from 'vitest';
import { ImageError } from '../../../../src/base/errors.ts';
import { MIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import type { OpenContext } from '../../../../src/image/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { locatorOf } from '../../../support/encoders/vhdx-chains.ts';
import {
  batEntry,
  bitmapIndex,
  buildVhdx,
  fileBytes,
  LOG_GUID,
  putBatEntry,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';
import { BAT_AT } from './write-support.ts';

const context = (): OpenContext => ({ tables: new TableAllocator(), report: () => {}, options: new Map() });

function findings(file: SparseSource): string[] {
  return vhdxDriver.check!(file, context()).findings.map(({ severity, text }) => `${severity}: ${text}`);
}

/** "prepared", or why it is not written to. */
function prepared(file: SparseSource): string {
  const source = new MemorySource(fileBytes(file), 'image', true);
  try {
    vhdxDriver.open(source, context()).prepareEdit(context());
  } catch (problem) {
    if (problem instanceof ImageError) return `${problem.kind}: ${problem.message}`;
    throw problem;
  }
  return 'prepared';
}

/** Blocks 0 (whole, at 4 MiB) and 2 and 3 (in part, at 5 and 6 MiB); their chunk's bitmap is at 7 MiB. */
const plan: VhdxPlan = {
  size: 8 * MIB,
  locator: locatorOf(LOG_GUID, 'base'),
  blocks: new Map([
    [0, { state: 6 }],
    [2, { state: 7, present: [[0, 1]] }],
    [3, { state: 7, present: [] }],
  ]),
};
const BITMAP = bitmapIndex(plan, 0);
const bitmapName = `VHDX BAT entry ${BITMAP} at 0x${(BAT_AT + BITMAP * 8).toString(16)} (sector bitmap)`;

const withBitmap = (raw: Uint8Array): SparseSource => {
  const file = buildVhdx(plan);
  file.put(BAT_AT + BITMAP * 8, raw);
  return file;
};

describe('a sound image', () => {
  test('the bitmap is in use, blocks that are partially present are allocated', () => {
    expect(vhdxDriver.check!(buildVhdx(plan), context())).toEqual({
      findings: [],
      errors: 0,
      leaks: 0,
      leakedBytes: 0,
      warnings: 0,
      allocatedBytes: 3 * MIB,
    });
    expect(prepared(buildVhdx(plan))).toBe('prepared');
  });

  test('a bitmap that no block needs', () => {
    expect(findings(buildVhdx({ ...plan, blocks: new Map(), bitmaps: new Map([[0, 4]]) }))).toEqual([]);
  });

  test('what entries of blocks behind the end of the disk say', () => {
    const file = buildVhdx(plan);
    putBatEntry(file, plan, 8, batEntry(7, 99));
    putBatEntry(file, plan, 4000, batEntry(4, 4));
    expect(findings(file)).toEqual([]);
    expect(prepared(file)).toBe('prepared');
  });
});

describe('entries that must not be written to', () => {
  test.each<[string, SparseSource, string]>([
    [
      'no bitmap',
      withBitmap(batEntry(0, 0)),
      `VHDX BAT entry 2 at 0x300010 (payload block 2): is partially present, but its sector bitmap (entry ${BITMAP}) is not`,
    ],
    ['a bitmap in a payload state', withBitmap(batEntry(2, 0)), `${bitmapName}: state is 2, expected 0 or 6`],
    [
      'a bitmap behind the end',
      withBitmap(batEntry(6, 8)),
      `${bitmapName}: the bitmap is 1048576 bytes at 0x800000, beyond the end of the file at 0x800000`,
    ],
    [
      'a bitmap over a block',
      withBitmap(batEntry(6, 6)),
      `${bitmapName}: the bitmap at 0x600000 overlaps another one`,
    ],
    [
      'two blocks at one place',
      ((file) => {
        putBatEntry(file, plan, 3, batEntry(7, 5));
        return file;
      })(buildVhdx(plan)),
      'VHDX BAT entry 3 at 0x300018 (payload block 3): the block at 0x500000 overlaps another one',
    ],
  ])('%s', (_name, file, text) => {
    expect(findings(file).filter((finding) => finding.startsWith('error'))).toEqual([`error: ${text}`]);
    expect(prepared(file)).toBe(`corrupt: ${text}`);
  });

  test('the chunk that lacks its bitmap is the one that is named', () => {
    const wide: VhdxPlan = {
      ...plan,
      size: 3 * 4096 * MIB,
      blocks: new Map([0, 4096, 2 * 4096].map((block) => [block, { state: 7, present: [] }])),
    };
    const file = buildVhdx(wide);
    expect(findings(file)).toEqual([]);
    file.put(BAT_AT + bitmapIndex(wide, 1) * 8, batEntry(0, 0));
    file.put(BAT_AT + bitmapIndex(wide, 2) * 8, batEntry(0, 0));
    expect(findings(file).filter((finding) => finding.startsWith('error'))).toEqual([
      expect.stringContaining(
        `(payload block 4096): is partially present, but its sector bitmap (entry 8193) is`,
      ),
      expect.stringContaining(
        `(payload block 8192): is partially present, but its sector bitmap (entry 12290) is`,
      ),
    ]);
  });
});
