/** What lies under clear bits of the sector bitmaps, made zeros; and bitmaps made full. */

import { type HostOffset, KIB } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { ReshapeStep } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Rework } from './rework.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import { BitmapReader, FITS, type Layout, placement, usedBytes } from './table.ts';

const PIECE = 64 * KIB;

/** Blocks between two steps. */
const STRIDE = 256;

/** Every block of the disk that is there, with its bitmap read. Throws ImageError where one cannot be. */
export function* eachBitmap(
  work: Rework,
  visit: (block: number, entry: number, bitmap: BitmapReader) => void,
): Generator<ReshapeStep, void, undefined> {
  const { layout, source } = work;
  const bitmap = new BitmapReader(source, layout);
  for (let block = 0; block < layout.blockCount; block += 1) {
    if (block % STRIDE === STRIDE - 1) yield { done: block * layout.blockSize, total: layout.size };
    const entry = work.entry(block);
    if (entry === UNALLOCATED || placement(layout, block, entry) !== FITS) continue;
    must(bitmap.read(entry), source, `the bitmap of block ${block} cannot be read`);
    visit(block, entry, bitmap);
  }
}

/** Host offset of the first sector of a block that has a clear bit in `bitmap` and a byte that is not zero. */
export function dataUnderClear(
  source: BlockSource,
  layout: Layout,
  bitmap: BitmapReader,
  block: number,
  dataAt: number,
): number | undefined {
  const piece = new Uint8Array(PIECE);
  const end = Math.min(dataAt + usedBytes(layout, block), source.size);
  let at = dataAt;
  while (at < end) {
    // Holes of the file are zeros.
    const data = source.nextData(at as HostOffset);
    at = Math.max(at, dataAt + Math.floor((data - dataAt) / SECTOR) * SECTOR);
    if (at >= end) return undefined;
    const count = Math.min(PIECE, end - at);
    if (source.readAt(piece, 0, count, at as HostOffset) !== count) return undefined;
    for (let done = 0; done < count; done += SECTOR) {
      if (bitmap.isSet((at + done - dataAt) / SECTOR)) continue;
      if (piece.subarray(done, Math.min(done + SECTOR, count)).some((byte) => byte !== 0)) return at + done;
    }
    at += count;
  }
  return undefined;
}

/**
 * Zeros where readers that ignore bitmaps would see anything else. Not flushed: who reads by the bitmaps sees
 * no difference. `found` is told of each block, and where its first such sector is in the file.
 */
export function* zeroUnderClearBits(
  work: Rework,
  found: (block: number, at: number) => void = () => {},
): Generator<ReshapeStep, void, undefined> {
  const { layout } = work;
  yield* eachBitmap(work, (block, entry, bitmap) => {
    if (bitmap.isFull(block)) return;
    const dataAt = entry * SECTOR + layout.bitmapBytes;
    const at = dataUnderClear(work.source, layout, bitmap, block, dataAt);
    if (at === undefined) return;
    found(block, at);
    const bytes = usedBytes(layout, block);
    const sectors = Math.ceil(bytes / SECTOR);
    for (let sector = 0; sector < sectors; sector += 1) {
      if (bitmap.isSet(sector)) continue;
      const from = sector * SECTOR;
      while (sector + 1 < sectors && !bitmap.isSet(sector + 1)) sector += 1;
      work.zero(dataAt + from, Math.min(bytes, (sector + 1) * SECTOR) - from);
    }
  });
}

/** Sets all bits of every block that is there: of an image whose bitmaps count for nothing. Not flushed. */
export function* fillBitmaps(work: Rework): Generator<ReshapeStep, void, undefined> {
  yield* eachBitmap(work, (block, entry, bitmap) => {
    if (bitmap.isFull(block)) return;
    bitmap.fill(Math.ceil(usedBytes(work.layout, block) / SECTOR));
    must(bitmap.write(entry), work.source, `the bitmap of block ${block} cannot be written`);
  });
}
