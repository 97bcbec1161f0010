/**
 * Mending what `check` finds. Step by step, each stable before the next:
 *
 *   1. fields of the header that leave no doubt (also of images that `open` refuses)                lossless
 *   2. entries that name nothing: absent past the end of the disk; else zeros (damage.ts)           lossless; all
 *   3. clusters and tables with two owners: the second gets a copy (doubles.ts)                     lossless
 *   4. where nothing is wrong any more: the marks in the header; what nobody uses is given up, by
 *      moving what lies behind it (compact.ts)                                                      lossless; leaks
 *
 * Nothing is put behind the end of the file while an entry names a place there: it would come to name that.
 */

import { hex, isPowerOfTwo } from '../../base/units.ts';
import { CheckCollector } from '../../image/check.ts';
import type { Repair, RepairScope, Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { compact } from './compact.ts';
import { mendDamaged } from './damage.ts';
import { mendDoubles } from './doubles.ts';
import { maxImageSize } from './geometry.ts';
import { QedJob } from './job.ts';
import { Mended } from './mended.ts';
import { readHeader } from './open.ts';
import { readBacking } from './parent.ts';
import { type Scan, scanTables } from './scan.ts';
import { ENTRY_BYTES, MAX_CLUSTER_SIZE, MAX_TABLE_SIZE, MIN_CLUSTER_SIZE, NEED_CHECK } from './structs.ts';

/** Reshaper.repair. Throws ImageError where the header leaves the image closed. */
export function* repairImage(source: BlockSource, scope: RepairScope): Reshaping<readonly Repair[]> {
  const mended = new Mended();
  if (scope !== 'leaks') mendHeader(source, mended);
  const job = new QedJob(source);
  readBacking(job.header, job.geometry.headerBytes, source);
  if (scope !== 'leaks') {
    const damaged = yield* mendDamaged(job, scope, mended);
    if (damaged !== undefined) yield* mendDoubles(job, damaged, mended);
  }
  const collector = new CheckCollector();
  const scan = scanTables(source, job.geometry, collector, Number.POSITIVE_INFINITY);
  const report = collector.report();
  if (report.errors > 0) return mended.repairs();
  job.refuseFar(scan);
  if (scope !== 'leaks') mendMarks(job, mended);
  yield* mendSpace(job, scan, scope, mended);
  return mended.repairs();
}

/** Before it can be checked as `open` does. Where a field leaves doubt, nothing is done, and `open` says what is wrong. */
function mendHeader(source: BlockSource, mended: Mended): void {
  const header = readHeader(source);
  const { clusterSize, tableSize, headerSize, imageSize, l1TableOffset } = header;
  if (!isPowerOfTwo(clusterSize) || clusterSize < MIN_CLUSTER_SIZE || clusterSize > MAX_CLUSTER_SIZE) return;
  if (!isPowerOfTwo(tableSize) || tableSize > MAX_TABLE_SIZE) return;
  const sized = imageSize % 512n === 0n ? imageSize : imageSize + 512n - (imageSize % 512n);
  if (sized > maxImageSize(clusterSize, tableSize) || sized > BigInt(Number.MAX_SAFE_INTEGER)) return;
  const first = headerSize === 0 ? 1 : headerSize;
  const l1Offset = Number(l1TableOffset);
  if (l1Offset > source.size || l1Offset < first * clusterSize) return;
  const entries = Math.ceil(Number(sized) / clusterSize / ((clusterSize * tableSize) / ENTRY_BYTES));
  const l1End = l1Offset + clusterSize * tableSize;
  if (l1End > source.size) {
    if (l1Offset + entries * ENTRY_BYTES > source.size) return;
    const size = source.size;
    QedJob.setSize(source, l1End);
    mended.add(
      `QED file: it ended at ${hex(size)}, in a part of the L1 table that the disk does not need; it now ends at ${hex(l1End)}`,
    );
  }
  if (first === headerSize && sized === imageSize) return;
  QedJob.rewriteHeader(source, { ...header, headerSize: first, imageSize: sized });
  if (first !== headerSize) mended.add('QED header: the header size was 0 clusters, it is 1 now');
  if (sized !== imageSize)
    mended.add(`QED header: the image size was ${imageSize} bytes, it is ${sized} now, a multiple of 512`);
}

/** All tables were looked through. */
function mendMarks(job: QedJob, mended: Mended): void {
  const { features, autoclearFeatures } = job.header;
  if ((features & NEED_CHECK) !== 0n) {
    mended.add('QED header: the image needed a check, it was checked without an error, and the mark is gone');
  }
  if (autoclearFeatures !== 0n) {
    mended.add(`QED header: unknown autoclear features ${hex(autoclearFeatures)} were cleared`);
  }
  job.clearMarks();
}

function* mendSpace(job: QedJob, { used }: Scan, scope: RepairScope, mended: Mended): Reshaping {
  const { source } = job;
  const { clusterSize } = job.geometry;
  const whole = used.end * clusterSize;
  if (used.end === used.count && source.size === whole) return;
  if (source.size < whole && used.end === used.count) {
    if (scope === 'leaks') return;
    job.setSize(whole);
    job.flush();
    // A block device keeps its size.
    if (source.size === whole)
      mended.add(`QED file: its last cluster is whole now, and it ends at ${hex(whole)}`);
    return;
  }
  // A writer clears what it does not know.
  if (job.header.autoclearFeatures !== 0n) job.writeHeader({});
  const before = source.size;
  const unused = before - used.count * clusterSize;
  yield* compact(job, used);
  mended.add(
    `QED file: ${unused} bytes that nothing referenced were given up; it ended at ${hex(before)}, and ends at ${hex(source.size)}`,
  );
}
