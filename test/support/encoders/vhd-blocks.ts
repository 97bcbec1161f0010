/** Blocks with random data and random bitmaps, for samples. */

import { between, type Random, randomBytes } from '../random.ts';
import type { VhdBlockSpec } from './vhd-image.ts';

/** A whole bitmap, an empty one, single sectors, runs, or noise; what is under a clear bit is never zero. */
function someSectors(next: Random, sectors: number): ((sector: number) => boolean) | undefined {
  const kind = between(next, 0, 4);
  if (kind === 0) return undefined;
  if (kind === 1) return () => false;
  if (kind === 2) return (sector) => sector % 8 === 0 || sector === sectors - 1;
  const bits = new Uint8Array(sectors);
  for (let at = 0; at < sectors; ) {
    const run = kind === 3 ? between(next, 1, 100) : 1;
    bits.fill(between(next, 0, 1), at, at + run);
    at += run;
  }
  return (sector) => bits[sector] === 1;
}

/** About two thirds of the blocks of a disk, in random order. */
export function someBlocks(next: Random, size: number, blockSize: number): Map<number, VhdBlockSpec> {
  const numbers = Array.from({ length: Math.ceil(size / blockSize) }, (_, block) => block);
  const chosen = numbers.filter(() => between(next, 0, 2) > 0);
  if (chosen.length === 0) chosen.push(0);
  for (let at = chosen.length - 1; at > 0; at -= 1) {
    const other = between(next, 0, at);
    [chosen[at], chosen[other]] = [chosen[other]!, chosen[at]!];
  }
  const blocks = new Map<number, VhdBlockSpec>();
  for (const block of chosen) {
    const data = randomBytes(next, blockSize);
    const sectors = someSectors(next, blockSize / 512);
    blocks.set(block, sectors === undefined ? { data } : { data, sectors });
  }
  return blocks;
}
