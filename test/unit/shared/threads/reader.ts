/** A thread that reads tables that others read and evict too; posts how many words were wrong. */

import { parentPort, workerData } from 'node:worker_threads';
import { PAGE_WORDS, PagePool, type PagePoolSeed } from '../../../../src/shared/page-pool.ts';
import { PagedTable, type PagedTableSeed } from '../../../../src/shared/paged-table.ts';
import { between, random } from '../../../support/random.ts';
import { wordOf } from './words.ts';

const {
  pool: seed,
  tables: seeds,
  number,
  rounds,
} = workerData as {
  pool: PagePoolSeed;
  tables: PagedTableSeed[];
  number: number;
  rounds: number;
};
const pool = new PagePool(seed);
const tables = seeds.map(
  (table, n) =>
    new PagedTable(pool, table, (page, into, start) => {
      for (let w = 0; w < PAGE_WORDS; w += 1) into[start + w] = wordOf(n, page * PAGE_WORDS + w);
      return 0;
    }),
);
const next = random(number);
let wrong = 0;
for (let round = 0; round < rounds; round += 1) {
  const n = between(next, 0, tables.length - 1);
  // Half of the looks go to few pages, so that threads meet on the same ones.
  const range = next() < 0.5 ? 4 * PAGE_WORDS : tables[n]!.words;
  const index = Math.floor(next() * range);
  if (tables[n]!.get(index) !== wordOf(n, index)) wrong += 1;
}
parentPort!.postMessage(wrong);
