/**
 * Moving blocks of a VDI to other places of the file, in batches:
 *
 *   1. the file is long enough, and the counter covers the new places: it is never behind the map
 *   2. copies, into places that no entry on the medium names
 *   3. flush
 *   4. the entries of the batch
 *   5. flush
 *
 * Whatever a crash lets through, an entry names its old place, which nobody writes to, or a copy that is stable.
 */

import { type ByteCount, MIB } from '../../base/units.ts';
import { copyPieces } from '../../image/copy.ts';
import type { ReshapeStep, Reshaping } from '../../image/reshape.ts';
import { cover } from './places.ts';
import type { WholeVdi } from './whole.ts';

/** Bytes between two steps, of which blocks may be tiny. */
const STEP = 4 * MIB;
/** Copied between two flushes: few of them for large images, little to do again after a crash. */
const BATCH = 256 * MIB;
/** Moves of a batch, where blocks are tiny. */
const BATCH_ENTRIES = 65_536;

export interface Move {
  readonly block: number;
  /** Physical blocks. Nobody on the medium names `to`. */
  readonly from: number;
  readonly to: number;
}

/** What steps tell, summed over the parts of an operation. */
export class Work {
  #done = 0;
  #total = 0;

  add(bytes: ByteCount): void {
    this.#total += bytes;
  }

  step(bytes: ByteCount): ReshapeStep {
    this.#done += bytes;
    return { done: this.#done, total: Math.max(this.#done, this.#total) };
  }
}

/** Throws ImageError('io'); then every block still has its old place or its new one. */
export function* relocate(image: WholeVdi, moves: readonly Move[], work: Work): Reshaping {
  if (moves.length === 0) return;
  const { stride } = image;
  work.add(moves.length * stride);
  const end = moves.reduce((most, { to }) => Math.max(most, to), 0) + 1;
  image.reach(image.placeOf(end));
  cover(image, end);
  let first = 0;
  let copied = 0;
  let since = 0;
  for (const [index, { from, to }] of moves.entries()) {
    for (const bytes of copyPieces(image.source, image.placeOf(from), image.placeOf(to), stride)) {
      since += bytes;
      if (since < STEP) continue;
      yield work.step(since);
      since = 0;
    }
    copied += stride;
    const next = index + 1;
    if (copied < BATCH && next - first < BATCH_ENTRIES && next < moves.length) continue;
    name(image, moves.slice(first, next));
    first = next;
    copied = 0;
  }
  yield work.step(since);
}

/** The copies are stable, then the entries. */
function name(image: WholeVdi, moves: readonly Move[]): void {
  image.flush();
  for (const { block, to } of moves) image.set(block, to);
  image.writeEntries();
  image.flush();
}
