/**
 * Mending a VHD. In this order: footers, entries that name nothing, header, the table's place, overlaps, batmap, locators,
 * what lies under clear bits, and at the end space that nobody uses, once the image is sound. An entry that names nothing
 * in the file could come to name what the file grows by: as long as there is one, nothing is done that lets it grow.
 */

import { quoted } from '../../base/text.ts';
import { type ByteCount, hex } from '../../base/units.ts';
import type { OpenContext } from '../../image/driver.ts';
import { must } from '../../image/must.ts';
import type { Repair, RepairScope, Reshaping } from '../../image/reshape.ts';
import { safeNumber } from '../../layout/struct.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { MAX_MAP_BYTES } from './batmap.ts';
import { checkVhd } from './check.ts';
import { eachBitmap, zeroUnderClearBits } from './clear-bits.ts';
import { compact } from './compact.ts';
import { type LocatorEntry, locatorEntries, moveLocators, NO_LOCATOR, setLocators } from './locators.ts';
import { fenceMisplaced, fillMisplaced, misplacedBlocks, separateBlocks } from './repair-blocks.ts';
import { mendFooters, type Tell } from './repair-footer.ts';
import { Rework, reopen, type Steps } from './rework.ts';
import { blockWithin } from './space.ts';
import { headerStruct, SECTOR, UNALLOCATED } from './structs.ts';
import { usedBytes } from './table.ts';
import type { DynamicState } from './translator.ts';

/** See Reshaper.repair. */
export function* repair(
  source: BlockSource,
  scope: RepairScope,
  context: OpenContext,
): Reshaping<readonly Repair[]> {
  const done: Repair[] = [];
  const tell: Tell = (text, lostBytes = 0) => void done.push({ text, lostBytes });
  if (scope !== 'leaks') {
    mendFooters(source, scope, context, tell);
    yield { done: 0, total: source.size };
    const { errors, warnings } = look(source, context);
    if (errors + warnings > 0) yield* mendTables(source, scope, context, tell);
  }
  yield* giveUpLeaks(source, context, tell);
  return done;
}

const look = (source: BlockSource, context: OpenContext) =>
  checkVhd(source, { ...context, report: () => {} });

function* mendTables(source: BlockSource, scope: RepairScope, context: OpenContext, tell: Tell): Steps {
  const { state, found } = reopen(source, context);
  // Without a footer at the end a block is cut off, which was not to be mended.
  if (state.kind === 'fixed' || found.tailAt === undefined) return;
  const { size } = source;
  let work = Rework.openDamaged(source, context);
  const misplaced = misplacedBlocks(work);
  if (misplaced.length > 0 && scope !== 'all') {
    // Another header would be put behind the end of the file.
    if (work.parts.placed.at % SECTOR === 0) mendHeader(work, tell);
    return;
  }
  if (misplaced.length > 0) {
    fenceMisplaced(work, misplaced);
    yield { done: 0, total: source.size };
    work = Rework.openDamaged(source, context);
  }
  mendHeader(work, tell);
  if (work.layout.tableAt % SECTOR !== 0) {
    const { tableAt } = work.layout;
    work.moveTable(work.table, work.entries, work.parts.batmap?.map);
    tell(`VHD block allocation table at ${hex(tableAt)}: did not start at a sector, now it does`);
    work = Rework.openDamaged(source, context);
  }
  yield { done: 0, total: source.size };
  if (misplaced.length > 0) fillMisplaced(work, misplaced, tell);
  work = Rework.openDamaged(source, context);
  separateBlocks(work, tell);
  yield { done: 0, total: source.size };
  work = Rework.openDamaged(source, context);
  yield* mendBatmap(work, tell);
  mendLocators(work, size, tell);
  const isHonoured = (state as DynamicState).bitmaps !== undefined;
  if (scope !== 'all' || work.parts.parent !== undefined || !isHonoured) return;
  yield* zeroUnderClearBits(work, (block, at) => {
    tell(`VHD block ${block}: data from ${hex(at)} on, which no bit said was there, is zeros`);
  });
  work.flush();
}

function mendHeader(work: Rework, tell: Tell): void {
  const { header, at, computed, tableAt } = work.parts.placed;
  const name = `VHD dynamic header at ${hex(at)}`;
  const doesFit = Math.floor((tableEndOf(work) - tableAt) / 4) === header.maxTableEntries;
  if (header.checksum === computed && doesFit) return;
  work.setHeader((view) => {
    if (!doesFit) view.setUint32(headerStruct.at.maxTableEntries, work.entries);
  });
  if (header.checksum !== computed) {
    tell(`${name}: checksum was ${hex(header.checksum)}, now it is that of what is there`);
  }
  if (!doesFit) tell(`${name}: ${header.maxTableEntries} table entries did not fit, now ${work.entries}`);
}

const tableEndOf = ({ layout, entries }: Rework): number => layout.tableAt + entries * 4;

/** A batmap decides what is read of a block: what it calls full and is there gets all of its bits. */
function* mendBatmap(work: Rework, tell: Tell): Steps {
  const { parts, layout } = work;
  const { batmap } = parts;
  if (batmap === undefined) return;
  const { map } = batmap;
  if (map === undefined) {
    if (batmap.mapBytes * 8 < layout.blockCount || batmap.mapBytes > MAX_MAP_BYTES) return;
    // What is not called full is never wrong. Until all of it is there the checksum is none of either.
    work.resetMap(batmap);
    tell(`VHD batmap at ${hex(batmap.at)}: it could not be used; it calls no block full now`);
    return;
  }
  const isCalled = (block: number): boolean => (map[block >>> 3]! & (0x80 >> (block & 7))) !== 0;
  const gone = new Set<number>();
  for (let block = 0; block < layout.blockCount; block += 1) {
    if (isCalled(block) && work.entry(block) === UNALLOCATED) gone.add(block);
  }
  work.clearMap((block) => gone.has(block));
  for (const block of gone)
    tell(`VHD block ${block}: the batmap called it full, it is not there; its bit is cleared`);
  let filled = false;
  yield* eachBitmap(work, (block, entry, bitmap) => {
    if (!isCalled(block) || bitmap.isFull(block)) return;
    bitmap.fill(Math.ceil(usedBytes(layout, block) / SECTOR));
    must(bitmap.write(entry), work.source, `the bitmap of block ${block} cannot be written`);
    filled = true;
    tell(`VHD block ${block}: the batmap calls it full, its bitmap did not; now it does`);
  });
  if (filled) work.flush();
}

/** `size`: of the file before anything was mended. */
function mendLocators(work: Rework, size: ByteCount, tell: Tell): void {
  const { layout, list, parts } = work;
  const isLost = ({ code, offset, length }: LocatorEntry): boolean => {
    const at = safeNumber(offset);
    return code !== NO_LOCATOR && (at === undefined || at + length > size);
  };
  const lost = locatorEntries(work).filter(isLost);
  if (lost.length > 0) {
    setLocators(work, (entry) => (isLost(entry) ? undefined : entry));
    for (const { code, offset } of lost)
      tell(
        `VHD parent locator ${quoted(code)}: its data at ${hex(offset)} was not inside the file; it is dropped`,
      );
  }
  const inBlock = (parts.parent?.locators ?? []).filter(
    ({ at, end }) => blockWithin(layout, list, at, end) !== undefined,
  );
  if (inBlock.length === 0) return;
  moveLocators(work);
  for (const { code, at } of inBlock)
    tell(`VHD parent locator ${code}: its data at ${hex(at)} was in a block; a copy has a place of its own`);
}

/** The image is sound; one that must not be written keeps what it leaks. */
function* giveUpLeaks(source: BlockSource, context: OpenContext, tell: Tell): Steps {
  const before = look(source, context);
  if (before.leaks === 0 || before.errors > 0) return;
  try {
    reopen(source, context).prepareEdit();
  } catch {
    return;
  }
  yield* compact(source, context);
  const given = before.leakedBytes - look(source, context).leakedBytes;
  if (given > 0) tell(`VHD: ${given} bytes that nothing used are given up`);
}
