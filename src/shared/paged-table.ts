/**
 * A table of 32-bit words of any length, read from the image a page at a time on first touch and shared by all
 * threads: a block map (VHD sectors, VDI blocks, VHDX state bits and MiB, QED clusters) or a bitmap.
 *
 * A directory word per page says where the page was put: 0 nowhere yet, else generation << 18 | slot << 1 | 1.
 * Readers take no lock: they load the directory word, see that the slot is the page's, load the table word, and
 * see that the slot has the generation of the directory word. A slot that is given to another page gets a new
 * generation before anything else of it changes, so a word that was torn from the page is never believed, and
 * nobody needs to know the tables of others to evict their pages. A slot would have to be given out 16384 times
 * during one such read to be mistaken.
 */

import type { Status } from '../base/errno.ts';
import { MAX_SLOTS, PAGE_WORDS, type PagePool } from './page-pool.ts';

/**
 * Reads one page from the image: fills words into[start] to into[start + PAGE_WORDS - 1], those past the
 * table's end with anything. Returns 0 or -errno. It may be called in any worker, and in the main thread with
 * a private buffer. Loaders of different tables may nest, never of the same one.
 */
export type LoadPage = (page: number, into: Uint32Array, start: number) => Status;

export interface PagedTableSeed {
  /** Number of the table in its pool: unique, given out by `TableAllocator`. */
  readonly owner: number;
  readonly words: number;
  readonly directory: SharedArrayBuffer;
}

/** Gives out table numbers and directories; one per daemon, in the main thread. */
export class TableAllocator {
  #next = 1;

  /** A table of `words` words. Its directory (4 bytes per 4 KiB) takes memory only as it is used. */
  allocate(words: number): PagedTableSeed {
    const pages = Math.max(1, Math.ceil(words / PAGE_WORDS));
    const owner = this.#next;
    this.#next += 1;
    return { owner, words, directory: new SharedArrayBuffer(pages * 4) };
  }
}

const SLOT_MASK = MAX_SLOTS - 1;
const GENERATION_SHIFT = 18;

export class PagedTable {
  readonly words: number;
  readonly #pool: PagePool;
  readonly #data: Uint32Array<SharedArrayBuffer>;
  readonly #directory: Int32Array<SharedArrayBuffer>;
  readonly #owner: number;
  readonly #load: LoadPage;
  readonly #incoming = new Uint32Array(PAGE_WORDS);

  constructor(pool: PagePool, seed: PagedTableSeed, load: LoadPage) {
    this.words = seed.words;
    this.#pool = pool;
    this.#data = pool.data;
    this.#owner = seed.owner;
    this.#directory = new Int32Array(seed.directory);
    this.#load = load;
  }

  /** Word `index` (0 to 2^32 - 1), or -errno if its page cannot be read. `index` is below `words`. */
  get(index: number): number {
    const page = Math.floor(index / PAGE_WORDS);
    const within = index % PAGE_WORDS;
    const pool = this.#pool;
    for (;;) {
      const place = Atomics.load(this.#directory, page);
      const slot = (place >>> 1) & SLOT_MASK;
      if (place !== 0 && pool.holds(slot, this.#owner, page)) {
        const value = Atomics.load(this.#data, slot * PAGE_WORDS + within);
        if (pool.generation(slot) === place >>> GENERATION_SHIFT) {
          pool.touch(slot);
          return value;
        }
      }
      const status = this.#bring(page);
      if (status < 0) return status;
    }
  }

  /**
   * How many words from `index` on, at most `limit`, are `first`, `first + step`, `first + 2 * step`, …: for
   * runs of equal entries (step 0) and of neighbours in the file. A page that cannot be read ends the run.
   * `index + limit` is at most `words`.
   */
  run(index: number, first: number, limit: number, step: number): number {
    const pool = this.#pool;
    const data = this.#data;
    let done = 0;
    while (done < limit) {
      const page = Math.floor((index + done) / PAGE_WORDS);
      const within = (index + done) % PAGE_WORDS;
      const place = Atomics.load(this.#directory, page);
      const slot = (place >>> 1) & SLOT_MASK;
      if (place === 0 || !pool.holds(slot, this.#owner, page)) {
        if (this.#bring(page) < 0) return done;
        continue;
      }
      const count = Math.min(PAGE_WORDS - within, limit - done);
      const base = slot * PAGE_WORDS + within;
      let expected = first + done * step;
      let same = 0;
      while (same < count && data[base + same] === expected) {
        same += 1;
        expected += step;
      }
      // What was read counts only if the slot was the page's all the while.
      if (pool.generation(slot) !== place >>> GENERATION_SHIFT) continue;
      pool.touch(slot);
      done += same;
      if (same < count) return done;
    }
    return done;
  }

  /**
   * Makes a page present. It is read into private memory first, so that no lock is held over the read and a
   * loader may itself look into another table. Two threads may read the same page; the first one's is kept.
   */
  #bring(page: number): Status {
    const status = this.#load(page, this.#incoming, 0);
    if (status < 0) return status;
    const pool = this.#pool;
    pool.mutex.lock();
    const place = Atomics.load(this.#directory, page);
    if (place === 0 || !pool.holds((place >>> 1) & SLOT_MASK, this.#owner, page)) {
      const slot = pool.take(this.#owner, page);
      this.#data.set(this.#incoming, slot * PAGE_WORDS);
      const word = (pool.generation(slot) << GENERATION_SHIFT) | (slot << 1) | 1;
      Atomics.store(this.#directory, page, word);
    }
    pool.mutex.unlock();
    return 0;
  }
}
