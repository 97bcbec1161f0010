/**
 * Entries that name nothing: misaligned, in the header, behind the end of the file, over the L1 table. Past the end of
 * the disk they become absent, which nobody sees. Within it they become zeros, never what a parent has there: a zero
 * cluster in an L2 table; in the L1 table absence or, over a parent, an L2 table of zero clusters, which is made
 * when no entry can name its place any more (doubles.ts). Until then the entry is one that never names anything.
 */

import { unsupported } from '../../base/errors.ts';
import { type ByteCount, hex } from '../../base/units.ts';
import type { RepairScope, Reshaping } from '../../image/reshape.ts';
import { EntryChanges, type QedJob } from './job.ts';
import type { Mended } from './mended.ts';
import { BACKING_FILE, ENTRY_BYTES } from './structs.ts';
import { LAST_CLUSTER, type Level, LOOK, ZEROED } from './tables.ts';

/** Entries that are changed before they are written. */
const BATCH = 16384;
const ABSENT_ENTRY = 0;
const ZERO_ENTRY = 1;
/** A misaligned offset, whatever the size of clusters and file. */
const NOTHING_ENTRY = 3;

/**
 * Returns the L1 entries that are to get a table of zero clusters; undefined where damage stays, because `scope` does
 * not take it. Stable when it ends.
 */
export function* mendDamaged(
  job: QedJob,
  scope: RepairScope,
  mended: Mended,
): Reshaping<readonly number[] | undefined> {
  const { l1Offset, l1Entries, clusterSize, tableEntries, virtualSize, clusters } = job.geometry;
  const hasParent = (job.header.features & BACKING_FILE) !== 0n;
  const changes = new EntryChanges(job.source);
  const total = virtualSize;
  const hidden: number[] = [];
  let stays = false;
  let changed = false;
  const set = (at: number, value: number, text: string, lost: ByteCount): void => {
    changed = true;
    changes.set(at, value);
    mended.add(text, lost);
    if (changes.count >= BATCH) changes.write();
  };

  for (const [index, word] of job.entries('L1', l1Offset)) {
    if (word <= LAST_CLUSTER) continue;
    const fault = faultOf(job, 'L1', l1Offset, index);
    const at = l1Offset + index * ENTRY_BYTES;
    const from = index * tableEntries * clusterSize;
    if (index >= l1Entries) set(at, ABSENT_ENTRY, `${fault}; past the end of the disk, it is absent now`, 0);
    else if (scope !== 'all') stays = true;
    else {
      const lost = Math.min(tableEntries * clusterSize, virtualSize - from);
      const text = `${fault}; the ${lost} bytes of the disk at ${hex(from)} are zeros now`;
      set(at, hasParent ? NOTHING_ENTRY : ABSENT_ENTRY, text, lost);
      if (hasParent) hidden.push(index);
    }
  }
  changes.write();
  for (const { index, first } of job.tables()) {
    for (const [entry, word] of job.entries('L2', first * clusterSize)) {
      const cluster = index * tableEntries + entry;
      const at = first * clusterSize + entry * ENTRY_BYTES;
      if (word === ZEROED) continue;
      const from = cluster * clusterSize;
      if (word <= LAST_CLUSTER) {
        const bytes = Math.min(clusterSize, virtualSize - from);
        if (cluster < clusters && word * clusterSize + bytes > job.source.size) stays ||= scope !== 'all';
        continue;
      }
      const fault = faultOf(job, 'L2', first * clusterSize, entry);
      if (cluster >= clusters)
        set(at, ABSENT_ENTRY, `${fault}; past the end of the disk, it is absent now`, 0);
      else if (scope !== 'all') stays = true;
      else {
        const lost = Math.min(clusterSize, virtualSize - from);
        set(at, ZERO_ENTRY, `${fault}; the ${lost} bytes of the disk at ${hex(from)} are zeros now`, lost);
      }
    }
    yield { done: Math.min(index * tableEntries * clusterSize, total), total };
  }
  changes.write();
  if (changed) job.flush();
  return stays ? undefined : hidden;
}

function faultOf(job: QedJob, level: Level, tableAt: number, entry: number): string {
  const word = job.reader.readEntry(level, tableAt, entry);
  if (word === LOOK && job.reader.fault !== undefined) return job.reader.fault;
  throw unsupported(
    `QED ${level} entry ${entry} of the table at ${hex(tableAt)}: it names a place too far behind to be changed`,
  );
}
