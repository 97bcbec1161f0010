/**
 * Mending the table: entries that name nothing, and blocks that overlap. What an entry is to name is written into a
 * place of its own and made stable before the entry.
 */

import { type ByteCount, hex } from '../../base/units.ts';
import { copyBytes } from '../../image/copy.ts';
import { must } from '../../image/must.ts';
import type { Tell } from './repair-footer.ts';
import type { Rework } from './rework.ts';
import { blockBytes, blockEnd } from './space.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import { BEYOND_END, BitmapReader, FITS, placement, usedBytes } from './table.ts';

/** The sector of the footer's copy. */
const NOWHERE = 0;

export interface Misplaced {
  readonly block: number;
  readonly entry: number;
  /** Bytes of it, bitmap and data, that are in the file and nobody else's. */
  readonly there: ByteCount;
}

/** Entries of the disk that name what cannot be a block. Before the file grows: then some could be one. */
export function misplacedBlocks(work: Rework): Misplaced[] {
  const { layout } = work;
  const limit = layout.limit[0]!;
  const found: Misplaced[] = [];
  for (let block = 0; block < layout.blockCount; block += 1) {
    const entry = work.entry(block);
    if (entry === UNALLOCATED) continue;
    const how = placement(layout, block, entry);
    if (how === FITS) continue;
    const start = entry * SECTOR;
    const isThere =
      how === BEYOND_END && start + layout.bitmapBytes < limit && work.room.isUnused(start, limit);
    if (isThere) work.room.reserve(start, limit);
    found.push({ block, entry, there: isThere ? limit - start : 0 });
  }
  return found;
}

/**
 * The file may grow after this: no entry names what is behind its end any more, and would come to name what is put there.
 * Of a block that is in the file in part the footer makes way for the rest, zeros; where its bitmap says that the parent
 * shows, it does. The others become zeros; in a differencing image, where that takes a place, `fillMisplaced` does it, and
 * until then the entry names a sector where no block ever is. (The table may not start at a sector yet: as long as its
 * entries do not lie across sectors none of them can be torn.)
 */
export function fenceMisplaced(work: Rework, misplaced: readonly Misplaced[]): void {
  const { layout, parts } = work;
  // Not to be called full by a batmap: what lacks its bits is not.
  const blocks = new Set(misplaced.map(({ block }) => block));
  work.clearMap((block) => blocks.has(block));
  for (const { block, there } of misplaced) {
    if (there === 0) work.setEntry(block, parts.parent === undefined ? UNALLOCATED : NOWHERE);
  }
  work.writeTable();
  // There is no other: two would overlap.
  const last = misplaced.find(({ there }) => there > 0);
  if (last !== undefined) work.moveEnd(last.entry * SECTOR + blockBytes(layout));
}

/** What `fenceMisplaced` left: in a differencing image blocks get zeros of their own, never the parent's bytes. */
export function fillMisplaced(work: Rework, misplaced: readonly Misplaced[], tell: Tell): void {
  const { layout, parts } = work;
  const lost = misplaced.filter(({ there }) => there === 0 && parts.parent !== undefined);
  const places = work.takeBlocks(lost.length);
  const bitmap = new BitmapReader(work.source, layout);
  lost.forEach(({ block }, n) => {
    bitmap.bytes.fill(0);
    bitmap.fill(Math.ceil(usedBytes(layout, block) / SECTOR));
    must(bitmap.write(places[n]!), work.source, `the bitmap of block ${block} cannot be written`);
    work.setEntry(block, places[n]!);
  });
  work.flush();
  work.writeTable();
  for (const { block, entry, there } of misplaced) {
    const used = usedBytes(layout, block);
    const missing = there === 0 ? used : used - (there - layout.bitmapBytes);
    const what = there === 0 ? 'it reads as zeros' : `its last ${missing} bytes read as zeros`;
    tell(
      `VHD block ${block}: its table entry said sector ${hex(entry)}, where no block can be; ${what}`,
      missing,
    );
  }
}

/** Of blocks that overlap, each but the first gets a copy of its own: all read as before. */
export function separateBlocks(work: Rework, tell: Tell): void {
  const { layout, list } = work;
  const moved: number[] = [];
  let end = 0;
  for (const block of work.blocksByPlace()) {
    const entry = work.entry(block);
    if (entry * SECTOR < end) moved.push(block);
    else end = blockEnd(layout, list, entry);
  }
  if (moved.length === 0) return;
  const limit = layout.limit[0]!;
  const places = work.takeBlocks(moved.length);
  const before = moved.map((block) => work.entry(block));
  before.forEach((entry, n) => {
    const start = entry * SECTOR;
    copyBytes(work.source, start, places[n]! * SECTOR, Math.min(blockBytes(layout), limit - start));
  });
  work.flush();
  moved.forEach((block, n) => void work.setEntry(block, places[n]!));
  work.writeTable();
  moved.forEach((block, n) => {
    const [from, to] = [hex(before[n]!), hex(places[n]!)];
    tell(`VHD block ${block}: at sector ${from} it overlapped another; a copy of its own is at sector ${to}`);
  });
}
