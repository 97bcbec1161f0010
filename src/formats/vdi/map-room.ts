/**
 * Room for a longer map. Where there is some before the data, the map grows there, or is written anew between header and
 * map. Where there is none, blocks make room:
 *
 *   1. the first n physical blocks move behind the others (relocate.ts), so that nobody uses the front of the data
 *   2. a new map is written there, all numbers n lower; flush
 *   3. the header switches, in its one sector: map and data begin where they are now, so many blocks, the
 *      counter n lower; flush
 *
 * At each instant the header says where a whole map is. The entries that are added show nothing yet: the size
 * of the disk is another's.
 */

import { type HostOffset, roundUp } from '../../base/units.ts';
import type { Reshaping } from '../../image/reshape.ts';
import { freeNumbers } from './places.ts';
import { type Move, relocate, type Work } from './relocate.ts';
import { SECTOR, type WholeVdi } from './whole.ts';

/** What the header has for the offset of the data. */
export const MAX_OFFSET = 0xffffffff;

export type RoomRefused = 'offset' | 'blocks';

/**
 * Gives the map of a sound image `blocks` entries, more than it has. Returns why it cannot, with nothing changed but
 * where blocks lie: the data would begin too far behind, or so many blocks are in use that none can move.
 */
export function* makeRoom(image: WholeVdi, blocks: number, work: Work): Reshaping<RoomRefused | undefined> {
  if (placeMap(image, blocks)) return undefined;
  return yield* moveAside(image, blocks, work);
}

/** The same, always by moving blocks; nobody uses the present place of the map any more. */
export function* moveAside(image: WholeVdi, blocks: number, work: Work): Reshaping<RoomRefused | undefined> {
  const n = stridesFor(image, blocks);
  if (image.header.dataOffset + n * image.stride > MAX_OFFSET) return 'offset';
  const moves = movesFrom(image, n);
  // Moved blocks have numbers below that of the entries, as all have.
  const wanted = moves.length === 0 ? 0 : moves.reduce((most, { to }) => Math.max(most, to), 0) + 1;
  if (wanted > image.entries.length && !placeMap(image, wanted)) return 'blocks';
  yield* relocate(image, moves, work);
  moveMap(image, blocks, n);
  return undefined;
}

/** A longer map where there is room for it before the data. False: there is none, and nothing was changed. */
function placeMap(image: WholeVdi, blocks: number): boolean {
  const { mapOffset, dataOffset } = image.header;
  if (mapOffset + blocks * 4 <= dataOffset && image.header.version !== '0.2') {
    image.lengthenMap(blocks);
    image.flush();
    image.change({ blocks });
    image.flush();
    return true;
  }
  const before = image.headerEnd;
  if (before + blocks * 4 > mapOffset || !isZeros(image, before, blocks * 4)) return false;
  const end = mapOffset + image.entries.length * 4;
  image.writeNewMap(before, blocks);
  image.flush();
  image.change({ mapOffset: before, blocks });
  image.flush();
  clear(image, mapOffset, end);
  return true;
}

/** Whether nothing is kept there: what lies between header and map belongs to nobody that the format knows. */
export function isZeros({ source }: WholeVdi, at: number, length: number): boolean {
  const bytes = new Uint8Array(Math.min(length, 1 << 20));
  for (let done = 0; done < length; done += bytes.length) {
    const count = Math.min(bytes.length, length - done);
    const moved = source.readAt(bytes, 0, count, (at + done) as HostOffset);
    if (moved !== count || bytes.subarray(0, count).some((byte) => byte !== 0)) return false;
  }
  return true;
}

const newMapAt = (image: WholeVdi): number => roundUp(Math.max(image.header.dataOffset, SECTOR), SECTOR);

/** Physical blocks whose places a map of `blocks` entries takes. What it leaves of the last is for the next time. */
function stridesFor(image: WholeVdi, blocks: number): number {
  return Math.ceil((newMapAt(image) + blocks * 4 - image.header.dataOffset) / image.stride);
}

/** After these no entry names the first `n` physical blocks any more. */
function movesFrom(image: WholeVdi, n: number): Move[] {
  const { entries } = image;
  const moves: Move[] = [];
  const free = freeNumbers(image.scan(), n);
  for (let block = 0; block < entries.length; block += 1) {
    const from = entries[block]!;
    if (from < n) moves.push({ block, from, to: free.next().value! });
  }
  return moves;
}

/** A map of `blocks` entries in the places of the first `n` physical blocks, which nobody uses. */
function moveMap(image: WholeVdi, blocks: number, n: number): void {
  const mapOffset = newMapAt(image);
  const dataOffset = image.header.dataOffset + n * image.stride;
  const blocksAllocated = Math.max(0, image.scan().end - n);
  const { mapOffset: oldMap, dataOffset: oldData } = image.header;
  const oldEnd = oldMap + image.entries.length * 4;
  image.reach(dataOffset);
  image.zero(oldData, dataOffset - oldData);
  image.writeNewMap(mapOffset, blocks, n);
  image.flush();
  image.change({ mapOffset, dataOffset, blocks, blocksAllocated });
  image.flush();
  clear(image, oldMap, oldEnd);
}

/** Where a map was are zeros: room for the next. The first sector has the header. */
function clear(image: WholeVdi, from: number, end: number): void {
  const start = Math.max(from, SECTOR);
  if (start < end) image.zero(start, end - start);
}
