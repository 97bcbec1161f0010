/**
 * A thread that changes its own words of a table under a lock, reads everybody's, and now and then writes what
 * changed to the medium (shared memory here). Posts what was wrong.
 *
 * Word w belongs to thread w % threads. A word only ever grows, so that any step back is a stale page.
 */

import { parentPort, workerData } from 'node:worker_threads';
import { EAGAIN, ENOMEM } from '../../../../src/base/errno.ts';
import { Mutex } from '../../../../src/shared/mutex.ts';
import { PAGE_WORDS, PagePool, type PagePoolSeed } from '../../../../src/shared/page-pool.ts';
import { EIGHTH_WORDS, PagedTable, type PagedTableSeed } from '../../../../src/shared/paged-table.ts';
import { between, random } from '../../../support/random.ts';

const {
  pool: seed,
  table: tableSeed,
  disk: diskMemory,
  locks,
  number,
  threads,
  rounds,
} = workerData as {
  pool: PagePoolSeed;
  table: PagedTableSeed;
  disk: SharedArrayBuffer;
  locks: SharedArrayBuffer;
  number: number;
  threads: number;
  rounds: number;
};
const disk = new Uint32Array(diskMemory);
const pool = new PagePool(seed);
const words = new Int32Array(locks);
const allocation = new Mutex(words, 0);
const commit = new Mutex(words, 16);
const table = new PagedTable(pool, tableSeed, (page, into, start) => {
  for (let w = 0; w < PAGE_WORDS; w += 1) into[start + w] = Atomics.load(disk, page * PAGE_WORDS + w);
  return 0;
});
const next = random(number);
const mine = new Uint32Array(table.words);
const seen = new Uint32Array(table.words);
const problems: string[] = [];
let commits = 0;

/** As an editor does: copied under the lock, written without it; one time in five it fails. */
function writeOut(): void {
  commit.lock();
  const copies: { first: number; values: Uint32Array }[] = [];
  allocation.lock();
  table.gather((page, eighths, data, start) => {
    for (let eighth = 0; eighth < 8; eighth += 1) {
      if ((eighths & (1 << eighth)) === 0) continue;
      const from = start + eighth * EIGHTH_WORDS;
      const first = page * PAGE_WORDS + eighth * EIGHTH_WORDS;
      copies.push({ first, values: data.slice(from, from + EIGHTH_WORDS) });
    }
  });
  allocation.unlock();
  const written = next() < 0.8;
  if (written) {
    for (const { first, values } of copies) {
      for (const [n, value] of values.entries()) Atomics.store(disk, first + n, value);
    }
  }
  allocation.lock();
  table.settle(written);
  allocation.unlock();
  commit.unlock();
  commits += 1;
}

for (let round = 0; round < rounds; round += 1) {
  const index = between(next, 0, table.words - 1);
  const own = index % threads === number;
  if (own && next() < 0.7) {
    mine[index]! += 1;
    for (;;) {
      allocation.lock();
      const status = table.set(index, mine[index]!);
      allocation.unlock();
      if (status === 0) break;
      if (status !== -EAGAIN && status !== -ENOMEM) {
        problems.push(`set: ${status}`);
        break;
      }
      writeOut();
    }
  }
  const value = table.get(index);
  if (own ? value !== mine[index] : value < seen[index]!) problems.push(`word ${index} is ${value}`);
  seen[index] = value;
  if (next() < 0.01) writeOut();
}
parentPort!.postMessage({ problems: problems.slice(0, 5), commits, mine });
