/**
 * What every change of an image as a whole begins with: the header, what the tables use, and the header's sector
 * rewritten; entries of tables rewritten, in batches.
 */

import { EINVAL } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import { type ByteCount, type HostOffset, hex, roundDown } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import { PAGE_WORDS } from '../../shared/page-pool.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { type Geometry, geometryOf } from './geometry.ts';
import { checkHeader, readHeader } from './open.ts';
import { clustersOf, type Scan, scanTables, type UsedClusters } from './scan.ts';
import { ENTRY_BYTES, NEED_CHECK, type QedHeader, qedHeader } from './structs.ts';
import { ABSENT, LAST_CLUSTER, type Level, TableReader } from './tables.ts';

export const SECTOR = 512;
/** Of one step, at most. */
export const STEP_BYTES = 16 << 20;

/** One L2 table that an L1 entry names. */
export interface TableRef {
  readonly index: number;
  /** Number of its first cluster. */
  readonly first: number;
}

export class QedJob {
  readonly source: BlockSource;
  geometry: Geometry;
  readonly #words = new Uint32Array(PAGE_WORDS);
  #header: QedHeader;
  #reader: TableReader;

  /** Throws ImageError where the image cannot be opened. Nothing is changed. */
  constructor(source: BlockSource) {
    this.source = source;
    this.#header = readHeader(source);
    this.geometry = checkHeader(this.#header, source);
    this.#reader = new TableReader(source, this.geometry);
  }

  get header(): Readonly<QedHeader> {
    return this.#header;
  }

  get reader(): TableReader {
    return this.#reader;
  }

  get tableClusters(): number {
    return this.geometry.tableBytes / this.geometry.clusterSize;
  }

  /**
   * Looks through all tables: what is used. Throws ImageError where they are damaged, or where the file is larger than
   * words can say (see prepare.ts).
   */
  scan(): UsedClusters {
    const scan = scanTables(
      this.source,
      this.geometry,
      {
        error: (text) => {
          throw new ImageError('corrupt', text, { hint: 'vdisk repair mends what can be mended.' });
        },
        warning: () => {},
        allocated: () => {},
      },
      Number.POSITIVE_INFINITY,
    );
    this.refuseFar(scan);
    return scan.used;
  }

  refuseFar({ far }: Scan): void {
    if (!far && clustersOf(this.source, this.geometry) <= LAST_CLUSTER + 1) return;
    const end = hex((LAST_CLUSTER + 1) * this.geometry.clusterSize);
    throw new ImageError('unsupported', `QED file: it goes on past ${end}, where it cannot be changed`);
  }

  /**
   * Rewrites the header's sector by one write, stable when it returns; what was changed before is stable before it.
   * `also` changes other bytes of the sector. Unknown autoclear features go with it, as with every writer.
   */
  writeHeader(change: Partial<QedHeader>, also: (sector: Uint8Array) => void = () => {}): void {
    const { source } = this;
    const header = { ...this.#header, autoclearFeatures: 0n, ...change };
    QedJob.rewriteHeader(source, header, also);
    this.#header = header;
    const { clusterSize, tableSize, headerSize, l1TableOffset, imageSize } = header;
    this.geometry = geometryOf(
      clusterSize,
      tableSize,
      headerSize * clusterSize,
      Number(l1TableOffset) as HostOffset,
      Number(imageSize),
    );
    this.#reader = new TableReader(source, this.geometry);
  }

  /** The same of an image that may not open yet. */
  static rewriteHeader(
    source: BlockSource,
    header: QedHeader,
    also: (sector: Uint8Array) => void = () => {},
  ): void {
    const sector = readExactly(
      source,
      0,
      SECTOR,
      (outcome) => new ImageError('io', `${source.label}: the QED header cannot be read (errno ${-outcome})`),
    );
    also(sector);
    qedHeader.encode(header, sector);
    must(source.flush(), source, 'it cannot be made stable');
    const status = source.writeAt(sector, 0, SECTOR, 0 as HostOffset, 'header.write');
    must(status, source, 'its header cannot be written');
    must(source.flush(), source, 'it cannot be made stable');
  }

  /** Before the first change of an image whose tables were looked through: the marks that a writer clears. */
  clearMarks(): void {
    const { features, autoclearFeatures } = this.#header;
    if ((features & NEED_CHECK) === 0n && autoclearFeatures === 0n) return;
    this.writeHeader({ features: features & ~NEED_CHECK });
  }

  /** The L2 tables that sound L1 entries name, also those past the end of the disk. */
  *tables(): Generator<TableRef> {
    const refs: TableRef[] = [];
    const { l1Offset } = this.geometry;
    for (const [index, first] of this.entries('L1', l1Offset)) {
      if (first <= LAST_CLUSTER) refs.push({ index, first });
    }
    yield* refs;
  }

  /** The entries of a table that are not absent, by number, as words. Holes of the file cost nothing. */
  *entries(level: Level, tableAt: number, from = 0): Generator<readonly [entry: number, word: number]> {
    const { tableEntries } = this.geometry;
    // The one page is used by one walk at a time but for walks over L1 and L2, which have one each.
    const words = level === 'L1' ? new Uint32Array(PAGE_WORDS) : this.#words;
    for (let first = roundDown(from, PAGE_WORDS); first < tableEntries; first += PAGE_WORDS) {
      const at = tableAt + first * ENTRY_BYTES;
      const skip = Math.max(0, this.source.nextData(at as HostOffset) - at) / ENTRY_BYTES;
      first += roundDown(skip, PAGE_WORDS);
      if (first >= tableEntries) return;
      const count = Math.min(PAGE_WORDS, tableEntries - first);
      const status = this.#reader.readTable(level, tableAt, first, count, words, 0);
      must(status, this.source, `the QED ${level} table at ${hex(tableAt)} cannot be read`);
      for (let n = Math.max(0, from - first); n < count; n += 1) {
        if (words[n] !== ABSENT) yield [first + n, words[n]!];
      }
    }
  }

  flush(): void {
    must(this.source.flush(), this.source, 'it cannot be made stable');
  }

  /** Gives the file `size` bytes; a block device keeps its own. */
  setSize(size: ByteCount): void {
    QedJob.setSize(this.source, size);
  }

  static setSize(source: BlockSource, size: ByteCount): void {
    const status = size === source.size ? 0 : source.setSize(size);
    if (status !== -EINVAL) must(status, source, 'the size of the file cannot be changed');
  }

  /** The file ends with its last used cluster; what is free before it is given to the host. */
  cut(used: UsedClusters): void {
    const { clusterSize } = this.geometry;
    for (const { first, count } of used.unused(used.end)) this.punch(first, count);
    if (this.source.size === used.end * clusterSize) return;
    this.setSize(used.end * clusterSize);
    this.flush();
  }

  /** Clusters that nothing names read as zeros, and take no space where the host can do that. */
  punch(first: number, count: number): void {
    const { clusterSize } = this.geometry;
    const at = (first * clusterSize) as HostOffset;
    const status = this.source.zero(at, count * clusterSize, 'punch', 'payload.zero');
    must(status, this.source, `${count} clusters at ${hex(at)} cannot be zeroed`);
  }
}

/** Entries that are to be changed on disk, put there a sector at a time. */
export class EntryChanges {
  readonly #source: BlockSource;
  readonly #changes = new Map<number, number>();

  constructor(source: BlockSource) {
    this.#source = source;
  }

  get count(): number {
    return this.#changes.size;
  }

  /** `at`: of the entry in the file. `value`: as it is to be there. */
  set(at: number, value: number): void {
    this.#changes.set(at, value);
  }

  /** Writes all of them, in any order. */
  write(): void {
    const source = this.#source;
    const sorted = [...this.#changes].sort(([a], [b]) => a - b);
    const sector = new Uint8Array(SECTOR);
    const view = new DataView(sector.buffer);
    for (let n = 0; n < sorted.length; ) {
      const at = roundDown(sorted[n]![0], SECTOR) as HostOffset;
      const moved = source.readAt(sector, 0, SECTOR, at);
      if (moved !== SECTOR) must(Math.min(moved, -5), source, `the QED table at ${hex(at)} cannot be read`);
      for (; n < sorted.length && sorted[n]![0] < at + SECTOR; n += 1) {
        const [place, value] = sorted[n]!;
        view.setBigUint64(place - at, BigInt(value), true);
      }
      const status = source.writeAt(sector, 0, SECTOR, at, 'table.write');
      must(status, source, `the QED table at ${hex(at)} cannot be written`);
    }
    this.#changes.clear();
  }
}
