/** What a disk holds: its partition table, and what is in the partitions or, without one, on the whole disk. */

import { ImageError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { Report } from '../image/driver.ts';
import type { Partition, PartitionTable } from './partition.ts';
import { DiskRange, type DiskReader } from './range.ts';
import { identify } from './signatures/identify.ts';
import type { Signature } from './signatures/signature.ts';
import { readTable } from './table.ts';

export interface PartitionContent extends Partition {
  /** Undefined where nothing is known there, and of one that holds others. */
  readonly fileSystem: Signature | undefined;
}

export interface DiskContent {
  readonly table: PartitionTable['kind'];
  /** The unit of the table in bytes. */
  readonly sectorSize: ByteCount;
  /** The table's identity; '' where it has none. */
  readonly uuid: string;
  readonly partitions: readonly PartitionContent[];
  /** Of the whole disk; besides a table, only ISO 9660 can be there (hybrid images). */
  readonly fileSystem: Signature | undefined;
}

/**
 * Looks a disk of sectors of `sectorSize` bytes through, reading a bounded amount. Throws nothing: what cannot be
 * read or is wrong is reported, and left out.
 */
export function contentOf(disk: DiskReader, sectorSize: ByteCount, report: Report): DiskContent {
  const whole = new DiskRange(disk);
  const none: PartitionTable = { kind: 'none', sectorSize, uuid: '', partitions: [] };
  const table = attempt(() => readTable(whole, sectorSize, report), 'no partition table', report) ?? none;
  const found = attempt(() => identify(whole), 'no file system', report);
  const fileSystem = table.kind === 'none' || found?.type === 'iso9660' ? found : undefined;
  const partitions = table.partitions.map((partition): PartitionContent => {
    const { number, start, length, container } = partition;
    const inside = container
      ? undefined
      : attempt(() => identify(new DiskRange(disk, start, length)), `partition ${number}`, report);
    return { ...partition, fileSystem: inside };
  });
  return { table: table.kind, sectorSize: table.sectorSize, uuid: table.uuid, partitions, fileSystem };
}

function attempt<T>(work: () => T, what: string, report: Report): T | undefined {
  try {
    return work();
  } catch (problem) {
    if (!(problem instanceof ImageError)) throw problem;
    report(`${what}: ${problem.message}`);
    return undefined;
  }
}

/** 'ext4 "data" 2dc2…', for people. What is missing is null in JSON. */
export function describeSignature(found: {
  readonly type: string;
  readonly version?: string | null | undefined;
  readonly label?: string | null | undefined;
  readonly uuid?: string | null | undefined;
  readonly container?: boolean;
}): string {
  const { type, version, label, uuid, container } = found;
  return [
    type,
    // Else the version says nothing that the type does not.
    ...(!version || version === '1.0' ? [] : [version]),
    ...(label ? [JSON.stringify(label)] : []),
    ...(uuid ? [uuid] : []),
    ...(container === true ? ['(not looked into)'] : []),
  ].join(' ');
}

/** What is said of a disk without a partition table. */
export function withoutTable({ fileSystem }: DiskContent): string {
  const holds = fileSystem === undefined ? 'nothing known' : describeSignature(fileSystem);
  return `no partition table; the whole disk holds ${holds}`;
}

/** Attributes of the disk's raw file: names in kebab-case. Fields that are empty are left out. */
export function diskAttributes({ table, uuid, fileSystem }: DiskContent): [string, string][] {
  return present([
    ['partition-table', table],
    ['partition-table-uuid', uuid],
    ...fileSystemAttributes(fileSystem),
  ]);
}

/** Attributes of a partition's file. */
export function partitionAttributes(partition: PartitionContent): [string, string][] {
  const { number, start, length, type, typeName, label, uuid, fileSystem } = partition;
  return present([
    ['number', `${number}`],
    ['start', `${start}`],
    ['length', `${length}`],
    ['type', type],
    ['type-name', typeName],
    ['label', label],
    ['uuid', uuid],
    ...fileSystemAttributes(fileSystem),
  ]);
}

function fileSystemAttributes(found: Signature | undefined): [string, string | undefined][] {
  return [
    ['file-system', found?.type],
    ['file-system-version', found?.version],
    ['file-system-label', found?.label],
    ['file-system-uuid', found?.uuid],
  ];
}

function present(pairs: readonly (readonly [string, string | undefined])[]): [string, string][] {
  return pairs.flatMap(([name, value]): [string, string][] => (value ? [[name, value]] : []));
}
