/**
 * Giving the disk another size. All of it happens with one entry of the log: the size, the entries that come or go
 * (bat-change.ts), the bits of the last block.
 *
 * Growing, before that: what the last block has behind the old end becomes zeros (nobody sees it yet), or, where the
 * parent would show there, it gets a place for them; a fixed image gets its new blocks behind everything. New blocks
 * of a child say ZERO, for the parent may be longer than the child was.
 *
 * Shrinking, after that: entries behind the end become zeros, and the file is cut off behind the last block in use.
 */

import { ImageError, unsupported } from '../../base/errors.ts';
import { type ByteCount, MIB, TIB } from '../../base/units.ts';
import { checkDiskSize } from '../../image/create.ts';
import type { OpenContext } from '../../image/driver.ts';
import { must } from '../../image/must.ts';
import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import {
  type BatGeometry,
  bitmapEntryOf,
  blockOf,
  entriesOf,
  entryName,
  entryOf,
  isBitmapEntry,
  takenUntil,
} from './bat.ts';
import { changeBat } from './bat-change.ts';
import { type Begun, beginSession, entryWord, nextIdentity } from './begin.ts';
import { fillBits } from './bits.ts';
import { MetadataEdit } from './metadata-edit.ts';
import { openVhdx } from './open.ts';
import { Patch } from './patch.ts';
import { type Session, within } from './session.ts';
import { BAT_ENTRY_BYTES, FULLY_PRESENT, NOT_PRESENT, PARTIALLY_PRESENT, ZEROED } from './structs.ts';
import { surveyBat } from './survey.ts';

const MAX_DISK_BYTES = 64 * TIB;
/** An entry has 8 bytes, a region less than 4 GiB. */
const MAX_BAT_BYTES = 2 ** 32 - MIB;

export function* resize(source: BlockSource, size: ByteCount, context: OpenContext): Reshaping {
  const begun = beginSession(source, context);
  const { session } = begun;
  const { metadata, bat } = session.opened;
  checkDiskSize('VHDX', size, metadata.logicalSectorSize, MAX_DISK_BYTES);
  const before = bat.virtualSize;
  if (size === before) return;
  const blocks = Math.ceil(size / bat.blockSize);
  const entries = entriesOf(blocks, bat.chunkShift, bat.hasParent);
  if (entries * BAT_ENTRY_BYTES > MAX_BAT_BYTES) {
    throw new ImageError(
      'usage',
      `a VHDX disk of ${size} bytes: its block allocation table would be too large`,
    );
  }
  yield* within(session, function* () {
    session.begin(nextIdentity(context));
    const patch = new Patch(session.opened.replayed);
    const isLarger = size > before;
    const set = isLarger ? coverTail(begun, patch) : new Map<number, number>();
    const fresh = isLarger ? freshEntries(begun, blocks) : undefined;
    new MetadataEdit(session.opened.regions.metadata, patch).setVirtualSize(size);
    const change = {
      entries,
      map: (entry: number, word: number) => {
        if (isBitmapEntry(entry, bat.chunkShift)) return word;
        const block = blockOf(entry, bat.chunkShift);
        if (block >= blocks) return 0;
        return block < bat.blocks ? word : (fresh?.(entry) ?? 0);
      },
      set,
      ...(fresh === undefined ? {} : { fresh, idle: idleEntries(bat, blocks) }),
    };
    yield* changeBat(session, begun.room, change, patch);
    session.finish();
    cutOff(source, context);
  });
}

/** In a child's last chunk: entries that have no block before, and one of `blocks` blocks then. */
function idleEntries({ blocks: before, chunkShift, entries }: BatGeometry, blocks: number) {
  const from = entriesOf(before, chunkShift, false);
  // The last one is that of the sector bitmap, in a child.
  return { from, end: Math.max(from, Math.min(entries - 1, entriesOf(blocks, chunkShift, false))) };
}

/** What the entries of new blocks say; undefined: 0. */
function freshEntries({ session, room }: Begun, blocks: number): ((entry: number) => number) | undefined {
  const { bat, metadata } = session.opened;
  const { chunkShift, blockSize } = bat;
  const isNew = (entry: number): boolean =>
    !isBitmapEntry(entry, chunkShift) && blockOf(entry, chunkShift) < blocks;
  if (bat.hasParent) return (entry) => (isNew(entry) ? ZEROED : NOT_PRESENT);
  const count = blocks - bat.blocks;
  if (!metadata.fixed || count === 0) return undefined;
  const mib = room.takeEnd((count * blockSize) / MIB);
  clearRoom(session, mib * MIB, count * blockSize);
  return (entry) => {
    if (!isNew(entry)) return NOT_PRESENT;
    return (mib + ((blockOf(entry, chunkShift) - bat.blocks) * blockSize) / MIB) * 8 + FULLY_PRESENT;
  };
}

/** The file has the place, and it reads as zeros. */
function clearRoom(session: Session, at: number, length: ByteCount): void {
  const { size } = session.source;
  session.reach(at + length);
  session.clear(at, Math.min(length, size - at), session.opened.metadata.fixed ? 'keep' : 'punch');
}

/** Makes zeros of what the last block has behind the end of the disk. Returns the entries that change for it. */
function coverTail({ session, room }: Begun, patch: Patch): Map<number, number> {
  const set = new Map<number, number>();
  const { bat } = session.opened;
  const { blockSize, blocks, chunkShift, sectorSize, virtualSize } = bat;
  const used = virtualSize % blockSize;
  if (used === 0) return set;
  const block = blocks - 1;
  const entry = entryOf(block, chunkShift);
  const word = entryWord(session, entry);
  const state = word % 8;
  if (state === FULLY_PRESENT || state === PARTIALLY_PRESENT) {
    const at = Math.floor(word / 8) * MIB;
    // A region may stand where an old writer left off the rest of the block.
    if (takenUntil(new Float64Array(bat.taken), at / MIB, (at + blockSize) / MIB) > at / MIB) {
      throw unsupported(
        `${entryName(bat, entry)}: a region is in the part of the block behind the end of the disk`,
      );
    }
    session.reach(at + blockSize);
    session.clear(at + used, blockSize - used, 'keep');
    if (state === PARTIALLY_PRESENT) putBits(session, patch, block, used / sectorSize, false);
    return set;
  }
  if (state !== NOT_PRESENT || !bat.hasParent) return set;
  const mib = room.takeAny(blockSize / MIB);
  clearRoom(session, mib * MIB, blockSize);
  set.set(entry, mib * 8 + PARTIALLY_PRESENT);
  const bitmap = bitmapEntryOf(block, chunkShift);
  if (entryWord(session, bitmap) % 8 === FULLY_PRESENT) {
    putBits(session, patch, block, used / sectorSize, true);
    return set;
  }
  const place = room.takeAny(1);
  clearRoom(session, place * MIB, MIB);
  set.set(bitmap, place * 8 + FULLY_PRESENT);
  const bits = new Uint8Array(MIB);
  const first = (block % 2 ** chunkShift) * (blockSize / sectorSize);
  fillBits(bits, first + used / sectorSize, first + blockSize / sectorSize, true);
  session.write(place * MIB, bits);
  return set;
}

/** Sets the bits of `block` from its sector `from` on; those before are cleared where they had no meaning. */
function putBits(session: Session, patch: Patch, block: number, from: number, isNew: boolean): void {
  const { chunkShift, blockSize, sectorSize } = session.opened.bat;
  const sectors = blockSize / sectorSize;
  const bitmap = Math.floor(entryWord(session, bitmapEntryOf(block, chunkShift)) / 8) * MIB;
  const at = bitmap + ((block % 2 ** chunkShift) * sectors) / 8;
  const bits = patch.get(at, sectors / 8);
  if (isNew) bits.fill(0);
  fillBits(bits, from, sectors, true);
  patch.put(at, bits);
}

/** Cuts the file off behind what is in use. The image is clean. */
export function cutOff(source: BlockSource, context: OpenContext): void {
  const { bat, metadata } = openVhdx(source, context.report);
  const { end, complete } = surveyBat(source, bat, { error: () => {}, warning: () => {} });
  // QEMU's fixed images have room for blocks that have no place yet.
  if ((metadata.fixed && !complete) || end * MIB >= source.size) return;
  must(source.setSize(end * MIB), source, 'its size cannot be changed');
  must(source.flush(), source, 'its size cannot be made stable');
}
