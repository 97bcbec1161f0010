/**
 * Clusters with two owners. The first keeps its place; the second gets a copy behind the end of the file, so that both
 * read as before (moves.ts has the order). A table that overlaps another, or data, is copied like data; what its entries
 * name then has two owners too, and gets its own. Past the end of the disk the second owner is made absent. Who is
 * first: the header, the L1 table, L2 tables by their L1 entries, data by its place in the disk.
 */

import { corrupt } from '../../base/errors.ts';
import { type HostOffset, hex } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { Reshaping } from '../../image/reshape.ts';
import { EntryChanges, type QedJob } from './job.ts';
import type { Mended } from './mended.ts';
import { Moves, Tally } from './moves.ts';
import { clustersOf, UsedClusters } from './scan.ts';
import { ENTRY_BYTES } from './structs.ts';
import { LAST_CLUSTER } from './tables.ts';

const BATCH = 16384;

/** `hidden`: L1 entries that are to get a table of zero clusters. No entry names a place behind the end of the file. */
export function* mendDoubles(job: QedJob, hidden: readonly number[], mended: Mended): Reshaping {
  yield* new Doubles(job, mended).run(hidden);
}

class Doubles {
  readonly #job: QedJob;
  readonly #mended: Mended;
  readonly #used: UsedClusters;
  readonly #moves: Moves;
  readonly #absent: EntryChanges;
  readonly #tally = new Tally(0);
  readonly #clusters: number;
  /** The next cluster behind the end of the file. */
  #next: number;

  constructor(job: QedJob, mended: Mended) {
    this.#job = job;
    this.#mended = mended;
    this.#clusters = Math.min(clustersOf(job.source, job.geometry), LAST_CLUSTER + 1);
    this.#next = this.#clusters;
    this.#used = new UsedClusters(this.#clusters);
    this.#moves = new Moves(job, this.#tally, () => {});
    this.#absent = new EntryChanges(job.source);
  }

  *run(hidden: readonly number[]): Reshaping {
    const { headerBytes, l1Offset, clusterSize } = this.#job.geometry;
    this.#complete();
    this.#claim(0, headerBytes / clusterSize);
    this.#claim(l1Offset / clusterSize, this.#job.tableClusters);
    yield* this.#tables();
    yield* this.#data();
    if (this.#absent.count > 0) {
      this.#absent.write();
      this.#job.flush();
    }
    yield* this.#hide(hidden);
  }

  /** A last cluster of which the disk needs more than is there. */
  #complete(): void {
    const { source, geometry } = this.#job;
    const { clusterSize, tableEntries, clusters, virtualSize } = geometry;
    const rest = source.size % clusterSize;
    if (rest === 0) return;
    const last = this.#clusters - 1;
    for (const { index, first } of this.#job.tables()) {
      for (const [entry, word] of this.#job.entries('L2', first * clusterSize)) {
        const cluster = index * tableEntries + entry;
        if (word !== last || cluster >= clusters) continue;
        const missing = Math.min(clusterSize, virtualSize - cluster * clusterSize) - rest;
        if (missing <= 0) continue;
        const at = source.size;
        this.#job.setSize((last + 1) * clusterSize);
        this.#job.flush();
        const place = `QED L2 entry ${entry} at ${hex(first * clusterSize + entry * ENTRY_BYTES)}`;
        this.#mended.add(
          `${place}: the file ended at ${hex(at)}, in its data cluster; the last ${missing} bytes are zeros now`,
          missing,
        );
        return;
      }
    }
  }

  /** Whether none of them was claimed before. */
  #isFree(first: number, count: number): boolean {
    for (let n = 0; n < count; n += 1) if (this.#used.has(first + n)) return false;
    return true;
  }

  #claim(first: number, count: number): void {
    for (let n = 0; n < count; n += 1) this.#used.mark(first + n);
  }

  *#tables(): Reshaping {
    const { l1Offset, l1Entries, clusterSize } = this.#job.geometry;
    const size = this.#job.tableClusters;
    for (const { index, first } of this.#job.tables()) {
      if (this.#isFree(first, size)) {
        this.#claim(first, size);
        continue;
      }
      const at = l1Offset + index * ENTRY_BYTES;
      const what = `QED L1 entry ${index} at ${hex(at)}: the L2 table at ${hex(first * clusterSize)} overlapped another table`;
      if (index >= l1Entries) this.#makeAbsent(at, what);
      else yield* this.#copy(first, size, at, what);
    }
    yield* this.#moves.run();
  }

  *#data(): Reshaping {
    const { clusterSize, tableEntries, clusters } = this.#job.geometry;
    for (const { index, first } of this.#job.tables()) {
      for (const [entry, word] of this.#job.entries('L2', first * clusterSize)) {
        if (word > LAST_CLUSTER || this.#used.mark(word)) continue;
        const at = first * clusterSize + entry * ENTRY_BYTES;
        const what = `QED L2 entry ${entry} at ${hex(at)}: the data cluster at ${hex(word * clusterSize)} was in use by another entry`;
        if (index * tableEntries + entry >= clusters) this.#makeAbsent(at, what);
        else yield* this.#copy(word, 1, at, what);
      }
    }
    yield* this.#moves.run();
  }

  #makeAbsent(at: number, what: string): void {
    this.#absent.set(at, 0);
    this.#mended.add(`${what}; past the end of the disk, it is absent now`);
    if (this.#absent.count >= BATCH) this.#absent.write();
  }

  *#copy(from: number, count: number, entryAt: number, what: string): Reshaping {
    const place = this.#take(count);
    this.#moves.add(from, place, count, entryAt);
    this.#mended.add(
      `${what}; it has a copy of its own now, at ${hex(place * this.#job.geometry.clusterSize)}`,
    );
    if (this.#moves.isFull) yield* this.#moves.run();
  }

  /** A file that would grow to more than twice its size was made to do so. */
  #take(count: number): number {
    const place = this.#next;
    this.#next += count;
    if (this.#next <= this.#clusters * 2 + this.#job.tableClusters && this.#next <= LAST_CLUSTER)
      return place;
    throw corrupt(
      `QED tables: more clusters have two owners than the file has clusters; a repair would make it more than twice as large`,
    );
  }

  /** Over a parent: tables of zero clusters, behind the end of the file; flush; the L1 entries that name them; flush. */
  *#hide(hidden: readonly number[]): Reshaping {
    const { source, geometry } = this.#job;
    const { clusterSize, tableBytes, l1Offset } = geometry;
    const zeros = new Uint8Array(Math.min(tableBytes, 1 << 20));
    for (let n = 0; n < zeros.length; n += ENTRY_BYTES) zeros[n] = 1;
    for (const index of hidden) {
      const at = this.#next * clusterSize;
      this.#next += this.#job.tableClusters;
      this.#job.setSize(at + tableBytes);
      for (let done = 0; done < tableBytes; done += zeros.length) {
        const status = source.writeAt(zeros, 0, zeros.length, (at + done) as HostOffset, 'table.write');
        must(status, source, `an L2 table at ${hex(at)} cannot be written`);
      }
      this.#absent.set(l1Offset + index * ENTRY_BYTES, at);
      yield this.#tally.step;
    }
    if (hidden.length === 0) return;
    this.#job.flush();
    this.#absent.write();
    this.#job.flush();
  }
}
