/**
 * A VDI that is changed as a whole by one thread: its header and all of its map in memory, written back in pieces
 * that a power cut cannot tear.
 *
 * All fields of the header lie in the first sector of the file, so that one write changes them at once: where the map
 * and the data begin, how many there are, the size. That is what makes larger maps possible without a journal: the new
 * map is written where nobody looks, and the header switches to it.
 */

import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { type HostOffset, hex, MIB, roundUp } from '../../base/units.ts';
import { MAX_SCANNED_WORDS, scanTable } from '../../image/count.ts';
import { must } from '../../image/must.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { readHeader, type VdiHeader } from './header.ts';
import { type MapScan, scanMap, strideOf } from './map-scan.ts';
import { parentOf } from './parent.ts';
import {
  ENTRY_FREE,
  FLAG_ZERO_EXPAND,
  HEADER_AT,
  header0,
  header1,
  logicalGeometry,
  preHeader,
} from './structs.ts';
import { blockHost, mapLoader } from './translator.ts';

export const SECTOR = 512;
const VERSION = 0x00010001;
/** Bytes of the header with the logical geometry, which VirtualBox adds to images that it writes to. */
const FULL_HEADER = header1.size + logicalGeometry.size;
const VERSION_AT = preHeader.at.version;
/** Entries in a sector. */
const UNIT = SECTOR / 4;

/** What of the header can be changed; what is left out stays. */
export interface HeaderChange {
  readonly headerSize?: number;
  readonly type?: number;
  readonly flags?: number;
  readonly comment?: Uint8Array;
  readonly mapOffset?: number;
  readonly dataOffset?: number;
  readonly diskSize?: bigint;
  readonly blocks?: number;
  readonly blocksAllocated?: number;
  readonly createUuid?: Uint8Array;
  readonly modifyUuid?: Uint8Array;
  readonly linkageUuid?: Uint8Array;
  /** Images of version 0.2 have none: there it is left out. */
  readonly parentModifyUuid?: Uint8Array;
}

const REPAIR = 'vdisk check --repair mends what can be mended.';

/** Throws ImageError where `header` says of an image that it must not be written. */
function checkFlags({ flags }: VdiHeader): void {
  if ((flags & ~FLAG_ZERO_EXPAND) === 0) return;
  throw unsupported(`VDI header: flags are ${hex(flags)}, only bit 0 is known; the image can only be read`);
}

/** The same of its map. */
function checkMap({ mapOffset, blocks }: VdiHeader): void {
  if (mapOffset % 4 !== 0) {
    throw unsupported(
      `VDI block map at ${hex(mapOffset)}: its entries lie across sectors, so that a crash could tear one`,
      'vdisk convert makes a new image of it.',
    );
  }
  if (blocks > MAX_SCANNED_WORDS) {
    throw unsupported(`VDI block map: it has ${blocks} entries, at most ${MAX_SCANNED_WORDS} can be changed`);
  }
}

export class WholeVdi {
  readonly source: BlockSource;
  #header: VdiHeader;
  #entries: Uint32Array;
  /** Numbers of the pieces of UNIT entries that were changed since they were written. */
  readonly #changed = new Set<number>();

  private constructor(source: BlockSource, header: VdiHeader) {
    this.source = source;
    this.#header = header;
    this.#entries = new Uint32Array(0);
    this.flush();
  }

  /**
   * Reads the header and the map, whatever the entries say; what is there is made stable first, as whoever held the
   * image before may have been killed. `anyFlags` lets flags pass that nobody knows. Throws ImageError where the image
   * cannot be opened, or must not be written.
   */
  static open(source: BlockSource, anySize: boolean, anyFlags = false): WholeVdi {
    const image = WholeVdi.openHeader(source, anySize, anyFlags);
    checkMap(image.header);
    image.#load();
    return image;
  }

  /** The same without the map, for changes of the header. */
  static openHeader(source: BlockSource, anySize: boolean, anyFlags = false): WholeVdi {
    const header = readHeader(source, anySize, () => {});
    if (!anyFlags) checkFlags(header);
    return new WholeVdi(source, header);
  }

  #load(): void {
    const { mapOffset, blocks } = this.#header;
    this.#entries = new Uint32Array(blocks);
    const load = mapLoader(this.source, mapOffset, blocks, () => {});
    let from: number | undefined = 0;
    while (from !== undefined) {
      from = scanTable(load, blocks, from, this.source.label, (block, entry) => {
        this.#entries[block] = entry;
      });
    }
  }

  get header(): VdiHeader {
    return this.#header;
  }

  /** Of the map, as they will be once written; changed only by `set`. */
  get entries(): Uint32Array {
    return this.#entries;
  }

  /** Blocks of the disk: entries behind them show nothing. */
  get needed(): number {
    return Math.ceil(this.#header.virtualSize / this.#header.blockSize);
  }

  get hasParent(): boolean {
    return parentOf(this.#header) !== undefined;
  }

  /** Where the place of a physical block begins, its extra bytes included. */
  placeOf(physical: number): number {
    return blockHost(this.#header, physical) - this.#header.blockExtra;
  }

  get stride(): number {
    return strideOf(this.#header);
  }

  /** Throws ImageError('corrupt') where an entry names nothing, or what another names. What was set must be written. */
  scan(): MapScan {
    return scanMap(this.#header, this.source, (text) => {
      throw new ImageError('corrupt', corrupt(text).message, { hint: REPAIR });
    });
  }

  set(block: number, entry: number): void {
    if (this.#entries[block] === entry) return;
    this.#entries[block] = entry;
    this.#changed.add(Math.floor(block / UNIT));
  }

  /** Writes the entries that were set. */
  writeEntries(): void {
    const units = [...this.#changed].sort((a, b) => a - b);
    for (let n = 0; n < units.length; ) {
      const first = units[n]!;
      let count = 1;
      while (n + count < units.length && units[n + count] === first + count) count += 1;
      n += count;
      this.#writeRun(
        this.#header.mapOffset,
        first * UNIT,
        Math.min((first + count) * UNIT, this.#entries.length),
      );
    }
    this.#changed.clear();
  }

  #writeRun(mapOffset: number, first: number, end: number): void {
    const bytes = new Uint8Array(Math.min((end - first) * 4, MIB));
    const view = new DataView(bytes.buffer);
    for (let from = first; from < end; from += bytes.length / 4) {
      const count = Math.min(end - from, bytes.length / 4);
      for (let n = 0; n < count; n += 1) view.setUint32(n * 4, this.#entries[from + n]!, true);
      const at = (mapOffset + from * 4) as HostOffset;
      must(
        this.source.writeAt(bytes, 0, count * 4, at, 'table.write'),
        this.source,
        'its map cannot be written',
      );
    }
  }

  /**
   * Writes all of a new map at `mapOffset`, where nobody looks yet: `blocks` entries, the present ones `shift` lower, the
   * others free. Nothing else is changed: `switchTo` does it.
   */
  writeNewMap(mapOffset: number, blocks: number, shift = 0): void {
    const entries = new Uint32Array(blocks).fill(ENTRY_FREE);
    entries.set(this.#entries.subarray(0, blocks));
    if (shift > 0) {
      for (let block = 0; block < blocks; block += 1) {
        const entry = entries[block]!;
        if (entry < this.#header.blocks) entries[block] = entry - shift;
      }
    }
    this.#entries = entries;
    this.#writeRun(mapOffset, 0, blocks);
  }

  /** Writes the entries of a map that gets longer where it is. */
  lengthenMap(blocks: number): void {
    const before = this.#entries;
    this.#entries = new Uint32Array(blocks).fill(ENTRY_FREE);
    this.#entries.set(before);
    this.#writeRun(this.#header.mapOffset, before.length, blocks);
  }

  /** Makes all entries free: for a new map. */
  forgetEntries(): void {
    this.#entries.fill(ENTRY_FREE);
    this.#changed.clear();
  }

  /** Entries behind the first `blocks` are forgotten; the header is told by `change`. */
  shortenMap(blocks: number): void {
    this.#entries = this.#entries.slice(0, blocks);
  }

  /**
   * Changes fields of the header, all at once. An image of version 0.2, whose map and data cannot lie elsewhere, becomes
   * one of 1.1 by that where `mapOffset` is among them: what the first sector holds of its old map is given up.
   */
  change(change: HeaderChange): void {
    const isOld = this.#header.version === '0.2';
    const upgrades = isOld && change.mapOffset !== undefined;
    const end = upgrades ? SECTOR : HEADER_AT + (isOld ? header0.size : header1.size);
    const bytes = new Uint8Array(SECTOR);
    const present = readExactly(
      this.source,
      0,
      HEADER_AT + (isOld ? header0.size : header1.size),
      () => new ImageError('io', `${this.source.label}: its header cannot be read`),
    );
    bytes.set(present);
    if (upgrades) {
      const old = header0.decode(present.subarray(HEADER_AT));
      new DataView(bytes.buffer).setUint32(VERSION_AT, VERSION, true);
      bytes.fill(0, HEADER_AT + header0.size);
      const added = { headerSize: FULL_HEADER, mapOffset: 0, dataOffset: 0, unused: 0, blockExtra: 0 };
      const parentModifyUuid = new Uint8Array(16);
      header1.encode({ ...old, ...added, parentModifyUuid, ...change }, bytes, HEADER_AT);
      const geometry = { cylinders: 0, heads: 0, sectors: 0, sectorSize: SECTOR };
      logicalGeometry.encode(geometry, bytes, HEADER_AT + header1.size);
    } else if (isOld) {
      header0.encode({ ...header0.decode(present.subarray(HEADER_AT)), ...change }, bytes, HEADER_AT);
    } else {
      header1.encode({ ...header1.decode(present.subarray(HEADER_AT)), ...change }, bytes, HEADER_AT);
    }
    // One write in one sector: from the signature on, which a reader wants to see too.
    const from = preHeader.at.signature;
    must(
      this.source.writeAt(bytes, from, end - from, from as HostOffset, 'header.write'),
      this.source,
      'its header cannot be written',
    );
    this.#header = readHeader(this.source, true, () => {});
  }

  /** Where a map may begin at the earliest. */
  get headerEnd(): number {
    return roundUp(HEADER_AT + Math.max(FULL_HEADER, this.#header.headerSize), SECTOR);
  }

  zero(at: number, length: number): void {
    const status = this.source.zero(at as HostOffset, length, 'punch', 'payload.zero');
    must(status, this.source, 'it cannot be written');
  }

  /** The file has at least `size` bytes. */
  reach(size: number): void {
    if (this.source.size >= size) return;
    must(this.source.setSize(size), this.source, 'it cannot grow');
  }

  /** The file has at most `size` bytes. */
  cut(size: number): void {
    if (this.source.size <= size) return;
    must(this.source.setSize(size), this.source, 'it cannot be cut off');
  }

  flush(): void {
    must(this.source.flush(), this.source, 'it cannot be made stable');
  }
}
