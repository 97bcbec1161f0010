/**
 * Boot sectors: what begins with a jump, a name and a geometry (the BIOS parameter block). Facts: Microsoft's
 * "FAT32 File System Specification" 1.03, its exFAT specification (7.0), and the Linux kernel's fs/ntfs3/ntfs.h.
 */

import { isPowerOfTwo } from '../../base/units.ts';
import type { DiskRange } from '../range.ts';
import type { Probe } from './signature.ts';
import { latin1, shortSerial, utf16 } from './text.ts';

const BYTES = 512;
const NAME_AT = 3;
/** Within the boot sector of every kind. */
const BYTES_PER_SECTOR = 0x0b;
const SECTORS_PER_CLUSTER = 0x0d;

const boot = (range: DiskRange): Buffer | undefined => range.bytes(0, BYTES);
const isNamed = (sector: Buffer, name: string): boolean =>
  sector.toString('latin1', NAME_AT, NAME_AT + name.length) === name;

const isSectorSize = (size: number): boolean => size >= 512 && size <= 4096 && isPowerOfTwo(size);

/** BitLocker leaves this where a volume for older Windows ("To Go") looks like FAT32. */
const TO_GO_AT = 0x1a8;
const TO_GO = '3bd66749292ed84a8399f6a339e3d001';

export const bitlocker: Probe = (range) => {
  const sector = boot(range);
  if (sector === undefined) return undefined;
  const toGo = isNamed(sector, 'MSWIN4.1') && sector.toString('hex', TO_GO_AT, TO_GO_AT + 16) === TO_GO;
  if (!toGo && !isNamed(sector, '-FVE-FS-')) return undefined;
  return { type: 'BitLocker', version: toGo ? 'To Go' : undefined, container: true };
};

export const refs: Probe = (range) => {
  const sector = boot(range);
  if (sector === undefined || !isNamed(sector, 'ReFS\0\0\0\0')) return undefined;
  return sector.toString('latin1', 16, 20) === 'FSRS' ? { type: 'ReFS' } : undefined;
};

const EXFAT = { clusterHeap: 88, rootCluster: 96, serial: 100, sectorShift: 108, clusterShift: 109 };
const ENTRY_BYTES = 32;
const EXFAT_LABEL = 0x83;
const EXFAT_LABEL_UNITS = 11;

export const exfat: Probe = (range) => {
  const sector = boot(range);
  if (sector === undefined || !isNamed(sector, 'EXFAT   ')) return undefined;
  const sectorShift = sector[EXFAT.sectorShift]!;
  const clusterShift = sector[EXFAT.clusterShift]!;
  if (sectorShift < 9 || sectorShift > 12 || clusterShift > 25 - sectorShift) return undefined;
  const heap = sector.readUInt32LE(EXFAT.clusterHeap);
  const root = sector.readUInt32LE(EXFAT.rootCluster);
  const at = heap * 2 ** sectorShift + (root - 2) * 2 ** (sectorShift + clusterShift);
  // The label is one of the first entries; of a larger directory, the rest is not looked at.
  const directory = range.bytes(at, Math.min(2 ** (sectorShift + clusterShift), 4096));
  let label = '';
  for (let entry = 0; directory !== undefined && entry < directory.length; entry += ENTRY_BYTES) {
    if (directory[entry] === 0) break;
    if (directory[entry] !== EXFAT_LABEL) continue;
    const units = Math.min(directory[entry + 1]!, EXFAT_LABEL_UNITS);
    label = utf16(directory.subarray(entry + 2, entry + 2 + units * 2), 'le');
    break;
  }
  return { type: 'exfat', version: '1.0', label, uuid: shortSerial(sector.readUInt32LE(EXFAT.serial)) };
};

const NTFS = { mftCluster: 0x30, recordClusters: 0x40, serial: 0x48 };
/** Record 3 of the master file table is $Volume; its attribute 0x60 is the label. */
const VOLUME_RECORD = 3;
const RECORD = { attributes: 0x14 };
const ATTRIBUTE = { length: 4, valueLength: 0x10, valueAt: 0x14 };
const VOLUME_NAME = 0x60;
const LAST_ATTRIBUTE = 0xffffffff;

interface NtfsGeometry {
  readonly mftAt: number;
  readonly recordBytes: number;
}

function ntfsGeometry(sector: Buffer): NtfsGeometry | undefined {
  if (!isNamed(sector, 'NTFS    ')) return undefined;
  const bytesPerSector = sector.readUInt16LE(BYTES_PER_SECTOR);
  const code = sector[SECTORS_PER_CLUSTER]!;
  // From 0xf4 on, it is the negative of an exponent.
  const sectorsPerCluster = code > 0x80 ? 2 ** (256 - code) : code;
  if (!isSectorSize(bytesPerSector) || !isPowerOfTwo(sectorsPerCluster) || sectorsPerCluster > 4096) {
    return undefined;
  }
  const clusterBytes = bytesPerSector * sectorsPerCluster;
  const clusters = sector.readInt8(NTFS.recordClusters);
  const recordBytes = clusters < 0 ? 2 ** -clusters : clusters * clusterBytes;
  if (recordBytes < 512 || recordBytes > 65536) return undefined;
  return { mftAt: Number(sector.readBigUInt64LE(NTFS.mftCluster)) * clusterBytes, recordBytes };
}

export const ntfs: Probe = (range) => {
  const sector = boot(range);
  const geometry = sector === undefined ? undefined : ntfsGeometry(sector);
  if (sector === undefined || geometry === undefined) return undefined;
  const uuid = sector.readBigUInt64LE(NTFS.serial).toString(16).toUpperCase().padStart(16, '0');
  return { type: 'ntfs', label: ntfsLabel(range, geometry), uuid };
};

function ntfsLabel(range: DiskRange, { mftAt, recordBytes }: NtfsGeometry): string {
  const record = range.bytes(mftAt + VOLUME_RECORD * recordBytes, recordBytes);
  if (record === undefined || record.toString('latin1', 0, 4) !== 'FILE') return '';
  for (let at = record.readUInt16LE(RECORD.attributes); at + 24 <= record.length; ) {
    const type = record.readUInt32LE(at);
    const length = record.readUInt32LE(at + ATTRIBUTE.length);
    if (type === LAST_ATTRIBUTE || length < 24 || at + length > record.length) return '';
    if (type === VOLUME_NAME) {
      const from = at + record.readUInt16LE(at + ATTRIBUTE.valueAt);
      const to = from + record.readUInt32LE(at + ATTRIBUTE.valueLength);
      return to <= at + length ? utf16(record.subarray(from, to), 'le') : '';
    }
    at += length;
  }
  return '';
}

const FAT = {
  reserved: 0x0e,
  tables: 0x10,
  rootEntries: 0x11,
  sectors16: 0x13,
  media: 0x15,
  tableSectors16: 0x16,
  sectors32: 0x20,
  tableSectors32: 0x24,
  rootCluster32: 0x2c,
  serial: 0x27,
  serial32: 0x43,
};
/** Fewer clusters make it FAT12, fewer than the second FAT16: the specification's only rule. */
const FAT12_BELOW = 4085;
const FAT16_BELOW = 65525;
const FAT32_MAX = 0x0ffffff5;
const FREE = 0xe5;
/** Stands for FREE as a letter. */
const KANJI = 0x05;
const ATTRIBUTES = 11;
const LONG_NAME = 0x0f;
const VOLUME_ID = 0x08;
const DIRECTORY = 0x10;
/** Clusters of a FAT32 root directory that are searched for the label. */
const MAX_ROOT_CLUSTERS = 64;
const MAX_ROOT_BYTES = 65536;

interface FatGeometry {
  readonly version: 'FAT12' | 'FAT16' | 'FAT32';
  readonly media: number;
  /** Bytes from the volume's start. */
  readonly tableAt: number;
  readonly rootAt: number;
  readonly rootBytes: number;
  readonly dataAt: number;
  readonly clusterBytes: number;
}

function fatGeometry(sector: Buffer): FatGeometry | undefined {
  const sectorBytes = sector.readUInt16LE(BYTES_PER_SECTOR);
  const sectorsPerCluster = sector[SECTORS_PER_CLUSTER]!;
  const reserved = sector.readUInt16LE(FAT.reserved);
  const tables = sector[FAT.tables]!;
  const media = sector[FAT.media]!;
  // A jump over the geometry, short or near.
  const jumps = (sector[0] === 0xeb && sector[2] === 0x90) || sector[0] === 0xe9;
  if (!jumps || !isSectorSize(sectorBytes) || !isPowerOfTwo(sectorsPerCluster)) return undefined;
  if (reserved === 0 || tables === 0 || (media !== 0xf0 && media < 0xf8)) return undefined;
  const rootEntries = sector.readUInt16LE(FAT.rootEntries);
  const tableSectors = sector.readUInt16LE(FAT.tableSectors16) || sector.readUInt32LE(FAT.tableSectors32);
  const sectors = sector.readUInt16LE(FAT.sectors16) || sector.readUInt32LE(FAT.sectors32);
  const rootSectors = Math.ceil((rootEntries * ENTRY_BYTES) / sectorBytes);
  const rootSector = reserved + tables * tableSectors;
  const clusters = Math.floor((sectors - rootSector - rootSectors) / sectorsPerCluster);
  if (tableSectors === 0 || clusters < 1 || clusters > FAT32_MAX) return undefined;
  const wide = sector.readUInt16LE(FAT.tableSectors16) === 0;
  if (wide !== (rootEntries === 0)) return undefined;
  const narrow = clusters < FAT12_BELOW ? 'FAT12' : clusters < FAT16_BELOW ? 'FAT16' : undefined;
  const version = wide ? 'FAT32' : narrow;
  if (version === undefined) return undefined;
  return {
    version,
    media,
    tableAt: reserved * sectorBytes,
    rootAt: rootSector * sectorBytes,
    rootBytes: Math.min(rootEntries * ENTRY_BYTES, MAX_ROOT_BYTES),
    dataAt: (rootSector + rootSectors) * sectorBytes,
    clusterBytes: sectorsPerCluster * sectorBytes,
  };
}

export const fat: Probe = (range) => {
  const sector = boot(range);
  const geometry = sector === undefined ? undefined : fatGeometry(sector);
  if (sector === undefined || geometry === undefined) return undefined;
  const { version } = geometry;
  const serial = sector.readUInt32LE(version === 'FAT32' ? FAT.serial32 : FAT.serial);
  const label =
    version === 'FAT32'
      ? fat32Label(range, geometry, sector.readUInt32LE(FAT.rootCluster32))
      : labelIn(range.bytes(geometry.rootAt, geometry.rootBytes));
  return { type: 'vfat', version, label: label ?? '', uuid: shortSerial(serial) };
};

/** The label in one piece of a root directory; undefined where the directory goes on, '' where it ends. */
function labelIn(directory: Buffer | undefined): string | undefined {
  if (directory === undefined) return '';
  for (let at = 0; at + ENTRY_BYTES <= directory.length; at += ENTRY_BYTES) {
    const first = directory[at]!;
    const attributes = directory[at + ATTRIBUTES]!;
    if (first === 0) return '';
    if (first === FREE || (attributes & LONG_NAME) === LONG_NAME) continue;
    if ((attributes & (VOLUME_ID | DIRECTORY)) !== VOLUME_ID) continue;
    const name = Buffer.from(directory.subarray(at, at + 11));
    if (first === KANJI) name[0] = FREE;
    return latin1(name);
  }
  return undefined;
}

function fat32Label(range: DiskRange, geometry: FatGeometry, root: number): string {
  const { dataAt, clusterBytes, tableAt } = geometry;
  let cluster = root;
  for (let count = 0; count < MAX_ROOT_CLUSTERS; count += 1) {
    if (cluster < 2 || cluster > FAT32_MAX) return '';
    const label = labelIn(range.bytes(dataAt + (cluster - 2) * clusterBytes, clusterBytes));
    if (label !== undefined) return label;
    const entry = range.bytes(tableAt + cluster * 4, 4);
    if (entry === undefined) return '';
    cluster = entry.readUInt32LE(0) & 0x0fffffff;
  }
  return '';
}

/**
 * Whether the first sector is that of a volume, and not a master boot record: see the order in table.ts. A FAT must
 * show that its allocation table is there too.
 */
export function isVolumeBootSector(range: DiskRange): boolean {
  if ([bitlocker, refs, exfat, ntfs].some((probe) => probe(range) !== undefined)) return true;
  const sector = boot(range);
  const geometry = sector === undefined ? undefined : fatGeometry(sector);
  if (geometry === undefined) return false;
  const table = range.bytes(geometry.tableAt, 2);
  return table !== undefined && table[0] === geometry.media && table[1] === 0xff;
}
