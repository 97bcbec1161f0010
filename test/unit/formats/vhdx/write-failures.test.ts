/** Errors while a VHDX is written, at every step: nothing that was flushed is lost. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { guestOffset, MIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { openEditable, readDisk } from '../../../support/disk.ts';
import { buildVhdx, fileBytes } from '../../../support/encoders/vhdx-image.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { dirtyFile, plan, punch, reopened, sector, write } from './write-support.ts';

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
