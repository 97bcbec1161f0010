/** Power cuts while raw images are resized. */

import { expect, test } from 'vitest';
import { EFBIG, EINVAL, EIO, ENOSPC } from '../../src/base/errno.ts';
import { driverOf } from '../../src/formats/registry.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { MemorySource } from '../support/memory-source.ts';
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

const context = { tables: new TableAllocator(), report: () => {}, options: new Map() };

test.each([
  ['a block device', EINVAL, 'usage', /is a block device/],
  ['a limit of file sizes', EFBIG, 'io', /more than its file system, or a limit/],
  ['a full file system', ENOSPC, 'io', /its size cannot be changed/],
  ['a medium that fails', EIO, 'io', /its size cannot be changed/],
] as const)('%s says no', (_, errno, kind, message) => {
  const memory = new MemorySource(file, 'disk.raw', true);
  const source: BlockSource = Object.create(memory, {
    size: { get: () => memory.size },
    setSize: { value: () => -errno },
  });
  expect(() => finish(driver.reshape.resize!(source, 12_800, context))).toThrow(
    expect.objectContaining({ kind, message: expect.stringMatching(message) }),
  );
  expect(memory.bytes).toEqual(file);
});

test('to compact a raw image changes nothing', () => {
  const source = new MemorySource(file, 'disk.raw', true);
  finish(driver.reshape.compact!(source, context));
  expect(source.bytes).toEqual(file);
});
