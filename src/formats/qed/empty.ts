/**
 * Emptying a child: all of it shows the parent again. An L1 table of zeros is made stable where nothing is, and the
 * header's sector names it: that is the one instant at which the disk changes. What was in the file is then nobody's. A
 * second such table right behind the header, and the header's sector again, and the file is as small as a new one.
 */

import { ImageError } from '../../base/errors.ts';
import type { HostOffset } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { QedJob } from './job.ts';
import { clustersOf } from './scan.ts';
import { BACKING_FILE } from './structs.ts';

/** Reshaper.empty. Throws ImageError('usage') where there is no parent to be shown. */
export function* emptyImage(source: BlockSource): Reshaping {
  const job = new QedJob(source);
  if ((job.header.features & BACKING_FILE) === 0n) {
    throw new ImageError('usage', `${source.label}: stands alone, so nothing would be left of it`);
  }
  const used = job.scan();
  job.clearMarks();
  const { clusterSize, tableBytes, headerBytes } = job.geometry;
  const total = 2 * tableBytes;
  const end = clustersOf(source, job.geometry) * clusterSize;
  const place = [...used.unused(clustersOf(source, job.geometry))].find(
    ({ first, count }) => count * clusterSize >= tableBytes && (first + count) * clusterSize <= source.size,
  );
  makeTable(job, place === undefined ? end : place.first * clusterSize);
  yield { done: tableBytes, total };
  if (job.geometry.l1Offset !== headerBytes) {
    // The table that is there now may reach into the first place.
    if (job.geometry.l1Offset < headerBytes + tableBytes) makeTable(job, end);
    makeTable(job, headerBytes);
  }
  job.setSize(headerBytes + tableBytes);
  job.flush();
  yield { done: total, total };
}

/** An L1 table of zeros at `at`, where nothing is, and the header that names it. */
function makeTable(job: QedJob, at: number): void {
  const { source } = job;
  const end = at + job.geometry.tableBytes;
  const status = source.zero(at as HostOffset, end - at, 'punch', 'table.write');
  must(status, source, 'room for an empty table cannot be made');
  if (end > source.size) must(source.setSize(end), source, 'room for an empty table cannot be made');
  job.writeHeader({ l1TableOffset: BigInt(at) });
}
