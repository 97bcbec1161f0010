/**
 * The partition table of a master boot record: four entries in the first sector, and chains of further tables in
 * extended partitions. Numbers and reading order are those of Linux (block/partitions/msdos.c).
 */

import { hex } from '../base/units.ts';
import type { Report } from '../image/driver.ts';
import { fitting, MAX_PARTITIONS, type Partition, type PartitionTable } from './partition.ts';
import type { DiskRange } from './range.ts';
import { MBR_BYTES, MBR_SIGNATURE, Mbr, MbrEntry } from './structs.ts';
import { mbrTypeName } from './type-names.ts';

const ACTIVE = 0x80;
const PROTECTIVE = 0xee;
const EXTENDED = new Set([0x05, 0x0f, 0x85]);
const FIRST_LOGICAL = 5;
/** Tables that a chain of extended ones may have; a table need not hold a partition. */
const MAX_TABLES = 2 * MAX_PARTITIONS;

export interface BootRecord {
  /** Four. */
  readonly entries: readonly MbrEntry[];
  /** Disk signature. */
  readonly id: number;
}

/**
 * The first sector as a boot record: undefined where it is none. An active flag other than 0 and 0x80 says that
 * what stands there is something else, such as the code of a file system's boot sector.
 */
export function readBootRecord(range: DiskRange): BootRecord | undefined {
  const sector = range.bytes(0, MBR_BYTES);
  if (sector === undefined) return undefined;
  const mbr = Mbr.decode(sector);
  const entries = entriesOf(mbr.entries);
  if (mbr.signature !== MBR_SIGNATURE || !entries.every(({ boot }) => boot === 0 || boot === ACTIVE)) {
    return undefined;
  }
  return { entries, id: mbr.id };
}

function entriesOf(bytes: Uint8Array): MbrEntry[] {
  return [0, 1, 2, 3].map((index) => MbrEntry.decode(bytes, index * MbrEntry.size));
}

const isUsed = ({ sectors }: MbrEntry): boolean => sectors !== 0;

/** Whether it protects a GPT from programs that know none. */
export function isProtective({ entries }: BootRecord): boolean {
  return entries.some(({ type }) => type === PROTECTIVE);
}

/** Whether there are partitions besides the one that protects: programs that know no GPT see them. */
export function isHybrid({ entries }: BootRecord): boolean {
  return entries.some((entry) => isUsed(entry) && entry.type !== 0 && entry.type !== PROTECTIVE);
}

/** Whether it has at least one partition that begins on a disk of `size` bytes, not at its own sector. */
export function hasPartitions({ entries }: BootRecord, size: number): boolean {
  return entries.some(
    (entry) => isUsed(entry) && entry.type !== 0 && entry.start > 0 && entry.start * 512 < size,
  );
}

/** The table. What is wrong with a part of it is reported, and that part left out. */
export function readMbr(
  range: DiskRange,
  record: BootRecord,
  sectorSize: number,
  report: Report,
): PartitionTable {
  const used = record.entries.filter(isUsed);
  const fits = (size: number): boolean => used.every(({ start }) => start * size < range.size);
  if (sectorSize !== 512 && !fits(sectorSize) && fits(512)) {
    report(`the MBR counts in sectors of 512 bytes, not in the disk's of ${sectorSize}`);
    return readMbr(range, record, 512, report);
  }
  const uuid = record.id === 0 ? '' : record.id.toString(16).padStart(8, '0');
  const found: Partition[] = [];
  const add = (number: number, entry: MbrEntry, base: number): void => {
    if (base + entry.start === 0) {
      report(`partition ${number}: begins at the table itself, and is left out`);
      return;
    }
    found.push({
      number,
      start: (base + entry.start) * sectorSize,
      length: entry.sectors * sectorSize,
      type: `0x${entry.type.toString(16).padStart(2, '0')}`,
      typeName: mbrTypeName(entry.type),
      label: '',
      uuid: uuid === '' ? '' : `${uuid}-${number.toString(16).padStart(2, '0')}`,
      container: EXTENDED.has(entry.type),
    });
  };
  record.entries.forEach((entry, index) => {
    if (isUsed(entry)) add(index + 1, entry, 0);
  });
  let next = FIRST_LOGICAL;
  for (const extended of used.filter(({ type }) => EXTENDED.has(type))) {
    next = readChain(range, extended, sectorSize, next, add, report);
  }
  return { kind: 'mbr', sectorSize, uuid, partitions: fitting(found, range.size, report) };
}

/**
 * The logical partitions of an extended one, numbered from `number` on; returns the next number. Each table of the
 * chain holds one partition, counted in sectors from the table, and a link, counted from the extended partition.
 */
function readChain(
  range: DiskRange,
  extended: MbrEntry,
  sectorSize: number,
  number: number,
  add: (number: number, entry: MbrEntry, base: number) => void,
  report: Report,
): number {
  const seen = new Set<number>();
  let next = number;
  for (let table = extended.start; ; ) {
    const place = `extended partition table at ${hex(table * sectorSize)}`;
    const bytes = range.bytes(table * sectorSize, MBR_BYTES);
    const mbr = bytes === undefined ? undefined : Mbr.decode(bytes);
    if (mbr?.signature !== MBR_SIGNATURE) {
      const found = mbr === undefined ? 'the end of the disk' : hex(mbr.signature);
      report(
        `${place}: expected the signature ${hex(MBR_SIGNATURE)}, found ${found}; what follows is left out`,
      );
      return next;
    }
    seen.add(table);
    const entries = entriesOf(mbr.entries);
    for (const [index, entry] of entries.entries()) {
      if (!isUsed(entry) || EXTENDED.has(entry.type)) continue;
      // The last two entries are not used; some programs leave rubbish there.
      if (index >= 2 && !isWithin(table + entry.start, entry.sectors, extended)) continue;
      if (next >= FIRST_LOGICAL + MAX_PARTITIONS) {
        report(`${place}: only ${MAX_PARTITIONS} logical partitions are looked at`);
        return next;
      }
      add(next, entry, table);
      next += 1;
    }
    const link = entries.find((entry) => isUsed(entry) && EXTENDED.has(entry.type));
    if (link === undefined) return next;
    table = extended.start + link.start;
    if (seen.has(table)) {
      report(`${place}: leads back to the table at ${hex(table * sectorSize)}; the chain ends there`);
      return next;
    }
    if (seen.size === MAX_TABLES) {
      report(`${place}: only ${MAX_TABLES} tables of a chain are looked at`);
      return next;
    }
  }
}

function isWithin(start: number, sectors: number, extended: MbrEntry): boolean {
  return start >= extended.start && start + sectors <= extended.start + extended.sectors;
}
