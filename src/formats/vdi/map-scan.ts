/** One look through the whole block map: what `check` reports and what keeps an image from being written. */

import { type ByteCount, hex } from '../../base/units.ts';
import { scanTable } from '../../image/count.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { ENTRY_ZERO } from './structs.ts';
import { beyondFile, beyondImage, blockHost, entryName, mapLoader, type VdiLayout } from './translator.ts';

export interface MapScan {
  /** Physical blocks of which at least a part is in the file. */
  readonly held: number;
  /** A bit for each of them that is below the number of blocks: an entry names it. */
  readonly used: Uint8Array;
  /** How many bits are set. */
  readonly count: number;
  /** The highest of them and 1: where the numbers that nobody names begin. */
  readonly end: number;
}

/** Bytes from one physical block to the next. */
export const strideOf = ({ blockSize, blockExtra }: VdiLayout): ByteCount => blockSize + blockExtra;

/** Physical blocks of which at least a part is in a file of `size` bytes. */
function heldBlocks(layout: VdiLayout, size: ByteCount): number {
  return Math.max(0, Math.ceil((size - layout.dataOffset) / strideOf(layout)));
}

/**
 * Reads every entry of the map, those that the disk does not need included: another program takes them for real.
 * `named` is called for each block with a place in the file that is its own, `problem` with what is wrong with
 * any other: no such physical block, not (all of what the disk needs of it) in the file, or named by an entry before
 * it. Throws ImageError('io') where the map cannot be read. It takes one bit per physical block in memory.
 */
export function scanMap(
  layout: VdiLayout,
  source: BlockSource,
  problem: (text: string) => void,
  named: (block: number, physical: number) => void = () => {},
): MapScan {
  const { blocks, blockSize, virtualSize } = layout;
  const { size } = source;
  const held = heldBlocks(layout, size);
  const used = new Uint8Array(Math.ceil(Math.min(held, blocks) / 8));
  let count = 0;
  let end = 0;
  const load = mapLoader(source, layout.mapOffset, blocks, () => {});
  let from: number | undefined = 0;
  while (from !== undefined) {
    from = scanTable(load, blocks, from, source.label, (block, entry) => {
      if (entry >= ENTRY_ZERO) return;
      if (entry >= blocks) return problem(beyondImage(layout, block, entry));
      // Of the last block the file may hold only what belongs to the disk.
      const needed = Math.max(1, Math.min(blockSize, virtualSize - block * blockSize));
      if (blockHost(layout, entry) + needed > size) return problem(beyondFile(layout, block, entry, size));
      const bit = 1 << (entry & 7);
      if ((used[entry >>> 3]! & bit) !== 0) {
        return problem(`${entryName(layout, block)}: physical block ${entry} is in use by another entry`);
      }
      used[entry >>> 3]! |= bit;
      count += 1;
      if (entry >= end) end = entry + 1;
      named(block, entry);
    });
  }
  return { held, used, count, end };
}

/** The first number below `end`, from `from` on, whose bit is as wanted; `end` if there is none. */
function nextBit(used: Uint8Array, from: number, end: number, set: boolean): number {
  const same = set ? 0x00 : 0xff;
  for (let number = from; number < end; number += 1) {
    // A byte at a time where none of its bits can be it.
    while ((number & 7) === 0 && number + 8 <= end && used[number >>> 3] === same) number += 8;
    if (number < end && ((used[number >>> 3]! >>> (number & 7)) & 1) === (set ? 1 : 0)) return number;
  }
  return end;
}

/** Runs of physical blocks below `end` (at most as many as the scan has bits for) that no entry names. */
export function* unusedRuns({ used }: MapScan, end: number): Generator<readonly [number, number]> {
  for (let at = nextBit(used, 0, end, false); at < end; ) {
    const next = nextBit(used, at, end, true);
    yield [at, next - at];
    at = nextBit(used, next, end, false);
  }
}

/** "physical block 3", "physical blocks 3 to 9". */
export function blocksName(first: number, count: number): string {
  return count === 1 ? `physical block ${first}` : `physical blocks ${first} to ${first + count - 1}`;
}

/** Where a physical block begins in the file, its extra bytes included; for messages. */
export const placeName = (layout: VdiLayout, physical: number): string =>
  hex(blockHost(layout, physical) - layout.blockExtra);
