/** Looking a whole VHDX through, reading only. */

import { formatSize, hex, MIB } from '../../base/units.ts';
import { CheckCollector, type CheckReport } from '../../image/check.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { otherHeaderProblem } from './headers.ts';
import { openVhdx } from './open.ts';
import { eachFreeRun, surveyBat } from './survey.ts';

/**
 * Headers, region tables, log and metadata are looked at as by `open`, whose notices are warnings here; then every
 * entry of the BAT, as it is when the log is replayed, and every MiB of the file. Throws ImageError as `open` does.
 */
export function checkVhdx(source: BlockSource, context: OpenContext): CheckReport {
  const collector = new CheckCollector();
  const { bat, current, replay, replayed } = openVhdx(source, (notice) => {
    context.report(notice);
    collector.warning(notice);
  });
  const stale = otherHeaderProblem(source, current);
  // What is not valid at all, or a copy, was told as it was opened.
  if (stale?.includes('names another log') === true) collector.warning(stale);
  if (replay !== undefined) {
    const entries = replay.entries === 1 ? '1 entry waits' : `${replay.entries} entries wait`;
    collector.warning(
      `VHDX log at ${hex(current.logOffset)}: ${entries} to be replayed into the file; checked as if they were`,
    );
  }
  const { used, allocated, end, fileMib } = surveyBat(replayed, bat, collector);
  collector.allocated(allocated);
  eachFreeRun(used, fileMib, (mib, length) => {
    const bytes = Math.min(replayed.size, (mib + length) * MIB) - mib * MIB;
    // Too short for a block: what moves to the front goes round it, and a repair could do nothing about it.
    if (mib < end && bytes < bat.blockSize) return;
    const where = mib >= end ? 'at the end of the file' : 'between what is in use';
    collector.leak(
      `VHDX file: ${formatSize(bytes)} at ${hex(mib * MIB)}, ${where}, belong to nothing`,
      bytes,
    );
  });
  if (replayed.size % MIB !== 0) {
    collector.warning(`VHDX file: is ${replayed.size} bytes long, expected a multiple of 1 MiB`);
  }
  return collector.report();
}
