/** Who of several threads writes where: sectors of the same blocks, and some blocks as a whole. */

import { between, type Random } from '../../support/random.ts';

export const SECTOR = 512;
export const SHARED = 255;

export interface Owners {
  /** The thread that owns each sector. */
  readonly sectors: Uint8Array;
  /** The thread that owns each block as a whole, or SHARED. */
  readonly blocks: Uint8Array;
}

/** Two of three blocks are shared in runs of a few sectors; the third ones go round. */
export function divide(next: Random, size: number, blockSize: number, threads: number): Owners {
  const sectors = new Uint8Array(Math.ceil(size / SECTOR));
  const unit = Math.max(1, blockSize / SECTOR);
  const blocks = new Uint8Array(Math.ceil(sectors.length / unit));
  for (let block = 0; block < blocks.length; block += 1) {
    const first = block * unit;
    const end = Math.min(sectors.length, first + unit);
    if (block % 3 === 1) {
      blocks[block] = Math.floor(block / 3) % threads;
      sectors.fill(blocks[block]!, first, end);
      continue;
    }
    blocks[block] = SHARED;
    for (let at = first; at < end; ) {
      const count = Math.min(between(next, 1, 16), end - at);
      sectors.fill(between(next, 0, threads - 1), at, at + count);
      at += count;
    }
  }
  return { sectors, blocks };
}

/** Runs of neighbouring sectors that belong to `thread`. */
export function runsOf(sectors: Uint8Array, thread: number): { first: number; count: number }[] {
  const runs: { first: number; count: number }[] = [];
  for (let at = 0; at < sectors.length; at += 1) {
    if (sectors[at] !== thread) continue;
    const last = runs.at(-1);
    if (last !== undefined && last.first + last.count === at) last.count += 1;
    else runs.push({ first: at, count: 1 });
  }
  return runs;
}
