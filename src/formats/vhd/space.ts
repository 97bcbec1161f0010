/** Which parts of the file a dynamic image uses, by its table: for writing, and for looking it through. */

import { type ByteCount, roundUp } from '../../base/units.ts';
import { scanTable } from '../../image/count.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { DynamicParts } from './image.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import { FITS, type Layout, placement, tableLoader, usedBytes } from './table.ts';

/** Data of large blocks starts at pages of the host, as tapdisk has it: writing a page then reads nothing. */
const HOST_PAGE = 4096;
/** Blocks below this are laid one behind the other: the room would be out of proportion. */
const MIN_ALIGNED_BLOCK = 64 * 1024;
/** The greatest sector at which a block can be: the next one stands for "unallocated". */
export const LAST_SECTOR = UNALLOCATED - 1;

/** The blocks that a table names. */
export interface BlockList {
  /** The first sector of each, ascending. */
  readonly starts: Uint32Array;
  /** That of the disk's last block, which may be shorter; -1 where it is not allocated. */
  readonly last: number;
}

/** Bytes of a whole block in the file: bitmap and data. */
export function blockBytes(layout: Layout): ByteCount {
  return layout.bitmapBytes + layout.blockSize;
}

/** The first place for a block at or after host offset `at`. */
export function nextPlace(layout: Layout, at: number): number {
  const step = layout.blockSize < MIN_ALIGNED_BLOCK ? SECTOR : HOST_PAGE;
  return roundUp(at + layout.bitmapBytes, step) - layout.bitmapBytes;
}

/** Where the block that starts at sector `start` ends, to the sector. */
export function blockEnd(layout: Layout, { last }: BlockList, start: number): number {
  const data = start === last ? roundUp(usedBytes(layout, layout.blockCount - 1), SECTOR) : layout.blockSize;
  return start * SECTOR + layout.bitmapBytes + data;
}

/**
 * Looks `entries` entries of the table through. `misplaced` is told of those of the disk that cannot be; they
 * are left out. Of entries behind the disk, what cannot be is no block. Throws ImageError where the table cannot
 * be read.
 */
export function listBlocks(
  source: BlockSource,
  layout: Layout,
  entries: number,
  misplaced: (block: number, entry: number, how: number) => void,
): BlockList {
  let starts = new Uint32Array(1024);
  let count = 0;
  let last = -1;
  // Most images were filled from the start to the end.
  let ascending = true;
  const load = tableLoader(source, layout, entries);
  let from: number | undefined = 0;
  while (from !== undefined) {
    from = scanTable(load, entries, from, source.label, (block, entry) => {
      if (entry === UNALLOCATED) return;
      const ours = block < layout.blockCount;
      const how = placement(layout, ours ? block : 0, entry);
      if (how !== FITS) {
        if (ours) misplaced(block, entry, how);
        return;
      }
      if (block === layout.blockCount - 1) last = entry;
      if (count === starts.length) {
        const more = new Uint32Array(count * 2);
        more.set(starts);
        starts = more;
      }
      if (count > 0 && entry < starts[count - 1]!) ascending = false;
      starts[count] = entry;
      count += 1;
    });
  }
  const found = starts.subarray(0, count);
  return { starts: ascending ? found : found.sort(), last };
}

/** The first two blocks that overlap, in order of the file; undefined where none do. */
export function overlap(layout: Layout, list: BlockList): readonly [number, number] | undefined {
  const { starts } = list;
  for (let n = 1; n < starts.length; n += 1) {
    if (starts[n]! * SECTOR < blockEnd(layout, list, starts[n - 1]!)) return [starts[n - 1]!, starts[n]!];
  }
  return undefined;
}

/** The first block that has bytes between host offsets `at` and `end`; undefined where none has. */
export function blockWithin(layout: Layout, list: BlockList, at: number, end: number): number | undefined {
  return list.starts.find((start) => start * SECTOR < end && blockEnd(layout, list, start) > at);
}

/** Host ranges in use beside blocks and metadata, for `gaps` and `endOfUse`: the batmap, the paths of the parent. */
export function reservedRanges({ batmap, parent }: DynamicParts): number[] {
  const ranges = batmap === undefined ? [] : [batmap.mapAt, batmap.mapAt + batmap.mapBytes];
  for (const { at, spaceEnd } of parent?.locators ?? []) ranges.push(at, spaceEnd);
  return ranges;
}

/**
 * Host ranges below `until` that neither blocks nor metadata use, ascending. The disk's last block counts as whole:
 * when it is unmapped, it is given out as such. `reserved`: further ranges in use, start, end, start, end, …
 */
export function* gaps(
  layout: Layout,
  list: BlockList,
  reserved: readonly number[],
  until: number,
): Generator<readonly [number, number]> {
  const ranges: [number, number][] = [];
  for (const of of [layout.metadata, reserved]) {
    for (let n = 0; n < of.length; n += 2) ranges.push([of[n]!, roundUp(of[n + 1]!, SECTOR)]);
  }
  ranges.sort((a, b) => a[0] - b[0]);
  ranges.push([until, until]);
  let end = 0;
  let block = 0;
  for (const [start, rangeEnd] of ranges) {
    for (; block < list.starts.length && list.starts[block]! * SECTOR < start; block += 1) {
      const at = list.starts[block]! * SECTOR;
      if (at > end) yield [end, at];
      end = Math.max(end, at + blockBytes(layout));
    }
    if (start > end) yield [end, start];
    end = Math.max(end, rangeEnd);
  }
}

/** Sectors where blocks fit into the gaps, ascending. */
export function* freePlaces(layout: Layout, all: Iterable<readonly [number, number]>): Generator<number> {
  const bytes = blockBytes(layout);
  for (const [from, end] of all) {
    const start = roundUp(from, SECTOR);
    const most = Math.floor((end - start) / bytes);
    if (most < 1) continue;
    // A gap that another writer's block left need not have room for an aligned one.
    const first = nextPlace(layout, start);
    const step = nextPlace(layout, bytes + nextPlace(layout, 0)) - nextPlace(layout, 0);
    const aligned = end - first < bytes ? 0 : Math.floor((end - first - bytes) / step) + 1;
    for (let n = 0; n < most; n += 1) {
      if (aligned === most) yield (first + n * step) / SECTOR;
      else yield (start + n * bytes) / SECTOR;
    }
  }
}

/** Where the last of all that is in use ends, every block taken as whole: where the file could end. */
export function endOfUse(layout: Layout, list: BlockList, reserved: readonly number[]): number {
  let end = 0;
  for (const of of [layout.metadata, reserved])
    for (let n = 1; n < of.length; n += 2) end = Math.max(end, of[n]!);
  const { starts } = list;
  if (starts.length > 0) end = Math.max(end, starts[starts.length - 1]! * SECTOR + blockBytes(layout));
  return roundUp(end, SECTOR);
}
