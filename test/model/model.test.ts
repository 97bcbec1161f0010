/** Random writes, discards, flushes and reopens of every format's samples against a byte array. */

import { describe, expect, test } from 'vitest';
import { driverOf } from '../../src/formats/registry.ts';
import { PAGE_BYTES } from '../../src/shared/page-pool.ts';
import { openDisk, openEditable, parentDisk, readDisk } from '../support/disk.ts';
import { samples as qed } from '../support/encoders/qed.ts';
import { samples as vdi } from '../support/encoders/vdi.ts';
import { samples as vhd } from '../support/encoders/vhd.ts';
import { samples as vhdx } from '../support/encoders/vhdx.ts';
import { MemorySource } from '../support/memory-source.ts';
import { between, random } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import { step } from './workload.ts';

const SEED = Number(process.env['MODEL_SEED'] ?? 20261121);
const STEPS = Number(process.env['MODEL_STEPS'] ?? 120);

const next = random(SEED);
const raw: SampleImage[] = [12345, 65536].map((size) => {
  const disk = Uint8Array.from({ length: size }, () => between(next, 0, 255));
  return { name: `${size} bytes`, format: 'raw', file: disk, disk };
});

describe.each([
  ['raw', raw],
  // Where map entries lie in two sectors, or flags are not known, nothing is written.
  ['vdi', vdi(SEED).filter(({ name }) => !/odd|right after the map|17 extra|sloppy/.test(name))],
  // Those of version 1.1 are only read.
  ['vhd', vhd(SEED).filter(({ name }) => !name.includes('version 1.1'))],
  // Without a log nothing but fixed images can be written.
  ['vhdx', vhdx(SEED).filter(({ name }) => !name.includes('no log area'))],
  // No byte of that disk can be written.
  ['qed', qed(SEED).filter(({ disk }) => disk.length > 0)],
] as const)('%s', (format, images) => {
  test.each(images.map((image) => [image.name, image] as const))('%s', (_name, sample) => {
    const work = random(SEED);
    const driver = driverOf(format);
    const source = new MemorySource(sample.file, 'sample', true);
    const model = sample.disk.slice();
    for (let round = 0; round < 4; round += 1) {
      // Now and then a pool so small that pages are evicted between two operations.
      const { disk, image, notices, pool } = openEditable(
        driver,
        source,
        sample.options,
        round % 2 === 0 ? 1 : 1 << 20,
        parentDisk(sample),
      );
      for (let n = 0; n < STEPS; n += 1) {
        step(disk, model, work, image.blockSize);
        // Nobody else uses the pool: each page that waits is one of the image's.
        expect(disk.counters().dirtyBytes).toBe(pool.counters().pinned * PAGE_BYTES);
      }
      // Half of the rounds end without a clean end, after a flush: as if killed.
      expect(round % 2 === 0 ? disk.close() : disk.flush()).toBe(0);
      const again = openDisk(
        driver,
        new MemorySource(source.bytes),
        sample.options,
        undefined,
        parentDisk(sample),
      );
      expect(Buffer.compare(readDisk(again.disk), model)).toBe(0);
      expect(again.notices.filter((notice) => !notices.includes(notice))).toEqual([]);
    }
  });
});
