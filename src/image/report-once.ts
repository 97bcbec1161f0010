/** Damage is met again with every read of the place: it is told once per place, and of so many places only. */

import type { Report } from './driver.ts';

const MAX_TOLD = 1000;

/** A report that passes each text on once, the first thousand of them. */
export function reportOnce(report: Report): Report {
  const told = new Set<string>();
  return (notice) => {
    if (told.has(notice) || told.size >= MAX_TOLD) return;
    told.add(notice);
    report(notice);
  };
}
