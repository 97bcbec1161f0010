/** What the tests of the VHDX log share. */

import { ImageError } from '../../../../src/base/errors.ts';
import { MIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import { batEntry, buildVhdx, type VhdxPlan } from '../../../support/encoders/vhdx-image.ts';
import { type LogUpdate, markDirty } from '../../../support/encoders/vhdx-log.ts';
import { random, randomBytes } from '../../../support/random.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';

export const LOG = { at: 1, length: 1 };
export const BAT_AT = 3 * MIB;

/** Block 0 is at 4 MiB and 1 at 5 MiB; the file begins with both absent. */
export const plan: VhdxPlan = { size: 8 * MIB };
export const payload = [randomBytes(random(1), MIB), randomBytes(random(2), MIB)];

export function base(): SparseSource {
  const file = buildVhdx(plan);
  file.put(4 * MIB, payload[0]!);
  file.put(5 * MIB, payload[1]!);
  markDirty(file, plan);
  return file;
}

/** The update of the BAT's first sector that makes `present` blocks appear. */
export function bat(...present: number[]): LogUpdate {
  const bytes = new Uint8Array(4096);
  for (const block of present) bytes.set(batEntry(6, 4 + block), block * 8);
  return { write: BAT_AT, bytes };
}

/** Which of the two blocks the disk shows. */
export function shown(file: SparseSource): number[] {
  const { disk } = openDisk(vhdxDriver, file);
  return [0, 1].filter((block) => Buffer.compare(readDisk(disk, block * MIB, MIB), payload[block]!) === 0);
}

export function logState(file: SparseSource): string | undefined {
  return openDisk(vhdxDriver, file).image.facts.get('log-state');
}

export function refusal(file: SparseSource): string {
  try {
    openDisk(vhdxDriver, file);
  } catch (problem) {
    if (problem instanceof ImageError) return `${problem.kind}: ${problem.message}`;
    throw problem;
  }
  return 'opened';
}

export const NONE =
  'corrupt: VHDX log at 0x100000: the header names log 11111111-2222-3333-4444-555555555555, ' +
  'expected a valid sequence of its entries, found none';

/** Counts the reads of `file` from now on. */
export function countReads(file: SparseSource): () => number {
  const readAt = file.readAt.bind(file);
  let reads = 0;
  file.readAt = (target, start, length, at) => {
    reads += 1;
    return readAt(target, start, length, at);
  };
  return () => reads;
}
