/**
 * The block allocation table as words of 32 bits: 3 bits of state and 29 bits of host offset in MiB
 * ([MS-VHDX] 2.5). Words are checked when their page is loaded, so that a lookup has nothing left to check: from
 * FIRST_PLACE on a word names a place in the file, below it is the state alone.
 */

import { EIO } from '../../base/errno.ts';
import { type ByteCount, formatSize, type HostOffset, hex, MIB } from '../../base/units.ts';
import { DATA, type ExtentKind, HOLE, ZERO } from '../../image/extent.ts';
import { PAGE_WORDS } from '../../shared/page-pool.ts';
import type { LoadPage } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Metadata } from './metadata.ts';
import type { Region, Regions } from './regions.ts';
import {
  BAT_ENTRY_BYTES,
  FULLY_PRESENT,
  NOT_PRESENT,
  PARTIALLY_PRESENT,
  UNDEFINED,
  UNMAPPED,
  UNMAPPED_DRAFT,
  ZEROED,
} from './structs.ts';

/** The least word with a place. Below it FULLY_PRESENT and PARTIALLY_PRESENT say that their place cannot be. */
const FIRST_PLACE = 8;

/** Part of the block is in the file, by the sector bitmap of its chunk. */
export const PARTIAL = 3;
export const DAMAGED = -1;

/** What a word says ([MS-VHDX] 2.5.1.1). Only an image with a parent is ever PARTIAL. */
export function kindOf(word: number): ExtentKind | typeof PARTIAL | typeof DAMAGED {
  if (word >= FIRST_PLACE) return (word & 7) === PARTIALLY_PRESENT ? PARTIAL : DATA;
  if (word === NOT_PRESENT) return HOLE;
  return word === ZEROED ? ZERO : DAMAGED;
}

/** Host offset of what a word with a place names. */
export function hostOf(word: number): number {
  return (word >>> 3) * MIB;
}

/** The first offset in MiB that a word has no room for. */
export const MIB_LIMIT = 2 ** 29;
/** Bits in a sector bitmap block, which is 1 MiB: the logical sectors of a chunk ([MS-VHDX] 2.4). */
const CHUNK_SECTORS = 2 ** 23;

/** Plain, structured-cloneable data. */
export interface BatGeometry {
  /** Host offset of entry 0. */
  readonly at: HostOffset;
  /**
   * Entries that the disk needs, those of sector bitmaps between them included. With a parent the last chunk has its
   * bitmap too, and so the entries before it, of blocks behind the end of the disk.
   */
  readonly entries: number;
  /** Whether absent blocks show a parent, and sector bitmaps count. */
  readonly hasParent: boolean;
  /** Bytes of a logical sector: what a bit of a sector bitmap stands for. */
  readonly sectorSize: ByteCount;
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
  const { blockSize, virtualSize, logicalSectorSize: sectorSize } = metadata;
  const hasParent = metadata.parent !== undefined;
  const blocks = Math.ceil(virtualSize / blockSize);
  const chunkShift = Math.log2((CHUNK_SECTORS * sectorSize) / blockSize);
  return {
    at: regions.bat.at,
    entries: entriesOf(blocks, chunkShift, hasParent),
    hasParent,
    sectorSize,
    blocks,
    blockSize,
    virtualSize,
    chunkShift,
    taken: takenRanges(regions.taken),
  };
}

/** How many entries a BAT of so many payload blocks has ([MS-VHDX] 2.5). */
export function entriesOf(blocks: number, chunkShift: number, hasParent: boolean): number {
  if (blocks === 0) return 0;
  return 1 + (hasParent ? bitmapEntryOf(blocks - 1, chunkShift) : entryOf(blocks - 1, chunkShift));
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

/** Index of the BAT entry of the sector bitmap of the chunk in which payload block `block` is: behind its blocks. */
export function bitmapEntryOf(block: number, chunkShift: number): number {
  return entryOf(((block >>> chunkShift) + 1) * 2 ** chunkShift, chunkShift) - 1;
}

/**
 * Bytes that the file must have of what entry `entry` names: all of a sector bitmap, of a payload block those that
 * belong to the disk. Not above 0 for blocks behind its end.
 */
function neededBytes(bat: BatGeometry, entry: number): ByteCount {
  if (isBitmapEntry(entry, bat.chunkShift)) return MIB;
  return Math.min(bat.blockSize, bat.virtualSize - blockOf(entry, bat.chunkShift) * bat.blockSize);
}

/** "VHDX BAT entry 7 at 0x300038 (payload block 7)" */
export function entryName(bat: BatGeometry, entry: number): string {
  const at = `VHDX BAT entry ${entry} at ${hex(bat.at + entry * BAT_ENTRY_BYTES)}`;
  return isBitmapEntry(entry, bat.chunkShift)
    ? `${at} (sector bitmap)`
    : `${at} (payload block ${blockOf(entry, bat.chunkShift)})`;
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
      if (state !== FULLY_PRESENT && (state !== PARTIALLY_PRESENT || !bat.hasParent)) {
        into[start + index] = READS_AS_ZEROS.has(state) ? ZEROED : state;
        continue;
      }
      const mib = view.getUint32(index * BAT_ENTRY_BYTES + 4, true) * 4096 + (low >>> 20);
      const needed = neededBytes(bat, base + index);
      const fits = misplacement(taken, fileSize, needed, mib) === FITS;
      // Nobody asks for blocks behind the end of the disk.
      into[start + index] = needed <= 0 ? NOT_PRESENT : fits ? mib * 8 + state : state;
    }
    return 0;
  };
}

const FITS = 0;
const TOO_FAR = 1;
const BEYOND_END = 2;
const TAKEN = 3;

/** What is wrong with `needed` bytes at `mib` MiB of a file of `fileSize` bytes; `taken` is `bat.taken`. */
function misplacement(taken: Float64Array, fileSize: ByteCount, needed: ByteCount, mib: number): number {
  if (mib >= MIB_LIMIT) return TOO_FAR;
  if (mib * MIB + needed > fileSize) return BEYOND_END;
  return takenUntil(taken, mib, mib + needed / MIB) > mib ? TAKEN : FITS;
}

/** Whether what entry `entry` names, at `mib` MiB of a file of `fileSize` bytes, can be there. */
export function fits(
  bat: BatGeometry,
  taken: Float64Array,
  fileSize: ByteCount,
  entry: number,
  mib: number,
): boolean {
  return misplacement(taken, fileSize, neededBytes(bat, entry), mib) === FITS;
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
  if (word < FIRST_PLACE) return;
  const mib = word >>> 3;
  const newLow = (((mib & 0xfff) << 20) | (word & 7)) >>> 0;
  const newHigh = mib >>> 12;
  if ((low & ~0xffff8) >>> 0 === newLow && view.getUint32(at + 4, true) === newHigh) return;
  view.setUint32(at, newLow, true);
  view.setUint32(at + 4, newHigh, true);
}

/** The sentence on a damaged entry; reads the entry again for it. */
export function describeDamage(source: BlockSource, bat: BatGeometry, entry: number): string {
  const at = bat.at + entry * BAT_ENTRY_BYTES;
  const place = entryName(bat, entry);
  const raw = new Uint8Array(BAT_ENTRY_BYTES);
  if (source.readAt(raw, 0, BAT_ENTRY_BYTES, at as HostOffset) !== BAT_ENTRY_BYTES) {
    return `${place}: cannot be read`;
  }
  const view = new DataView(raw.buffer);
  const state = raw[0]! & 7;
  const isBitmap = isBitmapEntry(entry, bat.chunkShift);
  if (isBitmap && state !== FULLY_PRESENT) return `${place}: state is ${state}, expected 0 or 6`;
  if (state === PARTIALLY_PRESENT && !bat.hasParent) {
    return `${place}: state is 7 (partially present), which only an image with a parent may have`;
  }
  if (state < FULLY_PRESENT) {
    const expected = bat.hasParent ? '0 to 3 or 5 to 7' : '0 to 3, 5 or 6';
    return `${place}: state is ${state} (reserved), expected ${expected}`;
  }
  const what = isBitmap ? 'the bitmap' : 'the block';
  const mib = view.getUint32(4, true) * 4096 + (view.getUint32(0, true) >>> 20);
  const host = hex(view.getBigUint64(0, true) & ~0xfffffn);
  const fileSize = source.size;
  const needed = neededBytes(bat, entry);
  switch (misplacement(new Float64Array(bat.taken), fileSize, needed, mib)) {
    case TOO_FAR:
      return `${place}: ${what} is at ${host}, expected an offset below ${formatSize(MIB_LIMIT * MIB)}`;
    case BEYOND_END:
      return `${place}: ${what} is ${needed} bytes at ${host}, beyond the end of the file at ${hex(fileSize)}`;
    default:
      return `${place}: ${what} at ${host} overlaps the header section, the log or a region`;
  }
}
