/** Before an image is written: whether it can be, and where there is room in it. Reads only. */

import { ImageError } from '../../base/errors.ts';
import { hex } from '../../base/units.ts';
import { MAX_SCANNED_WORDS } from '../../image/count.ts';
import type { Report } from '../../image/driver.ts';
import { FreshSpace } from '../../image/fresh-space.ts';
import { type TableEditSeed, tableEditSeed } from '../../image/table-editor.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Geometry } from './geometry.ts';
import { type ClusterRun, clustersOf, type ScanSink, scanTables } from './scan.ts';
import { BACKING_FILE, NEED_CHECK, type QedHeader } from './structs.ts';
import { LAST_CLUSTER } from './tables.ts';

/** Plain data: shared by the editors of all threads. */
export interface QedEdit extends TableEditSeed {
  /** Words, written under the allocation lock: NEXT and ZEROED_END. */
  readonly bounds: SharedArrayBuffer;
  readonly fresh: SharedArrayBuffer;
  /** Whether an absent entry shows a parent: then it is no zeros. */
  readonly hasParent: boolean;
}

/** In `QedEdit.bounds`: the first cluster of the file that was never given out, nor any behind it. */
export const NEXT = 0;
/** The clusters from NEXT up to this one are in the file and read as zeros. Behind it may be anything. */
export const ZEROED_END = 1;

/**
 * Looks through the tables: `check`, ended by the first error. Throws ImageError where the image must
 * not be written, also because its tables have more than MAX_SCANNED_WORDS entries: an entry that was not looked at
 * may name a place that the file has yet to grow to.
 */
export function prepareEdit(
  header: QedHeader,
  geometry: Geometry,
  source: BlockSource,
  report: Report,
): QedEdit {
  const needsCheck = (header.features & NEED_CHECK) !== 0n;
  const sink: ScanSink = {
    error: (text) => {
      throw unwritable(text, needsCheck);
    },
    warning: () => {},
    allocated: () => {},
  };
  const { complete, used, far } = scanTables(source, geometry, sink, MAX_SCANNED_WORDS);
  if (!complete) {
    const text = `QED tables: they have more than ${MAX_SCANNED_WORDS} entries, which is too many to look through before writing`;
    throw new ImageError('unsupported', text, { hint: 'It can be read: mount it with -o ro.' });
  }
  const fileClusters = clustersOf(source, geometry);
  if (far || fileClusters > LAST_CLUSTER + 1) {
    const end = hex((LAST_CLUSTER + 1) * geometry.clusterSize);
    throw new ImageError('unsupported', `QED file: it goes on past ${end}, where it cannot be written`, {
      hint: 'It can be read: mount it with -o ro.',
    });
  }
  if (needsCheck)
    report('QED tables: checked without an error; the first write removes the mark in the header');
  const hasParent = (header.features & BACKING_FILE) !== 0n;
  const next = used.end;
  const bounds = new SharedArrayBuffer(8);
  new Uint32Array(bounds).set([next, next]);
  return { ...tableEditSeed(clustersIn(used.unused(next))), bounds, fresh: FreshSpace.seed(), hasParent };
}

function* clustersIn(runs: Iterable<ClusterRun>): Generator<number> {
  for (const { first, count } of runs) {
    for (let n = 0; n < count; n += 1) yield first + n;
  }
}

function unwritable(text: string, needsCheck: boolean): ImageError {
  const repair = needsCheck ? ' Its last writer did not close it: vdisk check --repair puts that right.' : '';
  return new ImageError('corrupt', text, { hint: `It can be read: mount it with -o ro.${repair}` });
}
