/**
 * What replaying the log would change, held in memory and laid over the file: 4 KiB sectors with new bytes, and
 * ranges that become zeros. The contents are SharedArrayBuffers, so that every thread lays the same patches
 * over its own source without a copy.
 */

import type { Moved } from '../../base/errno.ts';
import type { ByteCount, HostOffset } from '../../base/units.ts';
import type { BlockSource, SharedSource } from '../../source/block-source.ts';
import { LOG_SECTOR } from './structs.ts';

/** Plain, structured-cloneable data. Never changed once made. */
export interface OverlayState {
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
  readonly size: ByteCount;
  readonly #base: BlockSource;
  readonly #sectors: Float64Array;
  readonly #data: Uint8Array;
  readonly #zeros: Float64Array;

  constructor(base: BlockSource, state: OverlayState) {
    this.#base = base;
    this.label = base.label;
    this.size = state.size;
    this.#sectors = new Float64Array(state.sectors);
    this.#data = new Uint8Array(state.data);
    this.#zeros = new Float64Array(state.zeros);
  }

  get allocated(): ByteCount {
    return this.#base.allocated;
  }

  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved {
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
    return { size: Math.max(sourceSize, lastFileOffset, patched), sectors, data, zeros };
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
