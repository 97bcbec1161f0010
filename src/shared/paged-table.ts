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
 *
 * Changing: one thread at a time (the holder of the image's allocation lock) sets words in place. The page is
 * pinned until the change is on disk, so nobody can load it again from there too early; and a page that was read
 * from disk before a change ended is not believed, because `version` moved. `gather` hands out what changed,
 * `settle` ends it.
 */

import { EAGAIN, ENOMEM, type Status } from '../base/errno.ts';
import { MAX_SLOTS, PAGE_WORDS, type PagePool } from './page-pool.ts';

/**
 * Reads one page from the image: fills words into[start] to into[start + PAGE_WORDS - 1], those past the
 * table's end with anything. Returns 0 or -errno. It may be called in any worker, and in the main thread with
 * a private buffer. Loaders of different tables may nest, never of the same one.
 */
export type LoadPage = (page: number, into: Uint32Array, start: number) => Status;

/** Pages of a table that can be changed before they must be written: see `PagedTable.set`. */
export const MAX_DIRTY_PAGES = 128;

/** Words that one bit of a dirty mask stands for. */
export const EIGHTH_WORDS = PAGE_WORDS / 8;

export interface PagedTableSeed {
  /** Number of the table in its pool: unique, given out by `TableAllocator`. */
  readonly owner: number;
  readonly words: number;
  readonly directory: SharedArrayBuffer;
  /** Words: version, numbers of dirty, of gathered and of pinned pages, then the dirty pages. */
  readonly edit: SharedArrayBuffer;
}

const VERSION = 0;
const DIRTY_COUNT = 1;
const GATHERED_COUNT = 2;
/** Pages that are dirty, gathered or both. */
const PINNED_COUNT = 3;
const DIRTY_PAGES = 4;
/** Dirty and gathered pages together: what could not be written comes back to the list. */
const LIST_PAGES = 2 * MAX_DIRTY_PAGES;

/** Gives out table numbers and directories; one per daemon, in the main thread. */
export class TableAllocator {
  #next = 1;

  /** A table of `words` words. Its directory (4 bytes per 4 KiB) takes memory only as it is used. */
  allocate(words: number): PagedTableSeed {
    const pages = Math.max(1, Math.ceil(words / PAGE_WORDS));
    const owner = this.#next;
    this.#next += 1;
    return {
      owner,
      words,
      directory: new SharedArrayBuffer(pages * 4),
      edit: new SharedArrayBuffer((DIRTY_PAGES + LIST_PAGES) * 4),
    };
  }
}

/** The slot went to another page meanwhile. */
const MOVED = 1;

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
  readonly #edit: Int32Array<SharedArrayBuffer>;
  /** Pages and slots that this thread gathered and has not settled. */
  readonly #gathered = new Int32Array(LIST_PAGES * 3);

  constructor(pool: PagePool, seed: PagedTableSeed, load: LoadPage) {
    this.words = seed.words;
    this.#pool = pool;
    this.#data = pool.data;
    this.#owner = seed.owner;
    this.#directory = new Int32Array(seed.directory);
    this.#edit = new Int32Array(seed.edit);
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
   * Changes word `index`, for every thread at once. Under the lock of the image only. Returns 0; -errno where the
   * page cannot be read; -EAGAIN where too much of this table waits to be written: then nothing was changed, and
   * the caller commits (`gather`, write, `settle`) and tries again; -ENOMEM where other tables have pinned
   * nearly all of the pool.
   */
  set(index: number, value: number): Status {
    const page = Math.floor(index / PAGE_WORDS);
    const within = index % PAGE_WORDS;
    const pool = this.#pool;
    for (;;) {
      const place = Atomics.load(this.#directory, page);
      const slot = (place >>> 1) & SLOT_MASK;
      if (place === 0 || !pool.holds(slot, this.#owner, page)) {
        const status = this.#bring(page);
        if (status < 0) return status;
        continue;
      }
      if (pool.dirty(slot) === 0 || !pool.holds(slot, this.#owner, page)) {
        const status = this.#makeDirty(slot, page);
        if (status < 0) return status;
        if (status === MOVED) continue;
      }
      Atomics.store(this.#data, slot * PAGE_WORDS + within, value);
      pool.setDirty(slot, pool.dirty(slot) | (1 << Math.floor(within / EIGHTH_WORDS)));
      return 0;
    }
  }

  /** Pins the slot and notes the page as dirty: 0, -errno as `set`, or MOVED. */
  #makeDirty(slot: number, page: number): Status | typeof MOVED {
    const pool = this.#pool;
    const edit = this.#edit;
    const count = edit[DIRTY_COUNT]!;
    const waiting = count + edit[GATHERED_COUNT]!;
    if (count >= MAX_DIRTY_PAGES || waiting >= LIST_PAGES) return -EAGAIN;
    if (pool.isCrowded(waiting === 0)) return waiting === 0 ? -ENOMEM : -EAGAIN;
    pool.mutex.lock();
    const ours = pool.holds(slot, this.#owner, page);
    if (ours && pool.pin(slot)) edit[PINNED_COUNT]! += 1;
    pool.mutex.unlock();
    if (!ours) return MOVED;
    edit[DIRTY_PAGES + count] = page;
    edit[DIRTY_COUNT] = count + 1;
    return 0;
  }

  /** Pages with changes that no `gather` has taken. Under the lock of the image. */
  get dirtyPages(): number {
    return this.#edit[DIRTY_COUNT]!;
  }

  /** Pages whose changes are not on disk yet, those included that are being written. At any time, without a lock. */
  get pinnedPages(): number {
    return Atomics.load(this.#edit, PINNED_COUNT);
  }

  /**
   * Takes over the changed pages, in ascending order: calls `visit` with each one's number, its changed eighths as a bit mask, and
   * where its words are. Copy them at once: they go on changing. Under the lock of the image; a thread that
   * gathers settles before it gathers again.
   */
  gather(visit: (page: number, eighths: number, words: Uint32Array, start: number) => void): void {
    const edit = this.#edit;
    const count = edit[DIRTY_COUNT]!;
    edit.subarray(DIRTY_PAGES, DIRTY_PAGES + count).sort();
    for (let n = 0; n < count; n += 1) {
      const page = edit[DIRTY_PAGES + n]!;
      const slot = (Atomics.load(this.#directory, page) >>> 1) & SLOT_MASK;
      const eighths = this.#pool.dirty(slot);
      this.#pool.setDirty(slot, 0);
      this.#gathered[n * 3] = page;
      this.#gathered[n * 3 + 1] = slot;
      this.#gathered[n * 3 + 2] = eighths;
      visit(page, eighths, this.#data, slot * PAGE_WORDS);
    }
    edit[DIRTY_COUNT] = 0;
    edit[GATHERED_COUNT] = count;
  }

  /** Ends what `gather` began: written, or to be gathered again. Under the lock of the image. */
  settle(written: boolean): void {
    const pool = this.#pool;
    const edit = this.#edit;
    Atomics.add(edit, VERSION, 1);
    pool.mutex.lock();
    for (let n = 0; n < edit[GATHERED_COUNT]!; n += 1) {
      const slot = this.#gathered[n * 3 + 1]!;
      if (!written) {
        const before = pool.dirty(slot);
        pool.setDirty(slot, before | this.#gathered[n * 3 + 2]!);
        if (before === 0) {
          // The pin goes on. There is room for both: LIST_PAGES.
          edit[DIRTY_PAGES + edit[DIRTY_COUNT]!] = this.#gathered[n * 3]!;
          edit[DIRTY_COUNT]! += 1;
          continue;
        }
      }
      if (pool.unpin(slot)) edit[PINNED_COUNT]! -= 1;
    }
    pool.mutex.unlock();
    edit[GATHERED_COUNT] = 0;
  }

  /**
   * Makes a page present. It is read into private memory first, so that no lock is held over the read and a
   * loader may itself look into another table. Two threads may read the same page; the first one's is kept.
   */
  #bring(page: number): Status {
    const version = Atomics.load(this.#edit, VERSION);
    const status = this.#load(page, this.#incoming, 0);
    if (status < 0) return status;
    const pool = this.#pool;
    pool.mutex.lock();
    const place = Atomics.load(this.#directory, page);
    if (place === 0 || !pool.holds((place >>> 1) & SLOT_MASK, this.#owner, page)) {
      // Changes came to the disk while it was read: what was read may be older. The caller tries again.
      if (Atomics.load(this.#edit, VERSION) !== version) {
        pool.mutex.unlock();
        return 0;
      }
      const slot = pool.take(this.#owner, page);
      this.#data.set(this.#incoming, slot * PAGE_WORDS);
      const word = (pool.generation(slot) << GENERATION_SHIFT) | (slot << 1) | 1;
      Atomics.store(this.#directory, page, word);
    }
    pool.mutex.unlock();
    return 0;
  }
}
