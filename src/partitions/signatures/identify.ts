/** What a range of a disk holds, by its signatures. */

import type { DiskRange } from '../range.ts';
import { bitlocker, exfat, fat, ntfs, refs } from './boot-sector.ts';
import { luks, lvm, raid } from './containers.ts';
import { btrfs, ext, squashfs, swap, xfs } from './linux.ts';
import { apfs, hfsPlus, iso9660, ufs } from './others.ts';
import type { Probe, Signature } from './signature.ts';
import { zfs } from './zfs.ts';

/**
 * The first that is there counts, so the order matters:
 *
 * - RAID before all: with the superblock at the end, the member of a mirror looks like the file system in it. Then
 *   the other containers, which own the first sectors.
 * - BitLocker before FAT: "To Go" is a FAT32 for those who do not know better.
 * - What owns the first sector before what leaves it alone (ext, btrfs, HFS+, ISO 9660, UFS): who makes the former
 *   need not clear the places of the latter, while the latter's makers clear the first sector.
 * - ISO 9660 after all others of the first 32 KiB: a hybrid image's first sectors are free for others.
 * - ZFS last: its labels leave the first 8 KiB alone, and are the most to read.
 */
const PROBES: readonly Probe[] = [
  raid,
  luks,
  lvm,
  bitlocker,
  refs,
  ntfs,
  exfat,
  fat,
  xfs,
  squashfs,
  apfs,
  ext,
  swap,
  hfsPlus,
  btrfs,
  iso9660,
  ufs,
  zfs,
];

/** Undefined where nothing is known. Throws ImageError('io') where the range cannot be read. */
export function identify(range: DiskRange): Signature | undefined {
  for (const probe of PROBES) {
    const found = probe(range);
    if (found !== undefined) return found;
  }
  return undefined;
}
