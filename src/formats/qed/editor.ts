/**
 * Writing QED. There is no journal and no checksum; safety is the order of writes:
 *
 *   allocation   1. the place of a new cluster, or of a new L2 table, is zeros (the file grows, or the place is
 *                   punched); the entry is published in memory; payload goes there
 *   commit       2. flush: payload, sizes and zeros are stable. Not needed, and not done, where every new entry
 *                   names a place that an earlier commit made stable as zeros (fresh-space.ts)
 *                3. the changed entries of L2 tables and of the L1 table, in any order
 *                4. flush
 *
 * An L2 table that no L1 entry on disk names yet is stable as zeros when 3 begins, so it is an empty table wherever
 * between its own entries and the L1 entry the power goes. NEED_CHECK is never set: a crash leaks clusters, and no
 * reader has to look for more. The file grows in batches, so most commits are one flush.
 *
 * Where a parent shows, a cluster is filled before its entry is published (`reserve`), and 2 is always done: what the
 * disk shows until then is no zeros.
 *
 * Discarded clusters become zero clusters, with a parent those too that had no entry yet; their places are punched, and given out again after the commit. L2 tables
 * stay. The file grows in batches; at the end of a mount, what lies behind its last used cluster is cut off.
 */

import { EIO, ESTALE, type Status } from '../../base/errno.ts';
import type { ByteCount, GuestOffset, HostOffset } from '../../base/units.ts';
import type { EditContext } from '../../image/driver.ts';
import { Extent } from '../../image/extent.ts';
import { FreshSpace } from '../../image/fresh-space.ts';
import type { Reservation } from '../../image/reservation.ts';
import { TableEditor } from '../../image/table-editor.ts';
import { EIGHTH_WORDS, type PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Geometry } from './geometry.ts';
import type { QedEdit } from './prepare.ts';
import { ClusterSpace } from './space.ts';
import { ENTRY_BYTES, NEED_CHECK, qedHeader } from './structs.ts';
import { ABSENT, LOOK, putEntry, ZEROED } from './tables.ts';
import type { QedTranslator } from './translator.ts';

/** Clusters that one call allocates at most. */
const MAX_CLUSTERS = 1024;
/** Bytes of the header that are rewritten as a whole. */
const HEADER_SECTOR = 512;

export class QedEditor extends TableEditor {
  readonly unit: ByteCount;
  readonly blockSize: ByteCount;
  protected readonly tables: readonly PagedTable[];
  readonly #geometry: Geometry;
  readonly #fresh: FreshSpace;
  readonly #space: ClusterSpace;
  readonly #hasParent: boolean;
  readonly #translator: QedTranslator;
  readonly #l1: PagedTable;
  readonly #clusters: PagedTable;
  /** Clusters taken from the free ones, for one call. */
  readonly #freed = new Uint32Array(MAX_CLUSTERS);
  readonly #extent = new Extent();
  #gathered: Status = 0;

  constructor(
    geometry: Geometry,
    edit: QedEdit,
    source: BlockSource,
    context: EditContext,
    translator: QedTranslator,
  ) {
    super(edit, source, context);
    this.unit = geometry.clusterSize;
    this.blockSize = geometry.clusterSize;
    this.#geometry = geometry;
    this.#fresh = new FreshSpace(edit.fresh);
    this.#space = new ClusterSpace(geometry.clusterSize, edit, source, this.free, this.#fresh);
    this.#hasParent = edit.hasParent;
    this.#translator = translator;
    this.#l1 = translator.l1;
    this.#clusters = translator.clusters;
    this.tables = [this.#l1, this.#clusters];
  }

  protected first(): Status {
    const status = this.#clearMarks();
    return status < 0 ? status : this.#space.completeLast();
  }

  /**
   * The header loses the autoclear bits, all of which are unknown, and NEED_CHECK: `prepareEdit` has looked through
   * all tables of an image that has it, and what it saw is stable by now (table-editor.ts).
   */
  #clearMarks(): Status {
    const sector = new Uint8Array(HEADER_SECTOR);
    const moved = this.source.readAt(sector, 0, HEADER_SECTOR, 0 as HostOffset);
    if (moved !== HEADER_SECTOR) return moved < 0 ? moved : -EIO;
    const header = qedHeader.decode(sector);
    if ((header.features & NEED_CHECK) === 0n && header.autoclearFeatures === 0n) return 0;
    header.features &= ~NEED_CHECK;
    header.autoclearFeatures = 0n;
    qedHeader.encode(header, sector);
    const status = this.source.writeAt(sector, 0, HEADER_SECTOR, 0 as HostOffset, 'header.write');
    return status < 0 ? status : this.commit.stable(this.source);
  }

  protected allocateLocked(at: GuestOffset, length: ByteCount): Status {
    const { clusterSize } = this.#geometry;
    const first = Math.floor(at / clusterSize);
    const wanted = Math.min(Math.ceil((at + length) / clusterSize), first + MAX_CLUSTERS);
    // Tables first, so that the data behind them lies in one piece. With a parent, what has none is not asked for.
    const end = this.#hasParent ? wanted : this.#addTables(first, wanted);
    if (end < 0) return end;
    for (let cluster = first; cluster < end; ) {
      const done = this.#allocateSome(cluster, end);
      if (done < 0) return cluster === first ? done : 0;
      cluster += done;
    }
    return 0;
  }

  /** L2 tables for clusters `first` to `end - 1`. Returns up to where there are some, or -errno. */
  #addTables(first: number, end: number): number {
    const { clusterSize, tableBytes, tableEntries } = this.#geometry;
    const count = tableBytes / clusterSize;
    for (let index = Math.floor(first / tableEntries); index * tableEntries < end; index += 1) {
      const table = this.#l1.get(index);
      let status: Status = Math.min(table, 0);
      if (table === LOOK) status = -EIO;
      if (table === ABSENT) {
        status = this.#space.makeRoom(count);
        if (status === 0) status = this.#l1.set(index, this.#space.next);
        if (status === 0) this.#space.gaveOut(count);
      }
      if (status < 0) return index * tableEntries <= first ? status : index * tableEntries;
    }
    return end;
  }

  /** Allocates a run of clusters from `cluster` on, which has a table. Returns how many are done, or -errno. */
  #allocateSome(cluster: number, end: number): number {
    const first = this.#clusters.get(cluster);
    if (first < 0) return first;
    if (first === LOOK) return -EIO;
    // Another thread was first; or the parent shows there, and nobody asked for it.
    if (!this.#isZeros(first)) return 1;
    let wanted = 1;
    while (cluster + wanted < end && this.#isZeros(this.#clusters.get(cluster + wanted))) wanted += 1;
    const freed = this.#space.takeFreed(this.#freed, wanted);
    return freed === 0 ? this.#allocateNew(cluster, wanted) : this.#allocateFreed(cluster, freed);
  }

  /** Whether a cluster without data reads as zeros. */
  #isZeros(word: number): boolean {
    return word === ZEROED || (word === ABSENT && !this.#hasParent);
  }

  /** Allocates `count` clusters in those of `#freed`. Returns how many are done, or -errno. */
  #allocateFreed(cluster: number, count: number): number {
    const freed = this.#freed;
    let done = 0;
    let status: Status = 0;
    while (done < count && status === 0) {
      let run = 1;
      while (done + run < count && freed[done + run] === freed[done]! + run) run += 1;
      status = this.#space.makeZeros(freed[done]!, freed[done]! + run);
      for (const end = done + run; done < end && status === 0; ) {
        status = this.#clusters.set(cluster + done, freed[done]!);
        if (status === 0) done += 1;
      }
    }
    if (done > 0) this.#fresh.namedUsed();
    for (let n = count - 1; n >= done; n -= 1) this.free.giveBack(freed[n]!);
    return done > 0 ? done : status;
  }

  /** The same in clusters that were never given out, all in one piece. */
  #allocateNew(cluster: number, wanted: number): number {
    const count = this.#space.makeSomeRoom(wanted);
    if (count < 0) return count;
    for (let done = 0; done < count; done += 1) {
      const status = this.#clusters.set(cluster + done, this.#space.next);
      if (status < 0) return done > 0 ? done : status;
      this.#space.gaveOut(1);
    }
    return count;
  }

  protected reserveLocked(at: GuestOffset, _length: ByteCount, out: Reservation): Status {
    const { clusterSize, virtualSize } = this.#geometry;
    const cluster = Math.floor(at / clusterSize);
    const word = this.#clusters.get(cluster);
    if (word < 0) return word;
    if (word !== ABSENT) return word === LOOK ? -EIO : -ESTALE;
    const tables = this.#addTables(cluster, cluster + 1);
    if (tables < 0) return tables;
    const place = this.#space.take();
    if (place < 0) return place;
    const from = cluster * clusterSize;
    return out.set(from, Math.min(clusterSize, virtualSize - from), place * clusterSize, true, place);
  }

  protected publishLocked({ at, token }: Reservation): Status {
    const cluster = Math.floor(at / this.#geometry.clusterSize);
    const word = this.#clusters.get(cluster);
    if (word < 0) return word;
    if (word !== ABSENT) {
      this.free.giveBack(token);
      return -ESTALE;
    }
    const status = this.#clusters.set(cluster, token);
    // What the parent shows is no zeros: the copy must be there before the entry, wherever its place is.
    if (status === 0) this.#fresh.namedUsed();
    return status;
  }

  protected cancelLocked({ token }: Reservation): void {
    this.free.giveBack(token);
  }

  protected discardLocked(at: GuestOffset, length: ByteCount): Status {
    const { clusterSize, tableEntries } = this.#geometry;
    const end = Math.ceil((at + length) / clusterSize);
    let status: Status = 0;
    // Places that lie one behind the other are punched together.
    let runFirst = 0;
    let run = 0;
    for (let cluster = Math.floor(at / clusterSize); cluster < end && status === 0; ) {
      const index = Math.floor(cluster / tableEntries);
      if (this.#l1.get(index) === ABSENT) {
        if (!this.#hasParent) {
          cluster = (index + 1) * tableEntries;
          continue;
        }
        const added = this.#addTables(cluster, cluster + 1);
        if (added < 0) {
          status = added;
          break;
        }
      }
      const word = this.#clusters.get(cluster);
      if (word < 0) status = word;
      else if (word === LOOK) status = this.#zeroFar(cluster);
      else if (word === ABSENT && this.#hasParent) status = this.#clusters.set(cluster, ZEROED);
      else if (word !== ABSENT && word !== ZEROED) {
        status = this.#clusters.set(cluster, ZEROED);
        if (status === 0) {
          this.free.release(word);
          if (run > 0 && word !== runFirst + run) {
            status = this.#space.punch(runFirst, run);
            run = 0;
          }
          if (run === 0) runFirst = word;
          run += 1;
        }
      }
      cluster += 1;
    }
    const punched = this.#space.punch(runFirst, run);
    return status < 0 ? status : punched;
  }

  /** A cluster whose word is LOOK, in an image that was not looked through: it stays where it is, or is damaged. */
  #zeroFar(cluster: number): Status {
    const { clusterSize, virtualSize } = this.#geometry;
    const at = cluster * clusterSize;
    const length = Math.min(clusterSize, virtualSize - at);
    const status = this.#translator.locate(at as GuestOffset, length, this.#extent);
    if (status < 0 || !this.#extent.isData) return status;
    const { host } = this.#extent;
    return this.source.zero(host, Math.min(length, this.#extent.length), 'punch', 'payload.zero');
  }

  gather(): boolean {
    if (this.#l1.dirtyPages + this.#clusters.dirtyPages === 0) return false;
    const { l1Offset, l1Entries, clusters, tableEntries, clusterSize } = this.#geometry;
    this.#gathered = 0;
    this.buffer.clear();
    this.#clusters.gather((page, eighths, words, start) => {
      for (let eighth = 0; eighth < 8; eighth += 1) {
        if ((eighths & (1 << eighth)) === 0) continue;
        // It lies in one L2 table: those have a power of two of entries, 512 at least.
        const first = (page * 8 + eighth) * EIGHTH_WORDS;
        const index = Math.floor(first / tableEntries);
        // Seldom read from disk here, where the L1 page was evicted.
        const table = this.#l1.get(index);
        if (table < 0 || table === ABSENT || table === LOOK) {
          this.#gathered = table < 0 ? table : -EIO;
          continue;
        }
        const at = table * clusterSize + (first - index * tableEntries) * ENTRY_BYTES;
        this.#addEntries(at, words, start + eighth * EIGHTH_WORDS, Math.min(EIGHTH_WORDS, clusters - first));
      }
    });
    this.#l1.gather((page, eighths, words, start) => {
      for (let eighth = 0; eighth < 8; eighth += 1) {
        if ((eighths & (1 << eighth)) === 0) continue;
        const first = (page * 8 + eighth) * EIGHTH_WORDS;
        const count = Math.min(EIGHTH_WORDS, l1Entries - first);
        this.#addEntries(l1Offset + first * ENTRY_BYTES, words, start + eighth * EIGHTH_WORDS, count);
      }
    });
    this.free.gather();
    this.#fresh.gather(this.#space.zeroedEnd);
    return true;
  }

  /** The entries of `count` words for host offset `at`. Those that say LOOK stay on disk as they are. */
  #addEntries(at: number, words: Uint32Array, start: number, count: number): void {
    const { clusterSize } = this.#geometry;
    for (let from = 0; from < count; ) {
      let end = from;
      while (end < count && words[start + end] !== LOOK) end += 1;
      if (end > from) {
        let to = this.buffer.add(at + from * ENTRY_BYTES, (end - from) * ENTRY_BYTES);
        const { bytes } = this.buffer;
        for (let n = from; n < end; n += 1) to = putEntry(bytes, to, words[start + n]!, clusterSize);
      }
      from = end + 1;
    }
  }

  write(metadata: boolean): Status {
    if (metadata && this.#gathered < 0) return this.#gathered;
    let status: Status = 0;
    if (metadata && this.#fresh.isOrdered) status = this.commit.stable(this.source);
    if (status === 0 && metadata) status = this.buffer.writeTo(this.source, 'table.write');
    return status < 0 ? status : this.commit.stable(this.source);
  }

  settle(status: Status): void {
    this.#fresh.settle(status === 0);
    this.#clusters.settle(status === 0);
    this.#l1.settle(status === 0);
    this.free.settle(status === 0);
  }

  /** The file ends with its last used cluster. */
  protected finish(): Status {
    const cut = this.#space.cut();
    return cut > 0 ? this.commit.stable(this.source) : cut;
  }
}
