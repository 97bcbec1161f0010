/** Giving an image another parent, or none. */

import { dirname, resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { ByteCount } from '../base/units.ts';
import { keyOfLayer, openParents } from '../chain/chain.ts';
import { admitNamed, realPathOf } from '../chain/gate.ts';
import type { Layer } from '../chain/layer.ts';
import {
  describeParent,
  type NamedParent,
  openNewParent,
  refuseAncestor,
  refuseLargerParent,
  warnOfDistance,
} from '../chain/new-parent.ts';
import type { ComparedDisk } from '../disk/compare.ts';
import type { NewParent } from '../image/create.ts';
import type { Reshaping } from '../image/reshape.ts';
import { type Member, shownBy } from './disk.ts';
import {
  abilityOf,
  type OpenedImage,
  openForReshape,
  type ReshapeRequest,
  refuseDoubt,
  runSteps,
} from './image.ts';
import { keepDisk } from './keep.ts';

export interface RebaseRequest extends ReshapeRequest {
  /** undefined: the image is to stand alone. */
  readonly parent: NamedParent | undefined;
  /** Only the reference is changed, whatever the disk shows then; the old parent may be missing. */
  readonly unsafe: boolean;
}

export interface Rebased {
  readonly path: string;
  readonly format: string;
  /** Where the new parent is; undefined where there is none. */
  readonly parent: string | undefined;
  /** Bytes of the disk that the image got from its old parents. */
  readonly copied: ByteCount;
}

/** Throws ImageError; then the image is whole, over its old parent or the new one, and shows the same disk as before. */
export async function rebaseImage(request: RebaseRequest): Promise<Rebased> {
  const { unsafe, policy, context } = request;
  const opened = openForReshape(request, unsafe);
  const below: Layer[] = [];
  try {
    const { layer } = opened;
    abilityOf(opened, 'rebase');
    if (!unsafe) refuseDoubt(opened, policy);
    const parent = request.parent === undefined ? undefined : openParentOf(opened, request.parent, request);
    if (parent !== undefined) {
      below.push(parent);
      if (!unsafe) below.push(...openParents(parent, policy, context).layers);
    }
    const { path } = layer;
    const named =
      parent === undefined
        ? undefined
        : describeParent(parent, parent.image, dirname(realPathOf(layer.source.share().fd)));
    const copied = await runSteps(
      rebaseSteps(
        { driver: opened.driver, source: layer.source, context: opened.context },
        unsafe ? undefined : { old: shownBy(opened.parents, context), next: shownBy(below, context) },
        named,
      ),
      path,
      request,
    );
    if (parent !== undefined) warnOfDistance(realPathOf(layer.source.share().fd), parent, context);
    return { path, format: opened.driver.id, parent: named?.absolute, copied };
  } finally {
    for (const { source } of below) source.close();
    opened.close();
  }
}

/** What the holes of an image show before and after. */
export interface Change {
  readonly old: ComparedDisk | undefined;
  readonly next: ComparedDisk | undefined;
}

/**
 * The disk is kept where `change` is given; else only the reference changes. Returns how many bytes the image got. The
 * order: the bytes, stable, and only then the reference.
 */
export function* rebaseSteps(
  image: Member,
  change: Change | undefined,
  parent: NewParent | undefined,
): Reshaping<ByteCount> {
  const copied = change === undefined ? 0 : yield* keepDisk(image, change.old, change.next);
  yield* image.driver.reshape.rebase!(image.source, parent, image.context);
  return copied;
}

function openParentOf({ layer, driver }: OpenedImage, named: NamedParent, { context }: RebaseRequest): Layer {
  const key = keyOfLayer(layer);
  const file = admitNamed(resolve(named.path));
  if ('key' in file && file.key === key) {
    throw new ImageError('usage', `${shownPath(layer.path)}: cannot be its own parent`);
  }
  const parent = openNewParent(named, driver, context);
  try {
    refuseAncestor(key, parent, context, () => {
      const text = `${shownPath(parent.path)}: stands on ${shownPath(layer.path)}, and cannot be its parent`;
      return new ImageError('usage', text);
    });
    refuseLargerParent(layer.image.virtualSize, parent.image.virtualSize, 'vdisk resize makes it larger.');
    return parent;
  } catch (problem) {
    parent.source.close();
    throw problem;
  }
}
