/**
 * A child that shows its parent everywhere again. All entries become free at once: a map of free entries is
 * written where nobody looks, and the header switches to it in its one sector. Places for it, the first that there is:
 *
 *   - the map itself, where all of its entries lie in one sector
 *   - before the data: between header and map, or behind the map
 *   - behind the end of the file, while that can be named; then a second map, at the old place, is switched to
 *   - in the places of the first blocks, which move away (map-room.ts); likewise
 *
 * Each switch is stable before anything else is written. Then the file is cut off where the data begin.
 */

import { ImageError, unsupported } from '../../base/errors.ts';
import { roundUp } from '../../base/units.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { anyHeaderSize } from './header.ts';
import { isZeros, MAX_OFFSET, moveAside } from './map-room.ts';
import { Work } from './relocate.ts';
import { SECTOR, WholeVdi } from './whole.ts';

export function* empty(source: BlockSource, context: OpenContext): Reshaping {
  const image = WholeVdi.open(source, anyHeaderSize(context));
  if (!image.hasParent) throw new ImageError('usage', 'the VDI has no parent that it could show');
  const { mapOffset, dataOffset } = image.header;
  const length = image.entries.length * 4;
  const sectors = Math.ceil((mapOffset + length) / SECTOR) - Math.floor(mapOffset / SECTOR);
  const before = image.headerEnd;
  const behind = roundUp(mapOffset + length, SECTOR);
  if (sectors <= 1) switchMap(image, mapOffset, dataOffset);
  else if (before + length <= mapOffset && isZeros(image, before, length))
    switchMap(image, before, dataOffset);
  else if (behind + length <= dataOffset) switchMap(image, behind, dataOffset);
  else yield* emptyTwice(image);
  image.cut(image.header.dataOffset);
  image.flush();
}

/** With the map elsewhere for a while. */
function* emptyTwice(image: WholeVdi): Reshaping {
  const { version, mapOffset, dataOffset } = image.header;
  const length = image.entries.length * 4;
  const end = roundUp(image.source.size, SECTOR);
  if (end + length + SECTOR <= MAX_OFFSET) switchMap(image, end, roundUp(end + length, SECTOR));
  else {
    image.scan();
    if ((yield* moveAside(image, image.entries.length, new Work())) !== undefined) {
      throw unsupported(
        'the VDI has no place for a second map, with which all blocks could be given up at once',
        'Make a new child with vdisk create, and remove this one.',
      );
    }
  }
  // By now it is an image of 1.1, whose header is longer.
  if (version === '0.2') switchMap(image, image.headerEnd, roundUp(image.headerEnd + length, SECTOR));
  else switchMap(image, mapOffset, dataOffset);
}

/** To a map of free entries, in a place that nobody looks at, or in one sector. */
function switchMap(image: WholeVdi, mapOffset: number, dataOffset: number): void {
  image.forgetEntries();
  image.writeNewMap(mapOffset, image.entries.length);
  image.flush();
  const isThere = image.header.mapOffset === mapOffset && image.header.dataOffset === dataOffset;
  image.change({ blocksAllocated: 0, ...(isThere ? {} : { mapOffset, dataOffset }) });
  image.flush();
}
