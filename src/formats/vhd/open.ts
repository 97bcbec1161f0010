/** Opening: which footer, how large, where the tables are. */

import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { formatUuid } from '../../base/guid.ts';
import { quoted } from '../../base/text.ts';
import { hex, roundDown, roundUp } from '../../base/units.ts';
import type { FormatOption, OpenContext, Report } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type Batmap, readBatmap } from './batmap.ts';
import { type FooterCopy, type FoundFooter, findFooter, timeText, variantOf } from './footer.ts';
import { chooseSize, geometrySize, SIZE_OPTION, type SizeChoice } from './geometry.ts';
import { type PlacedHeader, readHeader } from './header.ts';
import { VhdImage, type VhdState } from './image.ts';
import { type ParentRecord, readParent } from './parent.ts';
import {
  CREATOR_TAPDISK,
  FEATURE_TEMPORARY,
  type Footer,
  headerStruct,
  SECTOR,
  TYPE_DIFFERENCING,
  TYPE_DYNAMIC,
  TYPE_FIXED,
  VERSION_1_0,
} from './structs.ts';
import { type Layout, wordsPerBlock } from './table.ts';

export const BITMAP_OPTION: FormatOption = {
  name: 'vhd-bitmap',
  values: ['honour', 'ignore'],
  doc: 'Ignore the sector bitmaps, for a dynamic image whose bitmaps were never kept.',
};

/** Above that, the byte per block that says "full" is not worth its memory. */
const MAX_FULL_BYTES = 16 * 1024 * 1024;
/** Words that a paged table can have. */
const MAX_TABLE_WORDS = 0xffffffff;

/** Opens a VHD. Throws ImageError; what does not keep it from being read is reported. */
export function openVhd(source: BlockSource, context: OpenContext): VhdImage {
  const { options, report } = context;
  const sizeOption = choice(options, SIZE_OPTION);
  const bitmapOption = choice(options, BITMAP_OPTION);
  const located = findFooter(source, report);
  const found = located.copy;
  const { footer } = found;
  if (footer.type !== TYPE_FIXED && footer.type !== TYPE_DYNAMIC && footer.type !== TYPE_DIFFERENCING) {
    throw unsupported(
      `VHD footer at ${hex(found.at)}: disk type is ${footer.type}, expected 2 (fixed), 3 (dynamic) or 4 (differencing)`,
    );
  }
  if (footer.version !== VERSION_1_0) {
    report(`VHD footer at ${hex(found.at)}: version is ${hex(footer.version)}, expected 0x10000`);
  }
  if (footer.savedState === 1) {
    report('VHD footer: a virtual machine was suspended with this disk; its memory holds newer data');
  }
  if (footer.type === TYPE_FIXED) return openFixed(source, located, sizeOption, report);

  const placed = readHeader(source, footer, report);
  let ignoreBitmaps = bitmapOption === 'ignore';
  let parent: ParentRecord | undefined;
  if (footer.type === TYPE_DIFFERENCING) {
    parent = readParent(source, placed.header, isTapdisk01(footer), report);
    if (ignoreBitmaps) {
      report(
        'VHD: the sector bitmaps say where the parent shows, so that vhd-bitmap=ignore is not for this image',
      );
    }
    ignoreBitmaps = false;
  }
  return openDynamic(source, context, located, placed, parent, sizeOption, ignoreBitmaps);
}

function choice(options: ReadonlyMap<string, string>, option: FormatOption): string | undefined {
  const value = options.get(option.name);
  if (value === undefined || option.values.includes(value)) return value;
  throw new ImageError('usage', `${option.name}=${value}: expected one of ${option.values.join(', ')}`);
}

/** tapdisk's first version, which had an order of bits and of text of its own. */
function isTapdisk01(footer: Footer): boolean {
  return footer.creator === CREATOR_TAPDISK && footer.creatorVersion === 0x00000001;
}

function openFixed(
  source: BlockSource,
  located: FoundFooter,
  sizeOption: string | undefined,
  report: Report,
): VhdImage {
  const found = located.copy;
  let { size, rule } = chooseSize(found.footer, sizeOption, report);
  if (size > found.at) {
    // Early QEMU wrote a geometry that is larger than the data: the footer is never part of the disk.
    report(`VHD footer: the disk is said to have ${size} bytes, the file holds ${found.at}; that is used`);
    size = found.at;
    rule = `${rule}, limited by the file`;
  }
  return new VhdImage(source, size, { kind: 'fixed' }, footerFacts(found, { size, rule }), located);
}

function openDynamic(
  source: BlockSource,
  context: OpenContext,
  located: FoundFooter,
  placed: PlacedHeader,
  parent: ParentRecord | undefined,
  sizeOption: string | undefined,
  ignoreBitmaps: boolean,
): VhdImage {
  const { copy: found, tailAt } = located;
  const { tables, report } = context;
  const { footer } = found;
  const { header } = placed;
  const { blockSize } = header;
  const sizing = dynamicSize(footer, placed, sizeOption, report);
  const blockCount = Math.ceil(sizing.size / blockSize);
  const perBlock = wordsPerBlock(blockSize);
  if (blockCount * perBlock > MAX_TABLE_WORDS) {
    throw unsupported(
      `VHD: a disk of ${sizing.size} bytes in blocks of ${blockSize} is larger than supported`,
    );
  }

  const limit = tailAt ?? roundDown(source.size, SECTOR);
  const tableEnd = checkTable(placed, blockCount, limit, report);
  const batmap = readBatmap(source, footer, placed.tableAt + header.maxTableEntries * 4, blockCount, report);
  const sharedLimit = new Float64Array(new SharedArrayBuffer(8));
  sharedLimit[0] = limit;
  const layout: Layout = {
    size: sizing.size,
    blockSize,
    blockCount,
    bitmapBytes: roundUp(Math.ceil(blockSize / SECTOR / 8), SECTOR),
    bitOrder: isTapdisk01(footer) ? 'lsb' : 'msb',
    tableAt: placed.tableAt,
    metadata: metadataRanges(placed, tableEnd, batmap),
    limit: sharedLimit,
    cut: tailAt === undefined,
  };
  const withFull = !ignoreBitmaps && blockCount <= MAX_FULL_BYTES;
  const full = withFull ? new SharedArrayBuffer(blockCount) : undefined;
  if (full !== undefined && batmap?.map !== undefined) markFull(new Uint8Array(full), batmap.map);
  const state: VhdState = {
    kind: 'dynamic',
    layout,
    table: tables.allocate(blockCount),
    bitmaps: ignoreBitmaps ? undefined : tables.allocate(blockCount * perBlock),
    full,
  };

  const facts = footerFacts(found, sizing);
  facts.set('header-offset', hex(placed.at));
  facts.set('table-offset', hex(placed.tableAt));
  facts.set('table-entries', `${header.maxTableEntries}`);
  facts.set('block-count', `${blockCount}`);
  const order = layout.bitOrder === 'lsb' ? 'honoured, least significant bit first' : 'honoured';
  facts.set('sector-bitmaps', ignoreBitmaps ? 'ignored (option)' : order);
  if (batmap !== undefined) facts.set('batmap', batmap.map === undefined ? 'not used' : 'used');
  for (const [name, value] of parent?.facts ?? []) facts.set(name, value);
  const entries = Math.floor((tableEnd - placed.tableAt) / 4);
  return new VhdImage(source, sizing.size, state, facts, located, { placed, parent, entries, batmap });
}

/** The size, given that the table must have an entry for every block of it. */
function dynamicSize(
  footer: Footer,
  { at, header }: PlacedHeader,
  sizeOption: string | undefined,
  report: Report,
): SizeChoice {
  const { size, rule } = chooseSize(footer, sizeOption, report);
  const mapped = header.maxTableEntries * header.blockSize;
  if (size <= mapped) return { size, rule };
  if (sizeOption === 'chs') {
    report(`VHD footer: the geometry says ${size} bytes, the table maps ${mapped}; that is used`);
    return { size: mapped, rule: `${rule}, limited by the table` };
  }
  throw corrupt(
    `VHD dynamic header at ${hex(at)}: ${header.maxTableEntries} table entries map ${mapped} bytes, ` +
      `expected at least the ${size} of the disk`,
  );
}

/** Where the table ends. Throws where an entry that the disk needs is not in the file. */
function checkTable(placed: PlacedHeader, blockCount: number, limit: number, report: Report): number {
  const { at, header, tableAt } = placed;
  const name = `VHD block allocation table at ${hex(tableAt)}`;
  const needed = tableAt + blockCount * 4;
  if (needed > limit) {
    throw corrupt(
      `${name}: its ${blockCount} entries end at ${hex(needed)}, expected an end before ${hex(limit)}`,
    );
  }
  if (tableAt < at + headerStruct.size && needed > at) {
    throw corrupt(`${name}: expected a place of its own, found the dynamic header at ${hex(at)} in it`);
  }
  const end = tableAt + header.maxTableEntries * 4;
  if (end <= limit && (tableAt >= at + headerStruct.size || end <= at)) return end;
  report(`${name}: its ${header.maxTableEntries} entries do not fit; the disk needs ${blockCount} of them`);
  return needed;
}

/** Host ranges that no block can overlap, in order, those that touch being one. */
function metadataRanges(placed: PlacedHeader, tableEnd: number, batmap: Batmap | undefined): number[] {
  const ranges: [number, number][] = [
    [0, SECTOR],
    [placed.at, placed.at + headerStruct.size],
    [placed.tableAt, tableEnd],
  ];
  if (batmap !== undefined) ranges.push([batmap.at, batmap.at + SECTOR]);
  if (batmap?.map !== undefined) ranges.push([batmap.mapAt, batmap.mapAt + batmap.map.length]);
  ranges.sort((a, b) => a[0] - b[0]);
  const merged: number[] = [];
  for (const [start, end] of ranges) {
    const last = merged.length - 1;
    if (last > 0 && start <= merged[last]!) merged[last] = Math.max(merged[last]!, end);
    else merged.push(start, end);
  }
  return merged;
}

/** Notes the blocks that the batmap says are full. */
function markFull(full: Uint8Array, map: Uint8Array): void {
  const end = Math.min(map.length, Math.ceil(full.length / 8));
  for (let at = 0; at < end; at += 1) {
    if (map[at] === 0) continue;
    for (let bit = 0; bit < 8; bit += 1) {
      const block = at * 8 + bit;
      if (block < full.length && map[at]! & (0x80 >> bit)) full[block] = 1;
    }
  }
}

const FOOTER_PLACES = {
  tail: 'at the end',
  'short-tail': 'at the end, 511 bytes',
  head: 'copy at the start',
};

function footerFacts(found: FooterCopy, sizing: SizeChoice): Map<string, string> {
  const { footer } = found;
  const { creatorVersion: version } = footer;
  const facts = new Map<string, string>([
    ['footer', FOOTER_PLACES[found.place]],
    ['disk-type', `${footer.type} (${variantOf(footer.type)})`],
    ['version', `${footer.version >>> 16}.${footer.version & 0xffff}`],
    ['creator', quoted(footer.creator)],
    ['creator-version', `${version >>> 16}.${version & 0xffff}`],
    ['creator-system', quoted(footer.creatorSystem)],
    ['created', timeText(footer.timestamp)],
    ['uuid', formatUuid(footer.uniqueId)],
    ['original-size', `${footer.originalSize}`],
    ['current-size', `${footer.currentSize}`],
    ['geometry', `${footer.cylinders}/${footer.heads}/${footer.sectors}`],
    ['geometry-size', `${geometrySize(footer)}`],
    ['size-rule', sizing.rule],
  ]);
  if (footer.features & FEATURE_TEMPORARY) facts.set('temporary', 'yes');
  if (footer.savedState !== 0) facts.set('saved-state', `${footer.savedState}`);
  if (footer.hidden !== 0) facts.set('hidden', `${footer.hidden}`);
  return facts;
}
