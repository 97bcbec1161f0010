/**
 * The room in a file that is changed as a whole: what is in use of it, by its table and since, and where there are places
 * for more. Reads and writes nothing; that the file is long enough is the caller's.
 */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, roundUp } from '../../base/units.ts';
import {
  type BlockList,
  blockBytes,
  blockWithin,
  endOfUse,
  freePlaces,
  gaps,
  LAST_SECTOR,
  nextPlace,
} from './space.ts';
import { SECTOR } from './structs.ts';
import type { Layout } from './table.ts';

export class Room {
  readonly #label: string;
  readonly #layout: Layout;
  readonly #list: BlockList;
  /** Host ranges in use beside blocks and metadata, those given out since included. */
  readonly #reserved: number[];

  /** `label`: of the file. `list`: blocks that are where they can be. `reserved`: see `reservedRanges`. */
  constructor(label: string, layout: Layout, list: BlockList, reserved: readonly number[]) {
    this.#label = label;
    this.#layout = layout;
    this.#list = list;
    this.#reserved = [...reserved];
  }

  /** Bytes of the block at `sector` that are its own: all of it, but for a last one that is cut short by others. */
  ownBytes(sector: number): ByteCount {
    const start = sector * SECTOR;
    let end = Math.min(start + blockBytes(this.#layout), this.#layout.limit[0]!);
    const { starts } = this.#list;
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= sector) low = middle + 1;
      else high = middle;
    }
    if (low < starts.length) end = Math.min(end, starts[low]! * SECTOR);
    for (const of of [this.#layout.metadata, this.#reserved]) {
      for (let n = 0; n < of.length; n += 2) if (of[n]! > start) end = Math.min(end, of[n]!);
    }
    return end - start;
  }

  /** These bytes of the file are in use too. */
  reserve(at: number, end: number): void {
    this.#reserved.push(at, end);
  }

  /** Whether nothing that is known to be in use has bytes there. */
  isUnused(at: number, end: number): boolean {
    for (const of of [this.#layout.metadata, this.#reserved]) {
      for (let n = 0; n < of.length; n += 2) if (of[n]! < end && of[n + 1]! > at) return false;
    }
    return blockWithin(this.#layout, this.#list, at, end) === undefined;
  }

  gaps(): Generator<readonly [number, number]> {
    return gaps(this.#layout, this.#list, this.#reserved, this.#layout.limit[0]!);
  }

  /** Where the last of what is in use ends. */
  get end(): number {
    return endOfUse(this.#layout, this.#list, this.#reserved);
  }

  /** Gives out `length` bytes, whole sectors, in the first gap or at the end. Returns the host offset. */
  take(length: ByteCount): number {
    let at: number | undefined;
    for (const [from, end] of this.gaps()) {
      if (end - roundUp(from, SECTOR) < length) continue;
      at = roundUp(from, SECTOR);
      break;
    }
    at ??= this.end;
    this.reserve(at, at + length);
    return at;
  }

  /** Gives out `count` places of blocks: their sectors. Throws ImageError('usage') where there is no room. */
  takeBlocks(count: number): number[] {
    const found: number[] = [];
    for (const sector of freePlaces(this.#layout, this.gaps())) {
      if (found.length === count) break;
      found.push(sector);
    }
    const bytes = blockBytes(this.#layout);
    const before = this.end;
    let end = before;
    for (const sector of found) end = Math.max(end, sector * SECTOR + bytes);
    while (found.length < count) {
      const at = nextPlace(this.#layout, end);
      if (at / SECTOR > LAST_SECTOR) {
        throw new ImageError('usage', `${this.#label}: a VHD has no room for blocks behind 2 TiB`);
      }
      found.push(at / SECTOR);
      end = at + bytes;
    }
    for (const sector of found) {
      if (sector * SECTOR < before) this.reserve(sector * SECTOR, sector * SECTOR + bytes);
    }
    // Those at the end are one range, however many they are.
    if (end > before) this.reserve(before, end);
    return found;
  }
}
