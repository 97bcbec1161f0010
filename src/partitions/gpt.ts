/**
 * The GUID partition table (UEFI 2.10, 5.3): a header with a checksum, an array of entries with another, and both
 * again at the end of the disk.
 */

import { crc32 } from 'node:zlib';
import { formatGuid, isZero } from '../base/guid.ts';
import { hex, isPowerOfTwo, KIB, MIB } from '../base/units.ts';
import type { Report } from '../image/driver.ts';
import { safeNumber } from '../layout/struct.ts';
import { fitting, type Partition, type PartitionTable } from './partition.ts';
import type { DiskRange } from './range.ts';
import { utf16 } from './signatures/text.ts';
import { GPT_REVISION, GPT_SIGNATURE, GptEntry, GptHeader } from './structs.ts';
import { gptTypeName } from './type-names.ts';

/** The largest array of entries that is read: 8192 of them, where 128 are usual. */
const MAX_ENTRIES_BYTES = MIB;

/** What is wrong with a GPT at one place. */
interface Bad {
  readonly problem: string;
  /** Where the other header is, if this one is sound and only its entries are not. */
  readonly alternate?: number | undefined;
}

interface Good {
  readonly header: GptHeader;
  readonly entries: Buffer;
}

/** Whether a sector that begins as a GPT header does is at LBA 1. */
export function hasGptSignature(range: DiskRange, sectorSize: number): boolean {
  const bytes = range.bytes(sectorSize, 8);
  return bytes !== undefined && bytes.readBigUInt64LE(0) === GPT_SIGNATURE;
}

/**
 * The table, in sectors of the first of `sectorSizes` in which it can be read: its first copy, or the one at the
 * disk's end with a notice. Undefined where no copy is sound; `problems` then says why, one for each place.
 */
export function readGpt(
  range: DiskRange,
  sectorSizes: readonly number[],
  report: Report,
): PartitionTable | { readonly problems: readonly string[] } {
  const problems: string[] = [];
  for (const sectorSize of sectorSizes) {
    const primary = readCopy(range, sectorSize, 1);
    let good = 'problem' in primary ? undefined : primary;
    if ('problem' in primary) {
      problems.push(primary.problem);
      const last = Math.floor(range.size / sectorSize) - 1;
      for (const lba of new Set([last, primary.alternate ?? last])) {
        const backup = readCopy(range, sectorSize, lba);
        if ('problem' in backup) {
          problems.push(backup.problem);
          continue;
        }
        report(`${primary.problem}; the backup at LBA ${lba} is used`);
        good = backup;
        break;
      }
    }
    if (good === undefined) continue;
    if (sectorSize !== sectorSizes[0]) {
      report(`the GPT counts in sectors of ${sectorSize} bytes, not in the disk's of ${sectorSizes[0]}`);
    }
    return tableOf(good, sectorSize, range, report);
  }
  return { problems };
}

function readCopy(range: DiskRange, sectorSize: number, lba: number): Good | Bad {
  const at = lba * sectorSize;
  const place = `GPT header at LBA ${lba} (${hex(at)})`;
  const sector = range.bytes(at, sectorSize);
  if (sector === undefined) return { problem: `${place}: is not on the disk` };
  const header = GptHeader.decode(sector);
  const bad = (what: string): Bad => ({ problem: `${place}: ${what}` });
  if (header.signature !== GPT_SIGNATURE) return bad('expected "EFI PART", which is not there');
  if (header.revision !== GPT_REVISION) {
    return bad(`revision is ${hex(header.revision)}, expected ${hex(GPT_REVISION)}`);
  }
  const { headerSize, entrySize, entryCount } = header;
  if (headerSize < GptHeader.size || headerSize > sectorSize) {
    return bad(`header size is ${headerSize}, expected ${GptHeader.size} to ${sectorSize}`);
  }
  const covered = Buffer.from(sector.subarray(0, headerSize));
  covered.fill(0, GptHeader.at.headerCrc, GptHeader.at.headerCrc + 4);
  const headerCrc = crc32(covered);
  if (headerCrc !== header.headerCrc) {
    return bad(`checksum is ${hex(header.headerCrc)}, computed ${hex(headerCrc)}`);
  }
  if (header.myLba !== BigInt(lba)) return bad(`says that it is at LBA ${header.myLba}`);
  const alternate = safeNumber(header.alternateLba);
  const badEntries = (what: string): Bad => ({ problem: `${place}: ${what}`, alternate });
  if (entrySize < GptEntry.size || entrySize > 4 * KIB || !isPowerOfTwo(entrySize)) {
    return badEntries(`entry size is ${entrySize}, expected 128, 256, … 4096`);
  }
  if (entryCount === 0 || entryCount * entrySize > MAX_ENTRIES_BYTES) {
    return badEntries(`${entryCount} entries of ${entrySize} bytes, expected 1 byte to ${MAX_ENTRIES_BYTES}`);
  }
  const entriesLba = safeNumber(header.entriesLba) ?? Number.MAX_SAFE_INTEGER;
  const entries = range.bytes(entriesLba * sectorSize, entryCount * entrySize);
  if (entries === undefined) {
    return badEntries(`its ${entryCount} entries at LBA ${header.entriesLba} are not on the disk`);
  }
  const entriesCrc = crc32(entries);
  if (entriesCrc !== header.entriesCrc) {
    return badEntries(`checksum of its entries is ${hex(header.entriesCrc)}, computed ${hex(entriesCrc)}`);
  }
  return { header, entries };
}

function tableOf(
  { header, entries }: Good,
  sectorSize: number,
  range: DiskRange,
  report: Report,
): PartitionTable {
  const firstUsable = safeNumber(header.firstUsableLba) ?? Number.MAX_SAFE_INTEGER;
  const found: Partition[] = [];
  for (let index = 0; index < header.entryCount; index += 1) {
    const entry = GptEntry.decode(entries, index * header.entrySize);
    if (isZero(entry.type)) continue;
    const place = `partition ${index + 1}`;
    const first = safeNumber(entry.firstLba);
    const last = safeNumber(entry.lastLba);
    const sectors = `LBA ${entry.firstLba} to ${entry.lastLba}`;
    if (first === undefined || last === undefined || !Number.isSafeInteger((last + 1) * sectorSize)) {
      report(`${place}: ${sectors} is past the end of any disk, and it is left out`);
    } else if (last < first) {
      report(`${place}: ${sectors} is no range, and it is left out`);
    } else if (first < firstUsable) {
      report(`${place}: ${sectors} begins before LBA ${firstUsable}, the first usable one; it is left out`);
    } else {
      const type = formatGuid(entry.type);
      found.push({
        number: index + 1,
        start: first * sectorSize,
        length: (last - first + 1) * sectorSize,
        type,
        typeName: gptTypeName(type),
        label: utf16(entry.name, 'le'),
        uuid: formatGuid(entry.guid),
        container: false,
      });
    }
  }
  const uuid = formatGuid(header.diskGuid);
  return { kind: 'gpt', sectorSize, uuid, partitions: fitting(found, range.size, report) };
}
