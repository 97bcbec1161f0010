/** The structures of partition tables. */

import { bytes, type Decoded, struct, u8, u16, u32, u64 } from '../layout/struct.ts';

/** Bytes of the first sector that are a master boot record, whatever the sector's size. */
export const MBR_BYTES = 512;

export const MbrEntry = struct(
  'MBR partition entry',
  { size: 16, endian: 'little', spec: 'UEFI 2.10, 5.2.1' },
  {
    boot: u8('0x80: active; else 0'),
    firstChs: bytes(3, 'First sector as cylinder, head, sector; not looked at'),
    type: u8('What it is for; 0: unused'),
    lastChs: bytes(3, 'Last sector; not looked at'),
    start: u32(
      'First sector; of a logical one counted from its own table, of a link from the extended partition',
    ),
    sectors: u32('Sectors; 0: unused'),
  },
);
export type MbrEntry = Decoded<typeof MbrEntry>;

export const Mbr = struct(
  'MBR',
  { size: MBR_BYTES, endian: 'little', spec: 'UEFI 2.10, 5.2.1' },
  {
    code: bytes(440, 'Boot code'),
    id: u32('Disk signature'),
    reserved: u16('0, or 0x5A5A: copy protected'),
    entries: bytes(4 * MbrEntry.size, 'Four partition entries'),
    signature: u16('0xAA55'),
  },
);

export const MBR_SIGNATURE = 0xaa55;

export const GptHeader = struct(
  'GPT header',
  { size: 92, endian: 'little', spec: 'UEFI 2.10, 5.3.2' },
  {
    signature: u64('"EFI PART"'),
    revision: u32('0x00010000'),
    headerSize: u32('Bytes that the checksum covers, 92 to the sector size'),
    headerCrc: u32('CRC-32 of the header with 0 here'),
    reserved: u32('0'),
    myLba: u64('Where this header is'),
    alternateLba: u64('Where the other one is'),
    firstUsableLba: u64('First sector that a partition may have'),
    lastUsableLba: u64('Last one'),
    diskGuid: bytes(16, 'Identity of the disk'),
    entriesLba: u64('Where the entries are'),
    entryCount: u32('How many'),
    entrySize: u32('Bytes of one: 128 × 2^n'),
    entriesCrc: u32('CRC-32 of all entries'),
  },
);
export type GptHeader = Decoded<typeof GptHeader>;

/** "EFI PART" as a little-endian u64. */
export const GPT_SIGNATURE = 0x5452415020494645n;
export const GPT_REVISION = 0x00010000;

export const GptEntry = struct(
  'GPT partition entry',
  { size: 128, endian: 'little', spec: 'UEFI 2.10, 5.3.3' },
  {
    type: bytes(16, 'What it is for; zeros: unused'),
    guid: bytes(16, 'Identity of the partition'),
    firstLba: u64('First sector'),
    lastLba: u64('Last sector, inclusive'),
    attributes: u64('Flags'),
    name: bytes(72, '36 UTF-16LE code units'),
  },
);
