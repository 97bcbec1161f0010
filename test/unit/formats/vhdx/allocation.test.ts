/** Blocks of a VHDX that come and go: entries of the BAT, their places in the file, and the end of the file. */

import { describe, expect, test } from 'vitest';
import { MIB } from '../../../../src/base/units.ts';
import { readDisk } from '../../../support/disk.ts';
import {
  type BlockPlan,
  batEntry,
  buildVhdx,
  putBatEntry,
  standardRegions,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import {
  BAT_AT,
  block,
  edit,
  editPlan,
  entryAt,
  plan,
  punch,
  reopened,
  sector,
  write,
} from './write-support.ts';

describe('entries of the BAT', () => {
  test('only those that changed are touched, in every bit', () => {
    const file = buildVhdx(plan);
    const odd = [
      [1, 1n | (9n << 20n)],
      [2, 3n | 0x800n],
      [3, 5n],
      [4, 2n | (77n << 20n)],
      [6, 0x7fff8n],
    ] as const;
    for (const [entry, raw] of odd) {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, raw, true);
      putBatEntry(file, plan, entry, bytes);
    }
    // Behind the last entry that the disk needs, in the same sector.
    file.put(BAT_AT + 8 * 20, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    const { disk, memory } = edit(file);
    write(disk, 7 * MIB, sector);
    expect(disk.close()).toBe(0);
    for (const [entry, raw] of odd) expect(entryAt(memory.bytes, entry).raw).toBe(raw);
    expect([...memory.bytes.subarray(BAT_AT + 160, BAT_AT + 168)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(entryAt(memory.bytes, 7)).toMatchObject({ state: 6, raw: 6n | (5n << 20n) });
  });

  test.each([0, 1, 2, 3, 5])('state %i becomes 6, the rest of the block zeros', (state) => {
    // The place that the absent block keeps has old bytes, which must not come back.
    const absent: BlockPlan = { state, mib: state === 0 || state === 2 ? 0 : 5 };
    const file = buildVhdx({ ...plan, blocks: new Map([...plan.blocks!, [1, absent]]) });
    file.put(5 * MIB, block);
    const { disk, memory } = edit(file);
    write(disk, MIB + 8192, sector);
    const wanted = new Uint8Array(MIB);
    wanted.set(sector, 8192);
    expect(Buffer.compare(readDisk(disk, MIB, MIB), wanted)).toBe(0);
    expect(disk.close()).toBe(0);
    expect(Buffer.compare(readDisk(reopened(memory.bytes).disk, MIB, MIB), wanted)).toBe(0);
    // Where a place is kept by an absent block, nothing else goes.
    const keeps = absent.mib !== 0;
    expect(entryAt(memory.bytes, 1)).toMatchObject({ state: 6, mib: keeps ? 6 : 5 });
  });

  test('a discarded block is in state 2 without an offset, and its place is used again', () => {
    const { disk, memory } = editPlan({
      size: 8 * MIB,
      blocks: new Map([0, 1, 2].map((n) => [n, { state: 6, data: block }])),
    });
    punch(disk, 0, MIB);
    // Not before it is committed.
    write(disk, 5 * MIB, sector);
    expect(disk.flush()).toBe(0);
    expect(entryAt(memory.bytes, 0).raw).toBe(2n);
    expect(entryAt(memory.bytes, 5).mib).toBe(7);
    write(disk, 6 * MIB + 4096, sector);
    expect(disk.flush()).toBe(0);
    expect(entryAt(memory.bytes, 6).mib).toBe(4);
    const wanted = new Uint8Array(MIB);
    wanted.set(sector, 4096);
    expect(Buffer.compare(readDisk(disk, 6 * MIB, MIB), wanted)).toBe(0);
    expect(memory.size).toBe(8 * MIB);
  });

  test('a block that came and went within one commit is zeros, not what it was', () => {
    const { disk, memory } = editPlan(plan);
    write(disk, MIB, sector);
    punch(disk, MIB, MIB);
    expect(disk.close()).toBe(0);
    expect(entryAt(memory.bytes, 1).raw).toBe(2n);
    expect(memory.size).toBe(5 * MIB);
  });
});

describe('space', () => {
  test('free space that the image has is used first, and holds no old bytes', () => {
    const blocks = new Map([
      [0, { state: 6, mib: 9, data: block }],
      [1, { state: 6, mib: 6, data: block }],
    ]);
    const file = buildVhdx({ size: 8 * MIB, blocks });
    for (const mib of [4, 5, 7, 8]) file.put(mib * MIB, block);
    const { disk, memory } = edit(file);
    for (let n = 2; n < 7; n += 1) write(disk, n * MIB, sector);
    expect(disk.close()).toBe(0);
    expect([2, 3, 4, 5, 6].map((entry) => entryAt(memory.bytes, entry).mib)).toEqual([4, 5, 7, 8, 10]);
    const wanted = new Uint8Array(MIB);
    wanted.set(sector);
    const { disk: again } = reopened(memory.bytes);
    for (let n = 2; n < 7; n += 1) expect(Buffer.compare(readDisk(again, n * MIB, MIB), wanted)).toBe(0);
    expect(memory.size).toBe(11 * MIB);
  });

  test('larger blocks go where a whole one fits', () => {
    const blockSize = 4 * MIB;
    const blocks = new Map([
      [0, { state: 6, mib: 7, data: block }],
      [1, { state: 6, mib: 16, data: block }],
    ]);
    const { disk, memory } = editPlan({ size: 32 * MIB, blockSize, blocks });
    for (let n = 2; n < 5; n += 1) write(disk, n * blockSize, sector);
    expect(disk.close()).toBe(0);
    expect([2, 3, 4].map((entry) => entryAt(memory.bytes, entry).mib)).toEqual([11, 20, 24]);
    expect(memory.size).toBe(28 * MIB);
  });

  test('a region behind the end of the file is gone round', () => {
    const extra = { guid: '12345678-0000-0000-0000-000000000002', at: 6 * MIB, length: 2 * MIB, required: 0 };
    const { disk, memory } = editPlan({ ...plan, regions: [...standardRegions(plan), extra] });
    for (const n of [1, 2, 3]) write(disk, n * MIB, sector);
    expect(disk.close()).toBe(0);
    expect([1, 2, 3].map((entry) => entryAt(memory.bytes, entry).mib)).toEqual([5, 8, 9]);
    expect(reopened(memory.bytes).notices).toEqual([]);
  });

  test('the end of the file goes with the blocks that were there, after the log', () => {
    const { disk, memory, steps } = editPlan({
      size: 8 * MIB,
      blocks: new Map([0, 1, 2].map((n) => [n, { state: 6, data: block }])),
    });
    punch(disk, MIB, 7 * MIB);
    expect(disk.flush()).toBe(0);
    steps();
    expect(disk.close()).toBe(0);
    expect(steps()).toEqual([
      'flush',
      'header.write 0x10000 +4096',
      'flush',
      'header.write 0x20000 +4096',
      'size 5',
      'flush',
    ]);
    expect(memory.size).toBe(5 * MIB);
  });

  test('a file that ends inside its last block grows past the whole of it', () => {
    const cut: VhdxPlan = {
      size: 2 * MIB + 512,
      blocks: new Map([[2, { state: 6, data: new Uint8Array(512).fill(7) }]]),
      cutTail: true,
    };
    const { disk, memory } = editPlan(cut);
    expect(memory.size).toBe(4 * MIB + 512);
    write(disk, 0, sector);
    expect(disk.close()).toBe(0);
    expect(entryAt(memory.bytes, 0).mib).toBe(5);
    expect(memory.size).toBe(6 * MIB);
  });

  test('fixed: nothing is unmapped, and what QEMU calls zeros goes into the file as it is', () => {
    const file = buildVhdx({ size: 4 * MIB, flags: 1, blocks: new Map([[0, { state: 6, data: block }]]) });
    for (const n of [1, 2, 3]) putBatEntry(file, plan, n, batEntry(2, 0));
    file.size = 8 * MIB;
    const { disk, memory } = edit(file);
    punch(disk, 0, 2 * MIB);
    write(disk, 2 * MIB, sector);
    expect(disk.close()).toBe(0);
    expect([0, 1, 2, 3].map((n) => entryAt(memory.bytes, n).raw)).toEqual([
      6n | (4n << 20n),
      2n,
      6n | (5n << 20n),
      2n,
    ]);
    expect(readDisk(disk, 0, 2 * MIB).every((byte) => byte === 0)).toBe(true);
    expect(memory.size).toBe(8 * MIB);
  });

  test('fixed and complete: no log area is needed', () => {
    const { disk, memory } = editPlan({
      size: 2 * MIB,
      flags: 1,
      blocks: new Map([0, 1].map((n) => [n, { state: 6, data: block }])),
      log: { at: 0, length: 0 },
      metadata: { at: 1, length: 1 },
      bat: { at: 2, length: 1 },
    });
    write(disk, MIB, sector);
    punch(disk, 0, MIB);
    expect(disk.close()).toBe(0);
    const wanted = new Uint8Array(2 * MIB);
    wanted.set(block, MIB);
    wanted.set(sector, MIB);
    expect(Buffer.compare(readDisk(reopened(memory.bytes).disk), wanted)).toBe(0);
  });
});
