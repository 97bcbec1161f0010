import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../../../src/base/units.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import { openSample, readDisk } from '../../../support/disk.ts';
import { samples } from '../../../support/encoders/vhd.ts';
import { between, random } from '../../../support/random.ts';

const TINY_POOL = 16 * 4120;

/** Comparing megabytes with toEqual takes seconds; the first difference says more anyway. */
function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (Buffer.compare(a, b) === 0) return -1;
  for (let at = 0; at < Math.max(a.length, b.length); at += 1) if (a[at] !== b[at]) return at;
  return -1;
}

describe.each([1, 2, 3])('VHD samples, seed %i', (seed) => {
  const all = samples(seed);

  it('has names of their own', () => {
    expect(new Set(all.map((sample) => sample.name)).size).toBe(all.length);
  });

  it.each(all.map((sample) => [sample.name, sample] as const))('%s: reads back exactly', (_name, sample) => {
    const { disk, image } = openSample(sample, TINY_POOL);
    expect(image.virtualSize).toBe(sample.disk.length);
    expect(firstDifference(readDisk(disk), sample.disk)).toBe(-1);
  });

  it.each(all.map((sample) => [sample.name, sample] as const))('%s: random reads match', (_name, sample) => {
    const { disk } = openSample(sample, TINY_POOL);
    const next = random(seed + 100);
    const { length } = sample.disk;
    for (let round = 0; round < 200; round += 1) {
      const at = between(next, 0, length - 1);
      const count = between(next, 1, [1, 700, 5000, 200_000][round % 4]!);
      const target = new Uint8Array(count + 7).fill(0xee);
      const moved = disk.read(target, 3, count, guestOffset(at));
      expect(moved).toBe(Math.min(count, length - at));
      expect(firstDifference(target.slice(3, 3 + moved), sample.disk.slice(at, at + moved))).toBe(-1);
      expect(target[2]).toBe(0xee);
      expect(target[3 + moved]).toBe(0xee);
    }
  });
});

describe('VHD samples', () => {
  it.each(samples(4).map((sample) => [sample.name, sample] as const))(
    '%s: holes are zeros, data is not',
    (_name, sample) => {
      const { disk } = openSample(sample);
      let at = 0;
      while (at < disk.size) {
        const data = disk.seek(guestOffset(at), 'data');
        const end = data < 0 ? disk.size : data;
        expect(sample.disk.subarray(at, end).every((byte) => byte === 0)).toBe(true);
        if (data < 0) break;
        at = disk.seek(guestOffset(data), 'hole');
        expect(at).toBeGreaterThan(data);
        if (!sample.name.startsWith('fixed')) {
          // The encoder's data has no zero byte: what is called data was written.
          expect(sample.disk.subarray(data, at).every((byte) => byte !== 0)).toBe(true);
        }
      }
    },
  );

  it.each(samples(5).map((sample) => [sample.name, sample] as const))(
    '%s: is known by its content',
    (_name, sample) => {
      const { file } = sample;
      const probed = vhdDriver.probe({
        head: file.subarray(0, 1 << 20),
        tail: file.subarray(-1024),
        size: file.length,
      });
      expect(probed.match).toBe('signature');
    },
  );
});
