/**
 * A table of 32-bit words of any length, read from the image a page at a time on first touch and shared by all
 * threads: a block map (VHD sectors, VDI blocks, VHDX state bits and MiB, QED clusters) or a bitmap.
 *
 * A directory word per page says where the page is: 0 absent, else generation << 18 | slot << 1 | 1.
 * Readers take no lock: they load the directory word, the table word, and the directory word again. If that is
 * unchanged, the slot belonged to the page all the while; eviction clears the word before it touches the slot,
 * and a slot that is given out again has another generation.
 */

import type { Status } from '../base/errno.ts';
import { PAGE_WORDS, type PagePool } from './page-pool.ts';

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
    pool.register(seed.owner, this.#directory);
  }

  /** Word `index` (0 to 2^32 - 1), or -errno if its page cannot be read. `index` is below `words`. */
  get(index: number): number {
    const page = Math.floor(index / PAGE_WORDS);
    const within = index % PAGE_WORDS;
    const directory = this.#directory;
    for (;;) {
      const place = Atomics.load(directory, page);
      if (place === 0) {
        const status = this.#bring(page);
        if (status < 0) return status;
        continue;
      }
      const slot = (place >>> 1) & 0x1ffff;
      const value = Atomics.load(this.#data, slot * PAGE_WORDS + within);
      if (Atomics.load(directory, page) === place) {
        this.#pool.touch(slot);
        return value;
      }
    }
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
    if (Atomics.load(this.#directory, page) === 0) {
      const slot = pool.take(this.#owner, page);
      this.#data.set(this.#incoming, slot * PAGE_WORDS);
      Atomics.store(this.#directory, page, (pool.generation(slot) << 18) | (slot << 1) | 1);
    }
    pool.mutex.unlock();
    return 0;
  }
}
