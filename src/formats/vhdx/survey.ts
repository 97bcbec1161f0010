/**
 * Looking through the whole BAT as it is on disk: for `check`, and before an image is written. Finds what is
 * wrong with entries, and which MiB of the file are in use.
 */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, type HostOffset, hex, MIB, roundDown } from '../../base/units.ts';
import type { BlockSource } from '../../source/block-source.ts';
import {
  type BatGeometry,
  bitmapEntryOf,
  blockOf,
  describeDamage,
  entryName,
  fits,
  isBitmapEntry,
  MIB_LIMIT,
} from './bat.ts';
import {
  BAT_ENTRY_BYTES,
  FULLY_PRESENT,
  LOG_SECTOR,
  NOT_PRESENT,
  PARTIALLY_PRESENT,
  UNDEFINED,
  UNMAPPED,
  UNMAPPED_DRAFT,
  ZEROED,
} from './structs.ts';

/** Entries read at once. */
const PIECE_ENTRIES = 8192;
/** Entries of a 4 KiB sector. */
const SECTOR_ENTRIES = LOG_SECTOR / BAT_ENTRY_BYTES;
const RESERVED_BITS = 0xffff8;

/** What is told about entries; either may throw to end the search. */
export interface EntryFindings {
  /** Reading gives an error or another block's data there, and writing would make it worse. */
  error(text: string): void;
  /** Without meaning for the data. */
  warning(text: string): void;
}

export interface Survey {
  /** One bit per MiB of the file, lowest bit first: something is there, or an absent block keeps it. */
  readonly used: Uint8Array;
  /** MiB behind the last one in use. */
  readonly end: number;
  /** MiB of the file, a last incomplete one included. */
  readonly fileMib: number;
  /** Blocks in the file, those that are partially present included, as bytes of the disk. */
  readonly allocated: ByteCount;
  /** Every block is in the file. */
  readonly complete: boolean;
}

/** `source` has the log replayed. Throws ImageError where the BAT cannot be read. */
export function surveyBat(source: BlockSource, bat: BatGeometry, findings: EntryFindings): Survey {
  const { blocks, blockSize, chunkShift, virtualSize } = bat;
  const fileSize = source.size;
  const fileMib = Math.min(MIB_LIMIT, Math.ceil(fileSize / MIB));
  const blockMib = blockSize / MIB;
  const taken = new Float64Array(bat.taken);
  // The last block may end behind the file.
  const used = new MibSet(fileMib + blockMib);
  // What absent blocks keep is nobody's data: it may overlap anything.
  const kept = new MibSet(fileMib + blockMib);
  for (let pair = 0; pair < taken.length; pair += 2) {
    if (taken[pair]! < fileMib) used.add(taken[pair]!, taken[pair + 1]!);
  }

  let present = 0;
  let allocated = 0;
  const place = (entry: number): string => entryName(bat, entry);
  /** Something that must be there is at `mib`. Returns whether it can be. */
  const occupy = (entry: number, mib: number, length: number): boolean => {
    if (!fits(bat, taken, fileSize, entry, mib)) {
      findings.error(describeDamage(source, bat, entry));
      return false;
    }
    if (used.add(mib, mib + length)) {
      const what = isBitmapEntry(entry, chunkShift) ? 'bitmap' : 'block';
      findings.error(`${place(entry)}: the ${what} at ${hex(mib * MIB)} overlaps another one`);
    }
    return true;
  };
  // The entry of a sector bitmap stands behind those of its chunk: the first of these that needs it.
  let partial = -1;
  const closeChunk = (): void => {
    if (partial >= 0) {
      const bitmap = bitmapEntryOf(blockOf(partial, chunkShift), chunkShift);
      findings.error(
        `${place(partial)}: is partially present, but its sector bitmap (entry ${bitmap}) is not`,
      );
    }
    partial = -1;
  };
  const isPast = (entry: number): boolean =>
    partial >= 0 && entry > bitmapEntryOf(blockOf(partial, chunkShift), chunkShift);
  eachEntry(source, bat, (entry, low, high) => {
    const state = low & 7;
    const mib = high * 4096 + (low >>> 20);
    if (isPast(entry)) closeChunk();
    if ((low & RESERVED_BITS) !== 0) {
      findings.warning(`${place(entry)}: reserved bits are set (${hex((low & RESERVED_BITS) >>> 0)})`);
    }
    if (isBitmapEntry(entry, chunkShift)) {
      if (state === NOT_PRESENT) {
        if (mib !== 0) findings.warning(`${place(entry)}: is absent, but has the offset ${hex(mib)} MiB`);
      } else if (!bat.hasParent) {
        findings.error(`${place(entry)}: state is ${state}, expected 0 in an image without a parent`);
      } else {
        if (state === FULLY_PRESENT) occupy(entry, mib, 1);
        else findings.error(describeDamage(source, bat, entry));
        partial = -1;
      }
      return;
    }
    const block = blockOf(entry, chunkShift);
    // The last chunk has entries for all its blocks, the disk need not.
    if (block >= blocks) return;
    switch (state) {
      case NOT_PRESENT:
      case ZEROED:
        if (mib !== 0) {
          findings.warning(
            `${place(entry)}: state is ${state}, but the offset is ${hex(mib)} MiB, expected 0`,
          );
        }
        return;
      case UNMAPPED_DRAFT:
      case UNDEFINED:
      case UNMAPPED:
        if (state === UNMAPPED_DRAFT) findings.warning(`${place(entry)}: state is 5, that of an old draft`);
        // Beyond the end of the file nothing is kept.
        if (mib !== 0 && mib < fileMib) kept.add(mib, mib + blockMib);
        return;
      case PARTIALLY_PRESENT:
      case FULLY_PRESENT:
        if (state === PARTIALLY_PRESENT && !bat.hasParent) break;
        if (state === PARTIALLY_PRESENT && partial < 0) partial = entry;
        present += 1;
        if (occupy(entry, mib, blockMib)) allocated += Math.min(blockSize, virtualSize - block * blockSize);
        return;
    }
    // Reserved, or half present, which takes a parent.
    findings.error(describeDamage(source, bat, entry));
  });
  closeChunk();
  used.addAll(kept);
  return { used: used.bits, end: used.end, fileMib, allocated, complete: present === blocks };
}

/** Entries of the BAT, one after another. */
export interface BatPiece {
  readonly first: number;
  readonly count: number;
  /** Both halves of each, low first; good until the next piece. */
  readonly halves: Uint32Array;
}

/**
 * The first `entries` entries of the BAT at `at`. Holes of the file, whose entries are 0, may be left out. Throws ImageError
 * where it cannot be read.
 */
export function* batPieces(source: BlockSource, at: HostOffset, entries: number): Generator<BatPiece, void> {
  const bytes = new Uint8Array(PIECE_ENTRIES * BAT_ENTRY_BYTES);
  // Node runs on little-endian Linux only.
  const halves = new Uint32Array(bytes.buffer);
  for (let first = 0; first < entries; first += PIECE_ENTRIES) {
    // A BAT for 64 TiB is mostly a hole.
    const data = source.nextData((at + first * BAT_ENTRY_BYTES) as HostOffset) - at;
    first = Math.max(first, roundDown(Math.floor(data / BAT_ENTRY_BYTES), SECTOR_ENTRIES));
    if (first >= entries) return;
    const host = (at + first * BAT_ENTRY_BYTES) as HostOffset;
    const count = Math.min(PIECE_ENTRIES, entries - first);
    const length = count * BAT_ENTRY_BYTES;
    const moved = source.readAt(bytes, 0, length, host);
    if (moved !== length) {
      throw new ImageError(
        'io',
        `VHDX BAT at ${hex(host)}: expected ${length} bytes, the read gave ${moved}`,
      );
    }
    yield { first, count, halves };
  }
}

/** Calls `each` with both halves of every entry but those of absent blocks: 0, and ZERO, with which QEMU fills a new BAT. */
function eachEntry(
  source: BlockSource,
  bat: BatGeometry,
  each: (entry: number, low: number, high: number) => void,
): void {
  const stride = 2 ** bat.chunkShift + 1;
  for (const { first, count, halves } of batPieces(source, bat.at, bat.entries)) {
    // Entries up to the next one of a sector bitmap.
    let blocks = stride - 1 - (first % stride);
    for (let n = 0; n < count; n += 1, blocks -= 1) {
      const low = halves[n * 2]!;
      const high = halves[n * 2 + 1]!;
      if (blocks < 0) blocks = stride - 1;
      if (high !== 0 || (low !== NOT_PRESENT && (low !== ZEROED || blocks === 0))) each(first + n, low, high);
    }
  }
}

/** Calls `each` with the first MiB and the length in MiB of every run below `end` that is not in use. */
export function eachFreeRun(
  used: Uint8Array,
  end: number,
  each: (mib: number, length: number) => void,
): void {
  let from = -1;
  for (let mib = 0; mib < end; mib += 1) {
    if (from < 0 && (mib & 7) === 0 && used[mib >>> 3] === 0xff) {
      mib += 7;
      continue;
    }
    const isUsed = (used[mib >>> 3]! & (1 << (mib & 7))) !== 0;
    if (!isUsed && from < 0) from = mib;
    else if (isUsed && from >= 0) {
      each(from, mib - from);
      from = -1;
    }
  }
  if (from >= 0) each(from, end - from);
}

/** Memory in proportion to the file, an eighth of a byte per MiB, and touched only as it is used. */
class MibSet {
  readonly bits: Uint8Array;
  /** Behind the last one, also where that is beyond what can be held. */
  end = 0;
  readonly #limit: number;

  constructor(limit: number) {
    this.bits = new Uint8Array(Math.ceil(limit / 8));
    this.#limit = limit;
  }

  /** Returns whether any of them was there before. */
  add(first: number, end: number): boolean {
    const { bits } = this;
    if (end > this.end) this.end = end;
    const last = Math.min(end, this.#limit);
    let met = false;
    for (let mib = first; mib < last; mib += 1) {
      const mask = 1 << (mib & 7);
      const byte = bits[mib >>> 3]!;
      if ((byte & mask) !== 0) met = true;
      bits[mib >>> 3] = byte | mask;
    }
    return met;
  }

  addAll(other: MibSet): void {
    if (other.end === 0) return;
    this.end = Math.max(this.end, other.end);
    for (let n = 0; n < this.bits.length; n += 1) this.bits[n]! |= other.bits[n]!;
  }
}
