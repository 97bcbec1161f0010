/**
 * One walk over all tables of an image, for `check` and before an image is written: which clusters are used, and
 * what breaks the format's rules. Source: qed_spec, Consistency checking: every cluster is referenced at most
 * once, by the header (L1 table), an L1 entry (L2 tables) or an L2 entry (data).
 *
 * Entries past the end of the disk are looked at too: what they name is not free. Where they are damaged it is a
 * warning, one for each table, because nobody reads through them; but an error where they name a place behind the end
 * of the file, because they would share it with what is put there when the file grows.
 */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, type HostOffset, hex } from '../../base/units.ts';
import { PAGE_WORDS } from '../../shared/page-pool.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Geometry } from './geometry.ts';
import { ENTRY_BYTES } from './structs.ts';
import { ABSENT, BEYOND_FILE, LAST_CLUSTER, type Level, LOOK, TableReader, ZEROED } from './tables.ts';

/** Who hears what the walk meets; see image/check.ts for what the words mean. It may throw to end the walk. */
export interface ScanSink {
  error(text: string): void;
  warning(text: string): void;
  allocated(bytes: ByteCount): void;
}

export interface Scan {
  /** False where there are more entries than were to be looked at: then nothing is known of the rest. */
  readonly complete: boolean;
  readonly used: UsedClusters;
  /** An entry names a cluster past LAST_CLUSTER. */
  readonly far: boolean;
}

/** Clusters `first` to `first + count - 1`. */
export interface ClusterRun {
  readonly first: number;
  readonly count: number;
}

/** Clusters per stretch of `UsedClusters`: 4 KiB of bits. */
const STRETCH = 32768;

/** One bit per cluster of the file up to LAST_CLUSTER, in memory that is touched only where clusters are marked. */
export class UsedClusters {
  /** How many are marked. */
  count = 0;
  #end = 0;
  readonly #bits: Uint8Array;
  /** Whether any of a stretch of clusters is marked. */
  readonly #stretches: Uint8Array;

  constructor(clusters: number) {
    this.#bits = new Uint8Array(Math.ceil(clusters / 8));
    this.#stretches = new Uint8Array(Math.ceil(clusters / STRETCH));
  }

  /** The cluster after the last one marked. */
  get end(): number {
    while (this.#end > 0 && !this.has(this.#end - 1)) {
      const empty = (this.#end & 7) === 0 && this.#bits[this.#end / 8 - 1] === 0;
      this.#end -= empty ? 8 : 1;
    }
    return this.#end;
  }

  has(cluster: number): boolean {
    return (this.#bits[Math.floor(cluster / 8)]! & (1 << (cluster & 7))) !== 0;
  }

  /** Marks a cluster of the file; false if it was marked already. */
  mark(cluster: number): boolean {
    const at = Math.floor(cluster / 8);
    const bit = 1 << (cluster & 7);
    const before = this.#bits[at]!;
    if ((before & bit) !== 0) return false;
    this.#bits[at] = before | bit;
    this.#stretches[Math.floor(cluster / STRETCH)] = 1;
    this.count += 1;
    if (cluster >= this.#end) this.#end = cluster + 1;
    return true;
  }

  /** Takes the mark away again, from `count` clusters that have it. */
  release(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster += 1) {
      const at = Math.floor(cluster / 8);
      this.#bits[at] = this.#bits[at]! & ~(1 << (cluster & 7));
    }
    this.count -= count;
  }

  /** Runs of clusters below `end` that are not marked, ascending. */
  *unused(end: number): Generator<ClusterRun> {
    for (let cluster = 0; cluster < end; ) {
      const first = this.#next(cluster, end, 0xff);
      if (first >= end) return;
      cluster = Math.min(end, this.#next(first, end, 0));
      yield { first, count: cluster - first };
    }
  }

  /** The first cluster from `from` on whose bit differs from those of `same`, which is 0 or 0xff. */
  #next(from: number, end: number, same: number): number {
    let cluster = from;
    while (cluster < end) {
      const at = Math.floor(cluster / 8);
      if (same === 0 && cluster % STRETCH === 0 && this.#stretches[cluster / STRETCH] === 0)
        cluster += STRETCH;
      else if ((cluster & 7) === 0 && this.#bits[at] === same) cluster += 8;
      else if (this.has(cluster) === (same !== 0)) cluster += 1;
      else break;
    }
    return cluster;
  }
}

/** Clusters that the file has, the last one perhaps not whole. */
export function clustersOf(source: BlockSource, { clusterSize }: Geometry): number {
  return Math.ceil(source.size / clusterSize);
}

/**
 * Walks the L1 table, then every L2 table, reading at most `limit` entries; holes of the file cost nothing.
 * Throws ImageError('io') where a table cannot be read. Memory: a bit per cluster in use, and what is noted per L2
 * table.
 */
export function scanTables(source: BlockSource, geometry: Geometry, sink: ScanSink, limit: number): Scan {
  return new Scanner(source, geometry, sink, limit).run();
}

class Scanner {
  readonly #source: BlockSource;
  readonly #geometry: Geometry;
  readonly #sink: ScanSink;
  readonly #reader: TableReader;
  /** For one entry at a time. */
  readonly #single: TableReader;
  readonly #used: UsedClusters;
  readonly #words = new Uint32Array(PAGE_WORDS);
  /** By the number of its first cluster: the L1 entry of each L2 table, and where the table is. */
  readonly #tables = new Map<number, number>();
  /** Clusters past LAST_CLUSTER, as they are met. */
  readonly #far: number[] = [];
  #left: number;

  constructor(source: BlockSource, geometry: Geometry, sink: ScanSink, limit: number) {
    this.#source = source;
    this.#geometry = geometry;
    this.#sink = sink;
    this.#reader = new TableReader(source, geometry);
    this.#single = new TableReader(source, geometry);
    this.#used = new UsedClusters(Math.min(clustersOf(source, geometry), LAST_CLUSTER + 1));
    this.#left = limit;
  }

  run(): Scan {
    const complete = this.#walk();
    this.#far.sort((a, b) => a - b);
    for (let n = 1; n < this.#far.length; n += 1) {
      if (this.#far[n] !== this.#far[n - 1]) continue;
      const at = hex(this.#far[n]! * this.#geometry.clusterSize);
      this.#sink.error(`QED cluster at ${at}: it is in use by more than one entry`);
    }
    return { complete, used: this.#used, far: this.#far.length > 0 };
  }

  #walk(): boolean {
    const { clusterSize, tableBytes, tableEntries, headerBytes, l1Offset, l1Entries, clusters } =
      this.#geometry;
    for (let at = 0; at < headerBytes; at += clusterSize) this.#claim(at / clusterSize);
    for (let done = 0; done < tableBytes; done += clusterSize) this.#claim((l1Offset + done) / clusterSize);
    const l1 = (index: number, host: number) => this.#table(index, host);
    if (!this.#entries('L1', l1Offset, l1Entries, l1)) return false;
    for (const [number, index] of this.#tables) {
      const tableAt = number * clusterSize;
      const first = index * tableEntries;
      const l2 = (entry: number, host: number) =>
        this.#data(tableAt, entry, host, first + entry < clusters ? first + entry : undefined);
      if (!this.#entries('L2', tableAt, clusters - first, l2)) return false;
    }
    return true;
  }

  /**
   * Calls `each` with every entry that names something, and the host offset of that; says what is wrong with the
   * others. The disk needs the first `needed` of them. False where the limit is reached.
   */
  #entries(
    level: Level,
    tableAt: number,
    needed: number,
    each: (entry: number, host: number) => void,
  ): boolean {
    const { tableEntries, clusterSize } = this.#geometry;
    const words = this.#words;
    let empty = true;
    let damagedBehind = 0;
    for (let first = 0; first < tableEntries; first += PAGE_WORDS) {
      if (empty) {
        const from = tableAt + first * ENTRY_BYTES;
        const skip = (this.#source.nextData(from as HostOffset) - from) / ENTRY_BYTES;
        first += Math.floor(skip / PAGE_WORDS) * PAGE_WORDS;
        if (first >= tableEntries) break;
      }
      const count = Math.min(PAGE_WORDS, tableEntries - first);
      this.#left -= count;
      if (this.#left < 0) return false;
      const status = this.#reader.readTable(level, tableAt, first, count, words, 0);
      if (status < 0) throw unreadable(level, tableAt + first * ENTRY_BYTES, status);
      empty = true;
      for (let n = 0; n < count; n += 1) {
        const word = words[n]!;
        if (word === ABSENT) continue;
        empty = false;
        if (word === ZEROED) continue;
        const host = word === LOOK ? this.#reader.placeOf(level, n) : word * clusterSize;
        if (host >= 0) each(first + n, host);
        else if (first + n < needed || host === BEYOND_FILE) this.#damaged(level, tableAt, first + n);
        else damagedBehind += 1;
      }
    }
    if (damagedBehind > 0) {
      this.#sink.warning(
        `QED ${level} table at ${hex(tableAt)}: ${damagedBehind} entries past the end of the disk are damaged`,
      );
    }
    return true;
  }

  #damaged(level: Level, tableAt: number, entry: number): void {
    const single = this.#single;
    const status = single.readEntry(level, tableAt, entry);
    if (status < 0) throw unreadable(level, tableAt + entry * ENTRY_BYTES, status);
    // It was damaged a moment ago.
    this.#sink.error(single.fault ?? `QED ${level} entry ${entry}: it changes while it is looked at`);
  }

  /** An L1 entry. A table that overlaps something is not walked: its clusters are not its own. */
  #table(index: number, host: number): void {
    const { clusterSize, tableBytes, l1Offset } = this.#geometry;
    const first = host / clusterSize;
    for (let n = 0; n < tableBytes / clusterSize; n += 1) {
      if (first + n > LAST_CLUSTER || !this.#used.has(first + n)) continue;
      const place = `QED L1 entry ${index} at ${hex(l1Offset + index * ENTRY_BYTES)}`;
      const other = this.#tableOf(first + n);
      this.#sink.error(`${place}: the L2 table at ${hex(host)} overlaps that of L1 entry ${other}`);
      return;
    }
    for (let n = 0; n < tableBytes / clusterSize; n += 1) this.#claim(first + n);
    this.#tables.set(first, index);
  }

  /** An L2 entry; `cluster` is the guest's, undefined past the end of the disk. */
  #data(tableAt: number, entry: number, host: number, cluster: number | undefined): void {
    const { clusterSize, virtualSize } = this.#geometry;
    const place = () => `QED L2 entry ${entry} at ${hex(tableAt + entry * ENTRY_BYTES)}`;
    if (!this.#claim(host / clusterSize)) {
      const table = this.#tableOf(host / clusterSize);
      const what =
        table === undefined ? 'is in use by another entry' : `is part of the L2 table of L1 entry ${table}`;
      this.#sink.error(`${place()}: the data cluster at ${hex(host)} ${what}`);
      return;
    }
    if (cluster === undefined) return;
    const bytes = Math.min(clusterSize, virtualSize - cluster * clusterSize);
    this.#sink.allocated(bytes);
    const missing = host + bytes - this.#source.size;
    if (missing > 0) {
      this.#sink.error(
        `${place()}: the last ${missing} bytes of the data cluster at ${hex(host)} are missing`,
      );
    }
  }

  /** False if the cluster is in use already. Those past LAST_CLUSTER are compared at the end. */
  #claim(cluster: number): boolean {
    if (cluster <= LAST_CLUSTER) return this.#used.mark(cluster);
    this.#far.push(cluster);
    return true;
  }

  /** The L1 entry of the L2 table that a cluster is part of. */
  #tableOf(cluster: number): number | undefined {
    const { clusterSize, tableBytes } = this.#geometry;
    for (let n = 0; n < tableBytes / clusterSize; n += 1) {
      const index = this.#tables.get(cluster - n);
      if (index !== undefined) return index;
    }
    return undefined;
  }
}

function unreadable(level: Level, at: number, status: number): ImageError {
  return new ImageError('io', `QED ${level} table, entries at ${hex(at)}: cannot be read (errno ${-status})`);
}
