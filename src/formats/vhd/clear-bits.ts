/** What lies under clear bits of the sector bitmaps, made zeros; and bitmaps made full. */

import { must } from '../../image/must.ts';
import type { ReshapeStep } from '../../image/reshape.ts';
import type { Rework } from './rework.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import { BitmapReader, FITS, placement, usedBytes } from './table.ts';

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

/**
 * Zeros where readers that ignore bitmaps would see anything else. Nothing is flushed: what reads by the bitmaps sees
 * no difference.
 */
export function* zeroUnderClearBits(work: Rework): Generator<ReshapeStep, void, undefined> {
  const { layout } = work;
  yield* eachBitmap(work, (block, entry, bitmap) => {
    if (bitmap.isFull(block)) return;
    const dataAt = entry * SECTOR + layout.bitmapBytes;
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

/** Sets all bits of every block that is there: of an image whose bitmaps count for nothing. Flushed. */
export function* fillBitmaps(work: Rework): Generator<ReshapeStep, void, undefined> {
  yield* eachBitmap(work, (block, entry, bitmap) => {
    if (bitmap.isFull(block)) return;
    bitmap.fill(Math.ceil(usedBytes(work.layout, block) / SECTOR));
    must(bitmap.write(entry), work.source, `the bitmap of block ${block} cannot be written`);
  });
  work.flush();
}
