/**
 * Making the file as small as it can be. Blocks and sector bitmaps from its end are copied into places that nobody uses, many at
 * a time; then one entry of the log names the copies; what was left is never used again, and cut off at the end.
 * So a block is named in its old place or in its new one, and both hold the same.
 *
 * Before that, places that absent blocks keep are given up (they become ZERO), and sector bitmaps of chunks that have no
 * partially present block. The region of the BAT is moved where it stands behind what the file could end with.
 * The DataWriteGuid stays: the disk does not change, and children go on.
 */

import { ImageError } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { copyPieces } from '../../image/copy.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { ReshapeStep, Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { blockOf, isBitmapEntry } from './bat.ts';
import { entryBytes, moveBat, rewriteEntries, wordOf } from './bat-change.ts';
import { beginSession } from './begin.ts';
import { Patch } from './patch.ts';
import { cutOff } from './resize.ts';
import type { Room } from './room.ts';
import { BAT_SECTORS, type Session, within } from './session.ts';
import {
  BAT_ENTRY_BYTES,
  FULLY_PRESENT,
  PARTIALLY_PRESENT,
  UNDEFINED,
  UNMAPPED,
  UNMAPPED_DRAFT,
  ZEROED,
} from './structs.ts';
import { batPieces } from './survey.ts';

/** Copied before a commit names the copies. */
const BATCH_BYTES = 256 * MIB;

/** Throws ImageError('usage') for a fixed image: all its blocks stay. */
export function* compact(source: BlockSource, context: OpenContext): Reshaping {
  const { session } = beginSession(source, context);
  if (session.opened.metadata.fixed) {
    throw new ImageError(
      'usage',
      `${source.label}: is a fixed VHDX, which keeps its length and all its blocks`,
    );
  }
  yield* within(session, giveUpKept);
  yield* moveTable(source, context);
  yield* fill(source, context);
}

/** Entries that keep places without a use. A dirty log is replayed in any case. */
function* giveUpKept(session: Session): Generator<ReshapeStep, void> {
  const { bat, replay } = session.opened;
  const { blocks, chunkShift, hasParent } = bat;
  if (replay !== undefined) session.begin();
  let partialChunk = -1;
  const stride = 2 ** chunkShift + 1;
  yield* rewriteEntries(session, (entry, low, high) => {
    const word = wordOf(low, high);
    const state = word % 8;
    if (isBitmapEntry(entry, chunkShift)) {
      const isIdle = hasParent && state === FULLY_PRESENT && partialChunk !== Math.floor(entry / stride);
      return isIdle ? 0 : undefined;
    }
    if (blockOf(entry, chunkShift) >= blocks) return undefined;
    if (state === PARTIALLY_PRESENT) partialChunk = Math.floor(entry / stride);
    const isKept = state === UNDEFINED || state === UNMAPPED || state === UNMAPPED_DRAFT;
    return isKept && word >= 8 ? ZEROED : undefined;
  });
}

/**
 * The region of the BAT goes where nobody uses the file, if it stands behind what the file could end with; with the length
 * that it needs.
 */
export function* moveTable(source: BlockSource, context: OpenContext): Reshaping {
  const { session, room } = beginSession(source, context);
  const { bat, regions } = session.opened;
  const { at, length } = regions.bat;
  if ((at + length) / MIB <= room.count) return;
  const mibs = Math.max(1, Math.ceil((bat.entries * BAT_ENTRY_BYTES) / MIB));
  const place = room.takeBelow(mibs, at / MIB);
  if (place < 0) return;
  yield* within(session, () => moveBat(session, place, mibs));
}

/** Fills places that nobody uses from the end of the file, and cuts it off. The log is clean. */
export function* fill(source: BlockSource, context: OpenContext): Reshaping {
  const { session, room } = beginSession(source, context);
  yield* within(session, function* () {
    yield* moveDown(session, room);
    session.finish();
    cutOff(source, context);
  });
}

function* moveDown(session: Session, room: Room): Generator<ReshapeStep, void> {
  const { bat, replayed } = session.opened;
  const { blockSize, chunkShift } = bat;
  const owners = ownersOf(session, room.end);
  const ideal = room.count;
  let total = 0;
  const lengthOf = (entry: number): number => (isBitmapEntry(entry, chunkShift) ? MIB : blockSize);
  for (let mib = ideal; mib < room.end; mib += 1) if (owners[mib]! > 0) total += lengthOf(owners[mib]! - 1);
  let done = 0;
  let waiting = 0;
  const patch = new Patch(replayed);
  const step = (bytes: number): ReshapeStep => {
    done += bytes;
    total = Math.max(total, done);
    return { done, total };
  };
  for (let mib = owners.length - 1; mib >= 0; mib -= 1) {
    if (owners[mib] === 0) continue;
    const entry = owners[mib]! - 1;
    const length = lengthOf(entry);
    const place = room.takeBelow(length / MIB, mib);
    if (place < 0) continue;
    session.begin();
    for (const bytes of copyPieces(session.source, mib * MIB, place * MIB, length)) yield step(bytes);
    const at = bat.at + entry * BAT_ENTRY_BYTES;
    patch.put(at, entryBytes(place * 8 + (patch.get(at, 1)[0]! & 7)));
    // What is looked for from here on is below it.
    room.give(mib, length / MIB);
    waiting += length;
    if (waiting < BATCH_BYTES && patch.count < BAT_SECTORS) continue;
    session.commit(patch);
    waiting = 0;
  }
  session.commit(patch);
  // What is too small for a block: the host can have it.
  room.settle();
  if (room.end * MIB < session.source.size) session.begin();
  if (session.isBegun) room.eachFree((mib, mibs) => session.clear(mib * MIB, mibs * MIB));
}

/** By MiB of the file: 1 + the entry of what begins there, or 0. */
function ownersOf({ opened }: Session, end: number): Uint32Array {
  const { bat, replayed } = opened;
  const owners = new Uint32Array(end);
  for (const { first, count, halves } of batPieces(replayed, bat.at, bat.entries)) {
    for (let n = 0; n < count; n += 1) {
      const word = wordOf(halves[n * 2]!, halves[n * 2 + 1]!);
      const state = word % 8;
      if (state !== FULLY_PRESENT && state !== PARTIALLY_PRESENT) continue;
      const isBitmap = isBitmapEntry(first + n, bat.chunkShift);
      if (!isBitmap && blockOf(first + n, bat.chunkShift) >= bat.blocks) continue;
      owners[Math.floor(word / 8)] = first + n + 1;
    }
  }
  return owners;
}
