/**
 * What replaying the log would change, held in memory and laid over the file: 4 KiB sectors with new bytes, and
 * ranges that become zeros. The contents are SharedArrayBuffers, so that every thread lays the same patches
 * over its own source without a copy.
 */

import { EBADF, type Moved, type Status } from '../../base/errno.ts';
import type { ByteCount, HostOffset } from '../../base/units.ts';
import type { BlockSource, SharedSource } from '../../source/block-source.ts';
import { LOG_SECTOR } from './structs.ts';

/** Plain, structured-cloneable data. Never changed once made, but for `retired`. */
export interface OverlayState {
  /**
   * One word: 1 when the log was replayed into the file for good. From then on every thread sees the file as it
   * is, which goes on to change. Set once, by whoever makes the first write of the mount (editor.ts).
   */
  readonly retired: SharedArrayBuffer;
  /** Bytes of the file after replay; at least those of the source. */
  readonly size: ByteCount;
  /** Numbers of the replaced 4 KiB sectors, ascending, as f64 (a u32 would end at 16 TiB). */
  readonly sectors: SharedArrayBuffer;
  /** Their bytes, 4096 for each, in the same order. */
  readonly data: SharedArrayBuffer;
  /** Zeroed ranges, as pairs of f64 sector numbers (first, end): ascending, disjoint, below the data. */
  readonly zeros: SharedArrayBuffer;
}

export class Overlay implements BlockSource {
  readonly label: string;
  readonly #base: BlockSource;
  readonly #size: ByteCount;
  readonly #retired: Int32Array<SharedArrayBuffer>;
  readonly #sectors: Float64Array;
  readonly #data: Uint8Array;
  readonly #zeros: Float64Array;

  constructor(base: BlockSource, state: OverlayState) {
    this.#base = base;
    this.label = base.label;
    this.#size = state.size;
    this.#retired = new Int32Array(state.retired);
    this.#sectors = new Float64Array(state.sectors);
    this.#data = new Uint8Array(state.data);
    this.#zeros = new Float64Array(state.zeros);
  }

  /** Whether the file has all that is here. It never becomes false again. */
  get retired(): boolean {
    return Atomics.load(this.#retired, 0) === 1;
  }

  get size(): ByteCount {
    const size = this.#base.size;
    return this.retired ? size : Math.max(size, this.#size);
  }

  get allocated(): ByteCount {
    return this.#base.allocated;
  }

  /**
   * A read that began before the overlay was retired may end after it, with bytes that the file no longer has.
   * Tables bear that: a page that was read before a change ended is not believed (PagedTable).
   */
  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved {
    if (this.retired) return this.#base.readAt(target, start, length, at);
    const wanted = Math.max(0, Math.min(length, this.size - at));
    const real = Math.max(0, Math.min(wanted, this.#base.size - at));
    if (real > 0) {
      const moved = this.#base.readAt(target, start, real, at);
      if (moved < real) return moved;
    }
    // What replay appends to the file reads as zeros.
    target.fill(0, start + real, start + wanted);
    const end = at + wanted;
    for (let pair = this.#zerosFrom(at); pair < this.#zeros.length; pair += 2) {
      const from = Math.max(at, this.#zeros[pair]! * LOG_SECTOR);
      if (from >= end) break;
      const to = Math.min(end, this.#zeros[pair + 1]! * LOG_SECTOR);
      target.fill(0, start + from - at, start + to - at);
    }
    for (let slot = this.#sectorsFrom(at); slot < this.#sectors.length; slot += 1) {
      const place = this.#sectors[slot]! * LOG_SECTOR;
      if (place >= end) break;
      const from = Math.max(at, place);
      const to = Math.min(end, place + LOG_SECTOR);
      const bytes = slot * LOG_SECTOR - place;
      target.set(this.#data.subarray(bytes + from, bytes + to), start + from - at);
    }
    return wanted;
  }

  /** The log is replayed into the file before anything is written there. */
  readonly writable = false;

  writeAt(): Status {
    return -EBADF;
  }

  zero(): Status {
    return -EBADF;
  }

  setSize(): Status {
    return -EBADF;
  }

  flush(): Status {
    return -EBADF;
  }

  /** Only metadata is read through the overlay, and nobody asks where that has holes. */
  nextData(at: HostOffset): HostOffset {
    return Math.min(at, this.size) as HostOffset;
  }

  nextHole(_at: HostOffset): HostOffset {
    return this.size as HostOffset;
  }

  /** Host offset of the first byte from `at` on, below `end`, that replay changes; `end` if there is none. */
  nextPatch(at: number, end: number): number {
    const slot = this.#sectorsFrom(at);
    const pair = this.#zerosFrom(at);
    const sector = slot < this.#sectors.length ? this.#sectors[slot]! * LOG_SECTOR : end;
    const zero = pair < this.#zeros.length ? this.#zeros[pair]! * LOG_SECTOR : end;
    return Math.min(end, Math.max(at, Math.min(sector, zero)));
  }

  /** Where the zeros end that replay writes at `at`, at most `end`; `at` itself if it writes none or data. */
  zerosUntil(at: number, end: number): number {
    const pair = this.#zerosFrom(at);
    if (pair >= this.#zeros.length || this.#zeros[pair]! * LOG_SECTOR > at) return at;
    const slot = this.#sectorsFrom(at);
    const sector = slot < this.#sectors.length ? this.#sectors[slot]! * LOG_SECTOR : end;
    return Math.max(at, Math.min(end, sector, this.#zeros[pair + 1]! * LOG_SECTOR));
  }

  /** The patches are shared as `OverlayState`, the source below by its own description. */
  share(): SharedSource {
    throw new Error(`${this.label}: a replayed log is shared with its image, not as a source`);
  }

  close(): void {
    this.#base.close();
  }

  /** Index of the first replaced sector that ends behind `at`. */
  #sectorsFrom(at: number): number {
    const sector = Math.floor(at / LOG_SECTOR);
    let low = 0;
    let high = this.#sectors.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#sectors[middle]! < sector) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Index of the first pair of `zeros` that ends behind `at`. */
  #zerosFrom(at: number): number {
    const sector = Math.floor(at / LOG_SECTOR);
    let low = 0;
    let high = this.#zeros.length / 2;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#zeros[middle * 2 + 1]! <= sector) low = middle + 1;
      else high = middle;
    }
    return low * 2;
  }
}

/** Bytes of one write of `writeInPlace`. */
const PIECE_BYTES = 256 * LOG_SECTOR;

/**
 * Replays into the file what the overlay shows in memory: its length, its zeros, then its sectors. It may be
 * repeated. Nothing is flushed. Returns 0 or -errno.
 */
export function writeInPlace(state: OverlayState, source: BlockSource): Status {
  let status = state.size > source.size ? source.setSize(state.size) : 0;
  const zeros = new Float64Array(state.zeros);
  for (let pair = 0; pair < zeros.length && status === 0; pair += 2) {
    const at = zeros[pair]! * LOG_SECTOR;
    status = source.zero(at as HostOffset, zeros[pair + 1]! * LOG_SECTOR - at, 'keep', 'table.write');
  }
  const sectors = new Float64Array(state.sectors);
  const data = new Uint8Array(state.data);
  const piece = new Uint8Array(Math.min(PIECE_BYTES, data.length));
  for (let slot = 0; slot < sectors.length && status === 0; ) {
    let end = slot + 1;
    const limit = Math.min(sectors.length, slot + PIECE_BYTES / LOG_SECTOR);
    while (end < limit && sectors[end] === sectors[slot]! + end - slot) end += 1;
    piece.set(data.subarray(slot * LOG_SECTOR, end * LOG_SECTOR));
    const at = (sectors[slot]! * LOG_SECTOR) as HostOffset;
    status = source.writeAt(piece, 0, (end - slot) * LOG_SECTOR, at, 'table.write');
    slot = end;
  }
  return status;
}

/** Ends the overlay for every thread. */
export function retire(state: OverlayState): void {
  Atomics.store(new Int32Array(state.retired), 0, 1);
}

/** An update of one sector; `fill` writes the 4096 bytes. */
export interface SectorUpdate {
  readonly sector: number;
  readonly fill: (into: Uint8Array) => void;
}

/** Sectors `first` to `end - 1` become zeros. */
export interface ZeroUpdate {
  readonly first: number;
  readonly end: number;
}

/** The updates of a log in the order of replay, gathered into what they leave behind. */
export class OverlayBuilder {
  readonly #latest = new Map<number, { readonly order: number; readonly update: SectorUpdate }>();
  readonly #zeros: (ZeroUpdate & { readonly order: number })[] = [];
  #order = 0;

  data(update: SectorUpdate): void {
    this.#latest.set(update.sector, { order: this.#order, update });
    this.#order += 1;
  }

  zero(update: ZeroUpdate): void {
    this.#zeros.push({ ...update, order: this.#order });
    this.#order += 1;
  }

  /** Zero updates so far. */
  get zeroCount(): number {
    return this.#zeros.length;
  }

  /** What replay leaves of a file of `sourceSize` bytes that it extends to at least `lastFileOffset`. */
  finish(sourceSize: ByteCount, lastFileOffset: ByteCount): OverlayState {
    const { edges, newest } = this.#paintZeros();
    const kept = [...this.#latest.values()]
      .filter(({ order, update }) => {
        const interval = lowerBound(edges, update.sector + 1) - 1;
        return interval < 0 || newest[interval]! < order;
      })
      .map(({ update }) => update)
      .sort((a, b) => a.sector - b.sector);
    const sectors = new SharedArrayBuffer(kept.length * 8);
    const data = new SharedArrayBuffer(kept.length * LOG_SECTOR);
    const numbers = new Float64Array(sectors);
    kept.forEach((update, slot) => {
      numbers[slot] = update.sector;
      update.fill(new Uint8Array(data, slot * LOG_SECTOR, LOG_SECTOR));
    });

    const pairs: number[] = [];
    for (let interval = 0; interval + 1 < edges.length; interval += 1) {
      if (newest[interval]! < 0) continue;
      if (pairs.at(-1) === edges[interval]) pairs[pairs.length - 1] = edges[interval + 1]!;
      else pairs.push(edges[interval]!, edges[interval + 1]!);
    }
    const zeros = new SharedArrayBuffer(pairs.length * 8);
    new Float64Array(zeros).set(pairs);
    const patched = Math.max((numbers.at(-1) ?? -1) + 1, pairs.at(-1) ?? 0) * LOG_SECTOR;
    const size = Math.max(sourceSize, lastFileOffset, patched);
    return { retired: new SharedArrayBuffer(4), size, sectors, data, zeros };
  }

  /**
   * Cuts the sectors at the ends of all zero updates and finds for each interval the newest update that covers
   * it (-1: none). Newest first, each interval painted once: `next` skips what is painted, so that overlapping
   * updates cost no more than disjoint ones.
   */
  #paintZeros(): { edges: Float64Array; newest: Float64Array } {
    const edges = Float64Array.from(
      [...new Set(this.#zeros.flatMap(({ first, end }) => [first, end]))].sort((a, b) => a - b),
    );
    const newest = new Float64Array(edges.length).fill(-1);
    const next = Uint32Array.from({ length: edges.length + 1 }, (_, interval) => interval);
    const unpainted = (from: number): number => {
      let interval = from;
      while (next[interval] !== interval) {
        next[interval] = next[next[interval]!]!;
        interval = next[interval]!;
      }
      return interval;
    };
    for (const { first, end, order } of this.#zeros.toReversed()) {
      let interval = unpainted(lowerBound(edges, first));
      while (interval < edges.length && edges[interval]! < end) {
        newest[interval] = order;
        next[interval] = interval + 1;
        interval = unpainted(interval + 1);
      }
    }
    return { edges, newest };
  }
}

/** Index of the first of `values` (ascending) that is not below `wanted`. */
function lowerBound(values: Float64Array, wanted: number): number {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle]! < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}
