/**
 * Which partition table a disk has. What stands in the first sector is told apart in this order, each step with the
 * strongest proof that is left:
 *
 * 1. No boot signature, or an active flag that is none: no MBR. So nearly every boot sector of a file system drops
 *    out here, since its code reaches over the place of the table.
 * 2. A boot sector of NTFS, exFAT, BitLocker or ReFS, by name and geometry: no MBR. Nobody writes such a name into
 *    an MBR; a file system's code may well end in zeros, which look like an empty table.
 * 3. A boot sector of FAT, by geometry alone, is one where the first entry of its allocation table repeats the media
 *    byte. Boot loaders keep the geometry of what stood there before (GRUB does) when they make an MBR of it; then
 *    their code is where the allocation table was.
 * 4. An MBR with an entry 0xEE protects a GPT: that counts, and the other entries do not.
 * 5. An MBR with a partition that begins on the disk is one.
 * 6. Else a file system over the whole disk, where there is one: a GPT that an older use of the disk left behind
 *    must not hide it.
 * 7. Else a sound GPT whose protective MBR is lost: at its first place, or at the end of the disk.
 */

import type { Report } from '../image/driver.ts';
import { hasGptSignature, readGpt } from './gpt.ts';
import { hasPartitions, isHybrid, isProtective, readBootRecord, readMbr } from './mbr.ts';
import type { PartitionTable } from './partition.ts';
import type { DiskRange } from './range.ts';
import { isVolumeBootSector } from './signatures/boot-sector.ts';
import { identify } from './signatures/identify.ts';

const SECTOR_SIZES = [512, 4096];

/**
 * The partition table of a disk whose sectors have `sectorSize` bytes. Reports what is wrong with it. Throws
 * ImageError('io') where the disk cannot be read.
 */
export function readTable(range: DiskRange, sectorSize: number, report: Report): PartitionTable {
  const none: PartitionTable = { kind: 'none', sectorSize, uuid: '', partitions: [] };
  const sectorSizes = [sectorSize, ...SECTOR_SIZES.filter((size) => size !== sectorSize)];
  const written = readBootRecord(range);
  const record = written === undefined || isVolumeBootSector(range) ? undefined : written;
  if (record !== undefined && isProtective(record)) {
    const gpt = readGpt(range, sectorSizes, report);
    if ('problems' in gpt) {
      report(`the MBR protects a GPT that cannot be read: ${gpt.problems.join('; ')}`);
      return { ...none, kind: 'gpt' };
    }
    if (isHybrid(record)) report('the MBR has partitions of its own (hybrid): those of the GPT are shown');
    return gpt;
  }
  if (record !== undefined && hasPartitions(record, range.size)) {
    if (sectorSizes.some((size) => hasGptSignature(range, size))) {
      report('there is a GPT behind an MBR that does not protect it: the partitions of the MBR are shown');
    }
    return readMbr(range, record, sectorSize, report);
  }
  if (identify(range) !== undefined) return none;
  const gpt = readGpt(range, sectorSizes, report);
  if ('problems' in gpt) {
    const begun = sectorSizes.some((size) => hasGptSignature(range, size));
    if (begun) report(`a GPT without its protective MBR cannot be read: ${gpt.problems.join('; ')}`);
    return none;
  }
  report('the GPT has lost its protective MBR');
  return gpt;
}
