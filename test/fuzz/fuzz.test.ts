/**
 * Damaged images: whatever the bytes, opening and reading ends in data or in the typed error, soon and in
 * little memory. FUZZ_RUNS images per format (500 unless said; `npm run fuzz` takes 10,000), FUZZ_SEED the
 * first seed. A failure names the seed, which repeats it alone: FUZZ_RUNS=1 FUZZ_SEED=….
 */

import { describe, expect, test } from 'vitest';
import { ImageError } from '../../src/base/errors.ts';
import { guestOffset } from '../../src/base/units.ts';
import { Disk } from '../../src/disk/disk.ts';
import { DRIVERS } from '../../src/formats/registry.ts';
import type { FormatId } from '../../src/image/driver.ts';
import { openImage } from '../../src/image/open.ts';
import { PagePool } from '../../src/shared/page-pool.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { samples as qedSamples } from '../support/encoders/qed.ts';
import { samples as vdiSamples } from '../support/encoders/vdi.ts';
import { samples as vhdSamples } from '../support/encoders/vhd.ts';
import { samples as vhdxSamples } from '../support/encoders/vhdx.ts';
import { MemorySource } from '../support/memory-source.ts';
import { between, type Random, random } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import { mutate } from './mutate.ts';

const RUNS = Number(process.env['FUZZ_RUNS'] ?? 500);
const FIRST_SEED = Number(process.env['FUZZ_SEED'] ?? 1);
/** What one image may take: far above what is normal, far below what a loop over a forged count takes. */
const MAX_MS = 3000;
const MAX_GROWTH = 512 * 1024 * 1024;

const SAMPLES: Readonly<Record<Exclude<FormatId, 'raw'>, (seed: number) => SampleImage[]>> = {
  vhd: vhdSamples,
  vhdx: vhdxSamples,
  vdi: vdiSamples,
  qed: qedSamples,
};

const buffer = new Uint8Array(256 * 1024);

/** Opens and reads as a mount would; returns what came of it. */
function exercise(next: Random, sample: SampleImage, file: Uint8Array): 'read' | 'refused' {
  const source = new MemorySource(file, 'damaged');
  const report = (): void => {};
  const options = new Map(Object.entries(sample.options ?? {}));
  try {
    const named = next() < 0.5 ? sample.format : undefined;
    const context = { tables: new TableAllocator(), report, options };
    const image = openImage(source, { drivers: DRIVERS, format: named, device: false, context });
    const pool = new PagePool(PagePool.seed(16 * 4120));
    const driver = DRIVERS.find(({ id }) => id === image.format)!;
    const shared = structuredClone(image.share());
    const disk = new Disk(image.virtualSize, driver.attach(shared, source, { pool, report }), source);
    for (let reads = 0; reads < 24; reads += 1) {
      const at = Math.floor(next() * disk.size);
      const moved = disk.read(buffer, 0, between(next, 1, buffer.length), guestOffset(reads === 0 ? 0 : at));
      expect(Number.isInteger(moved)).toBe(true);
      expect(moved).toBeLessThanOrEqual(buffer.length);
    }
    for (let slices = 0, from = guestOffset(0); slices < 4; slices += 1) {
      const after = image.countAllocated(from, (bytes) => expect(bytes).toBeGreaterThanOrEqual(0));
      if (after === undefined) break;
      expect(after).toBeGreaterThan(from);
      from = after;
    }
    return 'read';
  } catch (problem) {
    if (problem instanceof ImageError && problem.kind !== 'bug') return 'refused';
    throw problem;
  }
}

describe.each(Object.keys(SAMPLES) as (keyof typeof SAMPLES)[])('%s', (format) => {
  test(
    `${RUNS} damaged images: data or a typed error, in bounded time and memory`,
    () => {
      const images = SAMPLES[format](7);
      const outcomes = { read: 0, refused: 0 };
      const before = process.memoryUsage().rss;
      for (let seed = FIRST_SEED; seed < FIRST_SEED + RUNS; seed += 1) {
        const next = random(seed);
        const sample = images[seed % images.length]!;
        const file = mutate(next, format, sample.file);
        const started = performance.now();
        try {
          outcomes[exercise(next, sample, file)] += 1;
        } catch (problem) {
          throw new Error(`FUZZ_SEED=${seed} (${sample.name})`, { cause: problem });
        }
        const spent = performance.now() - started;
        expect(spent, `FUZZ_SEED=${seed} (${sample.name}) took ${spent} ms`).toBeLessThan(MAX_MS);
      }
      expect(process.memoryUsage().rss - before).toBeLessThan(MAX_GROWTH);
      // Both ends must be met, or the damage says nothing.
      expect(outcomes.read).toBeGreaterThan(RUNS / 50 - 1);
      expect(outcomes.refused).toBeGreaterThan(RUNS / 50 - 1);
    },
    30 * 60_000,
  );
});
