/** Whether two disks hold the same bytes. What reads as zeros in both, or is one place of one file, is not read. */

import { EIO, type Status } from '../base/errno.ts';
import { type ByteCount, type GuestOffset, MIB } from '../base/units.ts';
import { type ExtentKind, ZERO } from '../image/extent.ts';
import type { Disk } from './disk.ts';
import { isZeros, type Walker } from './walker.ts';

/** Read and compared at once. */
export const PIECE_BYTES = MIB;

/** A disk to compare. Nobody may be writing to it. */
export interface ComparedDisk {
  readonly disk: Disk;
  /** What the files of its layers are known by, the image's first: equal in both disks where the file is the same. */
  readonly files: readonly string[];
}

export interface CompareOptions {
  /** Sizes must be equal, and at every place what is allocated, besides the bytes. */
  readonly strict: boolean;
  /** Called after every piece, with how far it is. */
  readonly progress?: ((done: ByteCount, total: ByteCount) => void) | undefined;
}

export type Comparison =
  | { readonly result: 'same' }
  /** `at` is the first byte that is in one only (size), allocated in one only, or not the same. */
  | { readonly result: 'different'; readonly what: 'size' | 'allocation' | 'content'; readonly at: number }
  /** `side` cannot be looked up, or read, at `at` or a little behind it. */
  | {
      readonly result: 'failed';
      readonly side: 0 | 1;
      readonly doing: 'look up' | 'read';
      readonly at: number;
      readonly status: Status;
    };

/** A disk that is walked through once, from its beginning to its end. */
export class Side {
  readonly size: ByteCount;
  readonly #disk: Disk;
  readonly #files: readonly string[];
  readonly #walker: Walker;
  readonly #bytes = new Uint8Array(PIECE_BYTES);
  #from = 0;
  /** Up to here the walker's answer holds. */
  end = 0;

  constructor({ disk, files }: ComparedDisk) {
    this.#disk = disk;
    this.#files = files;
    this.#walker = disk.walker();
    this.size = disk.size;
  }

  /** Makes the members below tell of `at`, up to `end`. Returns 0 or -errno. */
  look(at: number): Status {
    if (at < this.end) return 0;
    this.#from = at;
    if (at >= this.size) {
      this.end = Number.POSITIVE_INFINITY;
      return 0;
    }
    const status = this.#walker.look(at as GuestOffset);
    this.end = at + this.#walker.length;
    return status;
  }

  /** Behind its end it is taken as zeros. */
  get isZeros(): boolean {
    return this.#from >= this.size || isZeros(this.#walker);
  }

  /** Zeros in a hole of the file are allocated, as are explicit ones: a host may have either from the same writes. */
  get allocation(): ExtentKind {
    return this.#walker.sparse ? ZERO : this.#walker.kind;
  }

  /** The file and the place in it where the bytes at `at` are; only where they are not zeros. */
  place(at: number): string {
    const { depth, host } = this.#walker;
    return `${host + at - this.#from} ${this.#files[depth]}`;
  }

  /** At most PIECE_BYTES bytes within what was looked up, which stay until the next call; or -errno. */
  read(at: number, length: ByteCount): Uint8Array | Status {
    const moved = this.#disk.read(this.#bytes, 0, length, at as GuestOffset);
    if (moved < 0) return moved;
    return moved < length ? -EIO : this.#bytes.subarray(0, length);
  }
}

/**
 * Compares up to the first difference. Unless it is strict, the smaller disk is taken to go on with zeros, as
 * qemu-img compare does.
 */
export function compareDisks(
  disks: readonly [ComparedDisk, ComparedDisk],
  { strict, progress }: CompareOptions,
): Comparison {
  const sides = [new Side(disks[0]), new Side(disks[1])] as const;
  const [one, two] = sides;
  const total = Math.max(one.size, two.size);
  if (strict && one.size !== two.size) {
    return { result: 'different', what: 'size', at: Math.min(one.size, two.size) };
  }
  const zeros = new Uint8Array(PIECE_BYTES);
  for (let at = 0; at < total; ) {
    const lost = lookAt(sides, at);
    if (lost !== undefined) return lost;
    if (strict && one.allocation !== two.allocation) return { result: 'different', what: 'allocation', at };
    const end = Math.min(one.end, two.end, total);
    const zero = [one.isZeros, two.isZeros] as const;
    if ((zero[0] && zero[1]) || (!zero[0] && !zero[1] && one.place(at) === two.place(at))) {
      at = end;
    } else {
      const length = Math.min(PIECE_BYTES, end - at);
      const found: Uint8Array[] = [];
      for (const side of [0, 1] as const) {
        const bytes = zero[side] ? zeros.subarray(0, length) : sides[side].read(at, length);
        if (typeof bytes === 'number') return { result: 'failed', side, doing: 'read', at, status: bytes };
        found.push(bytes);
      }
      const first = firstDifference(found[0]!, found[1]!);
      if (first < length) return { result: 'different', what: 'content', at: at + first };
      at += length;
    }
    progress?.(at, total);
  }
  return { result: 'same' };
}

function lookAt(sides: readonly [Side, Side], at: number): Comparison | undefined {
  for (const side of [0, 1] as const) {
    const status = sides[side].look(at);
    if (status < 0) return { result: 'failed', side, doing: 'look up', at, status };
  }
  return undefined;
}

/** The index of the first byte that is not the same; the length where all are. Both are equally long. */
function firstDifference(one: Uint8Array, two: Uint8Array): number {
  let [from, to] = [0, one.length];
  if (Buffer.compare(one, two) === 0) return to;
  // Halved while it is long: Buffer.compare is faster than a loop here.
  while (to - from > 64) {
    const middle = (from + to) >>> 1;
    if (Buffer.compare(one.subarray(from, middle), two.subarray(from, middle)) === 0) from = middle;
    else to = middle;
  }
  while (one[from] === two[from]) from += 1;
  return from;
}
