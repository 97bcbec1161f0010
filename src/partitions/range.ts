/** Reading a part of a disk for those who look for structures in it: main thread, before anything is mounted. */

import type { Moved } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { type ByteCount, type GuestOffset, guestOffset, hex, KIB } from '../base/units.ts';

/** What a table or a signature is read from: `Disk` is one. */
export interface DiskReader {
  /** Bytes. */
  readonly size: ByteCount;
  read(target: Uint8Array, start: number, length: ByteCount, at: GuestOffset): Moved;
}

/** Read in one piece and kept: nearly all that is asked for is in there. */
const HEAD_BYTES = 72 * KIB;

/** Bytes `start` to `start + size` of a disk; offsets count from `start`. */
export class DiskRange {
  readonly size: ByteCount;
  readonly #disk: DiskReader;
  readonly #start: number;
  #head: Buffer | undefined;

  /** The range lies within the disk. */
  constructor(disk: DiskReader, start = 0, size: ByteCount = disk.size) {
    this.#disk = disk;
    this.#start = start;
    this.size = size;
  }

  /**
   * `length` bytes at `at`; undefined where not all of them are in the range. To be read only. Throws
   * ImageError('io') where the disk cannot be read.
   */
  bytes(at: number, length: ByteCount): Buffer | undefined {
    if (at < 0 || at + length > this.size) return undefined;
    if (at + length > HEAD_BYTES) return this.#read(at, length);
    this.#head ??= this.#read(0, Math.min(HEAD_BYTES, this.size));
    return this.#head.subarray(at, at + length);
  }

  #read(at: number, length: ByteCount): Buffer {
    const target = Buffer.alloc(length);
    const moved = this.#disk.read(target, 0, length, guestOffset(this.#start + at));
    if (moved !== length) {
      const found = moved < 0 ? `errno ${-moved}` : `${moved} bytes`;
      throw new ImageError(
        'io',
        `the disk at ${hex(this.#start + at)}: ${length} bytes were wanted, found ${found}`,
      );
    }
    return target;
  }
}
