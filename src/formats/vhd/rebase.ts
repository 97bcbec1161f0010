/**
 * Another parent, or none. The paths of a new one are written where nobody is, and made stable; then the header with
 * all that it says of its parent, and the type of the image in the footers, change in one instant (rework.ts).
 *
 * To stand alone: zeros are put under all clear bits first, where until then the parent shows, so that readers which
 * ignore bitmaps see zeros afterwards too.
 */

import { ImageError } from '../../base/errors.ts';
import type { NewParent } from '../../image/create.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { fillBitmaps, zeroUnderClearBits } from './clear-bits.ts';
import { vhdCreator } from './create.ts';
import { endOfLocators, locatorsOf, parentFields } from './new-parent.ts';
import { Rework, reopen, type Steps } from './rework.ts';
import { footerStruct, headerStruct, TYPE_DIFFERENCING, TYPE_DYNAMIC } from './structs.ts';
import type { DynamicState } from './translator.ts';

/** See Reshaper.rebase. */
export function* rebase(source: BlockSource, parent: NewParent | undefined, context: OpenContext): Steps {
  const image = reopen(source, context);
  if (parent === undefined) {
    if (image.parent !== undefined) yield* standAlone(Rework.open(source, context));
    return;
  }
  if (image.state.kind === 'fixed') {
    throw new ImageError('usage', `${source.label}: is a fixed VHD, which cannot have a parent`);
  }
  if (!vhdCreator.parents.includes(parent.image.format)) {
    throw new ImageError(
      'usage',
      `${parent.absolute}: a VHD cannot have a parent of the format ${parent.image.format}`,
    );
  }
  // Before anything changes: what cannot be recorded is refused.
  parentFields(parent, locatorsOf(parent, 0));
  const work = Rework.open(source, context);
  yield { done: 0, total: 0 };
  if ((image.state as DynamicState).bitmaps === undefined) yield* fillBitmaps(work);
  const at = work.take(endOfLocators(locatorsOf(parent, 0), 0));
  const locators = locatorsOf(parent, at);
  for (const { piece, data } of locators) work.writeSectors(piece.at, data, 'header.write');
  const order = work.layout.bitOrder === 'lsb' ? 'little' : 'big';
  setParent(work, parentFields(parent, locators, order), TYPE_DIFFERENCING);
}

function* standAlone(work: Rework): Steps {
  yield* zeroUnderClearBits(work);
  setParent(work, parentFields(undefined, []), TYPE_DYNAMIC);
}

/** What was written before is stable before it happens. */
function setParent(work: Rework, fields: ReturnType<typeof parentFields>, type: number): void {
  const { at } = headerStruct;
  work.setHeader(
    (view) => {
      const bytes = new Uint8Array(view.buffer);
      bytes.fill(0, at.parentName, at.reserved2);
      bytes.set(fields.parentUniqueId, at.parentUniqueId);
      view.setUint32(at.parentTimestamp, fields.parentTimestamp);
      bytes.set(fields.parentName, at.parentName);
      bytes.set(fields.parentLocators, at.parentLocators);
    },
    (footer) => footer.setUint32(footerStruct.at.type, type),
  );
}
