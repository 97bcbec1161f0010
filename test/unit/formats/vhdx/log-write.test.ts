/** The log of a VHDX that is written: what goes into it, in which order, and round the ring. */

import { describe, expect, test } from 'vitest';
import { GIB, MIB, roundDown } from '../../../../src/base/units.ts';
import { readDisk } from '../../../support/disk.ts';
import {
  BAT_AT,
  editPlan,
  headerOf,
  logEntries,
  NO_GUID,
  plan,
  punch,
  reopened,
  sector,
  write,
} from './write-support.ts';

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
