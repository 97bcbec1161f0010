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

/** The value 1 in an L2 entry. In an L1 entry it means nothing. */
const ZERO_MARKER = 1;

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

  constructor(source: BlockSource, geometry: Geometry) {
    this.#source = source;
    this.#geometry = geometry;
    this.#l1End = geometry.l1Offset + geometry.tableBytes;
  }

  /** L1 entries `first` to `first + count - 1`, at most a page of them, as words. Returns 0 or -errno. */
  readL1(first: number, count: number, into: Uint32Array, start: number): Status {
    return this.#read('L1', this.#geometry.l1Offset, first, count, into, start);
  }

  /** The same of the L2 table in cluster `table`. */
  readL2(table: number, first: number, count: number, into: Uint32Array, start: number): Status {
    return this.#read('L2', table * this.#geometry.clusterSize, first, count, into, start);
  }

  #read(
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
    for (let entry = 0; entry < count; entry += 1) into[start + entry] = this.#word(level, entry);
    return 0;
  }

  /** Entry number `entry` of the piece as a word. */
  #word(level: Level, entry: number): number {
    const low = this.#view.getUint32(entry * ENTRY_BYTES, true);
    const high = this.#view.getUint32(entry * ENTRY_BYTES + 4, true);
    if (high === 0) {
      if (low === 0) return ABSENT;
      if (low === ZERO_MARKER && level === 'L2') return ZEROED;
    }
    if (this.#judge(level, low, high) !== SOUND) return LOOK;
    const number = (high * 0x100000000 + low) / this.#geometry.clusterSize;
    return number <= LAST_CLUSTER ? number : LOOK;
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
    const word = this.#word(level, 0);
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
