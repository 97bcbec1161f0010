/**
 * Guest ranges to extents. Two paged tables: the L1 words, and one word per guest cluster of the whole disk,
 * filled from the L2 tables as it is touched. Ranges without an L2 table are answered from the L1 words alone.
 */

import { EIO, type Status } from '../../base/errno.ts';
import { type ByteCount, type GuestOffset, hex } from '../../base/units.ts';
import type { AttachContext, Report, Translator } from '../../image/driver.ts';
import { DATA, type Extent, HOLE, ZERO } from '../../image/extent.ts';
import { PAGE_WORDS } from '../../shared/page-pool.ts';
import { type LoadPage, PagedTable, type PagedTableSeed } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Geometry } from './geometry.ts';
import { ABSENT, LOOK, TableReader, ZEROED } from './tables.ts';

/** What `attach` gets. */
export interface QedState {
  readonly geometry: Geometry;
  readonly l1: PagedTableSeed;
  readonly clusters: PagedTableSeed;
}

/**
 * Table words looked at per call at most, so that a seek over a vast disk comes back in pieces and the answer
 * at its first byte does not cost a scan of the whole run.
 */
const LOOK_AHEAD = 8 * PAGE_WORDS;

function loadL1(reader: TableReader, geometry: Geometry): LoadPage {
  return (page, into, start) => {
    const first = page * PAGE_WORDS;
    return reader.readL1(first, Math.min(PAGE_WORDS, geometry.l1Entries - first), into, start);
  };
}

/**
 * A page of guest clusters may span L2 tables: they hold as few as 512 entries. The L1 words decide, as they are in
 * memory: a table that no entry on disk names yet is there already, as zeros (see editor.ts).
 */
function loadClusters(reader: TableReader, geometry: Geometry, l1: PagedTable): LoadPage {
  const { tableEntries, clusters } = geometry;
  return (page, into, start) => {
    const first = page * PAGE_WORDS;
    const count = Math.min(PAGE_WORDS, clusters - first);
    for (let done = 0; done < count; ) {
      const index = Math.floor((first + done) / tableEntries);
      const entry = first + done - index * tableEntries;
      const take = Math.min(count - done, tableEntries - entry);
      const table = l1.get(index);
      if (table < 0) return table;
      if (table === ABSENT || table === LOOK) {
        into.fill(table, start + done, start + done + take);
      } else {
        const status = reader.readL2(table, entry, take, into, start + done);
        if (status < 0) return status;
      }
      done += take;
    }
    return 0;
  };
}

export class QedTranslator implements Translator {
  /** L1 words and cluster words, for the editor of this thread too. */
  readonly l1: PagedTable;
  readonly clusters: PagedTable;
  readonly #geometry: Geometry;
  readonly #source: BlockSource;
  readonly #single: TableReader;
  readonly #report: Report;

  constructor(state: QedState, source: BlockSource, context: AttachContext) {
    const { geometry } = state;
    this.#geometry = geometry;
    this.#source = source;
    this.#report = context.report;
    this.#single = new TableReader(source, geometry);
    this.l1 = new PagedTable(context.pool, state.l1, loadL1(new TableReader(source, geometry), geometry));
    this.clusters = new PagedTable(
      context.pool,
      state.clusters,
      loadClusters(new TableReader(source, geometry), geometry, this.l1),
    );
  }

  locate(at: GuestOffset, length: ByteCount, out: Extent): Status {
    const { clusterSize, tableEntries, virtualSize } = this.#geometry;
    const cluster = Math.floor(at / clusterSize);
    const index = Math.floor(cluster / tableEntries);
    const table = this.l1.get(index);
    if (table < 0) return table;
    let word = ABSENT;
    let next = (index + 1) * tableEntries;
    if (table !== ABSENT) {
      word = this.clusters.get(cluster);
      if (word < 0) return word;
      if (word === LOOK) return this.#locateSingle(at, cluster, out);
      next = cluster + 1;
    }
    const wanted = Math.min(at + length, virtualSize);
    const end = this.#runEnd(word, cluster, next, Math.ceil(wanted / clusterSize));
    const run = Math.min(end * clusterSize, virtualSize) - at;
    if (word === ABSENT) return out.set(HOLE, 0, run);
    if (word === ZEROED) return out.set(ZERO, 0, run);
    return this.#data(at, word * clusterSize + (at - cluster * clusterSize), run, out);
  }

  /**
   * The first cluster at or after `next` whose word does not go on with the run that has `word` at `cluster`;
   * `limit` or a little beyond it where all do.
   */
  #runEnd(word: number, cluster: number, next: number, limit: number): number {
    const { tableEntries } = this.#geometry;
    // A code repeats itself; data goes on with the next cluster number.
    const slope = word === ABSENT || word === ZEROED ? 0 : 1;
    let end = next;
    for (let looked = 0; end < limit && looked < LOOK_AHEAD; looked += 1) {
      if (end % tableEntries === 0 && this.l1.get(end / tableEntries) === ABSENT) {
        if (word !== ABSENT) break;
        end += tableEntries;
      } else {
        if (this.clusters.get(end) !== word + slope * (end - cluster)) break;
        end += 1;
      }
    }
    return end;
  }

  /** Data at `host`, up to where the file ends: the last cluster may be cut short behind its used part. */
  #data(at: GuestOffset, host: number, run: ByteCount, out: Extent): Status {
    const { size } = this.#source;
    const present = size - host;
    if (present <= 0) {
      this.#report(
        `QED data of guest offset ${hex(at)}: expected at ${hex(host)}, but the file ends at ${hex(size)}`,
      );
      return -EIO;
    }
    return out.set(DATA, host, Math.min(run, present));
  }

  /** A cluster whose word is LOOK: reads its entries by themselves. */
  #locateSingle(at: GuestOffset, cluster: number, out: Extent): Status {
    const { clusterSize, tableEntries, virtualSize, l1Offset } = this.#geometry;
    const single = this.#single;
    const index = Math.floor(cluster / tableEntries);
    const entry = cluster - index * tableEntries;
    const run = Math.min((cluster + 1) * clusterSize, virtualSize) - at;
    const table = single.readEntry('L1', l1Offset, index);
    if (table < 0) return table;
    if (table === LOOK && single.fault !== undefined) return this.#damaged(single.fault);
    const word = single.readEntry('L2', table === LOOK ? single.far : table * clusterSize, entry);
    if (word < 0) return word;
    if (word === LOOK && single.fault !== undefined) return this.#damaged(single.fault);
    if (word === ABSENT) return out.set(HOLE, 0, run);
    if (word === ZEROED) return out.set(ZERO, 0, run);
    const host = word === LOOK ? single.far : word * clusterSize;
    return this.#data(at, host + (at - cluster * clusterSize), run, out);
  }

  #damaged(text: string): Status {
    this.#report(text);
    return -EIO;
  }
}
