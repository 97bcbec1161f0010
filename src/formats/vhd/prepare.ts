/** Before a VHD is written: whether it can be, and where there is room in it. Reads only. */

import type { Status } from '../../base/errno.ts';
import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { type HostOffset, hex, roundUp } from '../../base/units.ts';
import { MAX_SCANNED_WORDS, scanTable } from '../../image/count.ts';
import { GroupCommit } from '../../image/group-commit.ts';
import { type TableEditSeed, tableEditSeed } from '../../image/table-editor.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { stampFooter } from './footer.ts';
import type { DynamicParts, VhdImage } from './image.ts';
import {
  type BlockList,
  blockBytes,
  blockEnd,
  blockWithin,
  endOfUse,
  freePlaces,
  gaps,
  listBlocks,
  overlap,
  reservedRanges,
} from './space.ts';
import { footerStruct, SECTOR, UNALLOCATED, VERSION_1_0 } from './structs.ts';
import { IN_METADATA, tableLoader, usedBytes } from './table.ts';
import type { DynamicState } from './translator.ts';

/** Plain data: shared by the editors of all threads. */
export interface FixedEdit {
  readonly kind: 'fixed';
  readonly commit: SharedArrayBuffer;
  readonly footer: Uint8Array;
  /** Host offset of the footer. */
  readonly footerAt: number;
}

/** What writing takes where there is a table. */
export interface BlockEdit extends TableEditSeed {
  /** Host offsets and a count that the threads share: see NEXT, CLEAN and RELEASED. */
  readonly bounds: Float64Array<SharedArrayBuffer>;
  /** Bitmaps that wait to be written: see pending.ts. */
  readonly pending: SharedArrayBuffer;
  /** The footer as it is written in both places, 512 bytes. */
  readonly footer: Uint8Array<SharedArrayBuffer>;
  /** Host offset where the footer at the end is written first. */
  readonly tailAt: number;
  /** The two footers are not both there and the same: they are made so, one after the other. */
  readonly repair: boolean;
  readonly entries: number;
  /** Host ranges in use beside blocks and metadata. */
  readonly reserved: readonly number[];
}

export interface DifferencingEdit extends BlockEdit {
  readonly kind: 'differencing';
}

export interface DynamicEdit extends BlockEdit {
  readonly kind: 'dynamic';
  /** tapdisk's map of full blocks: what has its bit set stays allocated. */
  readonly batmap: Uint8Array | undefined;
  /** Blocks can be unmapped at all. */
  readonly unmaps: boolean;
  /** The last block stays allocated: it is shorter than the others, or holds more than the disk. */
  readonly keepsLast: boolean;
}

export type VhdEdit = FixedEdit | DynamicEdit | DifferencingEdit;

/** Host offset behind the last block that was given out. */
export const NEXT = 0;
/** Host offset from which on, up to the footer, the file reads as zeros. */
export const CLEAN = 1;
/** Blocks that were unmapped since the last commit began. */
export const RELEASED = 2;

/** Bitmaps that can wait to be written: two words each, behind two counts. */
export const MAX_PENDING = 1024;

function refused({ kind, message }: ImageError): ImageError {
  return new ImageError(kind, message, { hint: 'It can be read: mount it with -o ro.' });
}

/** Throws ImageError where the image must not be written. */
export function prepareEdit(image: VhdImage): VhdEdit {
  const { copy } = image.found;
  const { footer } = copy;
  if (footer.savedState === 1) {
    throw refused(
      unsupported('VHD footer: a virtual machine was suspended with this disk, and writing would break it'),
    );
  }
  if (footer.version !== VERSION_1_0) {
    throw refused(unsupported(`VHD footer: version is ${hex(footer.version)}, expected 0x10000 for writing`));
  }
  if (image.state.kind === 'fixed') {
    return { kind: 'fixed', commit: GroupCommit.seed(), footer: copy.bytes, footerAt: copy.at };
  }
  return prepareDynamic(image, image.state, image.parts!);
}

function prepareDynamic(
  image: VhdImage,
  state: DynamicState,
  parts: DynamicParts,
): DynamicEdit | DifferencingEdit {
  const { source, found } = image;
  const { layout } = state;
  const { entries, batmap, parent } = parts;
  checkHeader(parts);
  const table = `VHD block allocation table at ${hex(layout.tableAt)}`;
  if (entries > MAX_SCANNED_WORDS) {
    throw refused(
      unsupported(`${table}: its ${entries} entries are too many to look for damage before writing`),
    );
  }
  const list = listBlocks(source, layout, entries, (block, entry, how) => {
    const where = how === IN_METADATA ? `where the image's metadata is` : 'which is not in the file';
    throw refused(corrupt(`${table}: block ${block} is at sector ${hex(entry)}, ${where}`));
  });
  const { starts } = list;
  const twice = overlap(layout, list);
  if (twice !== undefined) {
    throw refused(corrupt(`${table}: the blocks at sectors ${hex(twice[0])} and ${hex(twice[1])} overlap`));
  }
  const limit = layout.limit[0]!;
  const inFile = starts.length === 0 ? 0 : blockEnd(layout, list, starts[starts.length - 1]!);
  if (layout.cut && inFile > limit) {
    throw refused(corrupt(`VHD: the last block ends at ${hex(inFile)}, the file at ${hex(source.size)}`));
  }

  const reserved = reservedRanges(parts);
  const tailAt = placeOfTail(found.tailAt, source.size, endOfUse(layout, list, reserved));
  const bounds = new Float64Array(new SharedArrayBuffer(3 * 8));
  bounds[NEXT] = endOfUse(layout, list, reserved);
  // The old footer, and what is in unused parts of the file.
  bounds[CLEAN] = Math.max(roundUp(source.size, SECTOR), tailAt + SECTOR);
  const footer = new Uint8Array(new SharedArrayBuffer(SECTOR));
  footer.set(found.copy.bytes);
  const edit: BlockEdit = {
    ...tableEditSeed(freePlaces(layout, gaps(layout, list, reserved, Math.min(limit, bounds[NEXT])))),
    bounds,
    pending: new SharedArrayBuffer((2 + 2 * MAX_PENDING) * 4),
    footer,
    tailAt,
    repair: !found.paired || tailAt !== found.tailAt,
    entries,
    reserved,
  };
  if (parent !== undefined) {
    checkParts(image, state, parts, list);
    return { kind: 'differencing', ...edit };
  }
  return {
    kind: 'dynamic',
    ...edit,
    batmap: batmap?.map,
    unmaps: batmap === undefined || batmap.map !== undefined,
    keepsLast: keepsLast(image, state, starts, list.last),
  };
}

/** What would make writing to a differencing image show something else than the parent where nobody wrote. */
function checkParts(
  { source }: VhdImage,
  { layout }: DynamicState,
  { batmap, parent }: DynamicParts,
  list: BlockList,
): void {
  for (const { code, at, end } of parent!.locators) {
    const start = blockWithin(layout, list, at, end);
    if (start === undefined) continue;
    const text = `VHD parent locator ${code}: its data at ${hex(at)} is in the block at sector ${hex(start)}`;
    throw refused(corrupt(text));
  }
  const map = batmap?.map;
  if (map === undefined) return;
  const load = tableLoader(source, layout);
  for (let from: number | undefined = 0; from !== undefined; ) {
    from = scanTable(load, layout.blockCount, from, source.label, (block, entry) => {
      if (entry !== UNALLOCATED || (map[block >>> 3]! & (0x80 >> (block & 7))) === 0) return;
      throw refused(corrupt(`VHD block ${block}: the batmap calls it full, it is not allocated`));
    });
  }
}

function checkHeader({ placed }: DynamicParts): void {
  const { header, tableAt, computed } = placed;
  const name = `VHD dynamic header at ${hex(placed.at)}`;
  if (header.checksum !== computed) {
    throw refused(corrupt(`${name}: checksum is ${hex(header.checksum)}, computed ${hex(computed)}`));
  }
  if (header.version !== VERSION_1_0) {
    throw refused(unsupported(`${name}: version is ${hex(header.version)}, expected 0x10000 for writing`));
  }
  if (tableAt % SECTOR !== 0) {
    throw refused(corrupt(`${name}: the table is at ${hex(tableAt)}, expected the start of a sector`));
  }
}

/**
 * Where the footer at the end goes: in place, unless it is missing or not in a sector of its own, whose writing
 * is not atomic. A missing one takes the last sector of the file where that is free (a device, which cannot
 * grow), else the next one.
 */
export function placeOfTail(tailAt: number | undefined, size: number, used: number): number {
  if (tailAt !== undefined && tailAt % SECTOR === 0) return tailAt;
  if (tailAt === undefined && size % SECTOR === 0 && used <= size - SECTOR) return size - SECTOR;
  return roundUp(size, SECTOR);
}

function keepsLast(image: VhdImage, { layout }: DynamicState, starts: Uint32Array, last: number): boolean {
  if (last < 0 || usedBytes(layout, layout.blockCount - 1) === layout.blockSize) return false;
  // Virtual PC and QEMU show less of the disk (its geometry) than others do.
  if (image.found.copy.footer.currentSize > BigInt(layout.size)) return true;
  const end = last * SECTOR + blockBytes(layout);
  const next = starts[starts.indexOf(last) + 1];
  if (end > layout.limit[0]! || (next !== undefined && next * SECTOR < end)) return true;
  const { metadata } = layout;
  for (let n = 0; n < metadata.length; n += 2) {
    if (metadata[n]! >= last * SECTOR && metadata[n]! < end) return true;
  }
  return false;
}

/**
 * The first write to a fixed image: the time in its footer, and the checksum. These bytes only: where they are in
 * two sectors, a torn write would leave the image without a footer, so the time stays. Returns 0 or -errno.
 */
export function stampFixed({ footer, footerAt }: FixedEdit, source: BlockSource): Status {
  const from = footerStruct.at.timestamp;
  const length = footerStruct.at.checksum + 4 - from;
  const at = footerAt + from;
  if (Math.floor(at / SECTOR) !== Math.floor((at + length - 1) / SECTOR)) return 0;
  const bytes = footer.slice();
  stampFooter(bytes, Math.floor(Date.now() / 1000));
  const status = source.writeAt(bytes, from, length, at as HostOffset, 'footer.write');
  // Half of it must not stay: there is no other copy.
  if (status < 0) source.writeAt(footer, from, length, at as HostOffset, 'footer.write');
  return status;
}
