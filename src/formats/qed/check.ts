/**
 * `check`: looks a whole image through, reading only. What it finds:
 *
 *   error     an offset that breaks the rules (see tables.ts), a cluster that is referenced twice, an L2 entry
 *             that names a table, data that the file does not have
 *   leak      clusters that nothing references
 *   warning   feature bits, a last cluster that is not whole, damaged entries past the end of the disk
 */

import { hex } from '../../base/units.ts';
import { CheckCollector, type CheckReport } from '../../image/check.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { checkHeader, readHeader, reportOddities } from './open.ts';
import { readBacking } from './parent.ts';
import { clustersOf, scanTables } from './scan.ts';
import { LAST_CLUSTER } from './tables.ts';

/** Throws ImageError where the image cannot be opened. A parent is not looked at: it has a check of its own. */
export function checkImage(source: BlockSource): CheckReport {
  const header = readHeader(source);
  const geometry = checkHeader(header, source);
  readBacking(header, geometry.headerBytes, source);
  const collector = new CheckCollector();
  reportOddities(header, source, (text) => collector.warning(text));
  const { used } = scanTables(source, geometry, collector, Number.POSITIVE_INFINITY);
  const { clusterSize } = geometry;
  const end = Math.min(clustersOf(source, geometry), LAST_CLUSTER + 1);
  for (const { first, count } of used.unused(end)) {
    const at = first * clusterSize;
    const bytes = Math.min(count * clusterSize, source.size - at);
    collector.leak(`QED file, ${bytes} bytes at ${hex(at)}: nothing references the clusters there`, bytes);
  }
  return collector.report();
}
