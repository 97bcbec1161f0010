/** Where the bytes of the disk are: the data path. */

import { EIO, type Status } from '../../base/errno.ts';
import { type ByteCount, type GuestOffset, hex } from '../../base/units.ts';
import type { AttachContext, Report, Translator } from '../../image/driver.ts';
import { DATA, type Extent, HOLE } from '../../image/extent.ts';
import { PagedTable, type PagedTableSeed } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import {
  BitmapReader,
  bitmapLoader,
  FITS,
  IN_METADATA,
  type Layout,
  placement,
  tableLoader,
  usedBytes,
  wordsPerBlock,
} from './table.ts';

/** What the threads share of a dynamic or differencing image. */
export interface DynamicState {
  readonly layout: Layout;
  readonly table: PagedTableSeed;
  /** Undefined where the bitmaps are ignored: then every block is full. */
  readonly bitmaps: PagedTableSeed | undefined;
  /**
   * One byte per block: 1 where all sectors are known to be set, so that the bitmap is not looked up. Any
   * thread sets it, none clears it: a block that is unmapped comes back full (no block of a differencing image is). Undefined where there are too many
   * blocks.
   */
  readonly full: SharedArrayBuffer | undefined;
}

/** A fixed image: the disk is at the start of the file. */
export class FixedTranslator implements Translator {
  readonly #size: ByteCount;

  constructor(size: ByteCount) {
    this.#size = size;
  }

  locate(at: GuestOffset, _length: ByteCount, out: Extent): 0 {
    return out.set(DATA, at, this.#size - at);
  }
}

export class DynamicTranslator implements Translator {
  readonly #layout: Layout;
  /** The block allocation table, for the editor of this thread too. */
  readonly table: PagedTable;
  /** The sector bitmaps, likewise; undefined where they are ignored. */
  readonly bitmaps: PagedTable | undefined;
  readonly #full: Uint8Array | undefined;
  readonly #perBlock: number;
  /** For a block whose page of bitmaps cannot be read as a whole. */
  readonly #single: BitmapReader;
  readonly #report: Report;

  constructor(state: DynamicState, source: BlockSource, context: AttachContext) {
    const { layout } = state;
    const table = new PagedTable(context.pool, state.table, tableLoader(source, layout));
    this.#layout = layout;
    this.table = table;
    this.#full = state.full === undefined ? undefined : new Uint8Array(state.full);
    if (state.bitmaps !== undefined) {
      const load = bitmapLoader(source, layout, (block) => table.get(block), this.#full);
      this.bitmaps = new PagedTable(context.pool, state.bitmaps, load);
    }
    this.#perBlock = wordsPerBlock(layout.blockSize);
    this.#single = new BitmapReader(source, layout);
    this.#report = context.report;
  }

  locate(at: GuestOffset, length: ByteCount, out: Extent): Status {
    const layout = this.#layout;
    const block = Math.floor(at / layout.blockSize);
    const within = at - block * layout.blockSize;
    const used = usedBytes(layout, block);
    const entry = this.table.get(block);
    if (entry < 0) return this.#unreadable(block, 'its table entry');
    if (entry === UNALLOCATED) return this.#hole(block, used - within, length, out);
    if (placement(layout, block, entry) !== FITS) return this.#misplaced(block, entry);
    if (this.#isFull(block)) return this.#data(block, entry, within, used - within, out);

    const sector = Math.floor(within / SECTOR);
    const inSector = within % SECTOR;
    const end = Math.ceil(Math.min(used, within + length) / SECTOR);
    const run = this.#run(block, entry, sector, end);
    if (run === 0) return this.#unreadable(block, 'its sector bitmap');
    const bytes = Math.min(Math.abs(run) * SECTOR - inSector, used - within);
    if (run > 0) return this.#data(block, entry, within, bytes, out);
    if (within + bytes < used) return out.set(HOLE, 0, bytes);
    return this.#hole(block, bytes, length, out);
  }

  #isFull(block: number): boolean {
    return this.bitmaps === undefined || (this.#full !== undefined && Atomics.load(this.#full, block) === 1);
  }

  /** `bytes` of block `block` from `within` on, as far as the file has them. */
  #data(block: number, entry: number, within: number, bytes: ByteCount, out: Extent): Status {
    const { bitmapBytes, cut } = this.#layout;
    const host = entry * SECTOR + bitmapBytes + within;
    if (!cut) return out.set(DATA, host, bytes);
    const limit = this.#layout.limit[0]!;
    const there = Math.min(bytes, limit - host);
    if (there > 0) return out.set(DATA, host, there);
    this.#report(`VHD block ${block}: its data at ${hex(host)} is cut off, the file ends at ${hex(limit)}`);
    return -EIO;
  }

  /** A hole of `known` bytes that reaches the end of block `block`, and what follows it up to `length`. */
  #hole(block: number, known: ByteCount, length: ByteCount, out: Extent): Status {
    const layout = this.#layout;
    let bytes = known;
    for (let next = block + 1; bytes < length && next < layout.blockCount; next += 1) {
      const used = usedBytes(layout, next);
      const entry = this.table.get(next);
      if (entry === UNALLOCATED) {
        bytes += used;
        continue;
      }
      if (entry < 0 || placement(layout, next, entry) !== FITS || this.#isFull(next)) break;
      const run = this.#run(next, entry, 0, Math.ceil(Math.min(used, length - bytes) / SECTOR));
      if (run >= 0) break;
      const clear = Math.min(-run * SECTOR, used);
      bytes += clear;
      if (clear < used) break;
    }
    return out.set(HOLE, 0, bytes);
  }

  /**
   * How many sectors from `sector` on, up to `end` (not included), have the same bit: positive where they are
   * set, negative where they are clear, 0 where the bitmap cannot be read. It counts by whole words.
   */
  #run(block: number, entry: number, sector: number, end: number): number {
    let word = this.#word(block, entry, sector >>> 5);
    if (word < 0) return 0;
    const set = word << (sector & 31) < 0;
    let at = sector;
    for (;;) {
      const bit = at & 31;
      // A one where the bits change.
      const changes = (set ? ~word : word) << bit;
      const same = Math.clz32(changes);
      if (same < 32 - bit) {
        at += same;
        break;
      }
      at += 32 - bit;
      if (at >= end) break;
      word = this.#word(block, entry, at >>> 5);
      if (word < 0) break;
    }
    const count = Math.min(at, end) - sector;
    return set ? count : -count;
  }

  /** Word `word` of the bitmap of a block, or -errno. */
  #word(block: number, entry: number, word: number): number {
    const value = this.bitmaps!.get(block * this.#perBlock + word);
    if (value >= 0) return value;
    // A bad bitmap of a neighbour in the page must not take this one with it.
    const status = this.#single.read(entry);
    return status < 0 ? status : this.#single.word(word);
  }

  #unreadable(block: number, what: string): Status {
    this.#report(`VHD block ${block}: ${what} cannot be read`);
    return -EIO;
  }

  #misplaced(block: number, entry: number): Status {
    const layout = this.#layout;
    const wrong =
      placement(layout, block, entry) === IN_METADATA
        ? `where the image's metadata is`
        : `expected it to end before ${hex(layout.limit[0]!)}`;
    this.#report(
      `VHD block ${block}: its table entry at ${hex(layout.tableAt + block * 4)} says sector ${hex(entry)}, ${wrong}`,
    );
    return -EIO;
  }
}
