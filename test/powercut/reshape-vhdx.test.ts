/** Power cuts while VHDX images are changed as a whole. */

import { describe, expect, test } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { driverOf } from '../../src/formats/registry.ts';
import { parentDisk } from '../support/disk.ts';
import { link } from '../support/encoders/vhdx-chains.ts';
import {
  BAT,
  type BlockPlan,
  buildVhdx,
  expectedDisk,
  fileBytes,
  type VhdxPlan,
} from '../support/encoders/vhdx-image.ts';
import { intoLog, markDirty, putEntries } from '../support/encoders/vhdx-log.ts';
import { random, randomBytes } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import { cutReshape, finish } from './reshape.ts';

const driver = driverOf('vhdx');
const plan = { seed: 7, runs: 200, prefixes: true };
const next = random(5);
const full = (mib?: number, length = MIB): BlockPlan => ({
  state: 6,
  data: randomBytes(next, length),
  ...(mib === undefined ? {} : { mib }),
});

function sample(name: string, image: VhdxPlan): SampleImage {
  return { name, format: 'vhdx', file: fileBytes(buildVhdx(image)), disk: expectedDisk(image) };
}

/** A table whose region has no room for what it is to become, and blocks right behind it. */
const dynamic = sample('dynamic', {
  size: 3 * MIB + 512,
  blocks: new Map([
    [0, full()],
    [1, { state: 3, mib: 5 }],
    [3, full()],
  ]),
});
const fixed = sample('fixed', {
  size: 2 * MIB + 4096,
  flags: 1,
  blocks: new Map([
    [0, full()],
    [1, full()],
    [2, full(undefined, 4096)],
  ]),
  cutTail: true,
});
const dirty = ((): SampleImage => {
  const image: VhdxPlan = { size: 3 * MIB, blocks: new Map([[2, full()]]) };
  const file = buildVhdx(image);
  const update = intoLog(file, BAT.at * MIB);
  markDirty(file, image);
  putEntries(file, image, [{ sequence: 41, updates: [update] }]);
  return { name: 'dirty', format: 'vhdx', file: fileBytes(file), disk: expectedDisk(image) };
})();

const base = link('base', { size: 6 * MIB, blocks: new Map([0, 1, 2, 3, 4, 5].map((n) => [n, full()])) });
const partial = link(
  'child, last block partially there',
  {
    size: 2 * MIB + 1536,
    blocks: new Map<number, BlockPlan>([
      [1, full()],
      [2, { state: 7, data: randomBytes(next, MIB), present: [[1, 3]] }],
    ]),
  },
  base,
);
const hollow = link('child, last block of the parent', { size: 2 * MIB + 1536 }, base);
const hollowWithBits = link(
  'child, last block of the parent, bits garbage',
  {
    size: 2 * MIB + 1536,
    blocks: new Map<number, BlockPlan>([[0, { state: 7, data: randomBytes(next, MIB), present: [[9, 99]] }]]),
  },
  base,
);

/** The disk with another size: zeros behind its end. */
function resized(disk: Uint8Array, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set(disk.subarray(0, size));
  return bytes;
}

describe('resize', () => {
  const grown = 5 * MIB + 1024;
  test.each([
    [dynamic, grown],
    [dynamic, 3 * MIB + 8192],
    [dynamic, MIB + 512],
    [fixed, grown],
    [fixed, MIB],
    [dirty, grown],
    [partial, grown],
    [partial, MIB + 512],
    [hollow, grown],
    [hollow, MIB],
    [hollowWithBits, grown],
  ])('$0.name to $1', (image, size) => {
    const { violation, images } = cutReshape(
      {
        name: image.name,
        driver,
        file: image.file,
        parent: parentDisk(image),
        run: (source, context) => finish(driver.reshape.resize!(source, size, context)),
        disks: [image.disk, resized(image.disk, size)],
      },
      plan,
    );
    expect(violation).toBeUndefined();
    expect(images).toBeGreaterThan(100);
  });
});
