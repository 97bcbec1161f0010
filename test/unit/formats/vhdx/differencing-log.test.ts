/** Commits of more sectors than an entry of the log can hold, cut off between two entries. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { MIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import { locatorOf } from '../../../support/encoders/vhdx-chains.ts';
import { buildVhdx, fileBytes, LOG_GUID, type VhdxPlan } from '../../../support/encoders/vhdx-image.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { write } from './write-support.ts';

/** One block in each 4 KiB sector of the BAT: each has its own 4 KiB of bits, too. Of both 128 can wait. */
const BLOCKS = 128;
const STRIDE = 512 * MIB;
const CHUNKS = (BLOCKS * STRIDE) / (4096 * MIB);
const size = BLOCKS * STRIDE;
const places = Array.from({ length: BLOCKS }, (_, n) => n * STRIDE);
const old = new Uint8Array(8192).fill(1);
const young = new Uint8Array(4096).fill(2);

const parent = buildVhdx({
  size,
  blocks: new Map(places.map((at) => [at / MIB, { state: 6, data: old }])),
});
const base = () => openDisk(vhdxDriver, parent).disk;

describe.each<[string, VhdxPlan]>([
  ['no bitmaps yet', { size, locator: locatorOf(LOG_GUID, 'base') }],
  [
    'bitmaps full of garbage',
    {
      size,
      locator: locatorOf(LOG_GUID, 'base'),
      bitmaps: new Map(Array.from({ length: CHUNKS }, (_, n) => [n, 4 + n])),
    },
  ],
])('%s', (_name, plan) => {
  // The third entry goes over the end of the ring, in two writes.
  test.each([
    [0, 1],
    [1, 2],
    [2, 3],
    [3, 5],
  ])('%i entries of the log are there', (entries, nth) => {
    const memory = new MemorySource(fileBytes(buildVhdx(plan)), 'image', true);
    const source = new FaultSource(memory);
    const { disk } = openEditable(vhdxDriver, source, {}, 1 << 22, base());
    for (const at of places) write(disk, at, young);
    source.set({ step: 'log.write', nth, times: Number.POSITIVE_INFINITY, errno: EIO, part: 0 });
    expect(disk.flush()).toBe(entries === 3 ? 0 : -EIO);
    // As it would be found after a crash now: sound, and each block as it was or as it was written.
    const file = new MemorySource(memory.bytes.slice());
    const context = { tables: new TableAllocator(), report: () => {}, options: new Map() };
    expect(vhdxDriver.check!(file, context).findings.filter(({ severity }) => severity === 'error')).toEqual(
      [],
    );
    const again = openDisk(vhdxDriver, file, {}, 1 << 20, base()).disk;
    let written = 0;
    for (const at of places) {
      const found = readDisk(again, at, 8192);
      expect(found.subarray(4096).every((byte) => byte === 1)).toBe(true);
      const first = found[0]!;
      expect(found.subarray(0, 4096).every((byte) => byte === first)).toBe(true);
      if (first === 2) written += 1;
      else expect(first).toBe(1);
    }
    if (entries === 0) expect(written).toBe(0);
    if (entries === 2) expect(written).toBeGreaterThan(0);
    if (entries === 3) expect(written).toBe(BLOCKS);
    else expect(written).toBeLessThan(BLOCKS);
  });
});
