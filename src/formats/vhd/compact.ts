/**
 * Making the file as small as it can be. Blocks from the end are copied into places that nobody uses, nearest to the
 * start first, and made stable; then their entries are written and made stable, a batch at a time. At each instant an
 * entry names the old copy or the new one, which are the same. Then a table, and what is recorded of the parent, that
 * lie behind everything move down where there is room, and the file is cut off.
 *
 * A fixed image has nothing to give up but bytes between the disk and its footer.
 */

import { type ByteCount, MIB } from '../../base/units.ts';
import { copyPieces } from '../../image/copy.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { unusedOf } from './check.ts';
import { moveLocators } from './locators.ts';
import { cutFixed } from './resize-fixed.ts';
import { Rework, reopen, type Steps } from './rework.ts';
import { blockBytes, freePlaces } from './space.ts';
import { SECTOR } from './structs.ts';

/** Copied before it is made stable: enough that the two flushes do not count. */
const BATCH_BYTES = 256 * MIB;
/** Entries that are written at once, of blocks that are small. */
const BATCH_BLOCKS = 4096;

/** See Reshaper.compact. */
export function* compact(source: BlockSource, context: OpenContext): Steps {
  const image = reopen(source, context);
  if (image.state.kind === 'fixed') {
    image.prepareEdit();
    const { at, bytes } = image.found.copy;
    const unused = unusedOf(image);
    if (unused === 0 || at % SECTOR !== 0 || unused % SECTOR !== 0) return;
    cutFixed(source, bytes, at, at - unused);
    return;
  }
  yield* lowerBlocks(Rework.open(source, context));
  yield* lowerRest(source, context);
}

/** Moves each block from the end into the lowest place that is free. */
function* lowerBlocks(work: Rework): Steps {
  const order = work.blocksByPlace();
  const places: number[] = [];
  for (const place of freePlaces(work.layout, work.room.gaps())) {
    const top = order.length - 1 - places.length;
    if (top < 0 || place >= work.entry(order[top]!)) break;
    places.push(place);
  }
  const bytes = blockBytes(work.layout);
  const total = places.length * bytes;
  const batch = Math.max(1, Math.min(BATCH_BLOCKS, Math.floor(BATCH_BYTES / bytes)));
  for (let first = 0; first < places.length; first += batch) {
    const end = Math.min(places.length, first + batch);
    for (let n = first; n < end; n += 1) {
      const entry = work.entry(order[order.length - 1 - n]!);
      work.zero(places[n]! * SECTOR, bytes);
      const pieces = copyPieces(work.source, entry * SECTOR, places[n]! * SECTOR, work.room.ownBytes(entry));
      let done = n * bytes;
      for (const copied of pieces) {
        done += copied;
        yield { done, total };
      }
    }
    work.flush();
    for (let n = first; n < end; n += 1) work.setEntry(order[order.length - 1 - n]!, places[n]!);
    work.writeTable();
  }
}

/** Moves down what lies behind all blocks, where there is room below, and cuts the file off. */
export function* lowerRest(source: BlockSource, context: OpenContext): Steps {
  let work = Rework.open(source, context);
  const { tableAt } = work.layout;
  if (hasRoomBelow(work, tableAt, unitBytes(work))) {
    work.moveTable(work.table, work.entries, work.parts.batmap?.map);
    yield { done: 0, total: 0 };
    work = Rework.open(source, context);
  }
  for (const { at, spaceEnd } of work.parts.parent?.locators ?? []) {
    if (!hasRoomBelow(work, at, spaceEnd - at)) continue;
    moveLocators(work);
    yield { done: 0, total: 0 };
    work = Rework.open(source, context);
    break;
  }
  work.trim();
}

/** Bytes of the table, and of the batmap behind it. */
function unitBytes({ table, parts }: Rework): ByteCount {
  return table.length + (parts.batmap === undefined ? 0 : SECTOR + parts.batmap.mapBytes);
}

/** Whether something of `bytes` bytes at `at`, behind all blocks, would find room nearer to the start. */
function hasRoomBelow(work: Rework, at: number, bytes: ByteCount): boolean {
  const { starts } = work.list;
  if (starts.length > 0 && starts[starts.length - 1]! * SECTOR > at) return false;
  for (const [from, end] of work.room.gaps()) {
    if (from >= at) return false;
    if (end - from >= bytes) return true;
  }
  return false;
}
