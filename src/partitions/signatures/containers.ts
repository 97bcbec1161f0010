/**
 * What a file system lies inside of: encryption, volume managers, RAID. Facts: "LUKS1 On-Disk Format" 1.2.3 and
 * "LUKS2 On-Disk Format" 1.0, LVM2's "lvm label" in its own documentation, <linux/raid/md_p.h>.
 */

import { crc32 } from 'node:zlib';
import { formatUuid } from '../../base/guid.ts';
import { KIB, roundDown } from '../../base/units.ts';
import type { DiskRange } from '../range.ts';
import type { Probe, Signature } from './signature.ts';
import { utf8 } from './text.ts';

const LUKS = { version: 6, label2: 24, uuid: 168 };

export const luks: Probe = (range) => {
  const header = range.bytes(0, 512);
  if (header === undefined || header.toString('latin1', 0, 6) !== 'LUKS\xba\xbe') return undefined;
  const version = header.readUInt16BE(LUKS.version);
  if (version !== 1 && version !== 2) return undefined;
  return {
    type: 'crypto_LUKS',
    version: `${version}`,
    label: version === 2 ? utf8(header.subarray(LUKS.label2, LUKS.label2 + 48)) : '',
    uuid: utf8(header.subarray(LUKS.uuid, LUKS.uuid + 40)),
    container: true,
  };
};

/** The label is in one of the first four sectors, whatever the device's sectors are. */
const LVM_SECTORS = 4;
const LVM = { sector: 8, crc: 16, offset: 20, type: 24 };
/** The checksum is a CRC-32 without the usual inversions, from this value on. */
const LVM_CRC_START = 0xf597a6cf;
const LVM_UUID_GROUPS = [6, 4, 4, 4, 4, 4, 6];

export const lvm: Probe = (range) => {
  for (let sector = 0; sector < LVM_SECTORS; sector += 1) {
    const label = range.bytes(sector * 512, 512);
    if (label === undefined) return undefined;
    if (label.toString('latin1', 0, 8) !== 'LABELONE') continue;
    if (label.toString('latin1', LVM.type, LVM.type + 8) !== 'LVM2 001') continue;
    const crc = ~crc32(label.subarray(LVM.offset), ~LVM_CRC_START >>> 0) >>> 0;
    if (label.readBigUInt64LE(LVM.sector) !== BigInt(sector) || label.readUInt32LE(LVM.crc) !== crc) continue;
    const at = label.readUInt32LE(LVM.offset);
    if (at + 32 > label.length) continue;
    const text = utf8(label.subarray(at, at + 32));
    let from = 0;
    const groups = LVM_UUID_GROUPS.map((length) => {
      from += length;
      return text.slice(from - length, from);
    });
    return { type: 'LVM2_member', version: 'LVM2 001', uuid: groups.join('-'), container: true };
  }
  return undefined;
};

const MD_MAGIC = 0xa92b4efc;
const MD1 = { major: 4, uuid: 16, name: 32, superOffset: 144 };
const MD0 = { major: 4, minor: 8, uuid0: 20, uuid1: 52 };
const MD0_RESERVED = 64 * KIB;

/** Linux software RAID: superblock 1.1 at the start, 1.2 after 4 KiB, 1.0 and 0.90 near the end. */
export const raid: Probe = (range) => {
  const sectors = Math.floor(range.size / 512);
  return (
    raid1(range, '1.0', roundDown(sectors - 16, 8) * 512) ??
    raid1(range, '1.1', 0) ??
    raid1(range, '1.2', 4 * KIB) ??
    raid0(range)
  );
};

function raid1(range: DiskRange, version: string, at: number): Signature | undefined {
  const block = range.bytes(at, 256);
  if (block === undefined || block.readUInt32LE(0) !== MD_MAGIC) return undefined;
  // Of three possible places it says which one it is: what is left of an older array is at another one.
  if (block.readUInt32LE(MD1.major) !== 1 || block.readBigUInt64LE(MD1.superOffset) !== BigInt(at / 512)) {
    return undefined;
  }
  return {
    type: 'linux_raid_member',
    version,
    label: utf8(block.subarray(MD1.name, MD1.name + 32)),
    uuid: formatUuid(block.subarray(MD1.uuid, MD1.uuid + 16)),
    container: true,
  };
}

/** Its words are in the byte order of the machine that made it; the UUID is shown as big-endian words. */
function raid0(range: DiskRange): Signature | undefined {
  const block = range.bytes(roundDown(range.size, MD0_RESERVED) - MD0_RESERVED, 4 * KIB);
  if (block === undefined) return undefined;
  const little = block.readUInt32LE(0) === MD_MAGIC;
  if (!little && block.readUInt32BE(0) !== MD_MAGIC) return undefined;
  const word = (at: number): number => (little ? block.readUInt32LE(at) : block.readUInt32BE(at));
  if (word(MD0.major) !== 0) return undefined;
  const minor = word(MD0.minor);
  const uuid = Buffer.alloc(16);
  [MD0.uuid0, MD0.uuid1, MD0.uuid1 + 4, MD0.uuid1 + 8].forEach((at, index) => {
    // Before 0.90 there was one word.
    if (index === 0 || minor >= 90) uuid.writeUInt32BE(word(at), index * 4);
  });
  return { type: 'linux_raid_member', version: `0.${minor}.0`, uuid: formatUuid(uuid), container: true };
}
