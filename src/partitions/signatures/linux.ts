/**
 * File systems of Linux. Facts: Documentation/filesystems/ext4 and fs/{xfs,btrfs,squashfs} of the kernel,
 * <linux/swap.h>.
 */

import { formatUuid } from '../../base/guid.ts';
import { isPowerOfTwo, KIB } from '../../base/units.ts';
import type { Probe } from './signature.ts';
import { utf8 } from './text.ts';

const EXT_AT = 1024;
const EXT_BYTES = 1024;
const EXT = {
  inodes: 0x00,
  blocks: 0x04,
  logBlockSize: 0x18,
  magic: 0x38,
  compatible: 0x5c,
  incompatible: 0x60,
  readOnlyCompatible: 0x64,
  uuid: 0x68,
  label: 0x78,
};
const EXT_MAGIC = 0xef53;
const MAX_LOG_BLOCK_SIZE = 6;
const HAS_JOURNAL = 0x4;
const JOURNAL_DEVICE = 0x8;
/** What ext2 and ext3 know: sparse_super, large_file, and a directory index that was never used. */
const OLD_READ_ONLY_COMPATIBLE = 0x1 | 0x2 | 0x4;
/** filetype, meta_bg; */
const EXT2_INCOMPATIBLE = 0x2 | 0x10;
/** and needs_recovery. */
const EXT3_INCOMPATIBLE = EXT2_INCOMPATIBLE | 0x4;

/** ext2, 3, 4 or an external journal: the least of them that knows all features. */
export const ext: Probe = (range) => {
  const block = range.bytes(EXT_AT, EXT_BYTES);
  if (block === undefined || block.readUInt16LE(EXT.magic) !== EXT_MAGIC) return undefined;
  const u32 = (at: number): number => block.readUInt32LE(at);
  if (u32(EXT.blocks) === 0 || u32(EXT.logBlockSize) > MAX_LOG_BLOCK_SIZE) return undefined;
  const incompatible = u32(EXT.incompatible);
  const uuid = formatUuid(block.subarray(EXT.uuid, EXT.uuid + 16));
  const label = utf8(block.subarray(EXT.label, EXT.label + 16));
  const version = '1.0';
  if ((incompatible & JOURNAL_DEVICE) !== 0) return { type: 'jbd', version, label, uuid, container: true };
  if (u32(EXT.inodes) === 0) return undefined;
  const journal = (u32(EXT.compatible) & HAS_JOURNAL) !== 0;
  const known = journal ? EXT3_INCOMPATIBLE : EXT2_INCOMPATIBLE;
  const isNew =
    (u32(EXT.readOnlyCompatible) & ~OLD_READ_ONLY_COMPATIBLE) !== 0 || (incompatible & ~known) !== 0;
  return { type: isNew ? 'ext4' : journal ? 'ext3' : 'ext2', version, label, uuid };
};

const XFS = { blockSize: 4, uuid: 32, sectorSize: 102, label: 108 };

export const xfs: Probe = (range) => {
  const block = range.bytes(0, 512);
  if (block === undefined || block.toString('latin1', 0, 4) !== 'XFSB') return undefined;
  const blockSize = block.readUInt32BE(XFS.blockSize);
  const sectorSize = block.readUInt16BE(XFS.sectorSize);
  if (!isPowerOfTwo(blockSize) || blockSize < 512 || blockSize > 64 * KIB) return undefined;
  if (!isPowerOfTwo(sectorSize) || sectorSize < 512 || sectorSize > 32 * KIB) return undefined;
  return {
    type: 'xfs',
    label: utf8(block.subarray(XFS.label, XFS.label + 12)),
    uuid: formatUuid(block.subarray(XFS.uuid, XFS.uuid + 16)),
  };
};

const BTRFS_AT = 64 * KIB;
const BTRFS = { uuid: 0x20, magic: 0x40, label: 0x12b };

export const btrfs: Probe = (range) => {
  const block = range.bytes(BTRFS_AT, 4 * KIB);
  if (block === undefined || block.toString('latin1', BTRFS.magic, BTRFS.magic + 8) !== '_BHRfS_M') {
    return undefined;
  }
  return {
    type: 'btrfs',
    label: utf8(block.subarray(BTRFS.label, BTRFS.label + 256)),
    uuid: formatUuid(block.subarray(BTRFS.uuid, BTRFS.uuid + 16)),
  };
};

/** The signature is at the end of the first page, whatever the machine's page is. */
const PAGES = [4, 8, 16, 32, 64].map((kib) => kib * KIB);
const SWAP_MAGIC_BYTES = 10;
const SWAP_AT = 1024;
const SWAP = { version: 0, pages: 4, uuid: 12, label: 28 };
/** In the place of the magic while the memory of a sleeping machine is in the swap. */
const SLEEPING = ['S1SUSPEND', 'S2SUSPEND', 'ULSUSPEND', 'LINHIB0001'];

export const swap: Probe = (range) => {
  for (const page of PAGES) {
    const magic = range.bytes(page - SWAP_MAGIC_BYTES, SWAP_MAGIC_BYTES)?.toString('latin1');
    if (magic === undefined) return undefined;
    const sleeping = SLEEPING.some((name) => magic.startsWith(name));
    if (magic !== 'SWAPSPACE2' && !sleeping) continue;
    const header = range.bytes(SWAP_AT, 48)!;
    // Of a swap area of another byte order, version and size are turned round; nobody has one.
    if (header.readUInt32LE(SWAP.version) !== 1 || header.readUInt32LE(SWAP.pages) === 0) return undefined;
    return {
      type: sleeping ? 'swsuspend' : 'swap',
      version: sleeping ? magic.slice(0, 10).replaceAll('\0', '').toLowerCase() : '1',
      label: utf8(header.subarray(SWAP.label, SWAP.label + 16)),
      uuid: formatUuid(header.subarray(SWAP.uuid, SWAP.uuid + 16)),
    };
  }
  return undefined;
};

const SQUASHFS = { major: 28, minor: 30 };

export const squashfs: Probe = (range) => {
  const block = range.bytes(0, 96);
  if (block === undefined || block.toString('latin1', 0, 4) !== 'hsqs') return undefined;
  const major = block.readUInt16LE(SQUASHFS.major);
  if (major < 1 || major > 4) return undefined;
  const version = `${major}.${block.readUInt16LE(SQUASHFS.minor)}`;
  return { type: major < 4 ? 'squashfs3' : 'squashfs', version };
};
