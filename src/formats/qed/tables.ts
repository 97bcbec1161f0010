/**
 * The L1 table and the L2 tables, decoded into one u32 per entry. Source: qed_spec, Tables.
 *
 * An L1 word is the cluster number of an L2 table, an L2 word that of a data cluster. Cluster 0 is the header
 * in every image, so 0 keeps its meaning "not there". The codes at the top are no cluster numbers: an entry
 * whose number would reach them is LOOK instead.
 */

import { EIO, type Status } from '../../base/errno.ts';
import { type ByteCount, type HostOffset, hex } from '../../base/units.ts';
import { PAGE_WORDS } from '../../shared/page-pool.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Geometry } from './geometry.ts';
import { ENTRY_BYTES } from './structs.ts';

/** No L2 table, or no data cluster: a hole. */
export const ABSENT = 0;
/** The largest cluster number kept in a word; the one after it stays unused, so that no run reaches a code. */
export const LAST_CLUSTER = 0xfffffffc;
/** A zero cluster. */
export const ZEROED = 0xfffffffe;
/** The entry is damaged, or lies past LAST_CLUSTER: read it by itself (`readEntry`). */
export const LOOK = 0xffffffff;

/** What `TableReader.placeOf` says of damaged entries. Those of the first kind may come to name something. */
export const BEYOND_FILE = -1;
export const BROKEN = -2;

/** The value 1 in an L2 entry. In an L1 entry it means nothing. */
const ZERO_MARKER = 1;

/**
 * The entry of a word, in `bytes` from `at` on; returns where the next one goes. Not for LOOK: such an entry is
 * known only on disk, and stays as it is there.
 */
export function putEntry(bytes: Uint8Array, at: number, word: number, clusterSize: ByteCount): number {
  // Exact: a u32 times a power of two.
  const value = word === ZEROED ? ZERO_MARKER : word * clusterSize;
  const low = value % 0x100000000;
  const high = Math.floor(value / 0x100000000);
  bytes[at] = low;
  bytes[at + 1] = low >>> 8;
  bytes[at + 2] = low >>> 16;
  bytes[at + 3] = low >>> 24;
  bytes[at + 4] = high;
  bytes[at + 5] = high >>> 8;
  bytes[at + 6] = high >>> 16;
  bytes[at + 7] = high >>> 24;
  return at + ENTRY_BYTES;
}

/** What is wrong with an offset; the texts are made in `#describe`. */
const SOUND = 0;
const MISALIGNED = 1;
const IN_HEADER = 2;
const BEYOND_END = 3;
const IN_L1 = 4;
type Fault = typeof SOUND | typeof MISALIGNED | typeof IN_HEADER | typeof BEYOND_END | typeof IN_L1;

export type Level = 'L1' | 'L2';

/** Reads and judges entries. Holds scratch of its own: one per thread, and per paged table. */
export class TableReader {
  /** After `readEntry` returned LOOK for a sound entry: where its cluster is. */
  far = 0 as HostOffset;
  /** After `readEntry` returned LOOK: what is wrong, or undefined if the entry is sound. */
  fault: string | undefined;
  readonly #source: BlockSource;
  readonly #geometry: Geometry;
  readonly #l1End: number;
  readonly #piece = new Uint8Array(PAGE_WORDS * ENTRY_BYTES);
  readonly #view = new DataView(this.#piece.buffer);
  readonly #one = new Uint32Array(1);

  constructor(source: BlockSource, geometry: Geometry) {
    this.#source = source;
    this.#geometry = geometry;
    this.#l1End = geometry.l1Offset + geometry.tableBytes;
  }

  /** L1 entries `first` to `first + count - 1`, at most a page of them, as words. Returns 0 or -errno. */
  readL1(first: number, count: number, into: Uint32Array, start: number): Status {
    return this.readTable('L1', this.#geometry.l1Offset, first, count, into, start);
  }

  /** The same of the L2 table in cluster `table`. */
  readL2(table: number, first: number, count: number, into: Uint32Array, start: number): Status {
    return this.readTable('L2', table * this.#geometry.clusterSize, first, count, into, start);
  }

  /** The same of the table at host offset `tableAt`. */
  readTable(
    level: Level,
    tableAt: number,
    first: number,
    count: number,
    into: Uint32Array,
    start: number,
  ): Status {
    const length = count * ENTRY_BYTES;
    const at = (tableAt + first * ENTRY_BYTES) as HostOffset;
    const moved = this.#source.readAt(this.#piece, 0, length, at);
    if (moved < 0) return moved;
    if (moved < length) return -EIO;
    this.#decode(level, count, into, start);
    return 0;
  }

  /** The first `count` entries of the piece as words. It decides as `#judge` does, in one go. */
  #decode(level: Level, count: number, into: Uint32Array, start: number): void {
    const { clusterSize, tableBytes, headerBytes, l1Offset } = this.#geometry;
    const view = this.#view;
    const l1End = this.#l1End;
    const lastStart = this.#source.size - (level === 'L1' ? tableBytes : 1);
    const beforeL1 = l1Offset - (level === 'L1' ? tableBytes : clusterSize);
    for (let n = 0; n < count; n += 1) {
      const low = view.getUint32(n * ENTRY_BYTES, true);
      const high = view.getUint32(n * ENTRY_BYTES + 4, true);
      const offset = high * 0x100000000 + low;
      let word = LOOK;
      if (offset === 0) word = ABSENT;
      else if (offset === ZERO_MARKER && level === 'L2') word = ZEROED;
      else if (
        (low & (clusterSize - 1)) === 0 &&
        offset >= headerBytes &&
        offset <= lastStart &&
        (offset >= l1End || offset <= beforeL1)
      ) {
        const number = offset / clusterSize;
        if (number <= LAST_CLUSTER) word = number;
      }
      into[start + n] = word;
    }
  }

  /**
   * Entry number `n` of those that were read last, where its word is LOOK: the host offset of its cluster, or
   * BEYOND_FILE or BROKEN.
   */
  placeOf(level: Level, n: number): number {
    const low = this.#view.getUint32(n * ENTRY_BYTES, true);
    const high = this.#view.getUint32(n * ENTRY_BYTES + 4, true);
    const fault = this.#judge(level, low, high);
    if (fault === SOUND) return high * 0x100000000 + low;
    return fault === BEYOND_END ? BEYOND_FILE : BROKEN;
  }

  /** A table must lie in the file whole; a data cluster must start in it, and may be cut short. */
  #judge(level: Level, low: number, high: number): Fault {
    const { clusterSize, tableBytes, headerBytes, l1Offset } = this.#geometry;
    if ((low & (clusterSize - 1)) !== 0) return MISALIGNED;
    // Above 2^53 this is not exact, but beyond any file all the same.
    const offset = high * 0x100000000 + low;
    if (offset < headerBytes) return IN_HEADER;
    if (offset + (level === 'L1' ? tableBytes : 1) > this.#source.size) return BEYOND_END;
    const end = offset + (level === 'L1' ? tableBytes : clusterSize);
    return offset < this.#l1End && end > l1Offset ? IN_L1 : SOUND;
  }

  /**
   * One entry of the table at `tableAt`, for the words that say LOOK. Returns its word or -errno; where that
   * is LOOK, `fault` and `far` tell the rest. It may allocate.
   */
  readEntry(level: Level, tableAt: ByteCount, entry: number): number {
    const at = (tableAt + entry * ENTRY_BYTES) as HostOffset;
    const moved = this.#source.readAt(this.#piece, 0, ENTRY_BYTES, at);
    if (moved < 0) return moved;
    if (moved < ENTRY_BYTES) return -EIO;
    this.#decode(level, 1, this.#one, 0);
    const word = this.#one[0]!;
    if (word !== LOOK) return word;
    const low = this.#view.getUint32(0, true);
    const high = this.#view.getUint32(4, true);
    const fault = this.#judge(level, low, high);
    this.far = (fault === SOUND ? high * 0x100000000 + low : 0) as HostOffset;
    this.fault = fault === SOUND ? undefined : this.#describe(level, fault, entry, at);
    return LOOK;
  }

  #describe(level: Level, fault: Exclude<Fault, typeof SOUND>, entry: number, at: HostOffset): string {
    const { clusterSize, tableBytes, headerBytes, l1Offset } = this.#geometry;
    const found = this.#view.getBigUint64(0, true);
    const what = level === 'L1' ? `L2 table of ${tableBytes} bytes` : 'data cluster';
    const texts = {
      [MISALIGNED]: `is not a multiple of the cluster size ${clusterSize}`,
      [IN_HEADER]: `lies in the header, which ends at ${hex(headerBytes)}`,
      [BEYOND_END]: `lies beyond the end of the file at ${hex(this.#source.size)}`,
      [IN_L1]: `overlaps the L1 table at ${hex(l1Offset)}`,
    } as const;
    return `QED ${level} entry ${entry} at ${hex(at)}: the offset ${hex(found)} of the ${what} ${texts[fault]}`;
  }
}
