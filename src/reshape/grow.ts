/** What a disk that changes its size must not uncover, and must not lose. */

import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { type ByteCount, formatSize, guestOffset, hex } from '../base/units.ts';
import { PIECE_BYTES } from '../disk/compare.ts';
import type { Disk } from '../disk/disk.ts';
import { isZeros } from '../disk/walker.ts';
import { must } from '../image/must.ts';
import type { Reshaping } from '../image/reshape.ts';
import { areZeros } from './disk.ts';

/** The first byte from `from` on, below `end`, that is not zero; undefined where all are. */
export function* firstByte(
  disk: Disk,
  label: string,
  from: number,
  end: number,
): Reshaping<number | undefined> {
  const walker = disk.walker();
  const buffer = new Uint8Array(PIECE_BYTES);
  const limit = Math.min(end, disk.size);
  const total = limit - from;
  for (let at = from; at < limit; ) {
    yield { done: at - from, total };
    must(walker.look(guestOffset(at)), { label }, `where its disk is at ${at} cannot be told`);
    const length = Math.min(walker.length, limit - at);
    if (isZeros(walker)) {
      at += length;
      continue;
    }
    const piece = Math.min(PIECE_BYTES, length);
    const moved = disk.read(buffer, 0, piece, guestOffset(at));
    must(Math.min(moved, 0), { label }, `its disk cannot be read at ${at}`);
    const bytes = buffer.subarray(0, piece);
    if (!areZeros(bytes)) return at + bytes.findIndex((byte) => byte !== 0);
    at += piece;
  }
  return undefined;
}

/**
 * Where an image is smaller than its parents, those would show in what it grows by. Throws ImageError('usage') where
 * that is anything but zeros.
 */
export function refuseToUncover(
  label: string,
  below: Disk | undefined,
  before: ByteCount,
  after: ByteCount,
): void {
  if (below === undefined || after <= before || below.size <= before) return;
  const steps = firstByte(below, label, before, after);
  for (;;) {
    const { done, value } = steps.next();
    if (done !== true) continue;
    if (value === undefined) return;
    throw new ImageError(
      'usage',
      `${shownPath(label)}: its parent is larger, ${formatSize(below.size)}, and would show from ${hex(before)} on: ` +
        `its byte at ${hex(value)} is not zero`,
      { hint: 'Give it no parent first: vdisk rebase -b "" FILE.' },
    );
  }
}
