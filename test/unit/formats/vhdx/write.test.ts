/** What is written to a VHDX, in which order, and what it leaves alone. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { GIB, guestOffset, hostOffset, MIB, roundDown } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { Overlay, type OverlayState } from '../../../../src/formats/vhdx/overlay.ts';
import { DATA, Extent, ZERO } from '../../../../src/image/extent.ts';
import { openEditable, parentDisk, readDisk } from '../../../support/disk.ts';
import { samples } from '../../../support/encoders/vhdx.ts';
import {
  type BlockPlan,
  batEntry,
  buildVhdx,
  fileBytes,
  putBatEntry,
  standardRegions,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import { intoLog, type LogUpdate, markDirty, putEntries } from '../../../support/encoders/vhdx-log.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';
import {
  BAT_AT,
  edit,
  editPlan,
  entryAt,
  headerOf,
  logEntries,
  punch,
  reopened,
  write,
} from './write-support.ts';

const NO_GUID = '00'.repeat(16);
const sector = randomBytes(random(1), 4096);
const block = randomBytes(random(2), MIB);

/** Block 0 is there. */
const plan: VhdxPlan = { size: 8 * MIB, blocks: new Map([[0, { state: 6, data: block }]]) };

/** Block 2 is there, by the log alone. */
function dirtyFile(): SparseSource {
  const dirty: VhdxPlan = { size: 8 * MIB, blocks: new Map([[2, { state: 6, data: block }]]) };
  const file = buildVhdx(dirty);
  const update = intoLog(file, BAT_AT);
  markDirty(file, dirty);
  putEntries(file, dirty, [{ sequence: 41, updates: [update], last: 7 * MIB }]);
  return file;
}

describe('the first write', () => {
  test.each(samples(4).filter(({ name }) => !name.includes('no log')))('not before: $name', (sample) => {
    const { file, disk: content } = sample;
    const { disk, memory, recording } = edit(file, parentDisk(sample));
    expect(Buffer.compare(readDisk(disk), content)).toBe(0);
    expect(disk.flush()).toBe(0);
    expect(disk.close()).toBe(0);
    expect(recording.changes.filter(({ kind }) => kind !== 'flush')).toEqual([]);
    expect(Buffer.compare(memory.bytes, file)).toBe(0);
  });

  test('changes the identities in both headers, the one that is not current first', () => {
    const { disk, memory, steps } = editPlan(plan);
    const before = headerOf(memory.bytes, 2);
    write(disk, 100, sector);
    expect(steps()).toEqual([
      // What others wrote before, and did not flush.
      'flush',
      'header.write 0x10000 +4096',
      'flush',
      'header.write 0x20000 +4096',
      'payload.write 0x400000 +4608',
    ]);
    const [first, second] = [headerOf(memory.bytes, 1), headerOf(memory.bytes, 2)];
    expect([first.sequence, second.sequence]).toEqual([8, 9]);
    expect(second).toEqual({ ...first, sequence: 9 });
    expect(first.logGuid).toBe(NO_GUID);
    expect(first.fileWriteGuid).not.toBe(before.fileWriteGuid);
    expect(first.dataWriteGuid).not.toBe(before.dataWriteGuid);
    expect(first.dataWriteGuid).not.toBe(first.fileWriteGuid);
  });

  test('blocks that are there need no log: one flush each', () => {
    const { disk, steps } = editPlan(plan);
    write(disk, 0, sector);
    steps();
    expect(disk.flush()).toBe(0);
    expect(disk.flush()).toBe(0);
    write(disk, 4096, sector);
    expect(disk.close()).toBe(0);
    expect(steps()).toEqual(['flush', 'payload.write 0x401000 +4096', 'flush']);
  });

  test('a header that was damaged is written first', () => {
    const file = buildVhdx(plan);
    file.put(0x20000, new Uint8Array(4096));
    const { disk, memory, steps } = edit(file);
    write(disk, 0, sector);
    expect(steps().slice(0, 4)).toEqual([
      'flush',
      'header.write 0x20000 +4096',
      'flush',
      'header.write 0x10000 +4096',
    ]);
    expect([headerOf(memory.bytes, 1).sequence, headerOf(memory.bytes, 2).sequence]).toEqual([8, 7]);
    expect(reopened(memory.bytes).notices).toEqual([]);
  });

  test('replays a dirty log into the file, which then needs none', () => {
    const { disk, memory, steps, image } = edit(dirtyFile());
    expect(image.facts.get('log-state')).toMatch(/^dirty/);
    write(disk, 2 * MIB, sector);
    expect(steps()).toEqual([
      'flush',
      // New identities; the log is still named.
      'header.write 0x10000 +4096',
      'flush',
      'header.write 0x20000 +4096',
      'size 7',
      'table.write 0x300000 +4096',
      'flush',
      // No log any more.
      'header.write 0x10000 +4096',
      'flush',
      'header.write 0x20000 +4096',
      'payload.write 0x400000 +4096',
    ]);
    expect(headerOf(memory.bytes, 1).logGuid).toBe(NO_GUID);
    const again = reopened(memory.bytes);
    expect(again.image.facts.get('log-state')).toBe('clean');
    const wanted = block.slice();
    wanted.set(sector);
    expect(Buffer.compare(readDisk(again.disk, 2 * MIB, MIB), wanted)).toBe(0);
  });

  test('the overlay ends for all threads', () => {
    // The log also zeroes a part of block 0's data, and makes the file longer.
    const file = dirtyFile();
    file.put(5 * MIB, block);
    const update: LogUpdate = { zero: 5 * MIB + 8192, length: 8192 };
    const entries = new Uint8Array(4096);
    entries.set(batEntry(6, 5), 0);
    entries.set(batEntry(6, 4), 16);
    putEntries(file, plan, [
      { sequence: 41, updates: [{ write: BAT_AT, bytes: entries }, update], last: 8 * MIB },
    ]);
    const memory = new MemorySource(fileBytes(file), 'image', true);
    const writer = openEditable(vhdxDriver, memory);
    const shared = structuredClone(writer.image.share());
    const other = vhdxDriver.attach(shared, memory, { pool: writer.pool, report: () => {} });
    const overlay = new Overlay(memory, (shared.state as { overlay: OverlayState }).overlay);
    const out = new Extent();
    const bat = () => {
      const bytes = new Uint8Array(64);
      overlay.readAt(bytes, 0, 64, hostOffset(BAT_AT));
      return bytes;
    };
    expect(other.locate(guestOffset(8192), 1, out)).toBe(0);
    expect([out.kind, overlay.size, overlay.retired]).toEqual([ZERO, 8 * MIB, false]);
    expect([...bat()]).toEqual([...entries.subarray(0, 64)]);

    write(writer.disk, 7 * MIB, sector);
    write(writer.disk, 6 * MIB, sector);
    expect(overlay.retired).toBe(true);
    expect(other.locate(guestOffset(8192), 1, out)).toBe(0);
    expect([out.kind, out.host]).toEqual([DATA, 5 * MIB + 8192]);
    expect(readDisk(writer.disk, 8192, 8192).every((byte) => byte === 0)).toBe(true);
    punch(writer.disk, 0, MIB);
    expect(writer.disk.flush()).toBe(0);
    expect(overlay.size).toBe(memory.size);
    expect([...bat()]).toEqual([...memory.bytes.subarray(BAT_AT, BAT_AT + 64)]);
    expect(entryAt(memory.bytes, 0).state).toBe(2);
  });
});

describe('the log', () => {
  test('payload, log, header, BAT: in this order', () => {
    const { disk, memory, steps } = editPlan(plan);
    write(disk, 3 * MIB, sector);
    steps();
    expect(disk.flush()).toBe(0);
    expect(steps()).toEqual([
      'flush',
      'log.write 0x100000 +8192',
      'flush',
      // Its newest entry is stable before it is named.
      'header.write 0x10000 +4096',
      'flush',
      'header.write 0x20000 +4096',
      'table.write 0x300000 +4096',
    ]);
    write(disk, 4 * MIB, sector);
    steps();
    expect(disk.flush()).toBe(0);
    expect(steps()).toEqual(['flush', 'log.write 0x102000 +8192', 'flush', 'table.write 0x300000 +4096']);
    expect(disk.flush()).toBe(0);
    expect(steps()).toEqual([]);
    expect(logEntries(memory.bytes)).toEqual(
      [0, 8192].map((at, n) => ({
        at,
        length: 8192,
        tail: at,
        sequence: n + 1,
        targets: [BAT_AT],
        flushed: (6 + n) * MIB,
        last: (6 + n) * MIB,
      })),
    );
    expect(disk.close()).toBe(0);
    expect(steps()).toEqual([
      'flush',
      'header.write 0x10000 +4096',
      'flush',
      'header.write 0x20000 +4096',
      'flush',
    ]);
    expect(headerOf(memory.bytes, 1).logGuid).toBe(NO_GUID);
    expect(reopened(memory.bytes).image.facts.get('log-state')).toBe('clean');
  });

  test('round the ring: the newest entry alone brings everything back', () => {
    const { disk, memory } = editPlan({ size: 64 * MIB });
    const model = new Uint8Array(64 * MIB);
    for (let n = 0; n < 150; n += 1) {
      const at = (n % 48) * MIB + (n >> 4) * 512;
      // A commit of metadata each time.
      punch(disk, roundDown(at, MIB), MIB);
      model.fill(0, roundDown(at, MIB), roundDown(at, MIB) + MIB);
      write(disk, at, sector);
      model.set(sector, at);
      expect(disk.flush()).toBe(0);
      // Where the ring ends, and now and then.
      if (n % 30 !== 0 && Math.abs(n - 128) > 2) continue;
      const crash = memory.bytes.slice();
      crash.fill(0xff, BAT_AT, BAT_AT + 4096);
      const { disk: again, image } = reopened(crash);
      expect(image.facts.get('log-state')).toBe('dirty: 1 entry replayed in memory');
      expect(Buffer.compare(readDisk(again), model)).toBe(0);
    }
    expect(Math.max(...logEntries(memory.bytes).map(({ sequence }) => sequence))).toBe(150);
  });

  test('what one entry cannot hold goes into several, each in place before the next', () => {
    const blocks = 130;
    const { disk, memory, steps } = editPlan({ size: (blocks * 512 + 512) * MIB });
    for (let n = 0; n < blocks; n += 1) write(disk, n * 512 * MIB, sector);
    steps();
    expect(disk.flush()).toBe(0);
    const done = steps().filter((step) => !step.startsWith('header'));
    expect(done.filter((step) => step.startsWith('log'))).toEqual([
      `log.write 0x100000 +${127 * 4096}`,
      `log.write 0x17f000 +${5 * 4096}`,
    ]);
    expect(done.map((step) => step.split(' ')[0])).toEqual([
      ...['flush', 'log.write', 'flush', 'flush', 'table.write'],
      ...['flush', 'log.write', 'flush', 'table.write'],
    ]);
    // A full one again, over the end of the ring; the one before stays whole.
    for (let n = 0; n < blocks; n += 1) write(disk, (n * 512 + 1) * MIB, sector);
    expect(disk.flush()).toBe(0);
    expect(steps().filter((step) => step.startsWith('log'))).toEqual([
      `log.write 0x184000 +${124 * 4096}`,
      `log.write 0x100000 +${3 * 4096}`,
      `log.write 0x103000 +${5 * 4096}`,
    ]);
    const { disk: again } = reopened(memory.bytes);
    for (let n = 0; n < blocks; n += 1) {
      expect(Buffer.compare(readDisk(again, (n * 512 + 1) * MIB, 4096), sector)).toBe(0);
    }
  });

  test('a page of the table is two sectors: only the changed one is written', () => {
    const { disk, steps } = editPlan({ size: 2 * GIB });
    write(disk, 600 * MIB, sector);
    steps();
    expect(disk.flush()).toBe(0);
    expect(steps().at(-1)).toBe('table.write 0x301000 +4096');
    write(disk, 5 * MIB, sector);
    write(disk, 700 * MIB, sector);
    steps();
    expect(disk.flush()).toBe(0);
    expect(steps().filter((step) => /log|table/.test(step))).toEqual([
      'log.write 0x102000 +12288',
      'table.write 0x300000 +8192',
    ]);
  });
});

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

describe('failures', () => {
  const STEPS = ['header.write', 'log.write', 'table.write', 'size.set', 'payload.zero'] as const;
  test.each(STEPS)('%s: reported, nothing lost, and repeated with success', (step) => {
    for (const part of [0, 0.4]) {
      for (let nth = 1; nth <= 4; nth += 1) {
        const memory = new MemorySource(fileBytes(dirtyFile()), 'image', true);
        const faulty = new FaultSource(memory);
        const { disk } = openEditable(vhdxDriver, faulty);
        const model = readDisk(disk);
        faulty.set({ step, nth, times: 1, errno: EIO, part });
        const attempt = (work: () => number): void => {
          for (let tries = 0; tries < 3; tries += 1) {
            if (work() >= 0) return;
            // Whatever failed: what was flushed is there for everybody.
            const again = readDisk(reopened(memory.bytes).disk, 0, 2 * MIB);
            expect(Buffer.compare(again, model.subarray(0, 2 * MIB))).toBe(0);
          }
          throw new Error('three times');
        };
        for (const at of [3 * MIB, 5 * MIB, 2 * MIB, 7 * MIB]) {
          attempt(() => disk.write(sector, 0, 4096, guestOffset(at)));
          model.set(sector, at);
          attempt(() => disk.flush());
          attempt(() => disk.zero(guestOffset(3 * MIB), MIB, 'punch'));
          model.fill(0, 3 * MIB, 4 * MIB);
          attempt(() => disk.flush());
          expect(Buffer.compare(readDisk(reopened(memory.bytes).disk), model)).toBe(0);
        }
        attempt(() => disk.close());
        const again = reopened(memory.bytes);
        expect(again.image.facts.get('log-state')).toBe('clean');
        expect(Buffer.compare(readDisk(again.disk), model)).toBe(0);
      }
    }
  });

  test('no room: an error, and it goes on when there is some', () => {
    const memory = new MemorySource(fileBytes(buildVhdx(plan)), 'image', true);
    const faulty = new FaultSource(memory);
    const { disk } = openEditable(vhdxDriver, faulty);
    faulty.limit = 6 * MIB;
    write(disk, MIB, sector);
    expect(disk.write(sector, 0, 4096, guestOffset(2 * MIB))).toBeLessThan(0);
    // What is given back is enough.
    punch(disk, 0, MIB);
    write(disk, 2 * MIB, sector);
    expect(disk.close()).toBe(0);
    expect(Buffer.compare(readDisk(reopened(memory.bytes).disk, 2 * MIB, 4096), sector)).toBe(0);
    expect(memory.size).toBe(6 * MIB);
  });
});
