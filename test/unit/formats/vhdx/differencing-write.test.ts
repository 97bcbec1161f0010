/** What is written to a VHDX that has a parent, and what of the parent still shows. */

import { describe, expect, test } from 'vitest';
import { EFBIG, EIO } from '../../../../src/base/errno.ts';
import { guestOffset, MIB } from '../../../../src/base/units.ts';
import type { Disk } from '../../../../src/disk/disk.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import { locatorOf } from '../../../support/encoders/vhdx-chains.ts';
import {
  bitmapIndex,
  buildVhdx,
  expectedDisk,
  fileBytes,
  LOG_GUID,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { BAT_AT, editPlan, entryAt, headerOf, logEntries, punch, reopened, write } from './write-support.ts';

const next = random(815);
const below = randomBytes(next, 6 * MIB);
const bytes = randomBytes(next, 2 * MIB);
const locator = locatorOf(LOG_GUID, 'base');
const empty: VhdxPlan = { size: 6 * MIB, locator };
const BITMAP = bitmapIndex(empty, 0);

const parentFile = fileBytes(
  buildVhdx({
    size: 6 * MIB,
    blockSize: 2 * MIB,
    blocks: new Map(
      [0, 1, 2].map((n) => [n, { state: 6, data: below.subarray(n * 2 * MIB, (n + 1) * 2 * MIB) }]),
    ),
  }),
);
const base = (): Disk => openDisk(vhdxDriver, new MemorySource(parentFile)).disk;

const errorsOf = (file: Uint8Array): string[] =>
  vhdxDriver.check!(new MemorySource(file), {
    tables: new TableAllocator(),
    report: () => {},
    options: new Map(),
  }).findings.flatMap(({ severity, text }) => (severity === 'error' ? [text] : []));

/** The bits of a block of 1 MiB as runs of sectors: [first, end]. */
function runsOf(file: Uint8Array, block: number): [number, number][] {
  const at = entryAt(file, BITMAP).mib * MIB + block * 256;
  const runs: [number, number][] = [];
  for (let sector = 0; sector < 2048; sector += 1) {
    if ((file[at + (sector >> 3)]! & (1 << (sector & 7))) === 0) continue;
    if (runs.at(-1)?.[1] === sector) runs.at(-1)![1] = sector + 1;
    else runs.push([sector, sector + 1]);
  }
  return runs;
}

/** The disk, reopened, and what it must be: the model with these bytes. */
function expectDisk(file: Uint8Array, model: Uint8Array): void {
  expect(Buffer.compare(readDisk(reopened(file, base()).disk), model)).toBe(0);
  expect(errorsOf(file)).toEqual([]);
}

describe('where nothing was', () => {
  test('a part of a block: its bits, the bitmap and the block in one entry of the log', () => {
    const { disk, memory, steps } = editPlan(empty, base());
    write(disk, 3 * MIB + 1024, bytes.subarray(0, 1536));
    expect(steps().slice(4)).toEqual(['size 5', 'payload.write 0x400400 +1536', 'size 6']);
    // Nothing of it is named yet.
    expect(entryAt(memory.bytes, 3).raw).toBe(0n);
    expect(disk.flush()).toBe(0);
    expect(steps()).toEqual([
      'flush',
      'log.write 0x100000 +16384',
      'flush',
      'header.write 0x10000 +4096',
      'flush',
      'header.write 0x20000 +4096',
      'table.write 0x300000 +4096',
      'table.write 0x308000 +4096',
      'bitmap.write 0x500000 +4096',
    ]);
    expect(logEntries(memory.bytes).map(({ targets }) => targets)).toEqual([
      [BAT_AT, BAT_AT + 32768, 5 * MIB],
    ]);
    expect(entryAt(memory.bytes, 3)).toMatchObject({ state: 7, mib: 4 });
    expect(entryAt(memory.bytes, BITMAP)).toMatchObject({ state: 6, mib: 5 });
    expect(runsOf(memory.bytes, 3)).toEqual([[2, 5]]);
    const model = below.slice();
    model.set(bytes.subarray(0, 1536), 3 * MIB + 1024);
    expectDisk(memory.bytes, model);
    expect(disk.close()).toBe(0);
    expectDisk(memory.bytes, model);
  });

  test('less than a sector: the rest of it comes from the parent', () => {
    const { disk, memory } = editPlan(empty, base());
    write(disk, MIB - 3, Uint8Array.of(1, 2, 3, 4, 5));
    const model = below.slice();
    model.set([1, 2, 3, 4, 5], MIB - 3);
    expect(disk.close()).toBe(0);
    expect(runsOf(memory.bytes, 0)).toEqual([[2047, 2048]]);
    expect(runsOf(memory.bytes, 1)).toEqual([[0, 1]]);
    expectDisk(memory.bytes, model);
  });

  test('with logical sectors of 4096 bytes all of them', () => {
    const plan: VhdxPlan = { ...empty, logical: 4096 };
    const { disk, memory } = editPlan(plan, base());
    write(disk, 2 * MIB + 5000, bytes.subarray(0, 600));
    expect(disk.close()).toBe(0);
    const model = below.slice();
    model.set(bytes.subarray(0, 600), 2 * MIB + 5000);
    expectDisk(memory.bytes, model);
    const at = entryAt(memory.bytes, bitmapIndex(plan, 0)).mib * MIB;
    expect(
      [...memory.bytes.subarray(at, at + 80)].flatMap((byte, n) => (byte === 0 ? [] : [[n, byte]])),
    ).toEqual([[64, 2]]);
  });

  test('a whole block needs no bitmap', () => {
    const { disk, memory } = editPlan(empty, base());
    write(disk, 2 * MIB, bytes);
    expect(disk.close()).toBe(0);
    expect([2, 3].map((n) => entryAt(memory.bytes, n).state)).toEqual([6, 6]);
    expect(entryAt(memory.bytes, BITMAP).raw).toBe(0n);
    const model = below.slice();
    model.set(bytes, 2 * MIB);
    expectDisk(memory.bytes, model);
  });

  test('the last block is whole at the end of the disk', () => {
    const plan: VhdxPlan = { size: 5 * MIB + 1536, locator };
    const { disk, memory } = editPlan(plan, base());
    write(disk, 5 * MIB, bytes.subarray(0, 1536));
    expect(disk.close()).toBe(0);
    expect(entryAt(memory.bytes, 5).state).toBe(6);
    expect(memory.bytes.length).toBe(5 * MIB);
    const model = below.slice(0, plan.size);
    model.set(bytes.subarray(0, 1536), 5 * MIB);
    expectDisk(memory.bytes, model);
  });

  test('garbage in the bitmap is cleared for the block that comes to need it', () => {
    const plan: VhdxPlan = { ...empty, bitmaps: new Map([[0, 4]]) };
    const { disk, memory } = editPlan(plan, base());
    expect(runsOf(memory.bytes, 4).length).toBeGreaterThan(500);
    write(disk, 4 * MIB + 512 * 40, bytes.subarray(0, 512));
    expect(disk.close()).toBe(0);
    expect(runsOf(memory.bytes, 4)).toEqual([[40, 41]]);
    expect(runsOf(memory.bytes, 3).length).toBeGreaterThan(500);
    const model = below.slice();
    model.set(bytes.subarray(0, 512), 4 * MIB + 512 * 40);
    expectDisk(memory.bytes, model);
  });

  test('another chunk gets a bitmap of its own', () => {
    const plan: VhdxPlan = { size: 9 * 1024 * MIB, locator };
    const { disk, memory } = editPlan(plan, base());
    for (const block of [0, 4095, 4096, 8192]) write(disk, block * MIB + 4096, bytes.subarray(0, 4096));
    expect(disk.flush()).toBe(0);
    const found = [0, 1, 2].map((chunk) => entryAt(memory.bytes, bitmapIndex(plan, chunk)));
    expect(found.map(({ state }) => state)).toEqual([6, 6, 6]);
    expect(new Set(found.map(({ mib }) => mib)).size).toBe(3);
    const again = reopened(memory.bytes).disk;
    for (const block of [0, 4095, 4096, 8192]) {
      expect(Buffer.compare(readDisk(again, block * MIB + 4096, 4096), bytes.subarray(0, 4096))).toBe(0);
    }
    expect(errorsOf(memory.bytes)).toEqual([]);
  });
});

describe('where a part is there', () => {
  const part: VhdxPlan = {
    ...empty,
    blocks: new Map([[1, { state: 7, data: bytes.subarray(0, MIB), present: [[4, 8]] }]]),
  };
  const before = expectedDisk(part, below);

  test('payload goes in place, then bits through the log; present sectors need neither', () => {
    const { disk, memory, steps } = editPlan(part, base());
    write(disk, MIB + 6 * 512, bytes.subarray(0, 4 * 512));
    expect(steps().slice(4)).toEqual(['payload.write 0x400c00 +1024', 'payload.write 0x401000 +1024']);
    expect(disk.flush()).toBe(0);
    expect(steps().filter((step) => /log|table|bitmap/.test(step))).toEqual([
      'log.write 0x100000 +8192',
      'bitmap.write 0x500000 +4096',
    ]);
    write(disk, MIB + 4 * 512, bytes.subarray(0, 512));
    steps();
    expect(disk.flush()).toBe(0);
    expect(steps()).toEqual(['flush']);
    expect(runsOf(memory.bytes, 1)).toEqual([[4, 10]]);
    const model = before.slice();
    model.set(bytes.subarray(0, 4 * 512), MIB + 6 * 512);
    model.set(bytes.subarray(0, 512), MIB + 4 * 512);
    expectDisk(memory.bytes, model);
  });

  test('the last sector that was missing makes the block whole', () => {
    const { disk, memory } = editPlan(part, base());
    const model = before.slice();
    for (const [from, end] of [
      [9, 2048],
      [0, 4],
      [8, 9],
    ] as const) {
      expect(entryAt(memory.bytes, 1)).toMatchObject({ state: 7, mib: 4 });
      const piece = bytes.subarray(from * 512, end * 512);
      write(disk, MIB + from * 512, piece);
      model.set(piece, MIB + from * 512);
      expect(disk.flush()).toBe(0);
    }
    expect(entryAt(memory.bytes, 1)).toMatchObject({ state: 6, mib: 4 });
    expectDisk(memory.bytes, model);
  });

  test('zeros hide what the parent has, and leave what it has not', () => {
    const { disk, memory } = editPlan(part, base());
    expect(disk.zero(guestOffset(MIB + 5 * 512), 10 * 512, 'punch')).toBe(0);
    expect(disk.close()).toBe(0);
    expect(runsOf(memory.bytes, 1)).toEqual([[4, 15]]);
    expectDisk(memory.bytes, before.slice().fill(0, MIB + 5 * 512, MIB + 15 * 512));
  });
});

describe('discarding', () => {
  const plan: VhdxPlan = {
    ...empty,
    blocks: new Map([
      [1, { state: 6, data: bytes.subarray(0, MIB) }],
      [2, { state: 7, data: bytes.subarray(0, MIB), present: [[100, 900]] }],
      [3, { state: 3 }],
    ]),
  };

  test('never lets the parent show: state 2 without an offset', () => {
    const { disk, memory } = editPlan(plan, base());
    punch(disk, 0, 4 * MIB);
    expect(disk.flush()).toBe(0);
    expect([0, 1, 2].map((n) => entryAt(memory.bytes, n).raw)).toEqual([2n, 2n, 2n]);
    // That of an absent block needs no other state.
    expect(entryAt(memory.bytes, 3).raw).toBe(3n);
    expect(entryAt(memory.bytes, 4).raw).toBe(0n);
    expectDisk(memory.bytes, expectedDisk(plan, below).fill(0, 0, 4 * MIB));
  });

  test('and what is written there then is whole, zeros around it', () => {
    const { disk, memory } = editPlan(plan, base());
    punch(disk, 0, 4 * MIB);
    for (const block of [0, 2, 3]) write(disk, block * MIB + 512, bytes.subarray(0, 512));
    expect(disk.close()).toBe(0);
    expect([0, 2, 3].map((n) => entryAt(memory.bytes, n).state)).toEqual([6, 6, 6]);
    const model = expectedDisk(plan, below).fill(0, 0, 4 * MIB);
    for (const block of [0, 2, 3]) model.set(bytes.subarray(0, 512), block * MIB + 512);
    expectDisk(memory.bytes, model);
  });
});

describe('the identity', () => {
  test('of the child changes with the first write; the parent is only read', () => {
    const parent = new MemorySource(parentFile, 'parent', true);
    const { disk, memory } = editPlan(empty, openDisk(vhdxDriver, parent).disk);
    const before = headerOf(memory.bytes, 2).dataWriteGuid;
    write(disk, 0, bytes);
    punch(disk, 0, 6 * MIB);
    expect(disk.close()).toBe(0);
    expect(headerOf(memory.bytes, 2).dataWriteGuid).not.toBe(before);
    expect(Buffer.compare(parent.bytes, parentFile)).toBe(0);
  });
});

describe('failures', () => {
  test('a place that could not be filled is used by the next write', () => {
    const memory = new MemorySource(fileBytes(buildVhdx(empty)), 'image', true);
    const source = new FaultSource(memory);
    const { disk } = openEditable(vhdxDriver, source, {}, 1 << 20, base());
    source.set({ step: 'payload.write', nth: 1, times: 1, errno: EIO, part: 0.5 });
    expect(disk.write(bytes, 0, 4096, guestOffset(0))).toBe(-EIO);
    expect(Buffer.compare(readDisk(disk), below)).toBe(0);
    write(disk, 5 * MIB + 512, bytes.subarray(0, 512));
    expect(disk.close()).toBe(0);
    // What was half written there is gone.
    expect(entryAt(memory.bytes, 5)).toMatchObject({ state: 7, mib: 4 });
    expect(memory.bytes.subarray(4 * MIB, 4 * MIB + 512).every((byte) => byte === 0)).toBe(true);
    const model = below.slice();
    model.set(bytes.subarray(0, 512), 5 * MIB + 512);
    expectDisk(memory.bytes, model);
  });

  test('no room for the bitmap: nothing is named, and nothing lost when there is', () => {
    const memory = new MemorySource(fileBytes(buildVhdx(empty)), 'image', true);
    const source = new FaultSource(memory);
    const { disk } = openEditable(vhdxDriver, source, {}, 1 << 20, base());
    source.limit = 5 * MIB;
    expect(disk.write(bytes, 0, 512, guestOffset(MIB))).toBe(-EFBIG);
    expect(disk.flush()).toBe(0);
    expect(Buffer.compare(readDisk(disk), below)).toBe(0);
    source.limit = Number.POSITIVE_INFINITY;
    write(disk, MIB, bytes.subarray(0, 512));
    expect(disk.close()).toBe(0);
    expect(entryAt(memory.bytes, 1)).toMatchObject({ state: 7, mib: 4 });
    expect(memory.bytes.length).toBe(6 * MIB);
  });
});
