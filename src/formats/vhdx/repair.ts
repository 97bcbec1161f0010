/**
 * Mending an image. In this order, so that each step stands on what those before it have made sound:
 *
 *   1. all       a log that cannot be replayed is given up, where the image can be opened without it
 *   2. lossless  a dirty log is replayed; both headers and both region tables become what the sound one says
 *   3. lossless  entries of the BAT that are against the letter of the format, but lose nothing by being put right;
 *      all       those that name nothing that is in the file: zeros, never what a parent has
 *   4. lossless  where two entries name one place, the second gets a copy; not as long as step 3 left any: what that names,
 *                in the file or behind its end, may yet be wanted
 *   5. lossless  the length of the file becomes a multiple of 1 MiB
 *   6. leaks     blocks from the end fill what nobody uses, and the file is cut off (compact.ts); not as long as anything
 *                of the BAT is wrong
 *
 * Entries go through the log like any other change (session.ts).
 */

import { ImageError } from '../../base/errors.ts';
import { formatSize, hex, MIB, roundUp } from '../../base/units.ts';
import { copyPieces } from '../../image/copy.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { Repair, RepairScope, ReshapeStep, Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { blockOf, entryName, fits, isBitmapEntry } from './bat.ts';
import { entryBytes, rewriteEntries, wordOf } from './bat-change.ts';
import { nextIdentity } from './begin.ts';
import { fill } from './compact.ts';
import { otherHeaderProblem, readCurrentHeader } from './headers.ts';
import { replayLog } from './log.ts';
import { mender } from './mend.ts';
import { type OpenedVhdx, openVhdx } from './open.ts';
import { Patch } from './patch.ts';
import { putBothTables } from './region-edit.ts';
import { cutOff } from './resize.ts';
import { Room } from './room.ts';
import { BAT_SECTORS, Session, within } from './session.ts';
import { BAT_ENTRY_BYTES, FULLY_PRESENT, PARTIALLY_PRESENT, TABLE_BYTES } from './structs.ts';
import { batPieces, eachFreeRun, surveyBat } from './survey.ts';

/** Repairs kept in words; of the others there is a sum. */
const MAX_REPAIRS = 1000;

class Repairs {
  readonly list: Repair[] = [];
  #more = 0;
  #moreLost = 0;

  add(text: string, lostBytes = 0): void {
    if (this.list.length < MAX_REPAIRS) this.list.push({ text, lostBytes });
    else {
      this.#more += 1;
      this.#moreLost += lostBytes;
    }
  }

  get all(): readonly Repair[] {
    if (this.#more === 0) return this.list;
    return [...this.list, { text: `VHDX: and ${this.#more} more`, lostBytes: this.#moreLost }];
  }
}

export function* repair(
  source: BlockSource,
  scope: RepairScope,
  context: OpenContext,
): Reshaping<readonly Repair[]> {
  const repairs = new Repairs();
  if (scope !== 'leaks') {
    const opened = openForRepair(source, scope, repairs);
    const session = new Session(source, opened);
    yield* within(session, function* () {
      repairStructures(session, repairs);
      const isSound = yield* repairEntries(session, scope, context, repairs);
      if (isSound) yield* separate(session, repairs);
      roundLength(session, repairs);
    });
  }
  yield* repairLeaks(source, context, repairs);
  return repairs.all;
}

const silent = (): void => {};
const IGNORE = { error: silent, warning: silent };

/** Without its log where that cannot be replayed, and the scope allows it. Throws what `open` does. */
function openForRepair(source: BlockSource, scope: RepairScope, repairs: Repairs): OpenedVhdx {
  try {
    return openVhdx(source, silent);
  } catch (problem) {
    if (scope !== 'all' || !(problem instanceof ImageError) || problem.kind !== 'corrupt') throw problem;
    const current = readCurrentHeader(source, silent);
    if (!current.dirty || isReplayable(source, current)) throw problem;
    const opened = openVhdx(source, silent, 'ignore');
    repairs.add(`${problem.message}; the log is given up, and with it what it had of tables and metadata`);
    return opened;
  }
}

function isReplayable(source: BlockSource, current: OpenedVhdx['current']): boolean {
  try {
    replayLog(source, current);
    return true;
  } catch {
    return false;
  }
}

/** Log, headers, region tables. */
function repairStructures(session: Session, repairs: Repairs): void {
  const { source, opened } = session;
  const { current, regions, replay } = opened;
  if (replay !== undefined) {
    repairs.add(
      `VHDX log at ${hex(current.logOffset)}: was replayed into the file (${replay.entries} entries)`,
    );
  }
  const other = otherHeaderProblem(source, current);
  if (other !== undefined && replay === undefined) {
    repairs.add(`${other}; rewritten from header ${current.slot}`);
  }
  // The first change writes both headers, and replays the log.
  if (other !== undefined || current.dirty) session.begin();
  if (regions.agree) return;
  const patch = new Patch(opened.replayed);
  putBothTables(patch, patch.get(regions.table.at, TABLE_BYTES));
  session.commit(patch);
  repairs.add(`VHDX region tables: differed, or one was damaged; both are as ${regions.table.name} was`);
}

/** Returns whether no entry is left that `scope` does not mend. */
function* repairEntries(
  session: Session,
  scope: RepairScope,
  context: OpenContext,
  repairs: Repairs,
): Generator<ReshapeStep, boolean> {
  const { bat, replayed } = session.opened;
  const mend = mender(replayed, bat);
  let isSound = true;
  const allowed: typeof mend = (entry, low, high) => {
    const mending = mend(entry, low, high);
    if (mending?.lost === undefined || scope === 'all') return mending;
    isSound = false;
    return undefined;
  };
  let reach = 0;
  let isLossy = false;
  for (const { first, count, halves } of batPieces(replayed, bat.at, bat.entries)) {
    for (let n = 0; n < count; n += 1) {
      const mending = allowed(first + n, halves[n * 2]!, halves[n * 2 + 1]!);
      if (mending === undefined) continue;
      repairs.add(mending.text, mending.lost);
      reach = Math.max(reach, mending.reach ?? 0);
      isLossy ||= (mending.lost ?? 0) > 0;
    }
  }
  if (isLossy) session.begin(nextIdentity(context));
  yield* rewriteEntries(session, (entry, low, high) => allowed(entry, low, high)?.word);
  session.reach(reach);
  return isSound;
}

/** Where two entries name one place, the second gets a copy. */
function* separate(session: Session, repairs: Repairs): Generator<ReshapeStep, void> {
  const { source } = session;
  const { bat, replayed } = session.opened;
  const taken = new Float64Array(bat.taken);
  const survey = surveyBat(replayed, bat, IGNORE);
  const claims = new Room({ ...survey, used: new Uint8Array(survey.used.length), end: 0 }, bat);
  const room = new Room(survey, bat);
  const patch = new Patch(replayed);
  let done = 0;
  for (const { first, count, halves } of batPieces(replayed, bat.at, bat.entries)) {
    for (let n = 0; n < count; n += 1) {
      const entry = first + n;
      const word = wordOf(halves[n * 2]!, halves[n * 2 + 1]!);
      const state = word % 8;
      const mib = Math.floor(word / 8);
      const isBitmap = isBitmapEntry(entry, bat.chunkShift);
      const isThere = state === FULLY_PRESENT || (state === PARTIALLY_PRESENT && bat.hasParent && !isBitmap);
      if (!isThere || (isBitmap ? !bat.hasParent : blockOf(entry, bat.chunkShift) >= bat.blocks)) continue;
      if (!fits(bat, taken, replayed.size, entry, mib)) continue;
      const length = isBitmap ? MIB : bat.blockSize;
      if (claims.isFree(mib, length / MIB)) {
        claims.take(mib, length / MIB);
        continue;
      }
      const place = room.takeAny(length / MIB);
      session.reach(place * MIB + length);
      session.begin();
      for (const bytes of copyPieces(source, mib * MIB, place * MIB, length)) {
        done += bytes;
        yield { done, total: done };
      }
      claims.take(place, length / MIB);
      patch.put(bat.at + entry * BAT_ENTRY_BYTES, entryBytes(place * 8 + state));
      repairs.add(
        `${entryName(bat, entry)}: was at ${hex(mib * MIB)}, as another one; has a copy at ${hex(place * MIB)} now`,
      );
      if (patch.count >= BAT_SECTORS) session.commit(patch);
    }
  }
  session.commit(patch);
}

function roundLength(session: Session, repairs: Repairs): void {
  const { bat, replayed } = session.opened;
  const before = replayed.size;
  if (before % MIB === 0) return;
  let errors = 0;
  const count = (): void => {
    errors += 1;
  };
  const { end } = surveyBat(replayed, bat, { ...IGNORE, error: count });
  // Zeros behind the end must not pass for what was cut off there.
  if (errors > 0) return;
  session.reach(Math.max(roundUp(before, MIB), end * MIB));
  repairs.add(`VHDX file: was ${before} bytes long, is ${session.source.size} now, a multiple of 1 MiB`);
}

/** Only of images whose BAT is sound. */
function* repairLeaks(
  source: BlockSource,
  context: OpenContext,
  repairs: Repairs,
): Generator<ReshapeStep, void> {
  const { bat, metadata, replay } = openVhdx(source, silent);
  if (replay !== undefined) return;
  let errors = 0;
  const { used, complete, fileMib } = surveyBat(source, bat, {
    ...IGNORE,
    error: () => {
      errors += 1;
    },
  });
  let leaked = 0;
  eachFreeRun(used, fileMib, (_, mibs) => {
    leaked += mibs;
  });
  if (errors > 0 || leaked === 0 || (metadata.fixed && !complete)) return;
  const before = source.size;
  if (metadata.fixed) cutOff(source, context);
  else yield* fill(source, { ...context, report: silent });
  if (source.size === before) return;
  repairs.add(
    `VHDX file: had ${leaked} MiB that nothing used; is ${formatSize(source.size)} long now, was ${before} bytes`,
  );
}
