/**
 * File systems of optical disks, Apple and BSD. Facts: ECMA-119 and the Joliet specification, Apple's Technical Note
 * TN1150 and its "Apple File System Reference", sys/ufs/ffs/fs.h of FreeBSD.
 */

import { createHash } from 'node:crypto';
import { formatUuid } from '../../base/guid.ts';
import { isPowerOfTwo, KIB } from '../../base/units.ts';
import type { DiskRange } from '../range.ts';
import type { Probe } from './signature.ts';
import { latin1, utf8, utf16 } from './text.ts';

const ISO_AT = 32 * KIB;
const ISO_SECTOR = 2048;
/** Descriptors that are looked at: a disk has two or three. */
const ISO_DESCRIPTORS = 16;
const ISO = { label: 40, escapes: 88, created: 813, modified: 830 };
const ISO_PRIMARY = 1;
const ISO_SUPPLEMENTARY = 2;
const ISO_LAST = 255;
/** Escape sequences of UCS-2 in the three levels of Joliet. */
const JOLIET = ['%/@', '%/C', '%/E'];

export const iso9660: Probe = (range) => {
  let label: string | undefined;
  let uuid: string | undefined;
  let long: string | undefined;
  for (let count = 0; count < ISO_DESCRIPTORS; count += 1) {
    const sector = range.bytes(ISO_AT + count * ISO_SECTOR, ISO_SECTOR);
    if (sector === undefined || sector.toString('latin1', 1, 6) !== 'CD001') break;
    const type = sector[0];
    if (type === ISO_LAST) break;
    const text = sector.subarray(ISO.label, ISO.label + 32);
    if (type === ISO_PRIMARY && label === undefined) {
      label = latin1(text);
      uuid = isoDate(sector, ISO.modified) ?? isoDate(sector, ISO.created);
    }
    if (
      type === ISO_SUPPLEMENTARY &&
      JOLIET.includes(sector.toString('latin1', ISO.escapes, ISO.escapes + 3))
    ) {
      long = utf16(text, 'be');
    }
  }
  if (label === undefined) return undefined;
  // Joliet has half as many characters: a name that goes on in the other one is shown from there.
  const cut = long !== undefined && label.length > 16 && label.toLowerCase().startsWith(long.toLowerCase());
  return { type: 'iso9660', label: cut || !long ? label : long, uuid };
};

/** "2026-11-21-15-11-50-00" from 16 digits; undefined where there is no date. */
function isoDate(sector: Buffer, at: number): string | undefined {
  const digits = sector.toString('latin1', at, at + 16);
  if (!/^\d{16}$/.test(digits) || /^0+$/.test(digits)) return undefined;
  return [digits.slice(0, 4), ...(digits.slice(4).match(/../g) ?? [])].join('-');
}

const HFS_AT = 1024;
const HFS = { version: 2, blockSize: 40, id: 104, catalog: 288 };
/** Of a B-tree's header node: the first leaf, and the size of a node. */
const NODE = { firstLeaf: 24, size: 32, bytes: 14 };
/** The key of the root directory's own record has the parent 1: its name is that of the volume. */
const ROOT_PARENT = 1;
/** What Apple's UUID of an HFS+ volume is hashed with, before the volume's 64-bit identity. */
const HFS_NAMESPACE = Buffer.from('b3e20f39f29211d697a400306543ecac', 'hex');

export const hfsPlus: Probe = (range) => {
  const header = range.bytes(HFS_AT, 512);
  if (header === undefined) return undefined;
  const signature = header.toString('latin1', 0, 2);
  const version = header.readUInt16BE(HFS.version);
  if (!(signature === 'H+' && version === 4) && !(signature === 'HX' && version === 5)) return undefined;
  const blockSize = header.readUInt32BE(HFS.blockSize);
  if (!isPowerOfTwo(blockSize) || blockSize < 512 || blockSize > 1024 * KIB) return undefined;
  const id = header.subarray(HFS.id, HFS.id + 8);
  const catalog = header.readUInt32BE(HFS.catalog) * blockSize;
  return {
    type: 'hfsplus',
    label: hfsLabel(range, catalog),
    uuid: id.every((byte) => byte === 0) ? undefined : hfsUuid(id),
  };
};

function hfsUuid(id: Buffer): string {
  const uuid = createHash('md5').update(HFS_NAMESPACE).update(id).digest();
  uuid[6] = 0x30 | (uuid[6]! & 0x0f);
  uuid[8] = 0x80 | (uuid[8]! & 0x3f);
  return formatUuid(uuid);
}

function hfsLabel(range: DiskRange, catalog: number): string {
  const header = range.bytes(catalog, 512);
  if (header === undefined) return '';
  const nodeSize = header.readUInt16BE(NODE.size);
  if (!isPowerOfTwo(nodeSize) || nodeSize < 512) return '';
  const leaf = range.bytes(catalog + header.readUInt32BE(NODE.firstLeaf) * nodeSize, nodeSize);
  if (leaf === undefined) return '';
  const parent = leaf.readUInt32BE(NODE.bytes + 2);
  const length = leaf.readUInt16BE(NODE.bytes + 6) * 2;
  if (parent !== ROOT_PARENT || NODE.bytes + 8 + length > leaf.length) return '';
  return utf16(leaf.subarray(NODE.bytes + 8, NODE.bytes + 8 + length), 'be');
}

const APFS = { id: 8, type: 24, magic: 32, blockSize: 36, uuid: 72 };
const APFS_SUPERBLOCK = 1;

export const apfs: Probe = (range) => {
  const block = range.bytes(0, 4 * KIB);
  if (block === undefined || block.toString('latin1', APFS.magic, APFS.magic + 4) !== 'NXSB')
    return undefined;
  // The object's own number is 1 as well as its type.
  const isSuperblock =
    block.readBigUInt64LE(APFS.id) === 1n && block.readUInt16LE(APFS.type) === APFS_SUPERBLOCK;
  if (!isSuperblock || !isPowerOfTwo(block.readUInt32LE(APFS.blockSize))) return undefined;
  return { type: 'apfs', uuid: formatUuid(block.subarray(APFS.uuid, APFS.uuid + 16)) };
};

const UFS_BYTES = 1376;
const UFS = { id: 144, label: 680, magic: 1372 };
const UFS1_MAGIC = 0x00011954;
const UFS2_MAGIC = 0x19540119;
const UFS_PLACES = [0, 8, 64, 256].map((kib) => kib * KIB);

export const ufs: Probe = (range) => {
  for (const at of UFS_PLACES) {
    const block = range.bytes(at, UFS_BYTES);
    if (block === undefined) return undefined;
    const little = [UFS1_MAGIC, UFS2_MAGIC].includes(block.readUInt32LE(UFS.magic));
    const u32 = (where: number): number => (little ? block.readUInt32LE(where) : block.readUInt32BE(where));
    const magic = u32(UFS.magic);
    if (magic !== UFS1_MAGIC && magic !== UFS2_MAGIC) continue;
    const word = (where: number): string => u32(where).toString(16).padStart(8, '0');
    const isNew = magic === UFS2_MAGIC;
    return {
      type: 'ufs',
      version: isNew ? '2' : '1',
      label: isNew ? utf8(block.subarray(UFS.label, UFS.label + 32)) : '',
      uuid: `${word(UFS.id)}${word(UFS.id + 4)}`,
    };
  }
  return undefined;
};
