/**
 * Compacting: every cluster in use comes to lie in the first part of the file, and the rest is cut off. Clusters move from
 * the end into free places, by batches (moves.ts): copies; flush; entries; flush. A place that a move left is used again
 * only after that.
 *
 *   1. L2 tables in which nothing is written are given up: their L1 entries become absent.
 *   2. Tables behind the end that the file is to have get places of as many free clusters as they need, one behind the
 *      other; where there are too few, data moves out of the way first. The L1 table moves by the header's sector.
 *   3. Data behind that end moves into what is free, in the disk's order.
 *   4. The file is cut.
 *
 * Memory: a bit per cluster of the file, three times, and a batch.
 */

import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { EntryChanges, QedJob } from './job.ts';
import { Moves, Tally } from './moves.ts';
import { UsedClusters } from './scan.ts';
import { BACKING_FILE, ENTRY_BYTES } from './structs.ts';
import { LAST_CLUSTER, ZEROED } from './tables.ts';

/** A table that moves can make room for the next: seldom more than one. */
const MAX_ROUNDS = 4;
/** Places for tables that are compared with each other. */
const MAX_WINDOWS = 65536;

/** Reshaper.compact. Throws ImageError('corrupt') where the tables are damaged. */
export function* compactImage(source: BlockSource): Reshaping {
  const job = new QedJob(source);
  const used = job.scan();
  job.clearMarks();
  yield* compact(job, used);
}

/** `used` is what a scan without errors found; it is kept up to date. */
export function* compact(job: QedJob, used: UsedClusters): Reshaping {
  yield* dropEmptyTables(job, used);
  for (let round = 0; round < MAX_ROUNDS && used.end > used.count; round += 1) {
    const before = used.end;
    yield* new Round(job, used).run();
    if (used.end === before) break;
  }
  job.cut(used);
}

/** With a parent a zero cluster says something. Past the end of the disk nothing does. */
function* dropEmptyTables(job: QedJob, used: UsedClusters): Reshaping {
  const { l1Offset, l1Entries, clusterSize } = job.geometry;
  const hasParent = (job.header.features & BACKING_FILE) !== 0n;
  const changes = new EntryChanges(job.source);
  const dropped: number[] = [];
  for (const { index, first } of job.tables()) {
    let empty = true;
    for (const [, word] of job.entries('L2', first * clusterSize)) {
      if (word === ZEROED && (!hasParent || index >= l1Entries)) continue;
      empty = false;
      break;
    }
    if (!empty) continue;
    changes.set(l1Offset + index * ENTRY_BYTES, 0);
    dropped.push(first);
  }
  if (dropped.length === 0) return;
  changes.write();
  job.flush();
  for (const first of dropped) used.release(first, job.tableClusters);
  yield { done: 0, total: used.end * clusterSize };
}

class Round {
  readonly #job: QedJob;
  readonly #used: UsedClusters;
  /** Clusters that the file has when nothing is free any more. */
  readonly #target: number;
  /** Clusters of the header and of tables: they make room for nobody. */
  readonly #fixed: UsedClusters;
  /** Clusters below the target that are to be free for tables. */
  readonly #windows: UsedClusters;
  readonly #tally: Tally;

  constructor(job: QedJob, used: UsedClusters) {
    this.#job = job;
    this.#used = used;
    this.#target = used.count;
    this.#fixed = new UsedClusters(used.end);
    this.#windows = new UsedClusters(used.end);
    let behind = 0;
    for (const { count } of used.unused(this.#target)) behind += count;
    this.#tally = new Tally(behind * job.geometry.clusterSize);
  }

  *run(): Reshaping {
    yield* this.#moveTables();
    yield* this.#moveData((cluster) => cluster >= this.#target);
  }

  *#moveTables(): Reshaping {
    const { headerBytes, clusterSize, l1Offset } = this.#job.geometry;
    const size = this.#job.tableClusters;
    const mark = (first: number, count: number): void => {
      for (let n = 0; n < count; n += 1) this.#fixed.mark(first + n);
    };
    mark(0, headerBytes / clusterSize);
    mark(l1Offset / clusterSize, size);
    const behind = l1Offset / clusterSize + size > this.#target ? [-1] : [];
    for (const { index, first } of this.#job.tables()) {
      mark(first, size);
      if (first + size > this.#target) behind.push(index);
    }
    if (behind.length === 0) return;
    const windows = this.#findWindows(behind.length);
    for (const first of windows) for (let n = 0; n < size; n += 1) this.#windows.mark(first + n);
    yield* this.#moveData((cluster) => this.#windows.has(cluster));
    const moves = this.#moves();
    const emptied = windows.filter((first) => this.#isFree(first, size));
    const tables = new Map([...this.#job.tables()].map(({ index, first }) => [index, first]));
    for (const [n, index] of behind.entries()) {
      const to = emptied[n];
      if (to === undefined) return yield* moves.run();
      for (let cluster = to; cluster < to + size; cluster += 1) this.#used.mark(cluster);
      if (index < 0) yield* this.#moveL1(moves, to);
      else moves.add(tables.get(index)!, to, size, this.#job.geometry.l1Offset + index * ENTRY_BYTES);
      if (moves.isFull) yield* moves.run();
    }
    yield* moves.run();
  }

  *#moveL1(moves: Moves, to: number): Reshaping {
    const { clusterSize, l1Offset } = this.#job.geometry;
    const from = l1Offset / clusterSize;
    yield* moves.copy(from, to, this.#job.tableClusters);
    this.#job.writeHeader({ l1TableOffset: BigInt(to * clusterSize) });
    this.#used.release(from, this.#job.tableClusters);
  }

  #isFree(first: number, count: number): boolean {
    for (let n = 0; n < count; n += 1) if (this.#used.has(first + n)) return false;
    return true;
  }

  /** Places for `wanted` tables below the target, as far as there are any: free ones, then those with the least data. */
  #findWindows(wanted: number): number[] {
    const size = this.#job.tableClusters;
    const found: number[] = [];
    for (const { first, count } of this.#used.unused(this.#target)) {
      for (let at = first; at + size <= first + count && found.length < wanted; at += size) {
        found.push(at);
        for (let n = 0; n < size; n += 1) this.#fixed.mark(at + n);
      }
    }
    if (found.length === wanted) return found;
    const others: { readonly at: number; readonly data: number }[] = [];
    for (const { first, count } of this.#fixed.unused(this.#target)) {
      for (let at = first; at + size <= first + count && others.length < MAX_WINDOWS; at += size) {
        let data = 0;
        for (let n = 0; n < size; n += 1) if (this.#used.has(at + n)) data += 1;
        others.push({ at, data });
      }
    }
    others.sort((a, b) => a.data - b.data);
    return [...found, ...others.slice(0, wanted - found.length).map(({ at }) => at)];
  }

  /** Data clusters that `leaves` names go to free places below the target, as far as there are any. */
  *#moveData(leaves: (cluster: number) => boolean): Reshaping {
    const { clusterSize } = this.#job.geometry;
    const free = this.#freePlaces();
    const moves = this.#moves();
    for (const { first } of this.#job.tables()) {
      for (const [entry, word] of this.#job.entries('L2', first * clusterSize)) {
        if (word > LAST_CLUSTER || !leaves(word)) continue;
        const to = free.next();
        if (to.done === true) return yield* moves.run();
        this.#used.mark(to.value);
        moves.add(word, to.value, 1, first * clusterSize + entry * ENTRY_BYTES);
        if (moves.isFull) yield* moves.run();
      }
    }
    yield* moves.run();
  }

  /** Ascending. What becomes free behind the last one given is seen, what does so before it is not. */
  *#freePlaces(): Generator<number, undefined> {
    for (const { first, count } of this.#used.unused(this.#target)) {
      for (let n = 0; n < count; n += 1) if (!this.#windows.has(first + n)) yield first + n;
    }
    return undefined;
  }

  #moves(): Moves {
    return new Moves(this.#job, this.#tally, (from, count) => this.#used.release(from, count));
  }
}
