/**
 * A source: the addressable bytes underneath an image. Synchronous and positional; nothing throws and nothing
 * is allocated per call. Every member is required, so that a filter cannot forget to forward one.
 *
 * Writing (`writeAt`, `flush`, `punch`, …) joins this interface with the write path.
 */

import type { Moved } from '../base/errno.ts';
import type { ByteCount, HostOffset } from '../base/units.ts';

export interface BlockSource {
  /** For people: the path, never parsed. */
  readonly label: string;
  /** Bytes at the time of opening; an image that we only read does not grow. */
  readonly size: ByteCount;
  /**
   * Fills target[start] to target[start + length - 1] from `at`. Returns the bytes read, fewer than `length`
   * only at the end of the source, or -errno.
   */
  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved;
  /**
   * The first offset at or after `at` that may hold data, `size` if none does. A source that cannot tell says
   * `at`: everything is data.
   */
  nextData(at: HostOffset): HostOffset;
  /** The first offset at or after `at` that holds no data (reads as zeros), at most `size`. */
  nextHole(at: HostOffset): HostOffset;
  /** Bytes that the source takes on its medium, where known; else its size. */
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
  readonly size: ByteCount;
  readonly allocated: ByteCount;
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
