/** What `vdisk info` says of a disk's partitions and file systems. */

import { formatSize } from '../base/units.ts';
import { readerOf } from '../daemon/partitions.ts';
import type { FileSeed } from '../fuse/tree.ts';
import type { Report } from '../image/driver.ts';
import { contentOf, type DiskContent, describeSignature } from '../partitions/content.ts';
import type { Signature } from '../partitions/signatures/signature.ts';
import { PagePool } from '../shared/page-pool.ts';

/** A few table pages: little is read. */
const POOL_BYTES = 1 << 20;

/** Fields of the JSON. */
interface FileSystemInfo {
  /** As blkid calls it. */
  readonly type: string;
  readonly version: string | null;
  readonly label: string | null;
  readonly uuid: string | null;
  /** Encrypted, or a part of something larger: what lies inside is not looked for. */
  readonly container: boolean;
}

interface PartitionInfo {
  readonly number: number;
  /** Bytes. */
  readonly start: number;
  readonly length: number;
  readonly type: string;
  readonly 'type-name': string | null;
  readonly label: string | null;
  readonly uuid: string | null;
  /** It holds logical partitions, and is no file of a mount. */
  readonly extended: boolean;
  readonly 'file-system': FileSystemInfo | null;
}

interface TableInfo {
  readonly kind: DiskContent['table'];
  readonly 'sector-size': number;
  readonly uuid: string | null;
  readonly partitions: readonly PartitionInfo[];
}

export interface ContentInfo {
  /** null where the disk cannot be read, because a parent is missing. */
  readonly 'partition-table': TableInfo | null;
  /** Of the whole disk. */
  readonly 'file-system': FileSystemInfo | null;
}

export const UNKNOWN_CONTENT: ContentInfo = { 'partition-table': null, 'file-system': null };

/** What the disk holds that the layers show, the image first. */
export function contentInfo(layers: FileSeed['layers'], sectorSize: number, report: Report): ContentInfo {
  const size = layers[0].image.virtualSize;
  const disk = readerOf(layers, size, PagePool.seed(POOL_BYTES), report);
  const content = contentOf(disk, sectorSize, report);
  return {
    'partition-table': {
      kind: content.table,
      'sector-size': content.sectorSize,
      uuid: content.uuid || null,
      partitions: content.partitions.map((partition) => ({
        number: partition.number,
        start: partition.start,
        length: partition.length,
        type: partition.type,
        'type-name': partition.typeName ?? null,
        label: partition.label || null,
        uuid: partition.uuid || null,
        extended: partition.container,
        'file-system': fileSystemInfo(partition.fileSystem),
      })),
    },
    'file-system': fileSystemInfo(content.fileSystem),
  };
}

function fileSystemInfo(found: Signature | undefined): FileSystemInfo | null {
  if (found === undefined) return null;
  const { type, version, label, uuid, container } = found;
  return {
    type,
    version: version || null,
    label: label || null,
    uuid: uuid || null,
    container: container === true,
  };
}

/** Names and values for people. */
export function contentRows(info: ContentInfo): [string, string][] {
  const table = info['partition-table'];
  const fileSystem = info['file-system'];
  if (table === null) return [];
  const size = table['sector-size'];
  const sectors = size === 512 ? '' : `, sectors of ${size} bytes (losetup -b ${size})`;
  const rows: [string, string][] = [
    ['partition table', `${table.kind}${sectors}${table.uuid === null ? '' : `, ${table.uuid}`}`],
  ];
  if (table.kind === 'none' || fileSystem !== null) {
    rows.push(['whole disk', fileSystem === null ? 'nothing known' : describeSignature(fileSystem)]);
  }
  return rows;
}

/** The partitions as a table for people, a line for each below the names of the columns; '' where there are none. */
export function contentTable(info: ContentInfo): string {
  const partitions = info['partition-table']?.partitions ?? [];
  if (partitions.length === 0) return '';
  const cells = partitions.map((one) => [
    `${one.number}`,
    formatSize(one.start),
    formatSize(one.length),
    one['type-name'] ?? one.type,
    one.label ?? '',
    one.extended ? '' : one['file-system'] === null ? '-' : describeSignature(one['file-system']),
  ]);
  const all = [['#', 'start', 'size', 'type', 'name', 'holds'], ...cells];
  const widths = all[0]!.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  return all
    .map((row) => row.map((cell, column) => cell.padEnd(widths[column]!)).join('  '))
    .map((line) => `  ${line.trimEnd()}\n`)
    .join('');
}
