/**
 * The block allocation table as words of 32 bits: 3 bits of state and 29 bits of host offset in MiB
 * ([MS-VHDX] 2.5). Words are checked when their page is loaded, so that a lookup has nothing left to check.
 */

import { EIO } from '../../base/errno.ts';
import { type ByteCount, formatSize, type HostOffset, hex, MIB } from '../../base/units.ts';
import { PAGE_WORDS } from '../../shared/page-pool.ts';
import type { LoadPage } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Metadata } from './metadata.ts';
import type { Region, Regions } from './regions.ts';
import {
  BAT_ENTRY_BYTES,
  FULLY_PRESENT,
  PARTIALLY_PRESENT,
  UNDEFINED,
  UNMAPPED,
  UNMAPPED_DRAFT,
  ZEROED,
} from './structs.ts';

/** A FULLY_PRESENT block that cannot be where its entry says: offset 0, where the header section is. */
export const MISPLACED = FULLY_PRESENT;

/** The first offset in MiB that a word has no room for. */
export const MIB_LIMIT = 2 ** 29;
/** Bits in a sector bitmap block, which is 1 MiB: the logical sectors of a chunk ([MS-VHDX] 2.4). */
const CHUNK_SECTORS = 2 ** 23;

/** Plain, structured-cloneable data. */
export interface BatGeometry {
  /** Host offset of entry 0. */
  readonly at: HostOffset;
  /** Entries that the disk needs, those of sector bitmaps between them included. */
  readonly entries: number;
  /** Payload blocks. */
  readonly blocks: number;
  readonly blockSize: ByteCount;
  readonly virtualSize: ByteCount;
  /** Payload blocks of a chunk are 2^chunkShift; the entry of a sector bitmap follows them. */
  readonly chunkShift: number;
  /** What no block may touch, as pairs of f64 host offsets in MiB (first, end): ascending, disjoint. */
  readonly taken: SharedArrayBuffer;
}

/** `regions` are checked; nothing is read. */
export function batGeometry(metadata: Metadata, regions: Regions): BatGeometry {
  const { blockSize, virtualSize, logicalSectorSize } = metadata;
  const blocks = Math.ceil(virtualSize / blockSize);
  const chunkShift = Math.log2((CHUNK_SECTORS * logicalSectorSize) / blockSize);
  return {
    at: regions.bat.at,
    entries: blocks === 0 ? 0 : entryOf(blocks - 1, chunkShift) + 1,
    blocks,
    blockSize,
    virtualSize,
    chunkShift,
    taken: takenRanges(regions.taken),
  };
}

function takenRanges(regions: readonly Region[]): SharedArrayBuffer {
  const buffer = new SharedArrayBuffer(regions.length * 16);
  new Float64Array(buffer).set(regions.flatMap(({ at, length }) => [at / MIB, (at + length) / MIB]));
  return buffer;
}

/** Index of the BAT entry of payload block `block`. */
export function entryOf(block: number, chunkShift: number): number {
  return block + (block >>> chunkShift);
}

/** The payload block of BAT entry `entry`; for a sector bitmap's entry the block that comes after it. */
export function blockOf(entry: number, chunkShift: number): number {
  return entry - Math.floor(entry / (2 ** chunkShift + 1));
}

/** Whether BAT entry `entry` is that of a sector bitmap. Such entries have no meaning without a parent. */
export function isBitmapEntry(entry: number, chunkShift: number): boolean {
  return entry % (2 ** chunkShift + 1) === 2 ** chunkShift;
}

/** Bytes of payload block `block` that belong to the disk: all but in the last one. */
function usedBytes(bat: BatGeometry, block: number): ByteCount {
  return Math.min(bat.blockSize, bat.virtualSize - block * bat.blockSize);
}

/**
 * States that read as zeros in words of their own: the specification leaves open what undefined and unmapped
 * blocks read as, and zeros are always right ([MS-VHDX] 2.5.1.1). One word for all lets neighbours merge.
 */
export const READS_AS_ZEROS: ReadonlySet<number> = new Set([UNDEFINED, ZEROED, UNMAPPED, UNMAPPED_DRAFT]);

/** Loads a page of words. `source` has the log replayed. Offsets of absent blocks have no meaning: dropped. */
export function batLoader(source: BlockSource, bat: BatGeometry): LoadPage {
  const buffer = new Uint8Array(PAGE_WORDS * BAT_ENTRY_BYTES);
  const view = new DataView(buffer.buffer);
  const taken = new Float64Array(bat.taken);
  return (page, into, start) => {
    const base = page * PAGE_WORDS;
    const count = Math.min(PAGE_WORDS, bat.entries - base);
    const at = (bat.at + base * BAT_ENTRY_BYTES) as HostOffset;
    const moved = source.readAt(buffer, 0, count * BAT_ENTRY_BYTES, at);
    if (moved < 0) return moved;
    if (moved < count * BAT_ENTRY_BYTES) return -EIO;
    // After the entries: whoever wrote them had made the file large enough.
    const fileSize = source.size;
    for (let index = 0; index < count; index += 1) {
      const low = view.getUint32(index * BAT_ENTRY_BYTES, true);
      const state = low & 7;
      if (state !== FULLY_PRESENT) {
        into[start + index] = READS_AS_ZEROS.has(state) ? ZEROED : state;
        continue;
      }
      const mib = view.getUint32(index * BAT_ENTRY_BYTES + 4, true) * 4096 + (low >>> 20);
      const block = blockOf(base + index, bat.chunkShift);
      into[start + index] =
        misplacement(bat, taken, fileSize, block, mib) === FITS ? mib * 8 + state : MISPLACED;
    }
    return 0;
  };
}

export const FITS = 0;
const TOO_FAR = 1;
const BEYOND_END = 2;
const TAKEN = 3;

/** What is wrong with payload block `block` at `mib` MiB of a file of `fileSize` bytes; `taken` is `bat.taken`. */
export function misplacement(
  bat: BatGeometry,
  taken: Float64Array,
  fileSize: ByteCount,
  block: number,
  mib: number,
): number {
  if (mib >= MIB_LIMIT) return TOO_FAR;
  const used = usedBytes(bat, block);
  if (mib * MIB + used > fileSize) return BEYOND_END;
  return takenUntil(taken, mib, mib + used / MIB) > mib ? TAKEN : FITS;
}

/** Where the last of the ranges `taken` ends that overlap `first` to `end` (all in MiB); `first` if none does. */
export function takenUntil(taken: Float64Array, first: number, end: number): number {
  // The last range that begins before the end: only that one can reach furthest.
  let low = 0;
  let high = taken.length / 2;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (taken[middle * 2]! < end) low = middle + 1;
    else high = middle;
  }
  return low > 0 ? Math.max(first, taken[low * 2 - 1]!) : first;
}

/**
 * Makes the entry at `at` say `word`, which a page of the loader has held and the editor may have changed. An
 * entry that says so already keeps every bit: one word stands for several states, and what it does not show
 * (reserved bits, offsets of absent blocks, damage) is none of our business.
 */
export function putEntry(view: DataView, at: number, word: number): void {
  const low = view.getUint32(at, true);
  if (word === ZEROED) {
    if (READS_AS_ZEROS.has(low & 7)) return;
    view.setUint32(at, ZEROED, true);
    view.setUint32(at + 4, 0, true);
    return;
  }
  if ((word & 7) !== FULLY_PRESENT || word === MISPLACED) return;
  const mib = word >>> 3;
  const newLow = (((mib & 0xfff) << 20) | FULLY_PRESENT) >>> 0;
  const newHigh = mib >>> 12;
  if ((low & ~0xffff8) >>> 0 === newLow && view.getUint32(at + 4, true) === newHigh) return;
  view.setUint32(at, newLow, true);
  view.setUint32(at + 4, newHigh, true);
}

/** The sentence on the damaged entry of payload block `block`; reads the entry again for it. */
export function describeDamage(source: BlockSource, bat: BatGeometry, block: number): string {
  const entry = entryOf(block, bat.chunkShift);
  const at = bat.at + entry * BAT_ENTRY_BYTES;
  const place = `VHDX BAT entry ${entry} at ${hex(at)} (payload block ${block})`;
  const raw = new Uint8Array(BAT_ENTRY_BYTES);
  if (source.readAt(raw, 0, BAT_ENTRY_BYTES, at as HostOffset) !== BAT_ENTRY_BYTES) {
    return `${place}: cannot be read`;
  }
  const view = new DataView(raw.buffer);
  const state = raw[0]! & 7;
  if (state === PARTIALLY_PRESENT) {
    return `${place}: state is 7 (partially present), which only an image with a parent may have`;
  }
  if (state !== FULLY_PRESENT) {
    return `${place}: state is ${state} (reserved), expected 0 to 3, ${UNMAPPED_DRAFT} or 6`;
  }
  const mib = view.getUint32(4, true) * 4096 + (view.getUint32(0, true) >>> 20);
  const host = hex(view.getBigUint64(0, true) & ~0xfffffn);
  const fileSize = source.size;
  switch (misplacement(bat, new Float64Array(bat.taken), fileSize, block, mib)) {
    case TOO_FAR:
      return `${place}: the block is at ${host}, expected an offset below ${formatSize(MIB_LIMIT * MIB)}`;
    case BEYOND_END:
      return (
        `${place}: the block is ${usedBytes(bat, block)} bytes at ${host}, ` +
        `beyond the end of the file at ${hex(fileSize)}`
      );
    default:
      return `${place}: the block at ${host} overlaps the header section, the log or a region`;
  }
}
