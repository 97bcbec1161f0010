/**
 * A child that shows its parent everywhere again: an empty table is written where nobody is, made stable, and the
 * header leads to it with one sector. Then the table moves back to the start, and the file is cut off.
 */

import { ImageError } from '../../base/errors.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { lowerRest } from './compact.ts';
import { Rework, reopen, type Steps } from './rework.ts';
import { UNALLOCATED } from './structs.ts';

/** See Reshaper.empty. */
export function* empty(source: BlockSource, context: OpenContext): Steps {
  if (reopen(source, context).parent === undefined) {
    throw new ImageError('usage', `${source.label}: is no child, so that nothing would show in it`);
  }
  const work = Rework.open(source, context);
  if (work.table.some((byte) => byte !== (UNALLOCATED & 0xff))) {
    work.moveTable(new Uint8Array(work.table.length).fill(UNALLOCATED & 0xff), work.entries, undefined);
  }
  yield { done: 0, total: 0 };
  yield* lowerRest(source, context);
}
