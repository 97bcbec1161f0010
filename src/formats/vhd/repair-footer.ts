/**
 * Mending footers. A footer is one sector, and the good one is never written before the other is good and stable: the
 * copy at the start first, then the one at the end, which decides.
 */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, type HostOffset, hex, MIB, roundDown, roundUp } from '../../base/units.ts';
import { scanTable } from '../../image/count.ts';
import type { OpenContext } from '../../image/driver.ts';
import { must } from '../../image/must.ts';
import type { RepairScope } from '../../image/reshape.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { isAhead, isGeometryAbove } from './check.ts';
import { flush, writeFooter, writeFooters } from './checked-file.ts';
import {
  type FooterCopy,
  findFooter,
  footerAt,
  footerSectors,
  leadsToHeader,
  setSize,
  stampFooter,
} from './footer.ts';
import type { VhdImage } from './image.ts';
import { placeOfTail } from './prepare.ts';
import { reopen } from './rework.ts';
import { blockEnd, endOfUse, listBlocks, reservedRanges } from './space.ts';
import { FEATURE_TEMPORARY, footerStruct, SECTOR, TYPE_FIXED, UNALLOCATED, VERSION_1_0 } from './structs.ts';
import { tableLoader, usedBytes } from './table.ts';
import type { DynamicState } from './translator.ts';

/** Told of what was mended. */
export type Tell = (text: string, lostBytes?: ByteCount) => void;

const PIECE = MIB;

/** Throws ImageError where no footer can be found, or the image cannot be opened all the same. */
export function mendFooters(source: BlockSource, scope: RepairScope, context: OpenContext, tell: Tell): void {
  cutZeros(source, tell);
  reseal(source, tell);
  const faults: string[] = [];
  findFooter(source, (notice) => faults.push(notice));
  const image = reopen(source, context);
  const { copy, tailAt } = image.found;
  if (copy.footer.version !== VERSION_1_0) return;
  const { bytes, texts } = mendedFields(image, scope);
  if (image.state.kind === 'fixed') {
    if (texts.length === 0 || copy.at % SECTOR !== 0) return;
    writeFooter(source, bytes, copy.at);
    flush(source);
    for (const text of texts) tell(text);
    return;
  }
  if (texts.length === 0 && faults.length === 0) return;
  const { layout } = image.state;
  const list = listBlocks(source, layout, image.parts!.entries, () => {});
  const used = endOfUse(layout, list, reservedRanges(image.parts!));
  let place = placeOfTail(tailAt, source.size, used);
  const lastEnd = list.starts.reduce((end, start) => Math.max(end, blockEnd(layout, list, start)), 0);
  if (layout.cut && lastEnd > layout.limit[0]!) {
    // With a footer where the file ends, the block would not be in front of it: the footer has to leave room for all.
    if (scope !== 'all') return;
    tellCut(source, image.state, tell);
    place = roundUp(lastEnd, SECTOR);
  }
  writeFooters(source, bytes, place);
  for (const text of texts) tell(text);
  for (const fault of faults) tell(`${fault}; both are now the same`);
}

/** What the file lacks of blocks becomes zeros. */
function tellCut(source: BlockSource, { layout }: DynamicState, tell: Tell): void {
  const limit = layout.limit[0]!;
  for (let from: number | undefined = 0; from !== undefined; ) {
    from = scanTable(tableLoader(source, layout), layout.blockCount, from, source.label, (block, entry) => {
      if (entry === UNALLOCATED) return;
      const dataAt = entry * SECTOR + layout.bitmapBytes;
      const missing = dataAt + usedBytes(layout, block) - limit;
      if (missing <= 0 || dataAt > limit) return;
      tell(
        `VHD block ${block}: its data at ${hex(dataAt)} was cut off; the missing bytes are zeros`,
        missing,
      );
    });
  }
}

/** The footer as it should be, and what was wrong with it. */
function mendedFields(
  { found, virtualSize }: VhdImage,
  scope: RepairScope,
): { bytes: Uint8Array; texts: string[] } {
  const { footer, at } = found.copy;
  const bytes = found.copy.bytes.slice();
  const view = new DataView(bytes.buffer);
  const name = `VHD footer at ${hex(at)}`;
  const texts: string[] = [];
  const features = (footer.features & FEATURE_TEMPORARY) | 2;
  if (footer.features !== features) {
    texts.push(`${name}: features were ${hex(footer.features)}, now ${hex(features)}`);
    view.setUint32(footerStruct.at.features, features);
  }
  const isBeyond = footer.type === TYPE_FIXED && footer.currentSize > BigInt(at);
  if (isBeyond || (isGeometryAbove(footer) && footer.currentSize === BigInt(virtualSize))) {
    texts.push(
      `${name}: current size was ${footer.currentSize} and geometry ` +
        `${footer.cylinders}/${footer.heads}/${footer.sectors}, now ${virtualSize} and the largest`,
    );
    setSize(view, virtualSize);
  }
  if (isAhead(footer)) texts.push(`${name}: its time was in the future, now it is the present one`);
  if (scope === 'all' && (footer.savedState !== 0 || footer.hidden > 1)) {
    texts.push(
      `${name}: saved state was ${footer.savedState} and hidden ${footer.hidden}, the state is given up`,
    );
    view.setUint8(footerStruct.at.savedState, 0);
    view.setUint8(footerStruct.at.hidden, footer.hidden === 0 ? 0 : 1);
  }
  if (texts.length > 0) stampFooter(bytes, Math.floor(Date.now() / 1000));
  return { bytes, texts };
}

/** Where no footer is good: gives one its checksum that is a footer in all but that. */
function reseal(source: BlockSource, tell: Tell): void {
  try {
    findFooter(source, () => {});
    return;
  } catch (problem) {
    if (!(problem instanceof ImageError) || problem.kind !== 'corrupt') throw problem;
  }
  for (const copy of footerSectors(source)) {
    if (copy.state !== 'damaged' || !isPlausible(source, copy)) continue;
    const bytes = copy.bytes.slice();
    new DataView(bytes.buffer).setUint32(footerStruct.at.checksum, copy.computed);
    writeFooter(source, bytes, copy.at);
    flush(source);
    tell(
      `VHD footer at ${hex(copy.at)}: checksum was ${hex(copy.footer.checksum)}, now ${hex(copy.computed)}`,
    );
    return;
  }
}

function isPlausible(source: BlockSource, copy: FooterCopy): boolean {
  const { footer, at, place } = copy;
  if (at % SECTOR !== 0 || footer.version !== VERSION_1_0) return false;
  return footer.type === TYPE_FIXED ? place === 'tail' && endsDisk(copy) : leadsToHeader(source, copy);
}

/** Whether the disk of a fixed image ends exactly where its footer is. */
const endsDisk = ({ footer, at }: FooterCopy): boolean =>
  footer.dataOffset === 0xffffffffffffffffn && footer.currentSize === BigInt(at);

/**
 * A fixed image that was growing when the power failed, of which the file system kept the new size and nothing else
 * (resize-fixed.ts): the footer is the last of the file that is not zeros.
 */
function cutZeros(source: BlockSource, tell: Tell): void {
  const { size } = source;
  if (size < 2 * SECTOR || footerAt(source, size - SECTOR).bytes.some((byte) => byte !== 0)) return;
  const last = lastData(source);
  if (last === undefined) return;
  const found = footerAt(source, last);
  if (found.state !== 'good' || found.footer.type !== TYPE_FIXED || !endsDisk(found)) return;
  must(source.setSize(last + SECTOR), source, 'it cannot be cut off');
  flush(source);
  tell(`VHD footer at ${hex(last)}: ${size - last - SECTOR} bytes of zeros were behind it, they are cut off`);
}

/** Host offset of the last sector that is not zeros; undefined where there is none. */
function lastData(source: BlockSource): number | undefined {
  let end = 0;
  for (let at = source.nextData(0 as HostOffset); at < source.size; at = source.nextData(end as HostOffset)) {
    end = Math.max(source.nextHole(at), at + 1);
  }
  while (end > 0) {
    const at = roundDown(end - 1, PIECE);
    const piece = readExactly(source, at, end - at, (outcome) => {
      return new ImageError('io', `${source.label}: ${hex(at)} cannot be read (${outcome})`);
    });
    const byte = piece.findLastIndex((one) => one !== 0);
    if (byte >= 0) {
      const sector = roundDown(at + byte, SECTOR);
      return sector + SECTOR <= source.size ? sector : undefined;
    }
    end = at;
  }
  return undefined;
}
