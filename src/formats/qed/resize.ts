/**
 * Another size: the header's sector, which is the one instant at which the disk changes. What lies past the end of the
 * disk is not seen by anybody, and is put right while it is not seen:
 *
 *   larger    1. entries past the old end, which some writer left, become absent; the last cluster's bytes past it zeros;
 *                over a parent that is longer, entries as far as that reaches become zero clusters: their tables are
 *                written first, behind the end of the file; flush; the entries that name them
 *             2. flush; the header
 *   smaller   1. the header; flush
 *             2. the last cluster's bytes past the new end become zeros, entries past it absent; flush
 *             3. what they named is given to the host, and the file is cut
 */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, formatSize, type HostOffset, hex } from '../../base/units.ts';
import type { OpenContext } from '../../image/driver.ts';
import { must } from '../../image/must.ts';
import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { maxImageSize } from './geometry.ts';
import { EntryChanges, QedJob } from './job.ts';
import { clustersOf } from './scan.ts';
import { BACKING_FILE, ENTRY_BYTES } from './structs.ts';
import { ABSENT, LAST_CLUSTER } from './tables.ts';

const UNIT = 512;
/** Entries that are changed before they are written. */
const BATCH = 16384;
/** What a zero cluster is on disk. */
const ZERO_ENTRY = 1;

/** Reshaper.resize. Throws ImageError('usage') for a size that the tables cannot map. */
export function* resizeImage(source: BlockSource, size: ByteCount, context: OpenContext): Reshaping {
  const job = new QedJob(source);
  checkSize(job, size);
  const before = job.geometry.virtualSize;
  if (size === before) return;
  job.scan();
  const total = Math.abs(size - before);
  yield { done: 0, total };
  if (size > before) yield* grow(job, size, context.parentSize);
  else yield* shrink(job, size);
  yield { done: total, total };
}

function checkSize({ header, source }: QedJob, size: ByteCount): void {
  const { clusterSize, tableSize } = header;
  const most = maxImageSize(clusterSize, tableSize);
  const refuse = (expected: string): never => {
    throw new ImageError('usage', `${source.label}: a QED disk of ${formatSize(size)}: expected ${expected}`);
  };
  if (!Number.isSafeInteger(size) || size <= 0 || size % UNIT !== 0) refuse(`a multiple of ${UNIT} above 0`);
  if (BigInt(size) > most) {
    refuse(
      `at most ${formatSize(Number(most))}, which tables of ${tableSize} clusters of ${clusterSize} bytes map`,
    );
  }
}

function* grow(job: QedJob, size: ByteCount, parentSize: ByteCount | undefined): Reshaping {
  const { clusterSize, virtualSize: before, clusters } = job.geometry;
  const hasParent = (job.header.features & BACKING_FILE) !== 0n;
  // How far something may show through; unknown is as far as can be.
  const shown = hasParent ? Math.min(parentSize ?? size, size) : 0;
  const last = lastCluster(job);
  if (last === ABSENT && shown > before) {
    throw new ImageError(
      'unsupported',
      `${job.source.label}: cannot grow yet: its last ${before % clusterSize} bytes show its parent, which goes on behind them in ` +
        'the same cluster',
      { hint: 'Write these bytes once (read and write them on a mount): then it can.' },
    );
  }
  job.clearMarks();
  yield* clearPastEnd(job);
  zeroTail(job, last);
  if (shown > before) yield* hideParent(job, clusters, Math.ceil(shown / clusterSize));
  job.writeHeader({ imageSize: BigInt(size) });
}

function* shrink(job: QedJob, size: ByteCount): Reshaping {
  job.clearMarks();
  job.writeHeader({ imageSize: BigInt(size) });
  zeroTail(job, lastCluster(job));
  yield* clearPastEnd(job);
  job.flush();
  job.cut(job.scan());
}

/** The word of a last cluster that the disk ends in; undefined where it ends with one. */
function lastCluster(job: QedJob): number | undefined {
  const { clusterSize, virtualSize, clusters, tableEntries, l1Offset } = job.geometry;
  if (virtualSize % clusterSize === 0) return undefined;
  const index = Math.floor((clusters - 1) / tableEntries);
  const word = wordAt(job, 'L1', l1Offset, index);
  return word === ABSENT ? ABSENT : wordAt(job, 'L2', word * clusterSize, (clusters - 1) % tableEntries);
}

function wordAt(job: QedJob, level: 'L1' | 'L2', tableAt: number, entry: number): number {
  const word = job.reader.readEntry(level, tableAt, entry);
  must(word, job.source, `entry ${entry} of the QED ${level} table at ${hex(tableAt)} cannot be read`);
  return word;
}

/** The bytes of the last cluster behind the end of the disk; the cluster is whole afterwards. */
function zeroTail(job: QedJob, word: number | undefined): void {
  if (word === undefined || word === ABSENT || word > LAST_CLUSTER) return;
  const { source } = job;
  const { clusterSize, virtualSize } = job.geometry;
  const at = word * clusterSize + (virtualSize % clusterSize);
  const end = (word + 1) * clusterSize;
  must(
    source.zero(at as HostOffset, end - at, 'keep', 'payload.zero'),
    source,
    `${end - at} bytes at ${hex(at)} cannot be zeroed`,
  );
  if (source.size < end) job.setSize(end);
}

/** Entries past the end of the disk become absent; not stable yet. */
function* clearPastEnd(job: QedJob): Reshaping {
  const { l1Offset, l1Entries, clusters, tableEntries, clusterSize } = job.geometry;
  const changes = new EntryChanges(job.source);
  const clear = function* (tableAt: number, level: 'L1' | 'L2', from: number): Reshaping {
    for (const [entry] of job.entries(level, tableAt, from)) {
      changes.set(tableAt + entry * ENTRY_BYTES, 0);
      if (changes.count < BATCH) continue;
      changes.write();
      yield { done: 0, total: job.geometry.virtualSize };
    }
  };
  yield* clear(l1Offset, 'L1', l1Entries);
  const within = clusters % tableEntries;
  if (within !== 0) {
    const word = wordAt(job, 'L1', l1Offset, l1Entries - 1);
    if (word !== ABSENT) yield* clear(word * clusterSize, 'L2', within);
  }
  changes.write();
}

/** Clusters `first` to `end - 1`, past the end of the disk and all absent, become zero clusters; not stable yet. */
function* hideParent(job: QedJob, first: number, end: number): Reshaping {
  const { tableEntries, clusterSize, l1Offset, tableBytes } = job.geometry;
  const { source } = job;
  const changes = new EntryChanges(source);
  const tables = new Map<number, number>();
  let place = clustersOf(source, job.geometry) * clusterSize;
  const total = (end - first) * clusterSize;
  const bytes = new Uint8Array(Math.min(tableBytes, 1 << 20));
  const view = new DataView(bytes.buffer);
  for (let cluster = first; cluster < end; ) {
    const index = Math.floor(cluster / tableEntries);
    const stop = Math.min(end, (index + 1) * tableEntries);
    const word = wordAt(job, 'L1', l1Offset, index);
    if (word !== ABSENT) {
      for (; cluster < stop; cluster += 1) {
        changes.set(word * clusterSize + (cluster % tableEntries) * ENTRY_BYTES, ZERO_ENTRY);
        if (changes.count >= BATCH) changes.write();
      }
    } else {
      // The place is zeros before: it is behind the end of the file.
      job.setSize(place + tableBytes);
      for (let at = 0; at < tableBytes; at += bytes.length) {
        bytes.fill(0);
        for (let n = 0; n < bytes.length; n += ENTRY_BYTES) {
          const entry = index * tableEntries + (at + n) / ENTRY_BYTES;
          if (entry >= cluster && entry < stop) view.setUint8(n, ZERO_ENTRY);
        }
        const status = source.writeAt(bytes, 0, bytes.length, (place + at) as HostOffset, 'table.write');
        must(status, source, `an L2 table at ${hex(place)} cannot be written`);
      }
      tables.set(index, place);
      place += tableBytes;
      cluster = stop;
    }
    yield { done: (cluster - first) * clusterSize, total };
  }
  changes.write();
  job.flush();
  for (const [index, at] of tables) changes.set(l1Offset + index * ENTRY_BYTES, at);
  changes.write();
}
