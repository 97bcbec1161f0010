/**
 * Making the file of a VDI as short as its blocks allow: used numbers become 0 to counter - 1.
 *
 *   1. entries behind the end of the disk are given up; flush
 *   2. the last blocks of the file move into the places that nobody uses (relocate.ts)
 *   3. the counter falls to the number of blocks in use; flush
 *   4. the file is cut off; flush
 *
 * Blocks of fixed images move as well, if there is a place for them; mostly there is nothing to do.
 */

import type { OpenContext } from '../../image/driver.ts';
import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { anyHeaderSize } from './header.ts';
import type { MapScan } from './map-scan.ts';
import { freeNumbers } from './places.ts';
import { type Move, relocate, Work } from './relocate.ts';
import { ENTRY_FREE, ENTRY_ZERO } from './structs.ts';
import { WholeVdi } from './whole.ts';

export function* compact(source: BlockSource, context: OpenContext): Reshaping {
  const image = WholeVdi.open(source, anyHeaderSize(context));
  image.scan();
  dropSpare(image);
  yield* squeeze(image, new Work());
}

/** Entries behind the end of the disk name nothing any more, which is stable when it returns: how many did. */
export function dropSpare(image: WholeVdi): number {
  const { entries } = image;
  let dropped = 0;
  for (let block = image.needed; block < entries.length; block += 1) {
    if (entries[block]! >= ENTRY_ZERO) continue;
    image.set(block, ENTRY_FREE);
    dropped += 1;
  }
  if (dropped > 0) {
    image.writeEntries();
    image.flush();
  }
  return dropped;
}

/** Steps 2 to 4, of an image whose entries are sound. `blocks`: at last, the map has no more entries than that. */
export function* squeeze(image: WholeVdi, work: Work, blocks = image.entries.length): Reshaping {
  const scan = image.scan();
  const { count } = scan;
  yield* relocate(image, movesBelow(image, scan), work);
  if (image.header.blocksAllocated !== count || blocks !== image.entries.length) {
    image.shortenMap(blocks);
    image.change({ blocksAllocated: count, blocks });
    image.flush();
  }
  const end = image.placeOf(count);
  if (image.source.size <= end) return;
  image.cut(end);
  image.flush();
}

/** Of every block whose place is not among the first: into those that are unused, in the order of the disk. */
function movesBelow({ entries }: WholeVdi, scan: MapScan): Move[] {
  const moves: Move[] = [];
  const free = freeNumbers(scan, 0);
  for (let block = 0; block < entries.length; block += 1) {
    const from = entries[block]!;
    if (from >= scan.count && from < ENTRY_ZERO) moves.push({ block, from, to: free.next().value! });
  }
  return moves;
}
