/**
 * The parent that a VDI names: its UUIDs, no path. All of it is in the first sector of the file and changes in one write.
 */

import { ImageError } from '../../base/errors.ts';
import { isZero } from '../../base/guid.ts';
import type { NewParent } from '../../image/create.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { anyHeaderSize } from './header.ts';
import { parentUuids } from './parent.ts';
import { TYPE_DIFFERENCING, TYPE_DYNAMIC, TYPE_FIXED } from './structs.ts';
import { WholeVdi } from './whole.ts';

/** Free entries stay free: over no parent they read as zeros. */
// biome-ignore lint/correctness/useYield: it is one write
export function* rebase(source: BlockSource, parent: NewParent | undefined, context: OpenContext): Reshaping {
  const uuids = parentUuids(parent);
  const image = WholeVdi.openHeader(source, anyHeaderSize(context));
  const { type } = image.header;
  if (parent !== undefined && type === TYPE_FIXED) {
    throw new ImageError('usage', 'a fixed VDI cannot have a parent');
  }
  const alone = type === TYPE_FIXED ? TYPE_FIXED : TYPE_DYNAMIC;
  image.change({ type: parent === undefined ? alone : TYPE_DIFFERENCING, ...uuids });
  image.flush();
}

/**
 * There is room for one state of the parent: until the parent is written to, it is not the one that the child names,
 * and is read with a notice. Images that name no state (version 0.2, or over a VHD) stay as they are.
 */
export function expectParent(source: BlockSource, identity: Uint8Array, context: OpenContext): void {
  const image = WholeVdi.openHeader(source, anyHeaderSize(context));
  if (isZero(image.header.parentModifyUuid)) return;
  image.change({ parentModifyUuid: identity });
  image.flush();
}
