/** The two tables of a dynamic image, a page at a time: the block allocation table and the sector bitmaps. */

import { EIO, type Status } from '../../base/errno.ts';
import type { ByteCount, HostOffset } from '../../base/units.ts';
import { PAGE_BYTES, PAGE_WORDS } from '../../shared/page-pool.ts';
import type { LoadPage } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';

/** - lsb: tapdisk 0.1 counted the bits of a byte from the least significant. */
export type BitOrder = 'msb' | 'lsb';

/** Where things are in a dynamic image: plain data, checked at open. */
export interface Layout {
  /** Bytes of the disk. */
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** Blocks that the disk has; the table may have more entries. */
  readonly blockCount: number;
  /** Bytes of the bitmap before the data of each block. */
  readonly bitmapBytes: ByteCount;
  readonly bitOrder: BitOrder;
  /** Host offset of the block allocation table. */
  readonly tableAt: number;
  /** Host ranges where no block can be: start, end, start, end, … */
  readonly metadata: readonly number[];
  /**
   * One number that all threads share: the host offset where blocks must end, that of the footer, or the end of
   * the file where there is none. It grows under the allocation lock, before an entry is published that needs it.
   */
  readonly limit: Float64Array<SharedArrayBuffer>;
  /** There was no footer at the end when the image was opened: the last block may have been cut off. */
  readonly cut: boolean;
}

export const FITS = 0;
export const IN_METADATA = 1;
export const BEYOND_END = 2;

/** Bytes of the disk in block `block`: fewer than a block only at the end of the disk. */
export function usedBytes(layout: Layout, block: number): ByteCount {
  return Math.min(layout.blockSize, layout.size - block * layout.blockSize);
}

/** Whether the block at sector `entry` (not UNALLOCATED) can be there: FITS or what is wrong. */
export function placement(layout: Layout, block: number, entry: number): 0 | 1 | 2 {
  const start = entry * SECTOR;
  const dataAt = start + layout.bitmapBytes;
  const end = dataAt + usedBytes(layout, block);
  if ((layout.cut ? dataAt : end) > layout.limit[0]!) return BEYOND_END;
  const { metadata } = layout;
  for (let at = 0; at < metadata.length; at += 2) {
    if (start < metadata[at + 1]! && end > metadata[at]!) return IN_METADATA;
  }
  return FITS;
}

/** Words of the bitmap table per block. Bit 31 of word 0 is sector 0 of the block. */
export function wordsPerBlock(blockSize: ByteCount): number {
  return Math.max(1, blockSize / SECTOR / 32);
}

/** A big-endian u32; returns where the next one goes. */
export function putWord(bytes: Uint8Array, at: number, value: number): number {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
  return at + 4;
}

function bigEndian(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/**
 * Loads pages of the block allocation table: the sector number of each block's bitmap, or UNALLOCATED. `entries`
 * may be more than the disk has blocks.
 */
export function tableLoader(source: BlockSource, layout: Layout, entries = layout.blockCount): LoadPage {
  const bytes = new Uint8Array(PAGE_BYTES);
  return (page, into, start) => {
    const count = Math.min(PAGE_WORDS, entries - page * PAGE_WORDS);
    const at = (layout.tableAt + page * PAGE_BYTES) as HostOffset;
    const moved = source.readAt(bytes, 0, count * 4, at);
    if (moved !== count * 4) return moved < 0 ? moved : -EIO;
    for (let word = 0; word < count; word += 1) into[start + word] = bigEndian(bytes, word * 4);
    return 0;
  };
}

/** Each byte with its bits in the other order. */
const REVERSED = Uint8Array.from({ length: 256 }, (_, byte) => {
  let reversed = 0;
  for (let bit = 0; bit < 8; bit += 1) if (byte & (1 << bit)) reversed |= 0x80 >> bit;
  return reversed;
});

/** Bytes `at` to `end` of a bitmap, between the order of the file and ours. */
export function turnBits(bytes: Uint8Array, at: number, end: number, order: BitOrder): void {
  if (order === 'msb') return;
  for (let n = at; n < end; n += 1) bytes[n] = REVERSED[bytes[n]!]!;
}

/**
 * Reads the sector bitmap of one block, bits from the most significant, and looks whether all sectors of the
 * disk in it are set. Each instance has one buffer, of at most 64 KiB.
 */
export class BitmapReader {
  readonly bytes: Uint8Array;
  readonly #source: BlockSource;
  readonly #layout: Layout;

  constructor(source: BlockSource, layout: Layout) {
    this.#source = source;
    this.#layout = layout;
    this.bytes = new Uint8Array(layout.bitmapBytes);
  }

  /** Fills `bytes` with the bitmap at sector `entry`. Returns 0 or -errno. */
  read(entry: number): Status {
    const { bytes } = this;
    const moved = this.#source.readAt(bytes, 0, bytes.length, (entry * SECTOR) as HostOffset);
    if (moved !== bytes.length) return moved < 0 ? moved : -EIO;
    this.#turn();
    return 0;
  }

  /** Writes `bytes` as the bitmap at sector `entry`; afterwards they are as before. Returns 0 or -errno. */
  write(entry: number): Status {
    const { bytes } = this;
    this.#turn();
    const at = (entry * SECTOR) as HostOffset;
    const status = this.#source.writeAt(bytes, 0, bytes.length, at, 'bitmap.write');
    this.#turn();
    return status;
  }

  #turn(): void {
    turnBits(this.bytes, 0, this.bytes.length, this.#layout.bitOrder);
  }

  /** Sets the bits of `sectors` sectors from the first on; the others stay. */
  fill(sectors: number): void {
    const { bytes } = this;
    bytes.fill(0xff, 0, sectors >>> 3);
    if ((sectors & 7) !== 0) bytes[sectors >>> 3]! |= (0xff00 >> (sectors & 7)) & 0xff;
  }

  /** Whether sector `sector` is set in `bytes`. */
  isSet(sector: number): boolean {
    return (this.bytes[sector >>> 3]! & (0x80 >> (sector & 7))) !== 0;
  }

  /** Word `word` of the bitmap in `bytes`. */
  word(word: number): number {
    return bigEndian(this.bytes, word * 4);
  }

  /** Whether every sector of block `block` that the disk has is set in `bytes`. */
  isFull(block: number): boolean {
    const sectors = Math.ceil(usedBytes(this.#layout, block) / SECTOR);
    const whole = sectors >>> 3;
    const { bytes } = this;
    for (let at = 0; at < whole; at += 1) if (bytes[at] !== 0xff) return false;
    const rest = (0xff00 >> (sectors & 7)) & 0xff;
    return (bytes[whole]! & rest) === rest;
  }
}

/**
 * Loads pages of the table of bitmap words (word = block × words per block + word of the block). `entryOf`
 * looks into the block allocation table and may return -errno. Blocks that are not there, or cannot be where
 * their entry says, get zeros: nobody asks for them. Full blocks are noted in `full`, one byte per block.
 */
export function bitmapLoader(
  source: BlockSource,
  layout: Layout,
  entryOf: (block: number) => number,
  full: Uint8Array | undefined,
): LoadPage {
  const reader = new BitmapReader(source, layout);
  const perBlock = wordsPerBlock(layout.blockSize);
  const perPage = Math.min(perBlock, PAGE_WORDS);
  return (page, into, start) => {
    const first = page * PAGE_WORDS;
    for (let done = 0; done < PAGE_WORDS; done += perPage) {
      const block = Math.floor((first + done) / perBlock);
      const skip = (first + done) % perBlock;
      const target = start + done;
      into.fill(0, target, target + perPage);
      if (block >= layout.blockCount) continue;
      const entry = entryOf(block);
      if (entry < 0) return entry;
      if (entry === UNALLOCATED || placement(layout, block, entry) !== FITS) continue;
      const status = reader.read(entry);
      if (status < 0) return status;
      for (let word = 0; word < perPage; word += 1) into[target + word] = reader.word(skip + word);
      // Only ever from 0 to 1, and the same whoever finds it: it needs no lock.
      if (full !== undefined && reader.isFull(block)) Atomics.store(full, block, 1);
    }
    return 0;
  };
}
