/**
 * Another size for the disk of a VDI. Growing:
 *
 *   1. room for the entries that are added (map-room.ts)
 *   2. they say what is to be read there: free, zero over a parent, places of zeros where the image is fixed. What the file
 *      holds of the last block behind the end of the disk becomes zeros; flush
 *   3. the size; flush
 *
 * Shrinking:
 *
 *   1. the size; flush. What lies behind is not seen any more
 *   2. its blocks are given up, and the rest of the last block becomes zeros; flush
 *   3. the file becomes as short as it can be, and so does the map (compact.ts)
 */

import { ImageError, unsupported } from '../../base/errors.ts';
import { type ByteCount, formatSize } from '../../base/units.ts';
import { MAX_SCANNED_WORDS } from '../../image/count.ts';
import { checkDiskSize } from '../../image/create.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { dropSpare, squeeze } from './compact.ts';
import { MAX_DISK_SIZE } from './create.ts';
import { anyHeaderSize } from './header.ts';
import { makeRoom } from './map-room.ts';
import { freeNumbers, givePlaces } from './places.ts';
import { Work } from './relocate.ts';
import { ENTRY_FREE, ENTRY_ZERO, TYPE_FIXED } from './structs.ts';
import { SECTOR, WholeVdi } from './whole.ts';

export function* resize(source: BlockSource, size: ByteCount, context: OpenContext): Reshaping {
  checkDiskSize('VDI', size, SECTOR, MAX_DISK_SIZE);
  const image = WholeVdi.open(source, anyHeaderSize(context));
  const before = image.header.virtualSize;
  const blocks = Math.ceil(size / image.header.blockSize);
  if (blocks > MAX_SCANNED_WORDS) {
    throw new ImageError(
      'usage',
      `a VDI disk of ${formatSize(size)} in blocks of ${formatSize(image.header.blockSize)}: ` +
        `its map of ${blocks} entries is too long, at most ${MAX_SCANNED_WORDS} can be changed`,
      { hint: 'Larger blocks need a new image: vdisk convert.' },
    );
  }
  image.scan();
  if (size < before) yield* shrink(image, size, blocks);
  else if (size > before) yield* grow(image, size, blocks);
}

function* grow(image: WholeVdi, size: ByteCount, blocks: number): Reshaping {
  checkLast(image);
  const work = new Work();
  if (blocks > image.entries.length) {
    const refused = yield* makeRoom(image, blocks, work);
    if (refused !== undefined) throw refusedRoom(refused, size);
  }
  clearTail(image);
  nameAdded(image, blocks);
  image.writeEntries();
  image.flush();
  image.change({ diskSize: BigInt(size) });
  image.flush();
}

/** The entries from the end of the disk up to `blocks` read as zeros, whatever they said: nobody sees them yet. */
function nameAdded(image: WholeVdi, blocks: number): void {
  const { needed } = image;
  if (image.header.type !== TYPE_FIXED) {
    const entry = image.hasParent ? ENTRY_ZERO : ENTRY_FREE;
    for (let block = needed; block < blocks; block += 1) image.set(block, entry);
    return;
  }
  dropSpare(image);
  givePlaces(image, range(needed, blocks), freeNumbers(image.scan(), 0));
}

function* range(first: number, end: number): Generator<number> {
  for (let number = first; number < end; number += 1) yield number;
}

function refusedRoom(refused: 'offset' | 'blocks', size: ByteCount): ImageError {
  const disk = `a VDI disk of ${formatSize(size)}`;
  if (refused === 'offset') {
    const text = `${disk}: its map would not fit below 4 GiB`;
    return new ImageError('usage', text, { hint: 'Larger blocks need a new image: vdisk convert.' });
  }
  return unsupported(
    `${disk}: its map has no room before the data, and all blocks of the disk have a place, so that none can move`,
    'vdisk convert makes a new image, which can be resized.',
  );
}

/** Where a parent shows in the last block, it may show behind the end of the disk as well. */
function checkLast(image: WholeVdi): void {
  const { virtualSize, blockSize } = image.header;
  if (virtualSize % blockSize === 0 || !image.hasParent || image.entries[image.needed - 1] !== ENTRY_FREE)
    return;
  throw unsupported(
    `VDI block map entry ${image.needed - 1}: the disk ends within its block, which only the parent holds; ` +
      'what is added to it would not read as zeros',
    'Write to the last sector of the disk first: then the block is its own.',
  );
}

/** Of the last block, what lies behind the end of the disk becomes zeros, and is in the file. Not stable yet. */
function clearTail(image: WholeVdi): void {
  const { virtualSize, blockSize, blockExtra } = image.header;
  const used = virtualSize % blockSize;
  const entry = image.entries[image.needed - 1];
  if (used === 0 || entry === undefined || entry >= ENTRY_ZERO) return;
  const at = image.placeOf(entry);
  image.zero(at + blockExtra + used, blockSize - used);
  image.reach(at + image.stride);
}

function* shrink(image: WholeVdi, size: ByteCount, blocks: number): Reshaping {
  image.change({ diskSize: BigInt(size) });
  image.flush();
  clearTail(image);
  dropSpare(image);
  // The data of 0.2 begin behind the map: it keeps its length.
  yield* squeeze(image, new Work(), image.header.version === '0.2' ? image.entries.length : blocks);
}
