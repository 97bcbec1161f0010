/** What a partition table says, whichever kind it is; and which of its partitions fit on the disk. */

import { type ByteCount, formatSize, hex } from '../base/units.ts';
import type { Report } from '../image/driver.ts';

/** More are not shown: as many as Linux takes (DISK_MAX_PARTS). */
export const MAX_PARTITIONS = 256;

export interface Partition {
  /** As Linux counts: in a GPT the entry's place from 1 on, in an MBR 1 to 4, and logical ones from 5 on. */
  readonly number: number;
  /** Bytes. */
  readonly start: number;
  readonly length: ByteCount;
  /** A GUID in lower case, or "0x83". */
  readonly type: string;
  /** The type in words; undefined where it is not known. */
  readonly typeName: string | undefined;
  /** The name in a GPT; '' where there is none. */
  readonly label: string;
  /** As PARTUUID of Linux; '' where there is none. */
  readonly uuid: string;
  /** An extended partition: it holds logical ones, and is no place for a file system. */
  readonly container: boolean;
}

export interface PartitionTable {
  readonly kind: 'gpt' | 'mbr' | 'none';
  /** The unit of the table, 512 or 4096. */
  readonly sectorSize: number;
  /** The disk's GUID, or the eight hexadecimal digits of an MBR's signature; '' where there is none. */
  readonly uuid: string;
  /** In the order of their numbers. */
  readonly partitions: readonly Partition[];
}

/**
 * Those of `found` that are on a disk of `size` bytes and are nobody else's: what ends past the disk is cut, what
 * begins there or overlaps one with a lower number is left out; each with a notice.
 */
export function fitting(found: readonly Partition[], size: ByteCount, report: Report): Partition[] {
  const kept: Partition[] = [];
  for (const partition of [...found].sort((one, other) => one.number - other.number)) {
    const { number, start, length, container } = partition;
    const place = `partition ${number} at ${hex(start)}`;
    if (start >= size) {
      report(`${place}: begins past the end of the disk (${formatSize(size)}), and is left out`);
      continue;
    }
    const other = container
      ? undefined
      : kept.find((one) => !one.container && start < one.start + one.length && one.start < start + length);
    if (other !== undefined) {
      report(`${place}: overlaps partition ${other.number} at ${hex(other.start)}, and is left out`);
      continue;
    }
    if (kept.length === MAX_PARTITIONS) {
      report(`only the first ${MAX_PARTITIONS} partitions are shown`);
      break;
    }
    const room = size - start;
    if (length > room) {
      report(`${place}: has ${formatSize(length)}, of which the disk holds ${formatSize(room)}: it is cut`);
    }
    kept.push({ ...partition, length: Math.min(length, room) });
  }
  return kept;
}
