/**
 * The on-disk structures of VHD. Every integer is big-endian; the sources are the "Virtual Hard Disk Image
 * Format Specification" 1.0 (Microsoft, October 2006) and, for what XenServer added, tapdisk's libvhd.
 */

import { ascii, bytes, type Decoded, struct, u8, u16, u32, u64 } from '../../layout/struct.ts';

/** Units of table entries, geometry and bitmap bits; VHD knows no other sector size. */
export const SECTOR = 512;
/** A footer as it was written by products before 2004: one byte short, byte 511 being taken as 0. */
export const SHORT_FOOTER = 511;

export const FOOTER_COOKIE = 'conectix';
/** tapdisk writes this in place of the cookie to disable an image. */
export const POISON_COOKIE = 'v_poison';
export const HEADER_COOKIE = 'cxsparse';
export const BATMAP_COOKIE = 'tdbatmap';

export const VERSION_1_0 = 0x00010000;

export const TYPE_FIXED = 2;
export const TYPE_DYNAMIC = 3;
export const TYPE_DIFFERENCING = 4;

/** A table entry without a block. */
export const UNALLOCATED = 0xffffffff;

/** Seconds from the Unix epoch to that of VHD, 2000-01-01 00:00:00 UTC. */
export const VHD_EPOCH = 946684800;

export const CREATOR_TAPDISK = 'tap\0';

export const FEATURE_TEMPORARY = 1;

export const footerStruct = struct(
  'VHD footer',
  { size: 512, endian: 'big', spec: 'VHD 1.0, "Hard Disk Footer Format"; byte 85: libvhd' },
  {
    cookie: ascii(8, '"conectix"'),
    features: u32('bit 0 temporary disk, bit 1 always set'),
    version: u32('format version, 0x00010000'),
    dataOffset: u64('host offset of the dynamic header; all ones for fixed'),
    timestamp: u32('creation time, seconds since 2000-01-01 UTC'),
    creator: ascii(4, 'creator application'),
    creatorVersion: u32('creator version, major and minor in 16 bits each'),
    creatorSystem: ascii(4, 'creator host system'),
    originalSize: u64('bytes of the disk when it was created'),
    currentSize: u64('bytes of the disk'),
    cylinders: u16('geometry: cylinders'),
    heads: u8('geometry: heads'),
    sectors: u8('geometry: 512-byte sectors per track'),
    type: u32('2 fixed, 3 dynamic, 4 differencing'),
    checksum: u32('complement of the sum of all other bytes'),
    uniqueId: bytes(16, 'identity, by which a child names its parent'),
    savedState: u8('1: the machine was suspended with this disk'),
    hidden: u8('tapdisk: 1 hidden from users; 0 elsewhere'),
    reserved: bytes(426, 'zero'),
  },
);
export type Footer = Decoded<typeof footerStruct>;

export const headerStruct = struct(
  'VHD dynamic header',
  { size: 1024, endian: 'big', spec: 'VHD 1.0, "Dynamic Disk Header Format"' },
  {
    cookie: ascii(8, '"cxsparse"'),
    dataOffset: u64('unused, all ones'),
    tableOffset: u64('host offset of the block allocation table'),
    version: u32('header version, 0x00010000'),
    maxTableEntries: u32('entries of the block allocation table'),
    blockSize: u32('bytes of a block without its bitmap, a power of two'),
    checksum: u32('complement of the sum of all other bytes'),
    parentUniqueId: bytes(16, "the parent's identity; all zero for a raw parent of tapdisk"),
    parentTimestamp: u32("the parent file's modification time, seconds since 2000-01-01 UTC"),
    reserved: u32('zero'),
    parentName: bytes(512, "the parent's file name, UTF-16BE, NUL padded"),
    parentLocators: bytes(192, 'eight parent locator entries'),
    reserved2: bytes(256, 'zero'),
  },
);
export type DynamicHeader = Decoded<typeof headerStruct>;

export const LOCATOR_COUNT = 8;

export const locatorStruct = struct(
  'VHD parent locator entry',
  { size: 24, endian: 'big', spec: 'VHD 1.0, "Parent Locator Entries"; unit of the space: libvhd' },
  {
    code: ascii(4, 'platform code: what the data is; four NULs for an unused entry'),
    space: u32('room for the data: sectors if below 512, else bytes'),
    length: u32('bytes of the data'),
    reserved: u32('zero'),
    offset: u64('host offset of the data'),
  },
);

export const batmapStruct = struct(
  'VHD batmap header (tapdisk)',
  { size: 512, endian: 'big', spec: 'tapdisk libvhd; sector after the block allocation table' },
  {
    cookie: ascii(8, '"tdbatmap"'),
    mapOffset: u64('host offset of the map: one bit per block, set where all its sectors are present'),
    mapSectors: u32('length of the map in sectors'),
    version: u32('0x00010002; 0x00010001 sums signed bytes'),
    checksum: u32('complement of the sum of the bytes of the map'),
    marker: u8('reserved'),
    keySet: u8('1: the data is encrypted and the hash of the key follows'),
    keyNonce: bytes(32, 'nonce of the key hash'),
    keyHash: bytes(32, 'SHA-256 of nonce and key'),
    reserved: bytes(418, 'zero'),
  },
);
export type BatmapHeader = Decoded<typeof batmapStruct>;
