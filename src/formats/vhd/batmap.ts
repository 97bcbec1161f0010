/** tapdisk's batmap: which blocks have all their sectors, so that their bitmaps need not be read. */

import { unsupported } from '../../base/errors.ts';
import { type ByteCount, type HostOffset, hex, KIB, roundUp } from '../../base/units.ts';
import type { Report } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import type { BlockSource } from '../../source/block-source.ts';
import {
  BATMAP_COOKIE,
  type BatmapHeader,
  batmapStruct,
  CREATOR_TAPDISK,
  type Footer,
  SECTOR,
} from './structs.ts';

/** A map for 2 Mi blocks; a larger one is not worth its reading at open. */
export const MAX_MAP_BYTES = 256 * KIB;

const VERSION_SIGNED = 0x00010001;
const VERSION_UNSIGNED = 0x00010002;

export interface Batmap {
  /** Host offset of the header, one sector. */
  readonly at: number;
  /** Host offset of the map. */
  readonly mapAt: number;
  readonly mapBytes: ByteCount;
  /** One bit per block, the most significant first; undefined where it is not to be used. */
  readonly map: Uint8Array | undefined;
}

function mapChecksum(map: Uint8Array, version: number): number {
  let sum = 0;
  const signed = version === VERSION_SIGNED;
  for (const byte of map) sum += signed && byte > 127 ? byte - 256 : byte;
  return ~sum >>> 0;
}

/**
 * The batmap of an image of tapdisk: its header is in the sector after the table, counted with all entries.
 * Undefined where there is none; an unusable one is reported and left alone, because a bitmap says the same.
 * Throws ImageError where it says that the data is encrypted.
 */
export function readBatmap(
  source: BlockSource,
  footer: Footer,
  tableEnd: number,
  blockCount: number,
  report: Report,
): Batmap | undefined {
  if (footer.creator !== CREATOR_TAPDISK) return undefined;
  const at = roundUp(tableEnd, SECTOR);
  const bytes = new Uint8Array(SECTOR);
  if (source.readAt(bytes, 0, SECTOR, at as HostOffset) !== SECTOR) return undefined;
  const header = batmapStruct.decode(bytes);
  if (header.cookie !== BATMAP_COOKIE) return undefined;
  const name = `VHD batmap at ${hex(at)}`;
  if (header.keySet !== 0) {
    throw unsupported(
      `${name}: the data is encrypted with a key (tapdisk's key hash), which is not supported`,
    );
  }
  const mapAt = safeNumber(header.mapOffset);
  const length = header.mapSectors * SECTOR;
  if (mapAt === undefined || mapAt < at + SECTOR || mapAt + length > source.size) {
    report(
      `${name}: the map of ${length} bytes at ${hex(header.mapOffset)} is not inside the file; it is ignored`,
    );
    return undefined;
  }
  return { at, mapAt, mapBytes: length, map: readMap(source, header, mapAt, blockCount, name, report) };
}

function readMap(
  source: BlockSource,
  header: BatmapHeader,
  mapAt: number,
  blockCount: number,
  name: string,
  report: Report,
): Uint8Array | undefined {
  const length = header.mapSectors * SECTOR;
  if (length > MAX_MAP_BYTES) return undefined;
  if (length * 8 < blockCount) {
    report(`${name}: the map of ${length} bytes is too small for ${blockCount} blocks; it is ignored`);
    return undefined;
  }
  const map = new Uint8Array(length);
  if (source.readAt(map, 0, length, mapAt as HostOffset) !== length) {
    report(`${name}: the map at ${hex(mapAt)} cannot be read; it is ignored`);
    return undefined;
  }
  const computed = mapChecksum(map, header.version);
  if (computed !== header.checksum) {
    report(`${name}: checksum is ${hex(header.checksum)}, computed ${hex(computed)}; it is ignored`);
    return undefined;
  }
  return map;
}

/**
 * The header of a batmap as it is in the file, with the checksum of `map`. Header and map lie in sectors of their own:
 * where a power cut leaves the new one of one and the old one of the other, the checksum says that the map is not to be
 * used, as long as every changed bit goes the same way.
 */
export function resealBatmap(header: Uint8Array, map: Uint8Array): Uint8Array {
  const bytes = header.slice();
  const { version } = batmapStruct.decode(bytes);
  new DataView(bytes.buffer).setUint32(batmapStruct.at.checksum, mapChecksum(map, version));
  return bytes;
}

/** Bytes of a batmap, its header included, for a table of `entries`. */
export const batmapLength = (entries: number): ByteCount => SECTOR + roundUp(Math.ceil(entries / 8), SECTOR);

/**
 * A batmap for a table of `entries`, header and map, that is to lie at host offset `at`. What `bits` does not say is
 * not known to be full, which is always true.
 */
export function encodeBatmap(bits: Uint8Array | undefined, entries: number, at: number): Uint8Array {
  const bytes = new Uint8Array(batmapLength(entries));
  const map = bytes.subarray(SECTOR);
  if (bits !== undefined) map.set(bits.subarray(0, map.length));
  batmapStruct.encode(
    {
      cookie: BATMAP_COOKIE,
      mapOffset: BigInt(at + SECTOR),
      mapSectors: map.length / SECTOR,
      version: VERSION_UNSIGNED,
      checksum: mapChecksum(map, VERSION_UNSIGNED),
      marker: 0,
      keySet: 0,
      keyNonce: new Uint8Array(32),
      keyHash: new Uint8Array(32),
      reserved: new Uint8Array(0),
    },
    bytes,
  );
  return bytes;
}
