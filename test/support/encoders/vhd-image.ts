/**
 * The tests' own VHD encoder, written from the specification's offsets and sharing nothing with the driver,
 * so that a wrong offset there does not cancel out here.
 */

export interface VhdFooterSpec {
  readonly type?: number;
  readonly cookie?: string;
  readonly version?: number;
  readonly features?: number;
  readonly creator?: string;
  readonly creatorVersion?: number;
  readonly geometry?: readonly [number, number, number];
  readonly currentSize?: number | bigint;
  readonly timestamp?: number;
  readonly uuid?: Uint8Array;
  readonly savedState?: number;
  /** Byte 85; `stale` leaves it out of the checksum, as tapdisk 0.1 and 1.1 did. */
  readonly hidden?: 'summed' | 'stale';
}

export interface VhdLocatorSpec {
  readonly code: string;
  readonly data: Uint8Array;
  readonly space?: number;
  readonly length?: number;
  readonly offset?: bigint;
}

/** One block: its data and which of its sectors are set; data under a clear bit stays in the file. */
export interface VhdBlockSpec {
  readonly data: Uint8Array;
  /** Undefined: all of the bitmap is set. */
  readonly sectors?: (sector: number) => boolean;
}

export interface VhdDynamicSpec {
  readonly size: number;
  readonly blockSize: number;
  /** In the order in which they are in the file. */
  readonly blocks: ReadonlyMap<number, VhdBlockSpec>;
  readonly footer?: VhdFooterSpec;
  /** What the footer copy at the start says differently; null for none (zeros). */
  readonly head?: VhdFooterSpec | null;
  readonly tail?: 'whole' | 'short' | 'none';
  readonly headerAt?: number;
  readonly tableAt?: number | 'end';
  readonly maxEntries?: number;
  readonly headerVersion?: number;
  readonly headerCookie?: string;
  /** Start the data part of each block at a multiple of this. */
  readonly align?: number;
  readonly bits?: 'msb' | 'lsb';
  /** Blocks whose bit of the batmap is set, and its version. */
  readonly batmap?: { readonly blocks: readonly number[]; readonly version: number; readonly key?: boolean };
  readonly parent?: {
    readonly uuid: Uint8Array;
    readonly name: string;
    /** tapdisk 0.1: the name is little-endian. */
    readonly hostOrder?: boolean;
    /** Seconds since 2000; 0 where not given, as Windows 10 writes it. */
    readonly timestamp?: number;
    readonly locators: readonly VhdLocatorSpec[];
  };
}

export interface VhdFile {
  readonly file: Uint8Array;
  readonly tableAt: number;
  readonly headerAt: number;
  /** Host offset of the bitmap of each block. */
  readonly places: ReadonlyMap<number, number>;
  /** Host offset of the footer at the end, or the end. */
  readonly footerAt: number;
}

const roundUp = (value: number, step: number) => Math.ceil(value / step) * step;
export const bitmapBytesOf = (blockSize: number) => roundUp(Math.ceil(blockSize / 512 / 8), 512);

function text(into: Uint8Array, at: number, value: string): void {
  for (let n = 0; n < value.length; n += 1) into[at + n] = value.charCodeAt(n);
}

/** The complement of the byte sum, the checksum field (and `skip`) counted as zero. */
function seal(structure: Uint8Array, at: number, skip?: number): void {
  let sum = 0;
  structure.forEach((byte, n) => {
    if ((n < at || n > at + 3) && n !== skip) sum += byte;
  });
  new DataView(structure.buffer).setUint32(at, ~sum >>> 0);
}

export function vhdFooter(
  size: number,
  dataOffset: bigint,
  type: number,
  spec: VhdFooterSpec = {},
): Uint8Array {
  const bytes = new Uint8Array(512);
  const view = new DataView(bytes.buffer);
  text(bytes, 0, spec.cookie ?? 'conectix');
  view.setUint32(8, spec.features ?? 2);
  view.setUint32(12, spec.version ?? 0x10000);
  view.setBigUint64(16, dataOffset);
  view.setUint32(24, spec.timestamp ?? 0x1a2b3c4d);
  text(bytes, 28, spec.creator ?? 'win ');
  view.setUint32(32, spec.creatorVersion ?? 0xa0000);
  text(bytes, 36, 'Wi2k');
  view.setBigUint64(40, BigInt(size));
  view.setBigUint64(48, BigInt(spec.currentSize ?? size));
  const [cylinders, heads, sectors] = spec.geometry ?? [65535, 16, 255];
  view.setUint16(56, cylinders);
  bytes[58] = heads;
  bytes[59] = sectors;
  view.setUint32(60, spec.type ?? type);
  bytes.set(spec.uuid ?? Uint8Array.from({ length: 16 }, (_, n) => n * 17), 68);
  bytes[84] = spec.savedState ?? 0;
  bytes[85] = spec.hidden === undefined ? 0 : 1;
  seal(bytes, 64, spec.hidden === 'stale' ? 85 : undefined);
  return bytes;
}

/** A fixed image with this data; `short` ends it with a footer of 511 bytes. */
export function encodeFixed(data: Uint8Array, spec: VhdFooterSpec = {}, short = false): Uint8Array {
  const footer = vhdFooter(data.length, 0xffffffffffffffffn, 2, spec);
  const file = new Uint8Array(data.length + (short ? 511 : 512));
  file.set(data);
  file.set(footer.subarray(0, short ? 511 : 512), data.length);
  return file;
}

function encodeBitmap(spec: VhdBlockSpec, blockSize: number, order: 'msb' | 'lsb'): Uint8Array {
  const bitmap = new Uint8Array(bitmapBytesOf(blockSize));
  if (spec.sectors === undefined) return bitmap.fill(0xff);
  for (let sector = 0; sector < blockSize / 512; sector += 1) {
    if (!spec.sectors(sector)) continue;
    const mask = order === 'msb' ? 0x80 >> (sector % 8) : 1 << (sector % 8);
    bitmap[Math.floor(sector / 8)]! |= mask;
  }
  return bitmap;
}

function encodeHeader(spec: VhdDynamicSpec, tableAt: number, maxEntries: number): Uint8Array {
  const bytes = new Uint8Array(1024);
  const view = new DataView(bytes.buffer);
  text(bytes, 0, spec.headerCookie ?? 'cxsparse');
  view.setBigUint64(8, 0xffffffffffffffffn);
  view.setBigUint64(16, BigInt(tableAt));
  view.setUint32(24, spec.headerVersion ?? 0x10000);
  view.setUint32(28, maxEntries);
  view.setUint32(32, spec.blockSize);
  return bytes;
}

function encodeBatmap(blocks: readonly number[], version: number, key: boolean, at: number, count: number) {
  const map = new Uint8Array(roundUp(Math.ceil(count / 8), 512));
  for (const block of blocks) map[Math.floor(block / 8)]! |= 0x80 >> (block % 8);
  let sum = 0;
  for (const byte of map) sum += version === 0x10001 ? (byte << 24) >> 24 : byte;
  const header = new Uint8Array(512);
  const view = new DataView(header.buffer);
  text(header, 0, 'tdbatmap');
  view.setBigUint64(8, BigInt(at + 512));
  view.setUint32(16, map.length / 512);
  view.setUint32(20, version);
  view.setUint32(24, ~sum >>> 0);
  header[29] = key ? 1 : 0;
  return { header, map };
}

/** A dynamic image, or a differencing one where `parent` is given. */
export function encodeDynamic(spec: VhdDynamicSpec): VhdFile {
  const { size, blockSize } = spec;
  const maxEntries = spec.maxEntries ?? Math.ceil(size / blockSize);
  const bitmapBytes = bitmapBytesOf(blockSize);
  const headerAt = spec.headerAt ?? 512;
  const pieces: [number, Uint8Array][] = [];
  let end = Math.max(512, headerAt + 1024);
  const tableBytes = roundUp(maxEntries * 4, 512);
  let tableAt = -1;
  if (spec.tableAt !== 'end') {
    tableAt = spec.tableAt ?? end;
    end = Math.max(end, tableAt + tableBytes);
  }
  if (spec.batmap !== undefined) {
    const { blocks, version, key } = spec.batmap;
    const { header, map } = encodeBatmap(blocks, version, key ?? false, end, maxEntries);
    pieces.push([end, header], [end + 512, map]);
    end += 512 + map.length;
  }
  const locators = new Uint8Array(192);
  spec.parent?.locators.forEach(({ code, data, space, length, offset }, n) => {
    const view = new DataView(locators.buffer, n * 24);
    text(locators, n * 24, code);
    const room = roundUp(Math.max(1, data.length), 512);
    view.setUint32(4, space ?? room);
    view.setUint32(8, length ?? data.length);
    view.setBigUint64(16, offset ?? BigInt(end));
    pieces.push([end, data]);
    end += room;
  });
  const places = new Map<number, number>();
  for (const [block, one] of spec.blocks) {
    const align = spec.align ?? 512;
    const dataAt = roundUp(end + bitmapBytes, align);
    places.set(block, dataAt - bitmapBytes);
    pieces.push([dataAt - bitmapBytes, encodeBitmap(one, blockSize, spec.bits ?? 'msb')], [dataAt, one.data]);
    end = dataAt + one.data.length;
  }
  if (tableAt < 0) {
    tableAt = end;
    end += tableBytes;
  }
  const table = new Uint8Array(tableBytes).fill(0xff);
  for (const [block, at] of places) new DataView(table.buffer).setUint32(block * 4, at / 512);
  pieces.push([tableAt, table]);

  const header = encodeHeader(spec, tableAt, maxEntries);
  if (spec.parent !== undefined) {
    header.set(spec.parent.uuid, 40);
    const { name, hostOrder = false, timestamp = 0 } = spec.parent;
    const view = new DataView(header.buffer);
    view.setUint32(56, timestamp);
    for (let n = 0; n < name.length; n += 1) view.setUint16(64 + n * 2, name.charCodeAt(n), hostOrder);
    header.set(locators, 576);
  }
  seal(header, 36);
  pieces.push([headerAt, header]);

  const type = spec.parent === undefined ? 3 : 4;
  const footer = (over: VhdFooterSpec) =>
    vhdFooter(size, BigInt(headerAt), type, { ...spec.footer, ...over });
  if (spec.head !== null) pieces.push([0, footer(spec.head ?? {})]);
  const tailLength = { whole: 512, short: 511, none: 0 }[spec.tail ?? 'whole'];
  pieces.push([end, footer({}).subarray(0, tailLength)]);

  const file = new Uint8Array(end + tailLength);
  for (const [at, bytes] of pieces) file.set(bytes, at);
  return { file, tableAt, headerAt, places, footerAt: end };
}

/**
 * What an image reads as; `bitmaps` false: the sector bitmaps count for nothing. `parent`: the disk beneath a
 * differencing image, which may have another size.
 */
export function dynamicDisk(
  spec: VhdDynamicSpec,
  bitmaps = true,
  parent: Uint8Array = new Uint8Array(),
): Uint8Array {
  const disk = new Uint8Array(spec.size);
  disk.set(parent.subarray(0, spec.size));
  for (const [block, { data, sectors }] of spec.blocks) {
    for (let at = 0; at < data.length && block * spec.blockSize + at < spec.size; at += 512) {
      if (bitmaps && sectors !== undefined && !sectors(at / 512)) continue;
      const start = block * spec.blockSize + at;
      disk.set(data.subarray(at, at + Math.min(512, spec.size - start)), start);
    }
  }
  return disk;
}
