/** What a repair makes of single entries of the BAT. Reads only. */

import { hex, MIB } from '../../base/units.ts';
import type { BlockSource } from '../../source/block-source.ts';
import {
  type BatGeometry,
  blockOf,
  describeDamage,
  entryName,
  fits,
  isBitmapEntry,
  takenUntil,
} from './bat.ts';
import { wordOf } from './bat-change.ts';
import {
  FULLY_PRESENT,
  NOT_PRESENT,
  PARTIALLY_PRESENT,
  UNMAPPED,
  UNMAPPED_DRAFT,
  ZEROED,
} from './structs.ts';
import { batPieces } from './survey.ts';

const RESERVED_BITS = 0xffff8;

export interface Mending {
  /** What the entry is to say: place in MiB * 8 + state. */
  readonly word: number;
  readonly text: string;
  /** Bytes of the disk that are lost with it; undefined: nothing is. */
  readonly lost?: number;
  /** How long the file must be for it. */
  readonly reach?: number;
}

/** Says what is to become of an entry, given both halves of it; undefined: it stays. */
export type Mend = (entry: number, low: number, high: number) => Mending | undefined;

/** `source` has the log replayed. Bounded by the number of chunks. */
export function mender(source: BlockSource, bat: BatGeometry): Mend {
  const { blockSize, blocks, chunkShift, hasParent, virtualSize } = bat;
  const taken = new Float64Array(bat.taken);
  const fileSize = source.size;
  const stride = 2 ** chunkShift + 1;
  const { partial, withBits } = chunksOf(source, bat, taken);
  const name = (entry: number): string => entryName(bat, entry);
  const zeroed = (entry: number, lost: number): Mending => ({
    word: ZEROED,
    text: `${describeDamage(source, bat, entry)}; it reads as zeros now`,
    lost,
  });

  const bitmap: Mend = (entry, low, high) => {
    const word = wordOf(low, high);
    const state = word % 8;
    const chunk = Math.floor(entry / stride);
    if (state === FULLY_PRESENT && withBits.has(chunk)) return undefined;
    if (state === NOT_PRESENT && word === 0) return undefined;
    const text =
      state === NOT_PRESENT
        ? `${name(entry)}: is absent, but had the offset ${hex(Math.floor(word / 8))} MiB; cleared`
        : `${name(entry)}: state was ${state}, but no block needs it; is 0 now`;
    if (!partial.has(chunk) || state === NOT_PRESENT) return { word: NOT_PRESENT, text };
    return { word: NOT_PRESENT, text: `${describeDamage(source, bat, entry)}; is 0 now`, lost: 0 };
  };

  /** Something of the disk is in the file, or should be. */
  const present: Mend = (entry, low, high) => {
    const word = wordOf(low, high);
    const state = word % 8;
    const mib = Math.floor(word / 8);
    const size = Math.min(blockSize, virtualSize - blockOf(entry, chunkShift) * blockSize);
    if (!fits(bat, taken, fileSize, entry, mib)) {
      const isCut = mib * MIB < fileSize && takenUntil(taken, mib, mib + blockSize / MIB) === mib;
      if (!isCut || (state === PARTIALLY_PRESENT && !withBits.has(Math.floor(entry / stride)))) {
        return zeroed(entry, size);
      }
      const lost = mib * MIB + size - fileSize;
      const text = `${describeDamage(source, bat, entry)}; what is missing reads as zeros now`;
      return { word, text, lost, reach: mib * MIB + blockSize };
    }
    if (state === FULLY_PRESENT || withBits.has(Math.floor(entry / stride))) return undefined;
    const why = hasParent ? 'has no sector bitmap' : 'there is no parent';
    const text = `${name(entry)}: was partially present, but ${why}; all of it is as in the file now`;
    return { word: word - PARTIALLY_PRESENT + FULLY_PRESENT, text, lost: size };
  };

  const other: Mend = (entry, low, high) => {
    const word = wordOf(low, high);
    const state = word % 8;
    if (isBitmapEntry(entry, chunkShift)) return bitmap(entry, low, high);
    const block = blockOf(entry, chunkShift);
    if (block >= blocks) return undefined;
    switch (state) {
      case NOT_PRESENT:
      case ZEROED: {
        if (word === state) return undefined;
        const offset = hex(Math.floor(word / 8));
        return {
          word: state,
          text: `${name(entry)}: state is ${state}, but had the offset ${offset} MiB; cleared`,
        };
      }
      case UNMAPPED_DRAFT:
        return {
          word: word - UNMAPPED_DRAFT + UNMAPPED,
          text: `${name(entry)}: state was 5, that of an old draft; is 3 now`,
        };
      case FULLY_PRESENT:
      case PARTIALLY_PRESENT:
        return present(entry, low, high);
      case 4:
        return zeroed(entry, Math.min(blockSize, virtualSize - block * blockSize));
      default:
        return undefined;
    }
  };

  return (entry, low, high) => {
    const mending = other(entry, low, high);
    if (mending !== undefined || (low & RESERVED_BITS) === 0) return mending;
    const bits = hex((low & RESERVED_BITS) >>> 0);
    return { word: wordOf(low, high), text: `${name(entry)}: reserved bits were set (${bits}); cleared` };
  };
}

/** Chunks with partially present blocks, and those with a sector bitmap that can be used. */
function chunksOf(source: BlockSource, bat: BatGeometry, taken: Float64Array) {
  const partial = new Set<number>();
  const withBits = new Set<number>();
  const stride = 2 ** bat.chunkShift + 1;
  if (!bat.hasParent) return { partial, withBits };
  for (const { first, count, halves } of batPieces(source, bat.at, bat.entries)) {
    for (let n = 0; n < count; n += 1) {
      const low = halves[n * 2]!;
      const entry = first + n;
      const chunk = Math.floor(entry / stride);
      if (!isBitmapEntry(entry, bat.chunkShift)) {
        if ((low & 7) === PARTIALLY_PRESENT && blockOf(entry, bat.chunkShift) < bat.blocks)
          partial.add(chunk);
      } else if ((low & 7) === FULLY_PRESENT) {
        const mib = Math.floor(wordOf(low, halves[n * 2 + 1]!) / 8);
        if (fits(bat, taken, source.size, entry, mib)) withBits.add(chunk);
      }
    }
  }
  return { partial, withBits };
}
