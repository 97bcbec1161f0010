import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { EIO } from '../../../src/base/errno.ts';
import { PAGE_WORDS, PagePool } from '../../../src/shared/page-pool.ts';
import { type LoadPage, PagedTable, TableAllocator } from '../../../src/shared/paged-table.ts';
import { between, random } from '../../support/random.ts';

/** The least pool that there is: sixteen pages. */
const SLOTS = 16;
const tinyPool = () => PagePool.seed(0);

/** What a table's word is, of its table and index: any u32, both ends included. */
function wordOf(table: number, index: number): number {
  if (index % 1021 === 0) return 0xffffffff;
  return Math.imul(index ^ (table * 0x9e3779b1), 0x85ebca6b) >>> 0;
}

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
    expect(pool.counters()).toEqual({ misses: SLOTS, evictions: 0, pages: SLOTS });
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
    expect(pool.counters()).toEqual({ misses: 1, evictions: 0, pages: 1 });
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

describe('the pool', () => {
  it('is bounded by its bytes, from sixteen pages on', () => {
    expect(PagePool.seed(0).slots).toBe(16);
    const seed = PagePool.seed(1 << 20);
    expect(seed.memory.byteLength).toBeLessThanOrEqual((1 << 20) + 64);
    expect(seed.slots).toBeGreaterThan(250);
  });
});

describe('several threads on one pool', () => {
  let folder = '';

  /** Workers do not load TypeScript on Node 20, so they get the modules as JavaScript. */
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'paged-table-'));
    const shared = fileURLToPath(new URL('../../../src/shared/', import.meta.url));
    writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
    for (const name of ['mutex', 'page-pool', 'paged-table']) {
      const { outputText } = ts.transpileModule(readFileSync(join(shared, `${name}.ts`), 'utf8'), {
        compilerOptions: {
          target: ts.ScriptTarget.ES2023,
          module: ts.ModuleKind.ESNext,
          verbatimModuleSyntax: true,
          rewriteRelativeImportExtensions: true,
        },
      });
      writeFileSync(join(folder, `${name}.js`), outputText);
    }
    writeFileSync(
      join(folder, 'reader.js'),
      `import { parentPort, workerData } from 'node:worker_threads';
      import { PAGE_WORDS, PagePool } from './page-pool.js';
      import { PagedTable } from './paged-table.js';
      ${wordOf.toString()}
      const { pool: seed, tables: seeds, number, rounds } = workerData;
      const pool = new PagePool(seed);
      const tables = seeds.map((table, n) => new PagedTable(pool, table, (page, into, start) => {
        for (let w = 0; w < PAGE_WORDS; w += 1) into[start + w] = wordOf(n, page * PAGE_WORDS + w);
        return 0;
      }));
      let state = number * 7919 + 1;
      const next = () => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) / 4294967296;
      let wrong = 0;
      for (let round = 0; round < rounds; round += 1) {
        const n = Math.floor(next() * tables.length);
        // Half of the looks go to few pages, so that threads meet on the same ones.
        const range = next() < 0.5 ? 4 * PAGE_WORDS : tables[n].words;
        const index = Math.floor(next() * range);
        if (tables[n].get(index) !== wordOf(n, index)) wrong += 1;
      }
      parentPort.postMessage(wrong);`,
    );
  });
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  it('reads right while the others evict', async () => {
    const pool = tinyPool();
    const allocator = new TableAllocator();
    const tables = [17, 40, 60].map((pages) => allocator.allocate(pages * PAGE_WORDS));
    const rounds = 150_000;
    const script = pathToFileURL(join(folder, 'reader.js'));
    const wrong = await Promise.all(
      [1, 2, 3].map(
        (number) =>
          new Promise<number>((resolve, reject) => {
            const worker = new Worker(script, { workerData: { pool, tables, number, rounds } });
            worker.once('message', resolve);
            worker.once('error', reject);
          }),
      ),
    );
    expect(wrong).toEqual([0, 0, 0]);
    const { evictions, pages } = new PagePool(pool).counters();
    expect(pages).toBe(SLOTS);
    expect(evictions).toBeGreaterThan(rounds / 2);
  });
});
