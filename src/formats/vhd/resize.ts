/**
 * Another size for a disk. Fixed images: resize-fixed.ts. Those with a table (how a step is one instant: rework.ts):
 *
 *   larger    1. a last block that was shorter gets room for all of it, and zeros behind the old end
 *             2. what the table has behind the old end names nothing; where it is too short, a longer one takes its place
 *             3. where a longer parent would show, zeros are put into the blocks there, and their bits set
 *             4. when all of it is stable, both footers get the new size, and the largest geometry, by which every reader goes by it
 *   smaller   1. the footers; stable
 *             2. what the table has behind the end names nothing
 *             3. the file is cut off behind the last block in use
 */

import { ImageError, unsupported } from '../../base/errors.ts';
import { type ByteCount, formatSize, roundUp } from '../../base/units.ts';
import { copyBytes } from '../../image/copy.ts';
import { MAX_SCANNED_WORDS } from '../../image/count.ts';
import { checkDiskSize } from '../../image/create.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { MAX_DISK_SIZE } from './create.ts';
import { setSize } from './footer.ts';
import { resizeFixed } from './resize-fixed.ts';
import { Rework, reopen, type Steps } from './rework.ts';
import { blockBytes } from './space.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import { BitmapReader, usedBytes } from './table.ts';

/** Blocks that are filled with zeros before they are made stable. */
const BATCH = 256;

/** See Reshaper.resize. */
export function* resize(source: BlockSource, size: ByteCount, context: OpenContext): Steps {
  checkDiskSize('VHD', size, SECTOR, MAX_DISK_SIZE);
  const image = reopen(source, context);
  if (image.state.kind === 'fixed') {
    image.prepareEdit();
    yield* resizeFixed(source, image, size);
    return;
  }
  const { blockSize } = image;
  if (Math.ceil(size / blockSize) > MAX_SCANNED_WORDS) {
    throw new ImageError(
      'usage',
      `a VHD disk of ${formatSize(size)}: its blocks of ${formatSize(blockSize)} are too small for that`,
    );
  }
  const before = image.virtualSize;
  if (size < before) yield* shrink(source, size, context);
  else {
    const { parentSize = Number.POSITIVE_INFINITY } = context;
    yield* grow(source, size, context, image.parent === undefined ? 0 : parentSize);
  }
}

function* shrink(source: BlockSource, size: ByteCount, context: OpenContext): Steps {
  const work = Rework.open(source, context);
  const total = work.layout.size - size;
  work.setFooters((footer) => setSize(footer, size), true);
  yield { done: 0, total };
  forget(work, Math.ceil(size / work.layout.blockSize));
  yield { done: total, total };
  Rework.open(source, context).trim();
}

/** The entries from `block` on name nothing, and a batmap does not call them full. */
function forget(work: Rework, block: number): void {
  work.clearMap((n) => n >= block);
  for (let n = block; n < work.entries; n += 1)
    if (work.entry(n) !== UNALLOCATED) work.setEntry(n, UNALLOCATED);
  work.writeTable();
}

function* grow(source: BlockSource, size: ByteCount, context: OpenContext, parentSize: ByteCount): Steps {
  let work = Rework.open(source, context);
  const { layout, parts } = work;
  const before = layout.size;
  const total = size - before;
  if (before % SECTOR !== 0 && parentSize > before) {
    throw unsupported(
      `${source.label}: the disk does not end at a sector, and a longer parent would show there`,
    );
  }
  wholeLast(work);
  yield { done: 0, total };
  forget(work, layout.blockCount);
  const entries = Math.ceil(size / layout.blockSize);
  if (entries > work.entries) lengthen(work, entries);
  yield { done: 0, total };
  work = Rework.open(source, context);
  const shown = Math.min(size, parentSize);
  if (parts.parent !== undefined && shown > before) yield* fillWithZeros(work, before, shown);
  work.setFooters((footer) => setSize(footer, size), true);
  yield { done: total, total };
}

/** The disk's last block, where it is shorter than others, gets all of its place, with zeros behind the disk's end. */
function wholeLast(work: Rework): void {
  const { layout } = work;
  const { blockSize, blockCount, bitmapBytes } = layout;
  const used = usedBytes(layout, blockCount - 1);
  const entry = blockCount === 0 ? UNALLOCATED : work.entry(blockCount - 1);
  if (entry === UNALLOCATED || used === blockSize) return;
  if (work.room.ownBytes(entry) === blockBytes(layout)) {
    work.zero(entry * SECTOR + bitmapBytes + used, blockSize - used);
    return;
  }
  const sector = work.takeBlocks(1)[0]!;
  copyBytes(work.source, entry * SECTOR, sector * SECTOR, bitmapBytes + used);
  work.flush();
  work.setEntry(blockCount - 1, sector);
  work.writeTable();
}

/** The table has room for `entries`, more than it has: where it is, if nobody is behind it, else elsewhere. */
function lengthen(work: Rework, entries: number): void {
  const { tableAt } = work.layout;
  const bytes = roundUp(entries * 4, SECTOR);
  const table = new Uint8Array(bytes).fill(UNALLOCATED & 0xff);
  table.set(work.table.subarray(0, work.entries * 4));
  const from = tableAt + work.table.length;
  const more = bytes - work.table.length;
  const { batmap } = work.parts;
  if (batmap === undefined && isFree(work, from, from + more)) {
    work.extend(from + more);
    // The last sector that the table has is whole at any time; what it has behind the last entry is nobody's.
    work.write(from - SECTOR, table.subarray(from - SECTOR - tableAt), 'table.write');
    work.flush();
    work.setTable(tableAt, entries);
    return;
  }
  work.moveTable(table, entries, batmap?.map);
}

/** Whether nobody uses these bytes of the file, or those behind its end. */
function isFree(work: Rework, from: number, end: number): boolean {
  if (from >= work.room.end) return true;
  for (const [start, stop] of work.room.gaps()) {
    if (start <= from && from < stop) return end <= stop || stop >= work.room.end;
    if (start > from) return false;
  }
  return false;
}

/** Bytes `from` to `end` of the disk, which are behind its end still, become sectors that are here and hold zeros. */
function* fillWithZeros(work: Rework, from: number, end: number): Steps {
  const { layout } = work;
  const { blockSize } = layout;
  const bitmap = new BitmapReader(work.source, layout);
  const last = Math.ceil(end / blockSize);
  let block = Math.floor(from / blockSize);
  const setBits = (entry: number, first: number, sectors: number): void => {
    for (let sector = first; sector < sectors; sector += 1)
      bitmap.bytes[sector >>> 3]! |= 0x80 >>> (sector & 7);
    if (bitmap.write(entry) < 0)
      throw new ImageError('io', `${work.source.label}: a bitmap cannot be written`);
  };
  if (from % blockSize !== 0) {
    const entry = work.entry(block);
    if (entry !== UNALLOCATED) {
      // Zeros lie there since `wholeLast`; the bits are behind the end of the disk.
      if (bitmap.read(entry) < 0) throw new ImageError('io', `${work.source.label}: a bitmap cannot be read`);
      setBits(entry, (from % blockSize) / SECTOR, sectorsIn(block, end, blockSize));
      block += 1;
    }
  }
  while (block < last) {
    const count = Math.min(BATCH, last - block);
    const places = work.takeBlocks(count);
    places.forEach((entry, n) => {
      bitmap.bytes.fill(0);
      const first = block + n === Math.floor(from / blockSize) ? (from % blockSize) / SECTOR : 0;
      setBits(entry, first, sectorsIn(block + n, end, blockSize));
    });
    // The disk may end within the first of them.
    work.flush();
    places.forEach((entry, n) => void work.setEntry(block + n, entry));
    work.writeTable();
    block += count;
    yield { done: Math.min(end, block * blockSize) - from, total: end - from };
  }
}

/** Sectors of block `block` before `end`. */
const sectorsIn = (block: number, end: number, blockSize: ByteCount): number =>
  Math.ceil(Math.min(blockSize, end - block * blockSize) / SECTOR);
