/**
 * A dynamic or differencing image while it is changed as a whole: its footers, its header, its batmap, its table in
 * memory, and its end. Every change keeps the image whole at each instant:
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

import { type ByteCount, hostOffset, MIB, roundUp } from '../../base/units.ts';
import type { OpenContext } from '../../image/driver.ts';
import { must } from '../../image/must.ts';
import type { ReshapeStep } from '../../image/reshape.ts';
import { TableAllocator } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type Batmap, batmapLength, encodeBatmap, resealBatmap } from './batmap.ts';
import { CheckedFile, writeFooter, writeFooters } from './checked-file.ts';
import { checksumOf, stampFooter } from './footer.ts';
import type { DynamicParts, VhdImage } from './image.ts';
import { openVhd } from './open.ts';
import { type BlockEdit, placeOfTail } from './prepare.ts';
import { Room } from './room.ts';
import { type BlockList, blockBytes, listBlocks, reservedRanges } from './space.ts';
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

export class Rework extends CheckedFile {
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
  readonly room: Room;
  #footer: Uint8Array;
  #header: Uint8Array;

  private constructor(source: BlockSource, image: VhdImage) {
    super(source);
    this.image = image;
    this.layout = (image.state as DynamicState).layout;
    this.parts = image.parts!;
    this.list = listBlocks(source, this.layout, this.entries, () => {});
    this.room = new Room(source.label, this.layout, this.list, reservedRanges(this.parts));
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

  /** Gives out `bytes` bytes of the file, which it has then. Returns the host offset; what lies there is anything. */
  take(bytes: ByteCount): number {
    const length = roundUp(bytes, SECTOR);
    const at = this.room.take(length);
    this.extend(at + length);
    return at;
  }

  /** Gives out `count` places of blocks: their sectors. All of each reads as zeros. Throws where there is no room. */
  takeBlocks(count: number): number[] {
    const bytes = blockBytes(this.layout);
    const sectors = this.room.takeBlocks(count);
    this.extend(sectors.reduce((end, sector) => Math.max(end, sector * SECTOR + bytes), 0));
    for (const sector of sectors) this.zero(sector * SECTOR, bytes);
    return sectors;
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
    const { end } = this.room;
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
}
