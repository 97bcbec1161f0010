/** What the first write to a VHDX changes beside its payload: identities, headers, a log that was dirty. */

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset, MIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { Overlay, type OverlayState } from '../../../../src/formats/vhdx/overlay.ts';
import { DATA, Extent, ZERO } from '../../../../src/image/extent.ts';
import { openEditable, parentDisk, readDisk } from '../../../support/disk.ts';
import { samples } from '../../../support/encoders/vhdx.ts';
import { batEntry, buildVhdx, fileBytes } from '../../../support/encoders/vhdx-image.ts';
import { type LogUpdate, putEntries } from '../../../support/encoders/vhdx-log.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import {
  BAT_AT,
  block,
  dirtyFile,
  edit,
  editPlan,
  entryAt,
  headerOf,
  NO_GUID,
  plan,
  punch,
  reopened,
  sector,
  write,
} from './write-support.ts';

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
