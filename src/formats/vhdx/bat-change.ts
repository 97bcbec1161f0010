/**
 * Changing the BAT as a whole, at once, whatever its size: with what a patch says of the metadata, in one log entry.
 *
 * Entries behind the last one have no meaning, so they are written where they are, before anybody needs them. Where
 * few sectors of the others change, and the region has room (or nobody uses what follows it), they go into
 * the entry of the log. Else a new BAT is written where nobody uses the file, made stable, and the entry of the log
 * names it in both region tables; the old region is nobody's then.
 */

import { type ByteCount, type HostOffset, MIB, roundUp } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { ReshapeStep } from '../../image/reshape.ts';
import type { Patch } from './patch.ts';
import { Patch as NewPatch } from './patch.ts';
import { moveBatRegion, putBothTables } from './region-edit.ts';
import type { Room } from './room.ts';
import { BAT_SECTORS, type Session } from './session.ts';
import { BAT_ENTRY_BYTES, LOG_SECTOR, TABLE_BYTES } from './structs.ts';
import { batPieces } from './survey.ts';

const SECTOR_ENTRIES = LOG_SECTOR / BAT_ENTRY_BYTES;
/** Bytes of new entries that are written at once. */
const PIECE_BYTES = 256 * 1024;

export interface BatChange {
  /** How many entries there are then. */
  readonly entries: number;
  /**
   * What entry `entry` says then, where it says `word` now: place in MiB * 8 + state. It is not asked about entries that are
   * 0, which stay so.
   */
  readonly map: (entry: number, word: number) => number;
  /** Those of the present entries, `from` to `end - 1`, that have no meaning now and are asked about also where they are 0. */
  readonly idle?: { readonly from: number; readonly end: number };
  /** What single entries say then, whatever the others do. */
  readonly set?: ReadonlyMap<number, number>;
  /** What the entries behind the present ones say; undefined: all are 0. */
  readonly fresh?: (entry: number) => number;
}

/** An entry as place in MiB * 8 + state; reserved bits are lost. */
export const wordOf = (low: number, high: number): number => (high * 4096 + (low >>> 20)) * 8 + (low & 7);

export function putWord(view: DataView, at: number, word: number): void {
  const mib = Math.floor(word / 8);
  view.setUint32(at, (((mib % 4096) << 20) | (word % 8)) >>> 0, true);
  view.setUint32(at + 4, Math.floor(mib / 4096), true);
}

/** The eight bytes of an entry. */
export function entryBytes(word: number): Uint8Array {
  const bytes = new Uint8Array(BAT_ENTRY_BYTES);
  putWord(new DataView(bytes.buffer), 0, word);
  return bytes;
}

/** Commits `patch` and the change, as one. The session has begun. Returns whether the BAT has a new place. */
export function* changeBat(
  session: Session,
  room: Room,
  change: BatChange,
  patch: Patch,
): Generator<ReshapeStep, boolean, undefined> {
  const { source, opened } = session;
  const { bat, regions } = opened;
  const needed = change.entries * BAT_ENTRY_BYTES;
  const length = Math.max(regions.bat.length, roundUp(needed, MIB));
  if (!regions.agree) {
    const tables = new NewPatch(source);
    putBothTables(tables, tables.get(regions.table.at, TABLE_BYTES));
    session.commit(tables);
  }
  const more = (length - regions.bat.length) / MIB;
  const behind = (bat.at + regions.bat.length) / MIB;
  const changed = room.isFree(behind, more) ? changedSectors(session, change) : undefined;
  if (changed === undefined) {
    yield* writeElsewhere(session, room, change, length, patch);
    return true;
  }
  if (more > 0) {
    room.take(behind, more);
    moveBatRegion(patch, regions.table, bat.at, length);
  }
  session.reach(bat.at + needed);
  yield* writeFresh(session, change);
  changed.each((at, bytes) => patch.put(at, bytes));
  session.commit(patch);
  clearDead(session, change.entries);
  return false;
}

/** What changes in the sectors that have an entry both now and then; undefined where that is too much for one commit. */
function changedSectors(
  { source, opened }: Session,
  { entries, map, idle, set, fresh }: BatChange,
): Patch | undefined {
  const { bat } = opened;
  const patch = new NewPatch(source);
  const last = Math.min(bat.entries, entries);
  let fits = true;
  const put = (entry: number, word: number): void => {
    if (fits) patch.put(bat.at + entry * BAT_ENTRY_BYTES, entryBytes(word));
    fits = patch.count <= BAT_SECTORS;
  };
  for (const { first, count, halves } of batPieces(source, bat.at, last)) {
    for (let n = 0; n < count && fits; n += 1) {
      const low = halves[n * 2]!;
      const high = halves[n * 2 + 1]!;
      if (low === 0 && high === 0) continue;
      const word = wordOf(low, high);
      const next = map(first + n, word);
      if (next !== word) put(first + n, next);
    }
  }
  for (let entry = idle?.from ?? 0; fits && entry < (idle?.end ?? 0); entry += 1) put(entry, map(entry, 0));
  // In the last of these sectors also what has no meaning now, or will have none.
  for (let entry = last; fits && entry % SECTOR_ENTRIES !== 0; entry += 1) {
    put(entry, entry < entries ? (fresh?.(entry) ?? 0) : 0);
  }
  for (const [entry, word] of set ?? []) put(entry, word);
  return fits ? patch : undefined;
}

/** Sectors of the BAT that have no entry now, where they are. */
function* writeFresh(session: Session, { entries, fresh }: BatChange): Generator<ReshapeStep, void> {
  const { source, opened } = session;
  const { at, entries: before } = opened.bat;
  const from = roundUp(before, SECTOR_ENTRIES);
  if (from >= entries) return;
  if (fresh === undefined) {
    session.clear(
      at + from * BAT_ENTRY_BYTES,
      roundUp((entries - from) * BAT_ENTRY_BYTES, LOG_SECTOR),
      'keep',
    );
    return;
  }
  yield* writeEntries(source, at, from, entries, fresh);
}

function* writeEntries(
  source: Session['source'],
  at: number,
  from: number,
  end: number,
  wordAt: (entry: number) => number,
): Generator<ReshapeStep, void> {
  const bytes = new Uint8Array(PIECE_BYTES);
  const view = new DataView(bytes.buffer);
  const total = (end - from) * BAT_ENTRY_BYTES;
  for (let first = from; first < end; ) {
    const count = Math.min(PIECE_BYTES / BAT_ENTRY_BYTES, end - first);
    for (let n = 0; n < count; n += 1) putWord(view, n * BAT_ENTRY_BYTES, wordAt(first + n));
    const host = (at + first * BAT_ENTRY_BYTES) as HostOffset;
    const status = source.writeAt(bytes, 0, count * BAT_ENTRY_BYTES, host, 'table.write');
    must(status, source, 'its tables cannot be written');
    first += count;
    yield { done: (first - from) * BAT_ENTRY_BYTES, total };
  }
}

/** What has no meaning any more becomes zeros, for programs that count on them. */
function clearDead(session: Session, entries: number): void {
  const { at, entries: before } = session.opened.bat;
  const from = at + roundUp(entries * BAT_ENTRY_BYTES, LOG_SECTOR);
  const end = at + roundUp(before * BAT_ENTRY_BYTES, LOG_SECTOR);
  if (end > from) session.clear(from, end - from, 'keep');
}

/** The whole BAT in a place of its own. */
function* writeElsewhere(
  session: Session,
  room: Room,
  change: BatChange,
  length: ByteCount,
  patch: Patch,
): Generator<ReshapeStep, void> {
  const { bat, regions } = session.opened;
  const place = room.takeAny(length / MIB) * MIB;
  session.reach(place + length);
  session.clear(place, length);
  yield* copyBat(session, place, change);
  moveBatRegion(patch, regions.table, place, length);
  session.commit(patch);
  room.give(bat.at / MIB, regions.bat.length / MIB);
}

function* copyBat(session: Session, place: number, change: BatChange): Generator<ReshapeStep, void> {
  const { source, opened } = session;
  const { bat } = opened;
  const { map, entries, idle, set, fresh } = change;
  const last = Math.min(bat.entries, entries);
  const bytes = new Uint8Array(8192 * BAT_ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  for (const { first, count, halves } of batPieces(source, bat.at, last)) {
    let isEmpty = true;
    for (let n = 0; n < count; n += 1) {
      const low = halves[n * 2]!;
      const high = halves[n * 2 + 1]!;
      const next = low === 0 && high === 0 ? 0 : map(first + n, wordOf(low, high));
      if (next !== 0) isEmpty = false;
      putWord(view, n * BAT_ENTRY_BYTES, next);
    }
    if (isEmpty) continue;
    const host = (place + first * BAT_ENTRY_BYTES) as HostOffset;
    const status = source.writeAt(bytes, 0, count * BAT_ENTRY_BYTES, host, 'table.write');
    must(status, source, 'its tables cannot be written');
    yield { done: (first + count) * BAT_ENTRY_BYTES, total: entries * BAT_ENTRY_BYTES };
  }
  if (idle !== undefined) yield* writeEntries(source, place, idle.from, idle.end, (entry) => map(entry, 0));
  if (fresh !== undefined && entries > last) yield* writeEntries(source, place, last, entries, fresh);
  for (const [entry, word] of set ?? []) yield* writeEntries(source, place, entry, entry + 1, () => word);
}

/** Copies the BAT, as it is, to `mib`, where nobody uses `mibs` MiB, enough for all entries, and goes there. */
export function* moveBat(session: Session, mib: number, mibs: number): Generator<ReshapeStep, void> {
  const { source, opened } = session;
  const { bat, regions } = opened;
  const [place, length] = [mib * MIB, mibs * MIB];
  session.begin();
  session.reach(place + length);
  session.clear(place, length);
  yield* copyBat(session, place, { entries: bat.entries, map: (_, word) => word });
  const patch = new NewPatch(source);
  moveBatRegion(patch, regions.table, place, length);
  session.commit(patch);
}

/**
 * Changes entries that have nothing to do with one another, a commit for so many sectors. `map` gets both halves of each
 * that is not 0, in order, and returns what it is to say as place in MiB * 8 + state, or undefined: it stays.
 */
export function* rewriteEntries(
  session: Session,
  map: (entry: number, low: number, high: number) => number | undefined,
): Generator<ReshapeStep, void> {
  const { bat, replayed } = session.opened;
  const patch = new NewPatch(replayed);
  for (const { first, count, halves } of batPieces(replayed, bat.at, bat.entries)) {
    for (let n = 0; n < count; n += 1) {
      const low = halves[n * 2]!;
      const high = halves[n * 2 + 1]!;
      if (low === 0 && high === 0) continue;
      const next = map(first + n, low, high);
      if (next !== undefined) patch.put(bat.at + (first + n) * BAT_ENTRY_BYTES, entryBytes(next));
    }
    if (patch.count < BAT_SECTORS) continue;
    session.commit(patch);
    yield { done: first + count, total: bat.entries };
  }
  session.commit(patch);
}
