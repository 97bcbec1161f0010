/** The proportions of one QED image, checked: plain numbers that every thread shares. */

import type { ByteCount, HostOffset } from '../../base/units.ts';
import { ENTRY_BYTES } from './structs.ts';

export interface Geometry {
  readonly clusterSize: ByteCount;
  /** Bytes of the L1 table, and of every L2 table. */
  readonly tableBytes: ByteCount;
  /** Entries in a table. */
  readonly tableEntries: number;
  /** Where regular clusters (tables and data) may start. */
  readonly headerBytes: ByteCount;
  readonly l1Offset: HostOffset;
  readonly virtualSize: ByteCount;
  /** Guest clusters, the last one perhaps not whole. */
  readonly clusters: number;
  /** L1 entries that the disk needs, at most 2^18: those after them are never looked at. */
  readonly l1Entries: number;
}

/**
 * Bytes that two levels of tables can map. Exact: the product exceeds 64 bits for legal proportions (2 MiB
 * clusters with 16 of them per table, any table of 64 MiB clusters).
 */
export function maxImageSize(clusterSize: number, tableSize: number): bigint {
  const entries = BigInt((clusterSize / ENTRY_BYTES) * tableSize);
  return entries * entries * BigInt(clusterSize);
}

export function geometryOf(
  clusterSize: number,
  tableSize: number,
  headerBytes: ByteCount,
  l1Offset: HostOffset,
  virtualSize: ByteCount,
): Geometry {
  const tableBytes = clusterSize * tableSize;
  const tableEntries = tableBytes / ENTRY_BYTES;
  const clusters = Math.ceil(virtualSize / clusterSize);
  const l1Entries = Math.ceil(clusters / tableEntries);
  return {
    clusterSize,
    tableBytes,
    tableEntries,
    headerBytes,
    l1Offset,
    virtualSize,
    clusters,
    l1Entries,
  };
}
