/**
 * Another size for a fixed image, whose only footer is behind the data. In order, each step stable before the next:
 *
 *   1. growing: the footer, still with the old size, is written at the new end, which extends the file. The disk ends
 *      before the old footer, which nobody looks at any more
 *   2. the old footer, and what else lies between the old size and the new, becomes zeros
 *   3. the footer gets the new size: one sector
 *   4. shrinking: the footer is written at the new end too, then the file is cut off behind it
 *
 * One instant is not whole: a file system that makes the file's size stable before what was written behind the old one
 * leaves, after a power cut during 1, zeros where the footer should be. (None that writes data in order does: ext4 and
 * XFS record the size when the data is there.) No order avoids that, since the last sector must be the footer and a
 * file cannot grow by one sector and by much at once; a repair finds the old footer in front of the zeros and cuts them
 * off (repair-footer.ts), and nothing is lost.
 */

import type { ByteCount } from '../../base/units.ts';
import { hostOffset, roundUp } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { flush, writeFooter } from './checked-file.ts';
import { withSize } from './footer.ts';
import type { VhdImage } from './image.ts';
import type { Steps } from './rework.ts';
import { SECTOR } from './structs.ts';

/** `size` is a multiple of 512. The image may be written (prepare.ts). */
export function* resizeFixed(source: BlockSource, image: VhdImage, size: ByteCount): Steps {
  const before = image.virtualSize;
  const { bytes, footer } = image.found.copy;
  const total = Math.abs(size - before);
  let { at } = image.found.copy;
  const end = source.size;
  const target = at % SECTOR === 0 ? size : Math.max(size, roundUp(at + 2 * SECTOR, SECTOR));
  if (target > at) {
    const asBefore = withSize(bytes, before);
    // What it says may be more than the file holds: at another place the disk would be larger.
    if (at % SECTOR === 0 && footer.currentSize > BigInt(at)) {
      writeFooter(source, asBefore, at);
      flush(source);
    }
    writeFooter(source, asBefore, target);
    flush(source);
    at = target;
  }
  yield { done: 0, total };
  if (size > before) {
    const length = Math.min(size, end) - before;
    must(
      source.zero(hostOffset(before), length, 'punch', 'payload.zero'),
      source,
      'its new part cannot be made zeros',
    );
    flush(source);
  }
  const now = withSize(bytes, size);
  writeFooter(source, now, at);
  flush(source);
  yield { done: total / 2, total };
  cutFixed(source, now, at, size);
}

/** Ends a fixed image at `end`, its footer being at `at`, both at sectors: a device keeps its size. */
export function cutFixed(source: BlockSource, footer: Uint8Array, at: number, end: number): void {
  if (at <= end) return;
  writeFooter(source, footer, end);
  flush(source);
  if (source.setSize(end + SECTOR) === 0) flush(source);
}
