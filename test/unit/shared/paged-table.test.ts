import { describe, expect, it, vi } from 'vitest';
import { EAGAIN, EIO, ENOMEM } from '../../../src/base/errno.ts';
import { PAGE_WORDS, PagePool } from '../../../src/shared/page-pool.ts';
import {
  EIGHTH_WORDS,
  type LoadPage,
  MAX_DIRTY_PAGES,
  PagedTable,
  TableAllocator,
} from '../../../src/shared/paged-table.ts';
import { between, random } from '../../support/random.ts';
import { threadScript } from '../../support/threads.ts';
import { wordOf } from './threads/words.ts';

/** The least pool that there is: sixteen pages. */
const SLOTS = 16;
const tinyPool = () => PagePool.seed(0);

/** A loader that counts its calls by page. */
function loaderOf(table: number): { load: LoadPage; calls: Map<number, number> } {
  const calls = new Map<number, number>();
  const load: LoadPage = (page, into, start) => {
    calls.set(page, (calls.get(page) ?? 0) + 1);
    for (let n = 0; n < PAGE_WORDS; n += 1) into[start + n] = wordOf(table, page * PAGE_WORDS + n);
    return 0;
  };
  return { load, calls };
}

describe('a paged table', () => {
  it('reads like the array it stands for, with far fewer pages than it has', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const words = [50 * PAGE_WORDS + 3, 1, 200 * PAGE_WORDS];
    const all = words.map((count, n) => new PagedTable(pool, tables.allocate(count), loaderOf(n).load));
    const next = random(1);
    for (let round = 0; round < 30_000; round += 1) {
      const n = between(next, 0, 2);
      const index = between(next, 0, words[n]! - 1);
      if (all[n]!.get(index) !== wordOf(n, index)) expect.fail(`table ${n}, word ${index}`);
    }
    const { pages, misses, evictions } = pool.counters();
    expect(pages).toBe(SLOTS);
    expect(evictions).toBe(misses - SLOTS);
    expect(evictions).toBeGreaterThan(10_000);
  });

  it('reads a page once while it is there', () => {
    const pool = new PagePool(tinyPool());
    const { load, calls } = loaderOf(1);
    const table = new PagedTable(pool, new TableAllocator().allocate(SLOTS * PAGE_WORDS), load);
    for (let round = 0; round < 3; round += 1) {
      for (let index = 0; index < table.words; index += 100) table.get(index);
    }
    expect([...calls.values()]).toEqual(Array(SLOTS).fill(1));
    const hits = 3 * Math.ceil(table.words / 100) - SLOTS;
    expect(pool.counters()).toEqual({ hits, misses: SLOTS, evictions: 0, pages: SLOTS, pinned: 0 });
  });

  it('keeps the pages in use and lets the others go', () => {
    const pool = new PagePool(tinyPool());
    const { load, calls } = loaderOf(1);
    const table = new PagedTable(pool, new TableAllocator().allocate(1000 * PAGE_WORDS), load);
    for (let page = 1; page < 1000; page += 1) {
      expect(table.get(7)).toBe(wordOf(1, 7));
      expect(table.get(page * PAGE_WORDS)).toBe(wordOf(1, page * PAGE_WORDS));
    }
    // Once more when all sixteen were in use and one of them had to go.
    expect(calls.get(0)).toBe(2);
    table.get(PAGE_WORDS);
    expect(calls.get(1)).toBe(2);
  });

  it('takes no page for one that was in its slot a whole turn of generations ago', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const early = new PagedTable(pool, tables.allocate(PAGE_WORDS), loaderOf(1).load);
    const turning = new PagedTable(pool, tables.allocate(17 * PAGE_WORDS), (page, into, start) => {
      into[start] = page;
      return 0;
    });
    early.get(5);
    // The first page is in the first slot.
    const generation = pool.generation(0);
    let round = 0;
    do {
      // Seventeen pages in turn through sixteen slots: each look is a miss.
      const page = round % 17;
      if (turning.get(page * PAGE_WORDS) !== page) expect.fail(`round ${round}`);
      round += 1;
    } while (round < 100 || pool.generation(0) !== generation);
    expect(round).toBeGreaterThan(16384);
    expect(early.get(5)).toBe(wordOf(1, 5));
  });

  it('gives the error of a page that cannot be read, keeps no slot for it, and tries again', () => {
    const pool = new PagePool(tinyPool());
    const { load } = loaderOf(1);
    let failing = true;
    const table = new PagedTable(pool, new TableAllocator().allocate(3 * PAGE_WORDS), (page, into, start) =>
      failing && page === 1 ? -EIO : load(page, into, start),
    );
    expect(table.get(5)).toBe(wordOf(1, 5));
    expect(table.get(PAGE_WORDS)).toBe(-EIO);
    expect(table.get(PAGE_WORDS + 9)).toBe(-EIO);
    expect(pool.counters()).toEqual({ hits: 0, misses: 1, evictions: 0, pages: 1, pinned: 0 });
    failing = false;
    expect(table.get(PAGE_WORDS + 9)).toBe(wordOf(1, PAGE_WORDS + 9));
  });

  it('looks again where the page goes between the look at its place and the look at its word', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const table = new PagedTable(pool, tables.allocate(PAGE_WORDS), loaderOf(1).load);
    const other = new PagedTable(pool, tables.allocate(100 * PAGE_WORDS), loaderOf(2).load);
    table.get(5);
    // Stands for another thread that evicts just then.
    const load = Atomics.load as (array: Uint32Array, index: number) => number;
    let meets = 0;
    const spy = vi.spyOn(Atomics, 'load').mockImplementation(((array: Uint32Array, index: number) => {
      if (array === pool.data && meets === 0) {
        meets = 1;
        for (let page = 0; page < 100; page += 1) other.get(page * PAGE_WORDS);
      }
      return load(array, index);
    }) as typeof Atomics.load);
    try {
      expect(table.get(5)).toBe(wordOf(1, 5));
      expect(meets).toBe(1);
    } finally {
      spy.mockRestore();
    }
  });

  it('may be loaded from another table', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const upper = new PagedTable(pool, tables.allocate(40 * PAGE_WORDS), loaderOf(1).load);
    const lower = new PagedTable(pool, tables.allocate(40 * PAGE_WORDS), (page, into, start) => {
      into.fill(upper.get(page * PAGE_WORDS), start, start + PAGE_WORDS);
      return 0;
    });
    const next = random(2);
    for (let round = 0; round < 2000; round += 1) {
      const index = between(next, 0, lower.words - 1);
      expect(lower.get(index)).toBe(wordOf(1, index - (index % PAGE_WORDS)));
    }
  });

  it('sees in one thread what another view of the same memory has loaded', () => {
    const seed = tinyPool();
    const tableSeed = new TableAllocator().allocate(4 * PAGE_WORDS);
    const one = new PagedTable(new PagePool(seed), tableSeed, loaderOf(1).load);
    const never = () => expect.fail('the page is there');
    const two = new PagedTable(new PagePool(structuredClone(seed)), structuredClone(tableSeed), never);
    one.get(2000);
    expect(two.get(2001)).toBe(wordOf(1, 2001));
  });
});

/** A table over an array that stands for the medium, and what an editor does with it. */
class Medium {
  readonly words: Uint32Array;
  readonly table: PagedTable;
  loads = 0;

  constructor(pool: PagePool, pages: number, tables = new TableAllocator()) {
    this.words = new Uint32Array(pages * PAGE_WORDS);
    this.table = new PagedTable(pool, tables.allocate(this.words.length), (page, into, start) => {
      this.loads += 1;
      into.set(this.words.subarray(page * PAGE_WORDS, (page + 1) * PAGE_WORDS), start);
      return 0;
    });
  }

  /** What `gather` hands out, as [page, eighths], copied for `write`. */
  gather(): [number, number][] {
    const found: [number, number][] = [];
    this.#copies = [];
    this.table.gather((page, eighths, words, start) => {
      found.push([page, eighths]);
      for (let eighth = 0; eighth < 8; eighth += 1) {
        if ((eighths & (1 << eighth)) === 0) continue;
        const from = start + eighth * EIGHTH_WORDS;
        this.#copies.push([
          page * PAGE_WORDS + eighth * EIGHTH_WORDS,
          words.slice(from, from + EIGHTH_WORDS),
        ]);
      }
    });
    return found;
  }
  #copies: [number, Uint32Array][] = [];

  write(): void {
    for (const [at, words] of this.#copies) this.words.set(words, at);
  }

  commit(): void {
    this.gather();
    this.write();
    this.table.settle(true);
  }

  /** Loads other pages until none of this table that may go is left. */
  static flood(pool: PagePool, tables: TableAllocator): void {
    const other = new PagedTable(pool, tables.allocate(100 * PAGE_WORDS), loaderOf(2).load);
    for (let page = 0; page < 100; page += 1) other.get(page * PAGE_WORDS);
  }
}

describe('changing a paged table', () => {
  it('is seen at once, by every view, and handed out by page and eighth in ascending order', () => {
    const seed = tinyPool();
    const pool = new PagePool(seed);
    const tables = new TableAllocator();
    const medium = new Medium(pool, 5, tables);
    expect(medium.table.dirtyPages).toBe(0);
    for (const index of [4 * PAGE_WORDS + 1023, 7, 6 * EIGHTH_WORDS, 2 * PAGE_WORDS + EIGHTH_WORDS]) {
      expect(medium.table.set(index, index + 1)).toBe(0);
      expect(medium.table.get(index)).toBe(index + 1);
    }
    expect(medium.table.dirtyPages).toBe(3);
    expect(medium.gather()).toEqual([
      [0, 0b0100_0001],
      [2, 0b10],
      [4, 0b1000_0000],
    ]);
    expect(medium.table.dirtyPages).toBe(0);
    medium.write();
    medium.table.settle(true);
    expect(medium.words[4 * PAGE_WORDS + 1023]).toBe(4 * PAGE_WORDS + 1024);
    expect(pool.counters().pinned).toBe(0);
    expect(medium.gather()).toEqual([]);
    medium.table.settle(true);
  });

  it('keeps changed pages from eviction until they are written', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const medium = new Medium(pool, 3, tables);
    medium.table.set(5, 1);
    Medium.flood(pool, tables);
    expect(medium.table.get(5)).toBe(1);
    medium.gather();
    // Also while it is being written.
    Medium.flood(pool, tables);
    expect([medium.table.get(5), medium.loads]).toEqual([1, 1]);
    medium.write();
    medium.table.settle(true);
    Medium.flood(pool, tables);
    expect([medium.table.get(5), medium.loads]).toEqual([1, 2]);
  });

  it('keeps what changes while a commit writes for the next one', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const medium = new Medium(pool, 3, tables);
    medium.table.set(5, 1);
    medium.table.set(PAGE_WORDS, 1);
    medium.gather();
    medium.table.set(6, 2);
    medium.write();
    medium.table.settle(true);
    expect([medium.table.pinnedPages, pool.counters().pinned]).toEqual([1, 1]);
    Medium.flood(pool, tables);
    expect(medium.table.get(6)).toBe(2);
    expect(medium.gather()).toEqual([[0, 1]]);
    medium.write();
    medium.table.settle(true);
    expect([medium.words[5], medium.words[6], pool.counters().pinned]).toEqual([1, 2, 0]);
  });

  it('hands out again what could not be written, with what changed meanwhile', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const medium = new Medium(pool, 4, tables);
    medium.table.set(0, 1);
    medium.table.set(3 * PAGE_WORDS, 1);
    medium.gather();
    medium.table.set(1023, 2);
    medium.table.set(2 * PAGE_WORDS, 3);
    expect(medium.table.pinnedPages).toBe(3);
    medium.table.settle(false);
    Medium.flood(pool, tables);
    expect([medium.table.pinnedPages, pool.counters().pinned]).toEqual([3, 3]);
    expect(medium.gather()).toEqual([
      [0, 0b1000_0001],
      [2, 1],
      [3, 1],
    ]);
    medium.write();
    medium.table.settle(true);
    expect(pool.counters().pinned).toBe(0);
    expect([0, 1023, 2 * PAGE_WORDS, 3 * PAGE_WORDS].map((at) => medium.words[at])).toEqual([1, 2, 3, 1]);
  });

  it('bounds what waits: EAGAIN, nothing changed, and it goes on after a commit', () => {
    const pool = new PagePool(PagePool.seed(1024 * 4200));
    const medium = new Medium(pool, MAX_DIRTY_PAGES + 1);
    for (let page = 0; page < MAX_DIRTY_PAGES; page += 1)
      expect(medium.table.set(page * PAGE_WORDS, 1)).toBe(0);
    const next = MAX_DIRTY_PAGES * PAGE_WORDS;
    expect(medium.table.set(next, 1)).toBe(-EAGAIN);
    expect(medium.table.get(next)).toBe(0);
    // A page that waits already can be changed.
    expect(medium.table.set(1, 1)).toBe(0);
    medium.commit();
    expect(medium.table.set(next, 1)).toBe(0);
  });

  it('has room for all that failed and as much again', () => {
    const pool = new PagePool(PagePool.seed(1024 * 4200));
    const medium = new Medium(pool, 4 * MAX_DIRTY_PAGES);
    let page = 0;
    let status = 0;
    for (let round = 0; round < 5; round += 1) {
      while (status === 0 && page < 4 * MAX_DIRTY_PAGES) {
        status = medium.table.set(page * PAGE_WORDS, page + 1);
        if (status === 0) page += 1;
      }
      expect(status).toBe(-EAGAIN);
      medium.gather();
      status = 0;
      while (status === 0 && page < 4 * MAX_DIRTY_PAGES) {
        status = medium.table.set(page * PAGE_WORDS, page + 1);
        if (status === 0) page += 1;
      }
      medium.table.settle(false);
      expect(medium.table.dirtyPages).toBe(page);
      status = 0;
    }
    expect(page).toBeLessThanOrEqual(2 * MAX_DIRTY_PAGES);
    medium.commit();
    for (let n = 0; n < page; n += 1) expect(medium.words[n * PAGE_WORDS]).toBe(n + 1);
    expect(pool.counters().pinned).toBe(0);
  });

  it('leaves other tables half of the pool: EAGAIN, then ENOMEM where they hold nearly all', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const one = new Medium(pool, SLOTS, tables);
    const other = new Medium(pool, SLOTS, tables);
    for (let page = 0; page < SLOTS / 2; page += 1) expect(one.table.set(page * PAGE_WORDS, 1)).toBe(0);
    expect(one.table.set((SLOTS / 2) * PAGE_WORDS, 1)).toBe(-EAGAIN);
    // Who has nothing to commit may still change something.
    expect(other.table.set(0, 1)).toBe(0);
    expect(other.table.set(PAGE_WORDS, 1)).toBe(-EAGAIN);
    const more = Array.from({ length: SLOTS }, () => new Medium(pool, 1, tables));
    const given = more.map(({ table }) => table.set(0, 1));
    expect(given.slice(0, 5)).toEqual([0, 0, 0, 0, 0]);
    expect(given.slice(5).every((status) => status === -ENOMEM)).toBe(true);
    one.commit();
    expect(more[SLOTS - 1]!.table.set(0, 1)).toBe(0);
    expect(one.table.get(SLOTS * PAGE_WORDS - 1)).toBe(0);
  });

  it('does not believe a page that was read before a commit ended', () => {
    const pool = new PagePool(tinyPool());
    const tables = new TableAllocator();
    const words = new Uint32Array(2 * PAGE_WORDS);
    const seed = tables.allocate(words.length);
    const plain: LoadPage = (page, into, start) => {
      into.set(words.subarray(page * PAGE_WORDS, (page + 1) * PAGE_WORDS), start);
      return 0;
    };
    const writer = new PagedTable(pool, seed, plain);
    let loads = 0;
    const reader = new PagedTable(pool, seed, (page, into, start) => {
      plain(page, into, start);
      loads += 1;
      if (loads > 1) return 0;
      // Between the read and its publication, another thread changes the page, commits, and it is evicted.
      writer.set(3, 77);
      writer.gather(() => {
        words[3] = 77;
      });
      writer.settle(true);
      Medium.flood(pool, tables);
      return 0;
    });
    expect(reader.get(3)).toBe(77);
    expect(loads).toBe(2);
  });

  it('gives the error of a page that cannot be read, and changes nothing', () => {
    const pool = new PagePool(tinyPool());
    const table = new PagedTable(pool, new TableAllocator().allocate(PAGE_WORDS), () => -EIO);
    expect(table.set(0, 1)).toBe(-EIO);
    expect([table.dirtyPages, pool.counters().pinned]).toEqual([0, 0]);
  });

  it('reads like an array under random changes, commits and failures, with a tiny pool', () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const next = random(seed);
      const pool = new PagePool(tinyPool());
      const medium = new Medium(pool, 40);
      const model = new Uint32Array(medium.words.length);
      let gathered = false;
      for (let round = 0; round < 3000; round += 1) {
        const index = between(next, 0, model.length - 1);
        const chance = next();
        if (chance < 0.5) {
          const status = medium.table.set(index, round);
          if (status === 0) model[index] = round;
          else expect(status).toBe(-EAGAIN);
        } else if (chance < 0.9) {
          if (medium.table.get(index) !== model[index]) expect.fail(`seed ${seed}, round ${round}`);
          expect(medium.table.pinnedPages).toBe(pool.counters().pinned);
        } else if (!gathered) {
          medium.gather();
          gathered = true;
        } else {
          const written = next() < 0.6;
          if (written) medium.write();
          medium.table.settle(written);
          gathered = false;
        }
      }
      if (gathered) medium.table.settle(false);
      medium.commit();
      expect(Buffer.compare(Buffer.from(medium.words.buffer), Buffer.from(model.buffer))).toBe(0);
      expect(pool.counters().pinned).toBe(0);
    }
  });
});

describe('several threads on one pool', () => {
  const reader = threadScript('test/unit/shared/threads/reader.ts');
  const changer = threadScript('test/unit/shared/threads/changer.ts');

  it('read right while the others evict', async () => {
    const pool = tinyPool();
    const allocator = new TableAllocator();
    const tables = [17, 40, 60].map((pages) => allocator.allocate(pages * PAGE_WORDS));
    const rounds = 150_000;
    const wrong = await reader.run([1, 2, 3].map((number) => ({ pool, tables, number, rounds })));
    expect(wrong).toEqual([0, 0, 0]);
    const { evictions, pages } = new PagePool(pool).counters();
    expect(pages).toBe(SLOTS);
    expect(evictions).toBeGreaterThan(rounds / 2);
  });

  it('change, read and write out at once: no change is lost, none is seen to go back', async () => {
    const threads = 4;
    const pool = tinyPool();
    const table = new TableAllocator().allocate(30 * PAGE_WORDS);
    const disk = new SharedArrayBuffer(30 * PAGE_WORDS * 4);
    const locks = new SharedArrayBuffer(128);
    const results = await changer.run<{ problems: string[]; commits: number; mine: Uint32Array }>(
      Array.from({ length: threads }, (_, number) => ({
        pool,
        table,
        disk,
        locks,
        number,
        threads,
        rounds: 60_000,
      })),
    );
    expect(results.flatMap(({ problems }) => problems)).toEqual([]);
    expect(results.every(({ commits }) => commits > 100)).toBe(true);
    const view = new PagedTable(new PagePool(pool), table, (page, into, start) => {
      into.set(new Uint32Array(disk).subarray(page * PAGE_WORDS, (page + 1) * PAGE_WORDS), start);
      return 0;
    });
    for (let index = 0; index < table.words; index += 1) {
      const wanted = results[index % threads]!.mine[index]!;
      if (view.get(index) !== wanted) expect.fail(`word ${index} is ${view.get(index)}, not ${wanted}`);
    }
  });
});
