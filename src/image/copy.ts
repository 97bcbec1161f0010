/** Copying within an image file, where blocks move to other places. */

import { type ByteCount, type HostOffset, hex, KIB, MIB } from '../base/units.ts';
import type { BlockSource } from '../source/block-source.ts';
import { must } from './must.ts';

/** Bytes that are copied at once. */
const PIECE = MIB;
const PAGE = 4 * KIB;

/** Not held from one piece to the next. */
let buffer: Uint8Array | undefined;

/**
 * Copies `length` bytes from `from` to `to`, which do not overlap. Holes stay holes, whatever the target had; what is behind
 * the end of the file is zeros. The file has all of the target. Nothing is flushed. Yields how many bytes are done more.
 * Throws ImageError('io'); then any part of the target may be written.
 */
export function* copyPieces(
  source: BlockSource,
  from: number,
  to: number,
  length: ByteCount,
): Generator<ByteCount, void, undefined> {
  buffer ??= new Uint8Array(PIECE);
  const end = from + length;
  for (let at = from; at < end; ) {
    const target = (to + (at - from)) as HostOffset;
    const next = at < source.size ? source.nextData(at as HostOffset) : end;
    const data = next < source.size ? Math.min(next, end) : end;
    let count = data - at;
    if (count > 0) clear(source, target, count);
    else {
      // A hole that begins within a page is told by some file systems as if the page had none of it.
      const hole = Math.max(source.nextHole(at as HostOffset), at + PAGE);
      count = Math.min(PIECE, hole - at, end - at);
      const moved = source.readAt(buffer, 0, count, at as HostOffset);
      must(moved, source, `${count} bytes at ${hex(at)} cannot be read`);
      buffer.fill(0, moved, count);
      const status = source.writeAt(buffer, 0, count, target, 'payload.write');
      must(status, source, `${count} bytes at ${hex(target)} cannot be written`);
    }
    at += count;
    yield count;
  }
}

/** All of it at once. */
export function copyBytes(source: BlockSource, from: number, to: number, length: ByteCount): void {
  const pieces = copyPieces(source, from, to, length);
  while (pieces.next().done !== true);
}

function clear(source: BlockSource, at: HostOffset, length: ByteCount): void {
  if (source.nextData(at) >= at + length) return;
  const status = source.zero(at, length, 'punch', 'payload.zero');
  must(status, source, `${length} bytes at ${hex(at)} cannot be made zeros`);
}
