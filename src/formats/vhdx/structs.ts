/**
 * The on-disk structures of VHDX. All numbers are little-endian, GUIDs have the Microsoft layout, strings are
 * UTF-16LE without a terminator. Section numbers are those of [MS-VHDX], revision of 2024-04-23.
 */

import { bytes, type Decoded, struct, u16, u32, u64 } from '../../layout/struct.ts';

/** What the file begins with: "vhdxfile". */
export const FILE_SIGNATURE = 'vhdxfile';
/** Bytes of UTF-16LE text behind the signature that name the program that made the file ([MS-VHDX] 2.2.1). */
export const CREATOR_BYTES = 512;

/** Host offsets of the two headers and the two region tables ([MS-VHDX] 2.2). */
export const HEADER_OFFSETS = [0x10000, 0x20000] as const;
export const REGION_TABLE_OFFSETS = [0x30000, 0x40000] as const;
/** Bytes of a header that its checksum covers. */
export const HEADER_BYTES = 4096;
/** Bytes of a region table that its checksum covers; also the size of the metadata table. */
export const TABLE_BYTES = 0x10000;
/** The most entries that a region table or a metadata table may have. */
export const MAX_TABLE_ENTRIES = 2047;

/** Unit of the log: entries, descriptor areas and updates are multiples of it ([MS-VHDX] 2.3.1). */
export const LOG_SECTOR = 4096;

/** Little-endian u32 of four ASCII characters. */
const fourCc = (text: string): number =>
  text.charCodeAt(0) | (text.charCodeAt(1) << 8) | (text.charCodeAt(2) << 16) | (text.charCodeAt(3) << 24);

export const HEADER_SIGNATURE = fourCc('head');
export const REGION_SIGNATURE = fourCc('regi');
export const LOG_ENTRY_SIGNATURE = fourCc('loge');
export const ZERO_SIGNATURE = fourCc('zero');
export const DATA_SIGNATURE = fourCc('desc');
export const DATA_SECTOR_SIGNATURE = fourCc('data');

/** Region GUIDs ([MS-VHDX] 2.2.3.2). */
export const BAT_REGION = '2dc27766-f623-4200-9d64-115e9bfd4a08';
export const METADATA_REGION = '8b7ca206-4790-4b9a-b8fe-575f050f886e';

/** Metadata item GUIDs ([MS-VHDX] 2.6.2). */
export const FILE_PARAMETERS = 'caa16737-fa36-4d43-b3b6-33f0aa44e76b';
export const VIRTUAL_DISK_SIZE = '2fa54224-cd1b-4876-b211-5dbed83bf4b8';
export const VIRTUAL_DISK_ID = 'beca12ab-b2e6-4523-93ef-c309e000c746';
export const LOGICAL_SECTOR_SIZE = '8141bf1d-a96f-4709-ba47-f233a8faab5f';
export const PHYSICAL_SECTOR_SIZE = 'cda348c7-445d-4471-9cc9-e9885251c556';
export const PARENT_LOCATOR = 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c';

/** The one locator type that VHDX defines ([MS-VHDX] 2.6.2.6.1). */
export const VHDX_LOCATOR_TYPE = 'b04aefb7-d19e-4a81-b789-25b8e9445913';

export const header = struct(
  'VHDX header',
  { size: 80, endian: 'little', spec: '[MS-VHDX] 2.2.2' },
  {
    signature: u32('"head"'),
    checksum: u32('CRC-32C of the 4096 bytes, taken with this field as zero'),
    sequenceNumber: u64('the valid header with the larger number is current'),
    fileWriteGuid: bytes(16, 'changes before the first change of a session'),
    dataWriteGuid: bytes(16, 'changes before the first change that a guest could see; children name it'),
    logGuid: bytes(16, 'which log entries count; zero: the log is empty'),
    logVersion: u16('0'),
    version: u16('1'),
    logLength: u32('bytes, a multiple of 1 MiB'),
    logOffset: u64('host offset of the log, a multiple of 1 MiB'),
  },
);
export type Header = Decoded<typeof header>;

export const regionTableHeader = struct(
  'VHDX region table header',
  { size: 16, endian: 'little', spec: '[MS-VHDX] 2.2.3.1' },
  {
    signature: u32('"regi"'),
    checksum: u32('CRC-32C of the 65536 bytes of the table, taken with this field as zero'),
    entryCount: u32('at most 2047'),
    reserved: u32('0'),
  },
);

export const regionEntry = struct(
  'VHDX region table entry',
  { size: 32, endian: 'little', spec: '[MS-VHDX] 2.2.3.2' },
  {
    guid: bytes(16, 'what the region is; unique in the table'),
    fileOffset: u64('host offset, a multiple of 1 MiB, at least 1 MiB'),
    length: u32('bytes, a multiple of 1 MiB'),
    required: u32('bit 0: a reader that does not know the region must refuse the file'),
  },
);

export const metadataTableHeader = struct(
  'VHDX metadata table header',
  { size: 32, endian: 'little', spec: '[MS-VHDX] 2.6.1.1' },
  {
    signature: bytes(8, '"metadata"'),
    reserved: u16('0'),
    entryCount: u16('at most 2047'),
    reserved2: bytes(20, '0'),
  },
);

export const METADATA_IS_USER = 1;
export const METADATA_IS_REQUIRED = 4;

export const metadataEntry = struct(
  'VHDX metadata table entry',
  { size: 32, endian: 'little', spec: '[MS-VHDX] 2.6.1.2' },
  {
    itemId: bytes(16, 'what the item is; unique together with bit 0 of the flags'),
    offset: u32('from the start of the region, at least 64 KiB; 0 where the length is 0'),
    length: u32('bytes, at most 1 MiB'),
    flags: u32(
      "bit 0: a user's item; bit 1: of the virtual disk, not of the file; bit 2: must be understood",
    ),
    reserved: u32('0'),
  },
);

export const LEAVE_BLOCK_ALLOCATED = 1;
export const HAS_PARENT = 2;

export const fileParameters = struct(
  'VHDX file parameters',
  { size: 8, endian: 'little', spec: '[MS-VHDX] 2.6.2.1' },
  {
    blockSize: u32('bytes of a payload block: a power of two from 1 MiB to 256 MiB'),
    flags: u32('bit 0: blocks stay allocated (a fixed image); bit 1: has a parent'),
  },
);

export const locatorHeader = struct(
  'VHDX parent locator header',
  { size: 20, endian: 'little', spec: '[MS-VHDX] 2.6.2.6.1' },
  {
    locatorType: bytes(16, 'b04aefb7-d19e-4a81-b789-25b8e9445913'),
    reserved: u16('0'),
    keyValueCount: u16('entries that follow'),
  },
);

export const locatorEntry = struct(
  'VHDX parent locator entry',
  { size: 12, endian: 'little', spec: '[MS-VHDX] 2.6.2.6.2' },
  {
    keyOffset: u32('from the start of the item (of the locator header)'),
    valueOffset: u32('from the start of the item'),
    keyLength: u16('bytes of UTF-16LE, above 0'),
    valueLength: u16('bytes of UTF-16LE, above 0'),
  },
);

export const logEntryHeader = struct(
  'VHDX log entry header',
  { size: 64, endian: 'little', spec: '[MS-VHDX] 2.3.1.1' },
  {
    signature: u32('"loge"'),
    checksum: u32('CRC-32C of the whole entry, taken with this field as zero'),
    entryLength: u32('bytes of the entry, a multiple of 4096'),
    tail: u32('offset in the log of the oldest entry that must be replayed with this one'),
    sequenceNumber: u64('above 0; one more than that of the entry before'),
    descriptorCount: u32('descriptors that follow; 0 is allowed'),
    reserved: u32('0'),
    logGuid: bytes(16, 'that of the header at the time of writing'),
    flushedFileOffset: u64('bytes of the file that were stable when the entry was written'),
    lastFileOffset: u64('bytes that the file has after replay, at least'),
  },
);
export type LogEntryHeader = Decoded<typeof logEntryHeader>;

export const zeroDescriptor = struct(
  'VHDX log zero descriptor',
  { size: 32, endian: 'little', spec: '[MS-VHDX] 2.3.1.2' },
  {
    signature: u32('"zero"'),
    reserved: u32('0'),
    zeroLength: u64('bytes to be zeroed, a multiple of 4096'),
    fileOffset: u64('host offset, a multiple of 4096'),
    sequenceNumber: u64("that of the entry's header"),
  },
);

export const dataDescriptor = struct(
  'VHDX log data descriptor',
  { size: 32, endian: 'little', spec: '[MS-VHDX] 2.3.1.3' },
  {
    signature: u32('"desc"'),
    trailingBytes: bytes(4, 'bytes 4092 to 4095 of the update'),
    leadingBytes: bytes(8, 'bytes 0 to 7 of the update'),
    fileOffset: u64('host offset, a multiple of 4096'),
    sequenceNumber: u64("that of the entry's header"),
  },
);

export const dataSector = struct(
  'VHDX log data sector',
  { size: 4096, endian: 'little', spec: '[MS-VHDX] 2.3.1.4' },
  {
    signature: u32('"data"'),
    sequenceHigh: u32("upper half of the entry's sequence number"),
    data: bytes(4084, 'bytes 8 to 4091 of the update'),
    sequenceLow: u32("lower half of the entry's sequence number"),
  },
);

/** Payload block states: bits 0 to 2 of a BAT entry ([MS-VHDX] 2.5.1.1). */
export const NOT_PRESENT = 0;
export const UNDEFINED = 1;
export const ZEROED = 2;
export const UNMAPPED = 3;
/** UNMAPPED of draft 0.95; reserved since. */
export const UNMAPPED_DRAFT = 5;
export const FULLY_PRESENT = 6;
export const PARTIALLY_PRESENT = 7;

/** Bytes of a BAT entry: bits 0 to 2 state, 3 to 19 reserved, 20 to 63 host offset in MiB ([MS-VHDX] 2.5.1). */
export const BAT_ENTRY_BYTES = 8;
