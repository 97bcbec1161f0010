/**
 * The sector bitmaps of an image with a parent ([MS-VHDX] 2.4, 2.5.1.2): one bit for each logical sector of the disk,
 * set where the sector is in this image; it counts only in blocks of state 7 (PARTIALLY_PRESENT).
 *
 * Each chunk of the disk has 2^23 sectors, and their bits fill a block of 1 MiB, lowest bit of a byte first. So the
 * bits of all chunks, one after another, are one table of little-endian words in which sector n of the disk is bit
 * n % 32 of word n / 32; and a page of it is one 4 KiB sector of the file. Where a page is, the entry of its chunk
 * in the BAT says.
 */

import { EIO, type Status } from '../../base/errno.ts';
import { type HostOffset, hex, MIB } from '../../base/units.ts';
import { DATA } from '../../image/extent.ts';
import { PAGE_BYTES, PAGE_WORDS } from '../../shared/page-pool.ts';
import type { LoadPage, PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, bitmapEntryOf, describeDamage, entryName, hostOf, kindOf } from './bat.ts';
import { NOT_PRESENT } from './structs.ts';

const WORD_SECTORS = 32;
const ALL = 0xffffffff;
const PAGES_PER_CHUNK = MIB / PAGE_BYTES;

/** Words of the table: the bits of every block that the disk has, also those behind its end in the last block. */
export function bitmapWords({ blocks, blockSize, sectorSize }: BatGeometry): number {
  return (blocks * blockSize) / sectorSize / WORD_SECTORS;
}

/** The BAT entry that says where page `page` is. */
function entryOfPage({ chunkShift }: BatGeometry, page: number): number {
  return bitmapEntryOf(Math.floor(page / PAGES_PER_CHUNK) * 2 ** chunkShift, chunkShift);
}

/** Host offset of page `page`; -EIO where its chunk has no bitmap, or -errno where the BAT cannot be read. */
export function bitmapPageHost(bat: BatGeometry, table: PagedTable, page: number): number {
  const word = table.get(entryOfPage(bat, page));
  if (word < 0) return word;
  return kindOf(word) === DATA ? hostOf(word) + (page % PAGES_PER_CHUNK) * PAGE_BYTES : -EIO;
}

/** `source` has the log replayed, which may hold bits; `table` is the BAT. */
export function bitmapLoader(source: BlockSource, bat: BatGeometry, table: PagedTable): LoadPage {
  const bytes = new Uint8Array(PAGE_BYTES);
  // Node runs on little-endian Linux only.
  const words = new Uint32Array(bytes.buffer);
  return (page, into, start) => {
    const host = bitmapPageHost(bat, table, page);
    if (host < 0) return host;
    const moved = source.readAt(bytes, 0, PAGE_BYTES, host as HostOffset);
    if (moved < 0) return moved;
    if (moved < PAGE_BYTES) return -EIO;
    into.set(words, start);
    return 0;
  };
}

/** Why the bits of payload block `block` cannot be had: reads the BAT again for the sentence. */
export function describeLackOfBits(
  source: BlockSource,
  bat: BatGeometry,
  table: PagedTable,
  block: number,
): string {
  const entry = bitmapEntryOf(block, bat.chunkShift);
  const word = table.get(entry);
  const because = `, but payload block ${block} is partially present`;
  if (word === NOT_PRESENT) return `${entryName(bat, entry)}: state is 0 (not present)${because}`;
  if (word < 0 || kindOf(word) !== DATA) return `${describeDamage(source, bat, entry)}${because}`;
  return `VHDX sector bitmap at ${hex(hostOf(word))}: the bits of payload block ${block} cannot be read`;
}

/** The bits of word `word` that stand for sectors `first` to `end - 1`. */
function maskOf(word: number, first: number, end: number): number {
  const low = Math.max(0, first - word * WORD_SECTORS);
  const high = Math.min(WORD_SECTORS, end - word * WORD_SECTORS);
  if (low >= high) return 0;
  return ((ALL >>> (WORD_SECTORS - high + low)) << low) >>> 0;
}

/** Sectors are numbered from the start of the disk. One per thread. */
export class SectorBits {
  /** For commits. */
  readonly table: PagedTable;

  constructor(table: PagedTable) {
    this.table = table;
  }

  /**
   * How many sectors from `first` on, below `end`, have the same bit: positive where they are set, negative where
   * they are clear, 0 where it cannot be read. `first` is below `end`, both in one block.
   */
  run(first: number, end: number): number {
    const { table } = this;
    const word = table.get(Math.floor(first / WORD_SECTORS));
    if (word < 0) return 0;
    const within = first % WORD_SECTORS;
    const set = ((word >>> within) & 1) === 1;
    let at = first + sameBits(word >>> within, WORD_SECTORS - within, set);
    if (at % WORD_SECTORS === 0 && at < end) {
      const whole = Math.floor((end - at) / WORD_SECTORS);
      at += WORD_SECTORS * table.run(at / WORD_SECTORS, set ? ALL : 0, whole, 0);
      // The word in which it ends; where that cannot be read, the run ends before it.
      const next = at < end ? table.get(at / WORD_SECTORS) : -EIO;
      if (next >= 0) at += sameBits(next, WORD_SECTORS, set);
    }
    const count = Math.min(at, end) - first;
    return set ? count : -count;
  }

  /** Whether all of sectors `from` to `to - 1`, which are whole words, are set. */
  isFull(from: number, to: number): boolean {
    const { table } = this;
    // In a block that is written from its start to its end the last word is the last one to be full.
    if (table.get(to / WORD_SECTORS - 1) !== ALL) return false;
    const words = (to - from) / WORD_SECTORS;
    return table.run(from / WORD_SECTORS, ALL, words, 0) === words;
  }

  /** Sets sectors `first` to `end - 1`. Under the allocation lock. Returns 0 or -errno as `PagedTable.set`. */
  set(first: number, end: number): Status {
    let status: Status = 0;
    for (let word = Math.floor(first / WORD_SECTORS); word * WORD_SECTORS < end && status === 0; word += 1) {
      status = this.#change(word, ALL, maskOf(word, first, end));
    }
    return status;
  }

  /**
   * The same, and clears all others of sectors `from` to `to - 1`, which are whole words: whatever they said before, it
   * had no meaning.
   */
  setOnly(first: number, end: number, from: number, to: number): Status {
    let status: Status = 0;
    for (let word = from / WORD_SECTORS; word * WORD_SECTORS < to && status === 0; word += 1) {
      status = this.#change(word, 0, maskOf(word, first, end));
    }
    return status;
  }

  #change(word: number, kept: number, set: number): Status {
    const before = this.table.get(word);
    if (before < 0) return before;
    const after = ((before & kept) | set) >>> 0;
    // What is so already is in the file, or on the way there.
    return after === before ? 0 : this.table.set(word, after);
  }
}

/** How many of the `count` lowest bits of `word` are `set`, before the first that is not. */
function sameBits(word: number, count: number, set: boolean): number {
  const others = set ? ~word : word;
  // The number of zeros below the lowest one.
  const same = others === 0 ? WORD_SECTORS : 31 - Math.clz32(others & -others);
  return Math.min(same, count);
}

/** Copies of the pages that a commit has to write: memory of the thread, kept for the next commit. */
export class GatheredBitmaps {
  count = 0;
  #pages = new Int32Array(4);
  #words = new Uint32Array(4 * PAGE_WORDS);

  clear(): void {
    this.count = 0;
  }

  add(page: number, words: Uint32Array, start: number): void {
    if (this.count === this.#pages.length) this.#grow();
    this.#pages[this.count] = page;
    this.#words.set(words.subarray(start, start + PAGE_WORDS), this.count * PAGE_WORDS);
    this.count += 1;
  }

  /** Number of the nth page. */
  page(n: number): number {
    return this.#pages[n]!;
  }

  /** Copies the nth page to bytes[at…]. */
  put(n: number, bytes: Uint8Array, at: number): void {
    bytes.set(new Uint8Array(this.#words.buffer, n * PAGE_BYTES, PAGE_BYTES), at);
  }

  #grow(): void {
    const [pages, words] = [this.#pages, this.#words];
    this.#pages = new Int32Array(2 * pages.length);
    this.#pages.set(pages);
    this.#words = new Uint32Array(2 * words.length);
    this.#words.set(words);
  }
}
