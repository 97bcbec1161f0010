/**
 * VDI's structures on disk. All are little-endian; UUIDs are in the Microsoft layout. There is no checksum
 * anywhere. Offsets in comments count from the start of the file.
 */

import { ascii, bytes, struct, u32, u64 } from '../../layout/struct.ts';

/** "7f 10 da be" at 0x40, below 64 bytes of free text. */
export const SIGNATURE = 0xbeda107f;
/** Where the header follows the pre-header. */
export const HEADER_AT = 0x48;

/** Image types (VDICore.h, VDIIMAGETYPE). */
export const TYPE_DYNAMIC = 1;
export const TYPE_FIXED = 2;
export const TYPE_UNDO = 3;
export const TYPE_DIFFERENCING = 4;

/** Flag bit 0: blocks that are expanded are filled with zeros. It says nothing to a reader. */
export const FLAG_ZERO_EXPAND = 1;

/** Block map entry: never written; the parent shows (VDICore.h, VDI_IMAGE_BLOCK_FREE). */
export const ENTRY_FREE = 0xffffffff;
/** Block map entry: discarded, reads as zeros whatever a parent holds (VDI_IMAGE_BLOCK_ZERO). */
export const ENTRY_ZERO = 0xfffffffe;

/** At 0. */
export const preHeader = struct(
  'VDI pre-header',
  { size: 0x48, endian: 'little', spec: 'VirtualBox VDICore.h, VDIPREHEADER' },
  {
    text: ascii(64, 'Free text, by custom "<<< … Disk Image >>>" and a line feed'),
    signature: u32('0xBEDA107F'),
    version: u32('Major << 16 | minor: 0x00010001 today, 0x00000002 in old images'),
  },
);

/** At 0x48 where the version is 1.x. */
export const header1 = struct(
  'VDI header 1.1',
  { size: 0x180, endian: 'little', spec: 'VirtualBox VDICore.h, VDIHEADER1' },
  {
    headerSize: u32('Bytes from 0x48 on: 0x180, or 0x190 with the logical geometry'),
    type: u32('1 dynamic, 2 fixed, 3 undo, 4 differencing'),
    flags: u32('Bit 0: expanded blocks are zeroed; others are 0'),
    comment: bytes(256, 'UTF-8, padded with NULs'),
    mapOffset: u32('Host offset of the block map'),
    dataOffset: u32('Host offset of physical block 0, its extra bytes first'),
    cylinders: u32('Legacy geometry; 0 where it was not computed'),
    heads: u32('Legacy geometry'),
    sectors: u32('Legacy geometry'),
    sectorSize: u32('512'),
    unused: u32('Once the BIOS translation'),
    diskSize: u64('Bytes of the disk'),
    blockSize: u32('Bytes of a block, a power of two'),
    blockExtra: u32('Private bytes in the file before the data of each block'),
    blocks: u32('Entries of the block map'),
    blocksAllocated: u32('Physical blocks in use'),
    createUuid: bytes(16, 'Identity of the image'),
    modifyUuid: bytes(16, 'Changed by the first write of each session'),
    linkageUuid: bytes(16, "Differencing: the parent's create UUID; else null"),
    parentModifyUuid: bytes(16, "Differencing: the parent's modify UUID when the image was made; else null"),
  },
);

/** At 0x1c8 where the size in the 1.1 header is at least 0x190. */
export const logicalGeometry = struct(
  'VDI logical geometry',
  { size: 16, endian: 'little', spec: 'VirtualBox VDICore.h, VDIHEADER1PLUS.LCHSGeometry' },
  {
    cylinders: u32('Logical (BIOS) geometry; 0 where it was not computed'),
    heads: u32('Logical geometry'),
    sectors: u32('Logical geometry'),
    sectorSize: u32('512'),
  },
);

/** At 0x48 where the version is 0.2. The block map follows at once (0x1a4, on no sector), then the data. */
export const header0 = struct(
  'VDI header 0.2',
  { size: 0x15c, endian: 'little', spec: 'VirtualBox VDICore.h, VDIHEADER0' },
  {
    type: u32('1 dynamic, 2 fixed, 3 undo, 4 differencing'),
    flags: u32('Bit 0: expanded blocks are zeroed; others are 0'),
    comment: bytes(256, 'UTF-8, padded with NULs'),
    cylinders: u32('Legacy geometry; 0 where it was not computed'),
    heads: u32('Legacy geometry'),
    sectors: u32('Legacy geometry'),
    sectorSize: u32('512'),
    diskSize: u64('Bytes of the disk'),
    blockSize: u32('Bytes of a block, a power of two'),
    blocks: u32('Entries of the block map'),
    blocksAllocated: u32('Physical blocks in use'),
    createUuid: bytes(16, 'Identity of the image'),
    modifyUuid: bytes(16, 'Changed by the first write of each session'),
    linkageUuid: bytes(16, "Differencing: the parent's create UUID; else null"),
  },
);

/** The fields that writing changes, and only they. */
interface ChangedFields {
  readonly blocksAllocated: number;
  readonly modifyUuid: number;
}

const changedFields = (version: string): ChangedFields => (version === '0.2' ? header0.at : header1.at);

/** Host offset of the counter of allocated blocks. */
export const counterPlace = (version: string): number => HEADER_AT + changedFields(version).blocksAllocated;
/** Host offset of the modify UUID. */
export const modifyUuidPlace = (version: string): number => HEADER_AT + changedFields(version).modifyUuid;
