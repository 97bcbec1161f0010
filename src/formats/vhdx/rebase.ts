/**
 * Another parent, or none. Reference, flag, locator and BAT change with one entry of the log (bat-change.ts).
 *
 * To stand alone, blocks that are partially present are completed first: sectors that nobody reads here yet become zeros.
 * Then, at once, there is no parent, these blocks are fully present, and no chunk has a sector bitmap.
 *
 * The DataWriteGuid stays: the caller sees to it that the disk is the same.
 */

import { ImageError } from '../../base/errors.ts';
import { formatGuid } from '../../base/guid.ts';
import { MIB } from '../../base/units.ts';
import type { NewParent } from '../../image/create.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { ReshapeStep, Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { bitmapEntryOf, blockOf, entriesOf, isBitmapEntry } from './bat.ts';
import { changeBat, wordOf } from './bat-change.ts';
import { type Begun, beginSession, entryWord } from './begin.ts';
import { eachClearRun } from './bits.ts';
import { fill, moveTable } from './compact.ts';
import { encodeLocator, LINK, parseLocator, SECOND_LINK } from './locator.ts';
import { MetadataEdit } from './metadata-edit.ts';
import { newLocator } from './new-metadata.ts';
import { Patch } from './patch.ts';
import { readObject } from './read.ts';
import { cutOff } from './resize.ts';
import { within } from './session.ts';
import { FULLY_PRESENT, PARTIALLY_PRESENT } from './structs.ts';
import { batPieces } from './survey.ts';

export function* rebase(source: BlockSource, parent: NewParent | undefined, context: OpenContext): Reshaping {
  const begun = beginSession(source, context);
  const { session, room } = begun;
  const { bat, metadata, regions } = session.opened;
  if (parent === undefined && !bat.hasParent) return;
  const locator = parent === undefined ? undefined : locatorFor(parent, metadata.logicalSectorSize, source);
  yield* within(session, function* () {
    session.begin();
    const patch = new Patch(session.opened.replayed);
    const edit = new MetadataEdit(regions.metadata, patch);
    edit.setHasParent(locator !== undefined);
    edit.setLocator(locator);
    if (locator === undefined) yield* complete(begun);
    const change = locator === undefined ? standingAlone(begun) : asChild(begun);
    yield* changeBat(session, room, change, patch);
  });
  yield* moveTable(source, context);
  // Where sector bitmaps were, nothing is.
  if (parent === undefined) yield* fill(source, context);
  else cutOff(source, context);
}

function locatorFor(parent: NewParent, sectorSize: number, { label }: BlockSource): Uint8Array {
  const { image, absolute } = parent;
  if (image.logicalSectorSize === sectorSize) return newLocator(parent);
  throw new ImageError(
    'usage',
    `${absolute}: has logical sectors of ${image.logicalSectorSize} bytes, ${label} of ${sectorSize}; ` +
      'a parent must have the same',
  );
}

/** The last chunk has a sector bitmap too, and entries for all its blocks. What had no meaning becomes 0. */
function asChild({ session }: Begun) {
  const { blocks, chunkShift, hasParent } = session.opened.bat;
  const map = (entry: number, word: number): number => {
    if (isBitmapEntry(entry, chunkShift)) return hasParent ? word : 0;
    return blockOf(entry, chunkShift) < blocks ? word : 0;
  };
  return { entries: entriesOf(blocks, chunkShift, true), map };
}

function standingAlone({ session }: Begun) {
  const { blocks, chunkShift } = session.opened.bat;
  const map = (entry: number, word: number): number => {
    if (isBitmapEntry(entry, chunkShift) || blockOf(entry, chunkShift) >= blocks) return 0;
    return word % 8 === PARTIALLY_PRESENT ? word - PARTIALLY_PRESENT + FULLY_PRESENT : word;
  };
  return { entries: entriesOf(blocks, chunkShift, false), map };
}

/** Sectors of partially present blocks that the parent shows become zeros in the file. */
function* complete({ session }: Begun): Generator<ReshapeStep, void> {
  const { bat, replayed } = session.opened;
  const { blockSize, chunkShift, sectorSize, blocks } = bat;
  const sectors = blockSize / sectorSize;
  for (const { first, count, halves } of batPieces(replayed, bat.at, bat.entries)) {
    for (let n = 0; n < count; n += 1) {
      const word = wordOf(halves[n * 2]!, halves[n * 2 + 1]!);
      if (word % 8 !== PARTIALLY_PRESENT || isBitmapEntry(first + n, chunkShift)) continue;
      const block = blockOf(first + n, chunkShift);
      if (block >= blocks) continue;
      const bitmap = Math.floor(entryWord(session, bitmapEntryOf(block, chunkShift)) / 8) * MIB;
      const bits = readObject(
        replayed,
        'VHDX sector bitmap',
        bitmap + ((block % 2 ** chunkShift) * sectors) / 8,
        sectors / 8,
      );
      const at = Math.floor(word / 8) * MIB;
      const used = Math.min(sectors, (bat.virtualSize - block * blockSize) / sectorSize);
      eachClearRun(bits, used, (from, end) => {
        session.clear(at + from * sectorSize, (end - from) * sectorSize);
      });
      yield { done: (first + n) * blockSize, total: bat.entries * blockSize };
    }
  }
}

/**
 * Lets a child know its parent by `identity` too. Where it knows two already, the parent is meant to have the second by
 * now ([MS-VHDX] 2.6.2.6.3), which stays.
 */
export function expectParent(source: BlockSource, identity: Uint8Array, context: OpenContext): void {
  const { session } = beginSession(source, context);
  const { metadata, regions } = session.opened;
  const { linkages = [] } = metadata.parent ?? {};
  const [present, coming] = linkages;
  if (present === undefined) throw new ImageError('usage', `${source.label}: has no parent`);
  const wanted = formatGuid(identity);
  if (linkages.includes(wanted)) return;
  const patch = new Patch(session.opened.replayed);
  const edit = new MetadataEdit(regions.metadata, patch);
  const pairs = parseLocator(edit.locator()!);
  pairs.set(LINK, `{${coming ?? present}}`);
  pairs.set(SECOND_LINK, `{${wanted}}`);
  edit.setLocator(encodeLocator(pairs));
  try {
    session.commit(patch);
  } catch (problem) {
    session.abandon();
    throw problem;
  }
  session.finish();
}
