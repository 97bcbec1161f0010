/** Physical blocks that nobody uses, and the counter that must cover those that are used. */

import { type MapScan, unusedRuns } from './map-scan.ts';
import type { WholeVdi } from './whole.ts';

/** Physical blocks from `from` on that no entry names, ascending: first those inside, then those behind the last in use. */
export function* freeNumbers(scan: MapScan, from: number): Generator<number> {
  for (const [first, count] of unusedRuns(scan, scan.end)) {
    for (let number = Math.max(first, from); number < first + count; number += 1) yield number;
  }
  for (let number = Math.max(scan.end, from); ; number += 1) yield number;
}

/** The counter covers all physical blocks below `end`. Not stable yet. */
export function cover(image: WholeVdi, end: number): void {
  if (image.header.blocksAllocated < end) image.change({ blocksAllocated: end });
}

/** Places that read as zeros, for blocks that nobody sees yet. They are stable, and the entries are set, but not written. */
export function givePlaces(image: WholeVdi, blocks: Iterable<number>, places: Generator<number>): void {
  let most = 0;
  let from = 0;
  let upTo = 0;
  for (const block of blocks) {
    const number = places.next().value!;
    most = Math.max(most, number + 1);
    const at = image.placeOf(number);
    // Neighbours in one go.
    if (at !== upTo) {
      if (from < upTo) image.zero(from, upTo - from);
      from = at;
    }
    upTo = at + image.stride;
    image.set(block, number);
  }
  if (from < upTo) image.zero(from, upTo - from);
  image.reach(image.placeOf(most));
  cover(image, most);
  image.flush();
}
