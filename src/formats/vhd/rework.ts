/**
 * A dynamic or differencing image while it is changed as a whole: its footers, its header, its table in memory, and
 * what room there is. Every change keeps the image whole at each instant:
 *
 *   footers   two sectors of the same content. The copy at the start is written and made stable first, then the one
 *             at the end, which decides (footer.ts): the change happens with that one sector.
 *   end       the footer is written at the new end and made stable before anything is written over the old one; where
 *             only the size of the file survives, the copy at the start serves. Likewise before the file is cut off.
 *   header    what changes in its first sector only (place and length of the table, with the checksum) is one write.
 *             Anything else: the new header is written where nobody is, made stable, and the footers lead there; then
 *             it is written in the old place, made stable, and the footers lead back.
 *   table     an entry changes after what it names is stable, sector by sector. A longer table is written where nobody
 *             is, made stable, and the header switched.
 *
 * What is given up by one step is used again only by another Rework, opened after that step is stable.
 */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, hostOffset, MIB, roundUp } from '../../base/units.ts';
import type { OpenContext } from '../../image/driver.ts';
import { must } from '../../image/must.ts';
import type { ReshapeStep } from '../../image/reshape.ts';
import { TableAllocator } from '../../shared/paged-table.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { type Batmap, batmapLength, encodeBatmap, resealBatmap } from './batmap.ts';
import { checksumOf, stampFooter } from './footer.ts';
import type { DynamicParts, VhdImage } from './image.ts';
import { openVhd } from './open.ts';
import { type BlockEdit, placeOfTail } from './prepare.ts';
import {
  type BlockList,
  blockBytes,
  blockWithin,
  endOfUse,
  freePlaces,
  gaps,
  LAST_SECTOR,
  listBlocks,
  nextPlace,
  reservedRanges,
} from './space.ts';
import { footerStruct, headerStruct, SECTOR, UNALLOCATED, VHD_EPOCH } from './structs.ts';
import { FITS, type Layout, placement } from './table.ts';
import type { DynamicState } from './translator.ts';

const PIECE = MIB;

export type Steps = Generator<ReshapeStep, void, undefined>;

/** Opens an image again, or for the first time, saying nothing of what the caller has heard already. */
export function reopen(source: BlockSource, context: OpenContext): VhdImage {
  return openVhd(source, { ...context, tables: new TableAllocator(), report: () => {} });
}

/** Seconds since the epoch of Unix. */
const now = (): number => Math.floor(Date.now() / 1000);

/** Writes the footer `bytes` at `at` in one sector. Throws ImageError; then the file is as long as it was. */
export function writeFooter(source: BlockSource, bytes: Uint8Array, at: number): void {
  const { size } = source;
  const status = source.writeAt(bytes, 0, SECTOR, hostOffset(at), 'footer.write');
  if (status < 0 && source.size > size) source.setSize(size);
  must(status, source, `its footer at 0x${at.toString(16)} cannot be written`);
}

export function flush(source: BlockSource): void {
  must(source.flush(), source, 'what was written cannot be made stable');
}

/**
 * Makes both footers `bytes`, the one at the end being at `tailAt`. It is written when all that was written before is
 * stable, and the copy: whoever calls this need not flush. (The copy alone would not have to wait for it; but a sector
 * that is written as the power fails may be lost altogether on a real medium, and then the other one is there.)
 */
export function writeFooters(source: BlockSource, bytes: Uint8Array, tailAt: number): void {
  writeFooter(source, bytes, 0);
  flush(source);
  writeFooter(source, bytes, tailAt);
  flush(source);
}

export class Rework {
  readonly source: BlockSource;
  readonly image: VhdImage;
  readonly layout: Layout;
  readonly parts: DynamicParts;
  /** Blocks that are where they can be. */
  readonly list: BlockList;
  /** The table as it is in the file, to the end of its last sector. */
  readonly table: Uint8Array;
  readonly #view: DataView;
  /** Sectors of the table that `setEntry` changed. */
  readonly #dirty = new Set<number>();
  /** Host ranges in use beside blocks and metadata, those given out since included. */
  readonly #reserved: number[];
  #footer: Uint8Array;
  #header: Uint8Array;

  private constructor(source: BlockSource, image: VhdImage) {
    this.source = source;
    this.image = image;
    this.layout = (image.state as DynamicState).layout;
    this.parts = image.parts!;
    this.list = listBlocks(source, this.layout, this.entries, () => {});
    this.#reserved = reservedRanges(this.parts);
    this.#footer = image.found.copy.bytes.slice();
    const { at } = this.parts.placed;
    this.#header = this.read(at, headerStruct.size);
    this.table = new Uint8Array(roundUp(this.entries * 4, SECTOR)).fill(0xff);
    const { tableAt } = this.layout;
    const length = Math.min(this.table.length, source.size - tableAt);
    for (let done = 0; done < length; done += PIECE) {
      this.table.set(this.read(tableAt + done, Math.min(PIECE, length - done)), done);
    }
    this.#view = new DataView(this.table.buffer);
  }

  /**
   * Opens an image that may be written (prepare.ts), and makes its footers the same where they are not. Throws
   * ImageError.
   */
  static open(source: BlockSource, context: OpenContext): Rework {
    const image = reopen(source, context);
    const edit = image.prepareEdit() as BlockEdit;
    if (!edit.repair) return new Rework(source, image);
    const bytes = edit.footer.slice();
    stampFooter(bytes, now());
    writeFooters(source, bytes, edit.tailAt);
    return new Rework(source, reopen(source, context));
  }

  /** The same for an image with damage that keeps it from being written. It has a footer at the end. */
  static openDamaged(source: BlockSource, context: OpenContext): Rework {
    const image = reopen(source, context);
    const { copy, paired, tailAt } = image.found;
    if (paired && tailAt! % SECTOR === 0) return new Rework(source, image);
    writeFooters(source, copy.bytes, placeOfTail(tailAt, source.size, source.size));
    return new Rework(source, reopen(source, context));
  }

  get entries(): number {
    return this.parts.entries;
  }

  /** The header as it is to be changed: a copy. */
  get header(): Uint8Array {
    return this.#header.slice();
  }

  entry(block: number): number {
    return this.#view.getUint32(block * 4);
  }

  /** `writeTable` makes it so in the file. */
  setEntry(block: number, sector: number): void {
    this.#view.setUint32(block * 4, sector);
    this.#dirty.add(Math.floor((block * 4) / SECTOR));
  }

  /** Writes what `setEntry` changed, and makes it stable. What the entries name is stable already. */
  writeTable(): void {
    const sectors = Uint32Array.from(this.#dirty).sort();
    for (let n = 0; n < sectors.length; ) {
      const first = sectors[n]!;
      let count = 1;
      while (sectors[n + count] === first + count) count += 1;
      const at = this.layout.tableAt + first * SECTOR;
      const status = this.source.writeAt(
        this.table,
        first * SECTOR,
        count * SECTOR,
        hostOffset(at),
        'table.write',
      );
      must(status, this.source, 'its table cannot be written');
      n += count;
    }
    if (sectors.length > 0) this.flush();
    this.#dirty.clear();
  }

  /** Blocks that are where they can be, ascending by place: those behind the disk, which others may see, included. */
  blocksByPlace(): Uint32Array {
    const keys = new BigUint64Array(this.list.starts.length);
    let count = 0;
    for (let block = 0; block < this.entries; block += 1) {
      const entry = this.entry(block);
      if (entry === UNALLOCATED) continue;
      if (placement(this.layout, block < this.layout.blockCount ? block : 0, entry) !== FITS) continue;
      keys[count] = (BigInt(entry) << 32n) | BigInt(block);
      count += 1;
    }
    return Uint32Array.from(keys.sort(), (key) => Number(key & 0xffffffffn));
  }

  /** Bytes of the block at `sector` that are its own: all of it, but for a last one that is cut short by others. */
  ownBytes(sector: number): ByteCount {
    const start = sector * SECTOR;
    let end = Math.min(start + blockBytes(this.layout), this.layout.limit[0]!);
    const { starts } = this.list;
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= sector) low = middle + 1;
      else high = middle;
    }
    if (low < starts.length) end = Math.min(end, starts[low]! * SECTOR);
    for (const of of [this.layout.metadata, this.#reserved]) {
      for (let n = 0; n < of.length; n += 2) if (of[n]! > start) end = Math.min(end, of[n]!);
    }
    return end - start;
  }

  /** These bytes of the file are in use too. */
  reserve(at: number, end: number): void {
    this.#reserved.push(at, end);
  }

  /** Whether nothing that is known to be in use has bytes there. */
  isUnused(at: number, end: number): boolean {
    for (const of of [this.layout.metadata, this.#reserved]) {
      for (let n = 0; n < of.length; n += 2) if (of[n]! < end && of[n + 1]! > at) return false;
    }
    return blockWithin(this.layout, this.list, at, end) === undefined;
  }

  gaps(): Generator<readonly [number, number]> {
    return gaps(this.layout, this.list, this.#reserved, this.layout.limit[0]!);
  }

  /** Where the last of what is in use ends. */
  get end(): number {
    return endOfUse(this.layout, this.list, this.#reserved);
  }

  /** Gives out `bytes` bytes: in the first gap, else at the end. Returns the host offset; what lies there is anything. */
  take(bytes: ByteCount): number {
    const length = roundUp(bytes, SECTOR);
    let at: number | undefined;
    for (const [from, end] of this.gaps()) {
      if (end - roundUp(from, SECTOR) < length) continue;
      at = roundUp(from, SECTOR);
      break;
    }
    at ??= this.end;
    this.extend(at + length);
    this.#reserved.push(at, at + length);
    return at;
  }

  /** Gives out `count` places of blocks: their sectors. All of each reads as zeros. Throws where there is no room. */
  takeBlocks(count: number): number[] {
    const found: number[] = [];
    for (const sector of freePlaces(this.layout, this.gaps())) {
      if (found.length === count) break;
      found.push(sector);
    }
    const bytes = blockBytes(this.layout);
    let end = this.end;
    for (const sector of found) end = Math.max(end, sector * SECTOR + bytes);
    while (found.length < count) {
      const at = nextPlace(this.layout, end);
      if (at / SECTOR > LAST_SECTOR) {
        throw new ImageError('usage', `${this.source.label}: a VHD has no room for blocks behind 2 TiB`);
      }
      found.push(at / SECTOR);
      end = at + bytes;
    }
    const before = this.end;
    this.extend(end);
    for (const sector of found) {
      this.zero(sector * SECTOR, bytes);
      if (sector * SECTOR < before) this.#reserved.push(sector * SECTOR, sector * SECTOR + bytes);
    }
    // Those at the end are one range, however many they are.
    if (end > before) this.#reserved.push(before, end);
    return found;
  }

  /** The file reaches `end` and a footer behind it. */
  extend(end: number): void {
    if (end <= this.layout.limit[0]!) return;
    writeFooter(this.source, this.#footer, end);
    this.flush();
    this.layout.limit[0] = end;
  }

  /**
   * The file reaches `end`, and what it had from the footer on is zeros. Until the footer is at its new place the copy at
   * the start serves. Throws ImageError; then the footer is where it was.
   */
  moveEnd(end: number): void {
    const { source } = this;
    const before = this.layout.limit[0]!;
    this.zero(before, source.size - before);
    this.flush();
    try {
      writeFooter(source, this.#footer, end);
    } catch (problem) {
      writeFooter(source, this.#footer, before);
      throw problem;
    }
    this.flush();
    this.layout.limit[0] = end;
  }

  /** Cuts off what nobody uses at the end. A device keeps its size. */
  trim(): void {
    const { end } = this;
    if (end >= this.layout.limit[0]!) return;
    if (this.source.size !== this.layout.limit[0]! + SECTOR) return;
    writeFooter(this.source, this.#footer, end);
    this.flush();
    if (this.source.setSize(end + SECTOR) < 0) return;
    this.flush();
    this.layout.limit[0] = end;
  }

  /**
   * Changes both footers: `change` gets the bytes, and need not see to the checksum. The time stamp, by which children
   * know the disk, stays, but of one that `isAnother`.
   */
  setFooters(change: (view: DataView) => void, isAnother = false): void {
    const bytes = this.#footer.slice();
    const view = new DataView(bytes.buffer);
    change(view);
    stampFooter(bytes, isAnother ? now() : VHD_EPOCH + view.getUint32(footerStruct.at.timestamp));
    writeFooters(this.source, bytes, this.layout.limit[0]!);
    this.#footer = bytes;
  }

  /** Changes the header, and with it in one instant what `footer` changes of the footers. */
  setHeader(change: (view: DataView) => void, footer?: (view: DataView) => void): void {
    const bytes = this.#header.slice();
    const view = new DataView(bytes.buffer);
    change(view);
    const { checksum } = headerStruct.at;
    view.setUint32(checksum, checksumOf(bytes, checksum));
    const { at } = this.parts.placed;
    const differs = (n: number): boolean => bytes[n] !== this.#header[n];
    const inFirst = at % SECTOR === 0 && !bytes.some((_, n) => n >= SECTOR && differs(n));
    if (footer === undefined && inFirst) {
      this.write(at, bytes.subarray(0, SECTOR), 'header.write');
      this.flush();
    } else {
      const other = this.take(headerStruct.size);
      this.write(other, bytes, 'header.write');
      this.setFooters((both) => {
        footer?.(both);
        both.setBigUint64(footerStruct.at.dataOffset, BigInt(other));
      });
      this.write(at, bytes, 'header.write');
      this.setFooters((both) => both.setBigUint64(footerStruct.at.dataOffset, BigInt(at)));
    }
    this.#header = bytes;
  }

  /**
   * Writes `table`, whole sectors of `count` entries, elsewhere, with the batmap behind it where the image has one; then
   * the header leads there. `map`: the batmap's bits, none where it is not known.
   */
  moveTable(table: Uint8Array, count: number, map: Uint8Array | undefined): void {
    const hasMap = this.parts.batmap !== undefined;
    const at = this.take(table.length + (hasMap ? batmapLength(count) : 0));
    this.write(at, table, 'table.write');
    if (hasMap) {
      const mapAt = at + table.length;
      this.write(mapAt, encodeBatmap(map, count, mapAt), 'table.write');
    }
    this.flush();
    this.setTable(at, count);
  }

  /** Takes the bits of these blocks out of a batmap that is in use, and makes that stable. */
  clearMap(which: (block: number) => boolean): void {
    const { batmap } = this.parts;
    if (batmap?.map === undefined) return;
    const { at, mapAt, map } = batmap;
    let changed = false;
    for (let block = 0; block < map.length * 8; block += 1) {
      const bit = 0x80 >> (block & 7);
      if ((map[block >>> 3]! & bit) === 0 || !which(block)) continue;
      map[block >>> 3]! &= ~bit;
      changed = true;
    }
    if (!changed) return;
    this.write(mapAt, map, 'bitmap.write');
    this.write(at, resealBatmap(this.read(at, SECTOR), map), 'bitmap.write');
    this.flush();
  }

  /** A batmap that cannot be used calls no block full. */
  resetMap({ at, mapAt, mapBytes }: Batmap): void {
    const map = new Uint8Array(mapBytes);
    this.write(mapAt, map, 'bitmap.write');
    this.write(at, resealBatmap(this.read(at, SECTOR), map), 'bitmap.write');
    this.flush();
  }

  /** The header leads to a table that is stable. */
  setTable(at: number, count: number): void {
    this.setHeader((view) => {
      view.setBigUint64(headerStruct.at.tableOffset, BigInt(at));
      view.setUint32(headerStruct.at.maxTableEntries, count);
    });
  }

  write(at: number, bytes: Uint8Array, step: 'header.write' | 'table.write' | 'bitmap.write'): void {
    for (let done = 0; done < bytes.length; done += PIECE) {
      const count = Math.min(PIECE, bytes.length - done);
      const status = this.source.writeAt(bytes, done, count, hostOffset(at + done), step);
      must(status, this.source, `0x${(at + done).toString(16)} cannot be written`);
    }
  }

  /** The same, with zeros up to the end of the last sector. */
  writeSectors(at: number, bytes: Uint8Array, step: 'header.write' | 'bitmap.write'): void {
    const whole = new Uint8Array(roundUp(Math.max(1, bytes.length), SECTOR));
    whole.set(bytes);
    this.write(at, whole, step);
  }

  zero(at: number, length: ByteCount): void {
    const status = this.source.zero(hostOffset(at), length, 'punch', 'payload.zero');
    must(status, this.source, `0x${at.toString(16)} cannot be made zeros`);
  }

  flush(): void {
    flush(this.source);
  }

  /** Throws ImageError where they are not all there. */
  read(at: number, length: ByteCount): Uint8Array {
    return readExactly(this.source, at, length, (outcome) => {
      return new ImageError('io', `${this.source.label}: 0x${at.toString(16)} cannot be read (${outcome})`);
    });
  }
}
