/** Power cuts while raw images are resized. */

import { expect, test } from 'vitest';
import { driverOf } from '../../src/formats/registry.ts';
import { random, randomBytes } from '../support/random.ts';
import { cutReshape, finish } from './reshape.ts';

const driver = driverOf('raw');
const file = randomBytes(random(5), 8192);
const plan = { seed: 7, runs: 50, prefixes: true };

test.each([
  ['grow', 12_800],
  ['shrink', 4096],
])('%s', (name, size) => {
  const after = new Uint8Array(size);
  after.set(file.subarray(0, size));
  const { violation, images, final } = cutReshape(
    {
      name,
      driver,
      file,
      run: (source, context) => finish(driver.reshape.resize!(source, size, context)),
      disks: [file, after],
    },
    plan,
  );
  expect(violation).toBeUndefined();
  expect(images).toBeGreaterThan(2);
  expect(final).toEqual(after);
});
