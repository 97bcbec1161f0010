/** Merging a child, its file and all, into its parent. */

import { dirname } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { randomGuid } from '../base/guid.ts';
import { shownPath } from '../base/text.ts';
import type { ByteCount } from '../base/units.ts';
import { keyOfLayer } from '../chain/chain.ts';
import { realPathOf } from '../chain/gate.ts';
import { type Layer, openContextOf, openLayer } from '../chain/layer.ts';
import { describeParent } from '../chain/new-parent.ts';
import {
  beginCommit,
  differenceOf,
  type OverlayOf,
  overlayOf,
  renewRecord,
} from '../chain/overlay-record.ts';
import type { ChainPolicy } from '../chain/policy.ts';
import { driverOf } from '../formats/registry.ts';
import { shownBy } from './disk.ts';
import { abilityOf, type OpenedImage, openForReshape, type ReshapeRequest, runSteps } from './image.ts';
import { byReference, mergeSteps, type Telling } from './merge.ts';

export interface CommitRequest extends ReshapeRequest {
  /** Whether the child keeps what it has, instead of being emptied. */
  readonly keep: boolean;
}

export interface Committed {
  readonly path: string;
  readonly format: string;
  readonly parent: string;
  /** Bytes of the disk that were written to the parent, zeros included. */
  readonly written: ByteCount;
  /** Size of the parent's disk. */
  readonly before: ByteCount;
  readonly after: ByteCount;
  readonly kept: boolean;
}

/** Throws ImageError; in any case the child shows the same disk as before. */
export async function commitImage(request: CommitRequest): Promise<Committed> {
  const { policy, context, keep } = request;
  const opened = openForReshape(request);
  let parent: Layer | undefined;
  try {
    const { layer, driver } = opened;
    const found = opened.parents[0];
    if (found === undefined) {
      throw new ImageError('usage', `${shownPath(layer.path)}: has no parent to be merged into`);
    }
    const overlay = overlayOf(layer);
    if (overlay === undefined) abilityOf(opened, 'rebase');
    else refuseOtherState(overlay, opened, found, policy);
    if (!keep) abilityOf(opened, 'empty');
    refuseForeign(opened, found, policy);
    parent = reopened(opened, found, context);
    const target = parent;
    const directory = dirname(realPathOf(layer.source.share().fd));
    const child = { driver, source: layer.source, context: opened.context };
    const merged = await runSteps(
      mergeSteps({
        child,
        parent: {
          driver: driverOf(target.image.format),
          source: target.source,
          context: openContextOf(target.path, context),
        },
        below: shownBy(opened.parents.slice(1), context)?.disk,
        tell:
          overlay === undefined
            ? byReference(child, (image) => describeParent(target, image, directory))
            : byRecord(layer, target),
        // The disk of an overlay is that of its image, rounded up.
        grow: overlay === undefined,
        keep,
      }),
      layer.path,
      request,
    );
    return { path: layer.path, format: driver.id, parent: target.path, ...merged, kept: keep };
  } finally {
    parent?.source.close();
    opened.close();
  }
}

/** Throws ImageError where the parent is not the recorded one, or is not known to be. */
function refuseForeign({ layer, readOnly }: OpenedImage, parent: Layer, { force }: ChainPolicy): void {
  if (readOnly === undefined) return;
  const mismatch = layer.image.parent?.compare(parent.image);
  const isOther = mismatch !== undefined && mismatch.severity !== 'changed';
  if (force && !isOther) return;
  throw new ImageError('mismatched', `${shownPath(layer.path)}: is not merged: ${readOnly}`, {
    hint: isOther
      ? 'Nothing is ever merged into an image that is not the recorded parent.'
      : 'If it is the one (a merge that a power cut ended leaves it so): --force-parent. What it has is written over.',
  });
}

/** Throws ImageError where the overlay was made for the image in another state. */
function refuseOtherState(
  overlay: OverlayOf,
  { layer }: OpenedImage,
  base: Layer,
  { force }: ChainPolicy,
): void {
  const difference = differenceOf(overlay, base);
  if (difference === undefined || force) return;
  throw new ImageError('mismatched', `${shownPath(layer.path)}: ${difference}`, {
    hint: 'With --force-parent it is merged all the same, into the image as it is now.',
  });
}

/** By the record that an overlay of a mount carries. */
const byRecord = (overlay: Layer, base: Layer): Telling => ({
  // biome-ignore lint/correctness/useYield: one sector is written
  *before(image) {
    beginCommit(overlay, { ...base, image });
    return randomGuid();
  },
  // biome-ignore lint/correctness/useYield: one sector is written
  *after(image) {
    renewRecord(overlay, { ...base, image });
  },
});

/** The parent, for writing: the child's chain has it open for reading, which is let go of first. */
function reopened(opened: OpenedImage, found: Layer, context: ReshapeRequest['context']): Layer {
  const key = keyOfLayer(found);
  const path = realPathOf(found.source.share().fd);
  opened.release(found);
  const layer = openLayer(path, 'write', found.image.format, context);
  if (keyOfLayer(layer) === key) return layer;
  layer.source.close();
  throw new ImageError('changed', `${shownPath(path)}: is another file than a moment ago`);
}
