/**
 * A child shows its parent everywhere again: all entries become 0 with one entry of the log (bat-change.ts). Where the new
 * BAT had to be written elsewhere, its region then goes down into the space that is free by now; the file is cut off.
 */

import { ImageError } from '../../base/errors.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { changeBat } from './bat-change.ts';
import { beginSession, nextIdentity } from './begin.ts';
import { moveTable } from './compact.ts';
import { Patch } from './patch.ts';
import { cutOff } from './resize.ts';
import { within } from './session.ts';

export function* empty(source: BlockSource, context: OpenContext): Reshaping {
  const { session, room } = beginSession(source, context);
  const { bat, replayed } = session.opened;
  if (!bat.hasParent) throw new ImageError('usage', `${source.label}: has no parent that could show`);
  yield* within(session, function* () {
    session.begin(nextIdentity(context));
    yield* changeBat(session, room, { entries: bat.entries, map: () => 0 }, new Patch(replayed));
  });
  yield* moveTable(source, context);
  cutOff(source, context);
}
