/**
 * Mending a VDI, from what loses nothing to what does:
 *
 *   1. the header: fields that other programs stumble over (one write); the counter, where it is behind the map
 *   2. `all`: the last block of the file is completed with zeros where the file cuts it off; entries that name nothing in
 *      the file become zeros
 *   3. entries that name a place of another get one of their own, with a copy (relocate.ts); those behind the end of
 *      the disk are given up; blocks of a fixed image get a place
 *   4. the counter, where it is above what the file holds
 *   5. space that nobody uses is given up (compact.ts)
 *
 * While an entry is left that names nothing in the file, the file does not grow up to there, its counter does not fall, and
 * no block is moved: what is missing may yet be brought back.
 */

import { randomGuid } from '../../base/guid.ts';
import { type ByteCount, hex } from '../../base/units.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { Repair, RepairScope, Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { dropSpare, squeeze } from './compact.ts';
import { anyHeaderSize } from './header.ts';
import { blocksName, type MapScan, placeName, scanMap, unusedRuns } from './map-scan.ts';
import { freeNumbers, givePlaces } from './places.ts';
import { type Move, relocate, Work } from './relocate.ts';
import { mendedFields, type Tell } from './repair-header.ts';
import { counterPlace, ENTRY_ZERO, TYPE_FIXED } from './structs.ts';
import { beyondFile, beyondImage, blockHost, entryName } from './translator.ts';
import { WholeVdi } from './whole.ts';

/** Throws ImageError where the image cannot be opened for another reason than its header size, or must not be written. */
export function* repair(
  source: BlockSource,
  scope: RepairScope,
  context: OpenContext,
): Reshaping<readonly Repair[]> {
  const repairs: Repair[] = [];
  const tell: Tell = (text, lostBytes = 0) => repairs.push({ text, lostBytes });
  const isAll = scope === 'all';
  const image = WholeVdi.open(source, anyHeaderSize(context) || scope !== 'leaks', isAll);
  const work = new Work();
  if (scope !== 'leaks') {
    mendHeader(image, isAll, tell);
    mendCounter(image, look(image).scan, false, tell);
    if (isAll) loseMissing(image, tell);
    yield* mendEntries(image, tell, work);
  }
  const { scan, isSound } = look(image);
  if (scope !== 'leaks') mendCounter(image, scan, isSound, tell);
  if (isSound) yield* giveUpLeaks(image, scan, tell, work);
  return repairs;
}

function look(image: WholeVdi): { readonly scan: MapScan; readonly isSound: boolean } {
  let isSound = true;
  const scan = scanMap(image.header, image.source, () => {
    isSound = false;
  });
  return { scan, isSound };
}

function mendHeader(image: WholeVdi, isAll: boolean, tell: Tell): void {
  const change = mendedFields(image.header, isAll, randomGuid, tell);
  if (Object.keys(change).length === 0) return;
  image.change(change);
  image.flush();
}

/** Bytes of the disk in a block; of one behind the end, one: so that its place counts. */
function shownBytes({ header: { virtualSize, blockSize } }: WholeVdi, block: number): ByteCount {
  return Math.max(1, Math.min(blockSize, virtualSize - block * blockSize));
}

/** Whether the file holds all that the disk shows of a block which an entry has in the place `number`. */
function isHeld(image: WholeVdi, block: number, number: number): boolean {
  return blockHost(image.header, number) + shownBytes(image, block) <= image.source.size;
}

/** What the file lacks of the disk is zeros from now on. */
function loseMissing(image: WholeVdi, tell: Tell): void {
  const { entries, header, source } = image;
  const { size } = source;
  let end = size;
  for (let block = 0; block < image.needed; block += 1) {
    const entry = entries[block]!;
    if (entry >= ENTRY_ZERO || isHeld(image, block, entry)) continue;
    const from = blockHost(header, entry);
    const missing = from + shownBytes(image, block) - size;
    // Of a number that cannot be, only whole blocks are taken for real.
    if (entry < header.blocks && from < size) {
      tell(`${beyondFile(header, block, entry, size)}; what is missing became zeros`, missing);
      end = Math.max(end, from + header.blockSize);
      continue;
    }
    const text =
      entry < header.blocks ? beyondFile(header, block, entry, size) : beyondImage(header, block, entry);
    tell(`${text}; the block became zeros`, shownBytes(image, block));
    image.set(block, ENTRY_ZERO);
  }
  image.reach(end);
  image.writeEntries();
  image.flush();
}

/** Each block of the disk has a place of its own, as far as the file holds one. */
function* mendEntries(image: WholeVdi, tell: Tell, work: Work): Reshaping {
  const spare = dropSpare(image);
  if (spare > 0) {
    tell(
      `VDI block map: ${spare} entries behind the end of the disk named physical blocks; they are free now`,
    );
  }
  const { entries, header } = image;
  const seen = new Uint8Array(Math.ceil(header.blocks / 8));
  const shared: { block: number; from: number }[] = [];
  let limit = header.blocks;
  for (let block = 0; block < image.needed; block += 1) {
    const from = entries[block]!;
    if (from >= ENTRY_ZERO) continue;
    if (!isHeld(image, block, from)) {
      if (from < limit) limit = from;
      continue;
    }
    const bit = 1 << (from & 7);
    const isOwn = from < header.blocks && (seen[from >>> 3]! & bit) === 0;
    if (isOwn) seen[from >>> 3]! |= bit;
    else shared.push({ block, from });
  }
  const { scan } = look(image);
  const free = freeNumbers(scan, 0);
  const moves: Move[] = [];
  for (const { block, from } of shared) {
    const to = free.next().value!;
    if (to >= limit) break;
    const what =
      from < header.blocks
        ? `physical block ${from} was in use by another entry`
        : `physical block was ${from}, the image has ${header.blocks} blocks`;
    tell(`${entryName(header, block)}: ${what}; its copy is physical block ${to}`);
    moves.push({ block, from, to });
  }
  yield* relocate(image, moves, work);
  if (header.type === TYPE_FIXED && limit === header.blocks && !image.hasParent) fillFixed(image, tell);
}

/** A fixed image has a place for every block. */
function fillFixed(image: WholeVdi, tell: Tell): void {
  const blocks: number[] = [];
  for (let block = 0; block < image.needed; block += 1)
    if (image.entries[block]! >= ENTRY_ZERO) blocks.push(block);
  if (blocks.length === 0) return;
  givePlaces(image, blocks, freeNumbers(image.scan(), 0));
  image.writeEntries();
  image.flush();
  tell(
    `VDI block map: ${blocks.length} of ${image.needed} blocks had no place, though the image is fixed; they have one now`,
  );
}

/** Never behind the map; and not above what the file holds, unless an entry says that the file was longer. */
function mendCounter(image: WholeVdi, scan: MapScan, isSound: boolean, tell: Tell): void {
  const { header } = image;
  const said = header.blocksAllocated;
  const most = Math.min(scan.held, header.blocks);
  const value = Math.max(scan.end, isSound ? Math.min(said, most) : said);
  if (value === said) return;
  tell(
    `VDI header at ${hex(counterPlace(header.version))}: ${said} blocks were said to be allocated, now ${value}`,
  );
  image.change({ blocksAllocated: value });
  image.flush();
}

function* giveUpLeaks(image: WholeVdi, scan: MapScan, tell: Tell, work: Work): Reshaping {
  const { header, source } = image;
  const end = Math.max(scan.end, Math.min(header.blocksAllocated, scan.held, header.blocks));
  let isFound = false;
  for (const [first, count] of unusedRuns(scan, end)) {
    tell(
      `VDI data area at ${placeName(header, first)}: no entry named ${blocksName(first, count)}; given up`,
    );
    isFound = true;
  }
  const fileEnd = image.placeOf(end);
  if (source.size > fileEnd) {
    const text = `${source.size - fileEnd} bytes followed the last block that is allocated; cut off`;
    tell(`VDI data area at ${hex(fileEnd)}: ${text}`);
    isFound = true;
  }
  if (isFound) yield* squeeze(image, work);
}
