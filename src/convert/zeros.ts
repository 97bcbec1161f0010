/** Where bytes are zeros, in units of 4 KiB: what file systems keep, and what qemu-img convert looks at by default. */

import { type ByteCount, KIB } from '../base/units.ts';

export const ZERO_UNIT: ByteCount = 4 * KIB;

const ZEROS = Buffer.alloc(ZERO_UNIT);

/** Finds runs in one array, whose length is a multiple of 4 KiB. */
export class ZeroFinder {
  readonly #bytes: Buffer;
  readonly #words: Int32Array;

  constructor(bytes: Uint8Array<SharedArrayBuffer | ArrayBuffer>) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  }

  /** The first unit at or after `from` that is not all zeros, `end` where there is none. `from` is the start of a unit. */
  nextData(from: number, end: number): number {
    let at = from;
    while (at < end && this.#isZero(at, end)) at += ZERO_UNIT;
    return Math.min(at, end);
  }

  /** The first unit at or after `from` that is all zeros, `end` where there is none. `from` is the start of a unit. */
  nextZeros(from: number, end: number): number {
    let at = from;
    while (at < end && !this.#isZero(at, end)) at += ZERO_UNIT;
    return Math.min(at, end);
  }

  #isZero(at: number, end: number): boolean {
    // Nearly every unit with data in it is told by its first word.
    if (end - at >= 4 && this.#words[at >>> 2] !== 0) return false;
    const stop = Math.min(at + ZERO_UNIT, end);
    return this.#bytes.compare(ZEROS, 0, stop - at, at, stop) === 0;
  }
}
