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

import { type ByteCount, type HostOffset, MIB } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { ReshapeStep, Reshaping } from '../../image/reshape.ts';
import { cover } from './places.ts';
import type { WholeVdi } from './whole.ts';

/** Of the blocks between two steps. */
const PIECE = 4 * MIB;
/** Copied between two flushes: few of them for large images, little to do again after a crash. */
const BATCH = 256 * MIB;
/** Moves of a batch, where blocks are tiny or hold nothing. */
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
  const buffer = new Uint8Array(Math.min(stride, MIB));
  let first = 0;
  let copied = 0;
  let since = 0;
  for (const [index, { from, to }] of moves.entries()) {
    for (let done = 0; done < stride; done += PIECE) {
      const count = Math.min(PIECE, stride - done);
      copied += copy(image, image.placeOf(from) + done, image.placeOf(to) + done, count, buffer);
      since += count;
      if (since < PIECE) continue;
      yield work.step(since);
      since = 0;
    }
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

/** Holes of the file stay holes. The file may end within what is copied: what it lacks is zeros. Returns bytes written. */
function copy(
  { source }: WholeVdi,
  from: number,
  to: number,
  length: ByteCount,
  buffer: Uint8Array,
): ByteCount {
  const end = Math.min(from + length, source.size);
  const first = source.nextData(from as HostOffset);
  const isSolid = first === from && end === from + length && source.nextHole(first) >= end;
  if (!isSolid && source.nextData(to as HostOffset) < to + length) {
    must(source.zero(to as HostOffset, length, 'punch', 'payload.zero'), source, 'a block cannot be moved');
  }
  let copied = 0;
  for (let data = first, next: number; data < end; data = source.nextData(next as HostOffset)) {
    const hole = source.nextHole(data);
    next = hole > data ? Math.min(hole, end) : end;
    copyData(source, data, to + (data - from), next - data, buffer);
    copied += next - data;
  }
  return copied;
}

function copyData(
  source: WholeVdi['source'],
  from: number,
  to: number,
  length: ByteCount,
  buffer: Uint8Array,
): void {
  for (let done = 0; done < length; done += buffer.length) {
    const count = Math.min(buffer.length, length - done);
    const moved = source.readAt(buffer, 0, count, (from + done) as HostOffset);
    must(moved, source, 'a block cannot be read');
    buffer.fill(0, moved, count);
    const status = source.writeAt(buffer, 0, count, (to + done) as HostOffset, 'payload.write');
    must(status, source, 'a block cannot be moved');
  }
}
