/** What `check` finds, and what is therefore not written to. */

import { describe, expect, test } from 'vitest';
import { ImageError } from '../../../../src/base/errors.ts';
import { MIB, TIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import type { CheckReport } from '../../../../src/image/check.ts';
import type { OpenContext } from '../../../../src/image/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import type { BlockSource } from '../../../../src/source/block-source.ts';
import { openEditable } from '../../../support/disk.ts';
import {
  batEntry,
  buildVhdx,
  chunkRatio,
  encodeHeader,
  fileBytes,
  little,
  putBatEntry,
  standardHeader,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import { intoLog, markDirty, putEntries } from '../../../support/encoders/vhdx-log.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';
import { BAT_AT, punch, reopened, write } from './write-support.ts';

const context = (): OpenContext => ({ tables: new TableAllocator(), report: () => {}, options: new Map() });
const check = (source: BlockSource): CheckReport => vhdxDriver.check!(source, context());
const texts = (source: BlockSource) =>
  check(source).findings.map(({ severity, text }) => `${severity}: ${text}`);

/** "opened", or why it is not written to. */
function prepared(file: SparseSource): string {
  const source = new MemorySource(fileBytes(file), 'image', true);
  try {
    vhdxDriver.open(source, context()).prepareEdit(context());
  } catch (problem) {
    if (problem instanceof ImageError) return `${problem.kind}: ${problem.message}; ${problem.hint}`;
    throw problem;
  }
  return 'opened';
}

const RO = '; It can be read: mount it with -o ro.';

/** Blocks 0 and 2 are there, at 4 and 5 MiB. */
const plan: VhdxPlan = {
  size: 8 * MIB + 512,
  blocks: new Map([0, 2].map((n) => [n, { state: 6, data: Uint8Array.of(n + 1) }])),
};

const withEntry = (block: number, raw: bigint): SparseSource => {
  const file = buildVhdx(plan);
  putBatEntry(file, plan, block, little(8, raw));
  return file;
};

test('a sound image', () => {
  expect(check(buildVhdx(plan))).toEqual({
    findings: [],
    errors: 0,
    leaks: 0,
    leakedBytes: 0,
    warnings: 0,
    allocatedBytes: 2 * MIB,
  });
  const last = withEntry(8, 6n | (6n << 20n));
  last.size = 7 * MIB;
  expect(check(last)).toMatchObject({ errors: 0, allocatedBytes: 2 * MIB + 512 });
});

describe('entries that must not be written to', () => {
  test.each<[string, number, bigint, string]>([
    [
      'reserved state',
      1,
      4n,
      '1 at 0x300008 (payload block 1): state is 4 (reserved), expected 0 to 3, 5 or 6',
    ],
    [
      'half present',
      1,
      7n | (4n << 20n),
      '1 at 0x300008 (payload block 1): state is 7 (partially present), which only an image with a parent may have',
    ],
    [
      'beyond the end',
      1,
      6n | (6n << 20n),
      '1 at 0x300008 (payload block 1): the block is 1048576 bytes at 0x600000, beyond the end of the file at 0x600000',
    ],
    [
      'far beyond',
      1,
      6n | (1n << 62n),
      '1 at 0x300008 (payload block 1): the block is at 0x4000000000000000, expected an offset below 512 TiB ' +
        '(562949953421312 bytes)',
    ],
    [
      'twice',
      1,
      6n | (5n << 20n),
      '2 at 0x300010 (payload block 2): the block at 0x500000 overlaps another one',
    ],
    [
      'in a region',
      1,
      6n | (3n << 20n),
      '1 at 0x300008 (payload block 1): the block at 0x300000 overlaps the header section, the log or a region',
    ],
  ])('%s', (_name, block, raw, text) => {
    const file = withEntry(block, raw);
    expect(texts(file)).toEqual([`error: VHDX BAT entry ${text}`]);
    expect(prepared(file)).toBe(`corrupt: VHDX BAT entry ${text}${RO}`);
  });

  test('a sector bitmap', () => {
    const large: VhdxPlan = { size: 5 * 1024 * MIB };
    const file = buildVhdx(large);
    file.put(BAT_AT + chunkRatio(large) * 8, batEntry(6, 4));
    const text =
      'VHDX BAT entry 4096 at 0x308000 (sector bitmap): state is 6, expected 0 in an image without a parent';
    expect(texts(file)).toEqual([`error: ${text}`]);
    expect(prepared(file)).toBe(`corrupt: ${text}${RO}`);
  });
});

test('what has no meaning is a warning, and can be written', () => {
  const file = withEntry(1, 0x8n);
  putBatEntry(file, plan, 3, batEntry(2, 9));
  putBatEntry(file, plan, 4, batEntry(5, 0));
  file.size = 6 * MIB + 512;
  expect(texts(file)).toEqual([
    'warning: VHDX BAT entry 1 at 0x300008 (payload block 1): reserved bits are set (0x8)',
    'warning: VHDX BAT entry 3 at 0x300018 (payload block 3): state is 2, but the offset is 0x9 MiB, expected 0',
    'warning: VHDX BAT entry 4 at 0x300020 (payload block 4): state is 5, that of an old draft',
    'leak: VHDX file: 512 bytes at 0x600000, at the end of the file, belong to nothing',
    'warning: VHDX file: is 6291968 bytes long, expected a multiple of 1 MiB',
  ]);
  expect(prepared(file)).toBe('opened');
});

test('one header is enough, with a warning', () => {
  const file = buildVhdx(plan);
  file.put(0x10000, new Uint8Array(4));
  expect(texts(file)).toEqual([
    'warning: VHDX header 1 at 0x10000: signature is 0x0, expected 0x64616568 ("head"); ' +
      'VHDX header 2 at 0x20000 is used',
  ]);
  expect(prepared(file)).toBe('opened');
});

test('space that nothing uses; what absent blocks keep is in use', () => {
  const file = buildVhdx({ ...plan, firstBlock: 6 });
  putBatEntry(file, plan, 1, batEntry(3, 4));
  file.size = 11 * MIB;
  expect(texts(file)).toEqual([
    'leak: VHDX file: 1 MiB (1048576 bytes) at 0x500000, between what is in use, belong to nothing',
    'leak: VHDX file: 3 MiB (3145728 bytes) at 0x800000, at the end of the file, belong to nothing',
  ]);
  expect(check(file)).toMatchObject({ leaks: 2, leakedBytes: 4 * MIB });
});

test('a dirty log: looked at as if it were replayed', () => {
  const file = buildVhdx(plan);
  const update = intoLog(file, BAT_AT);
  markDirty(file, plan);
  putEntries(file, plan, [{ sequence: 3, updates: [update] }]);
  expect(texts(file)).toEqual([
    'warning: VHDX log at 0x100000: 1 entry waits to be replayed into the file; checked as if they were',
  ]);
  expect(check(file).allocatedBytes).toBe(2 * MIB);
  expect(prepared(file)).toBe('opened');
});

test('what cannot be opened cannot be checked', () => {
  const file = buildVhdx(plan);
  file.put(0x10000, new Uint8Array(4));
  file.put(0x20000, new Uint8Array(4));
  expect(() => check(file)).toThrow(ImageError);
});

describe('not written for other reasons', () => {
  test('no log area', () => {
    const none: VhdxPlan = {
      ...plan,
      log: { at: 0, length: 0 },
      metadata: { at: 1, length: 1 },
      bat: { at: 2, length: 1 },
    };
    expect(prepared(buildVhdx(none))).toBe(
      'unsupported: VHDX header 2: the log is 0x0 bytes at 0x0, expected one inside the file; ' +
        `without it the image cannot be changed safely${RO}`,
    );
  });

  test('a log of a later version', () => {
    const file = buildVhdx(plan);
    file.put(0x20000, encodeHeader({ ...standardHeader(plan), sequence: 9, logVersion: 1 }));
    expect(prepared(file)).toBe(
      `unsupported: VHDX header 2: the log has version 1, only version 0 can be written${RO}`,
    );
  });

  test('the last sequence number', () => {
    const file = buildVhdx(plan);
    file.put(0x20000, encodeHeader({ ...standardHeader(plan), sequence: 2n ** 64n - 1n }));
    expect(prepared(file)).toBe(
      `corrupt: VHDX header 2: sequence number 18446744073709551615 has no successors${RO}`,
    );
  });
});

test('after writing, discarding and closing nothing is wrong or lost', () => {
  const source = new MemorySource(fileBytes(buildVhdx(plan)), 'image', true);
  const { disk } = openEditable(vhdxDriver, source);
  const bytes = randomBytes(random(3), 3 * MIB);
  write(disk, MIB - 512, bytes);
  punch(disk, 2 * MIB, MIB);
  expect(disk.flush()).toBe(0);
  // Killed here: what is left is to be replayed, and space at the end.
  const killed = check(new MemorySource(source.bytes.slice()));
  expect(killed.findings.map(({ severity }) => severity)).toEqual(['warning', 'leak']);
  expect(disk.close()).toBe(0);
  expect(texts(source)).toEqual([
    'leak: VHDX file: 1 MiB (1048576 bytes) at 0x500000, between what is in use, belong to nothing',
  ]);
  expect(reopened(source.bytes).notices).toEqual([]);
});

test('64 TiB: soon, in memory of the file', () => {
  const file = buildVhdx({ size: 64 * TIB, bat: { at: 3, length: 513 } });
  const start = performance.now();
  expect(check(file)).toMatchObject({ errors: 0, allocatedBytes: 0 });
  expect(performance.now() - start).toBeLessThan(5000);
});
