/**
 * A source: the addressable bytes underneath an image. Synchronous and positional; nothing throws and nothing
 * is allocated per call. Every member is required, so that a filter cannot forget to forward one.
 */

import type { Moved, Status } from '../base/errno.ts';
import type { ByteCount, HostOffset } from '../base/units.ts';

/**
 * What a write is for: the named events at which tests inject faults and that recordings are labelled with. The
 * file source ignores it.
 */
export type WriteStep =
  /** Bytes of the disk. */
  | 'payload.write'
  /** Zeros over bytes of the disk, or over a block that is given out again. */
  | 'payload.zero'
  /** Identity, counters and the state of the image as a whole. */
  | 'header.write'
  /** An entry of the block map: VHD and VHDX BAT, VDI map, QED L1 and L2. */
  | 'table.write'
  | 'bitmap.write'
  | 'footer.write'
  | 'log.write'
  /** The file grows or shrinks. */
  | 'size.set'
  | 'flush';

export interface BlockSource {
  /** For people: the path, never parsed. */
  readonly label: string;
  /** Bytes now: a source that is written grows and shrinks, and every thread sees it. */
  readonly size: ByteCount;
  /** Whether it was opened for writing. Where not, the writing members return -EBADF. */
  readonly writable: boolean;
  /**
   * Fills target[start] to target[start + length - 1] from `at`. Returns the bytes read, fewer than `length`
   * only at the end of the source, or -errno.
   */
  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved;
  /**
   * Writes all of bytes[start] to bytes[start + length - 1] at `at`; behind the end the source grows, and what
   * lies between reads as zeros. Returns 0, or -errno: then any part of it may have been written.
   */
  writeAt(bytes: Uint8Array, start: number, length: ByteCount, at: HostOffset, step: WriteStep): Status;
  /**
   * Makes `length` bytes at `at` read as zeros; never changes the size, and what lies past the end is ignored.
   * - punch: the space is given back to the host where it can take it.
   * - keep: the space stays reserved where the host can do that.
   * Returns 0 or -errno.
   */
  zero(at: HostOffset, length: ByteCount, how: 'punch' | 'keep', step: WriteStep): Status;
  /** Grows the source with zeros, or cuts it off. A block device can only keep its size. Returns 0 or -errno. */
  setSize(size: ByteCount): Status;
  /** fdatasync: all that was written before, and the size, is stable when it returns 0. */
  flush(): Status;
  /**
   * The first offset at or after `at` that may hold data, `size` if none does. A source that cannot tell says
   * `at`: everything is data.
   */
  nextData(at: HostOffset): HostOffset;
  /** The first offset at or after `at` that holds no data (reads as zeros), at most `size`. */
  nextHole(at: HostOffset): HostOffset;
  /** Bytes that the source takes on its medium now, where known; else its size. */
  readonly allocated: ByteCount;
  /** What another thread needs to use the same source (see `attachSource`). */
  share(): SharedSource;
  close(): void;
}

/** Plain data; descriptors belong to the process, so every thread can use them. */
export type SharedSource = {
  readonly kind: 'file';
  readonly fd: number;
  readonly label: string;
  readonly writable: boolean;
  /** A block device: its size is fixed. */
  readonly device: boolean;
  /** One f64, the size: written by whoever holds the image's allocation lock, read by all. */
  readonly size: SharedArrayBuffer;
};

/**
 * Reads exactly `length` bytes at `at` for the control plane. Throws what `problem` makes of a short or failed
 * read; `problem` gets the -errno, or the number of bytes that were there.
 */
export function readExactly(
  source: BlockSource,
  at: number,
  length: ByteCount,
  problem: (outcome: Moved) => Error,
): Uint8Array {
  const target = new Uint8Array(length);
  const moved = source.readAt(target, 0, length, at as HostOffset);
  if (moved !== length) throw problem(moved);
  return target;
}
