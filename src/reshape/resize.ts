/** Giving a disk another size. */

import type { ByteCount } from '../base/units.ts';
import { abilityOf, openForReshape, type ReshapeRequest, runSteps } from './image.ts';

export interface ResizeRequest extends ReshapeRequest {
  /** The size to have, from the one that it has. Throws ImageError('usage'). */
  readonly sizeFrom: (before: ByteCount) => ByteCount;
}

export interface Resized {
  /** Where the image really is. */
  readonly path: string;
  readonly format: string;
  readonly before: ByteCount;
  readonly after: ByteCount;
}

/** Throws ImageError; the image is whole in any case, with the old size or the new one. */
export async function resizeImage(request: ResizeRequest): Promise<Resized> {
  const opened = openForReshape(request);
  const { layer, driver, parents } = opened;
  const parentSize = parents[0]?.image.virtualSize;
  const context = { ...opened.context, ...(parentSize === undefined ? {} : { parentSize }) };
  try {
    const before = layer.image.virtualSize;
    const after = request.sizeFrom(before);
    if (after !== before)
      await runSteps(abilityOf(opened, 'resize')(layer.source, after, context), layer.path, request);
    return { path: layer.path, format: driver.id, before, after };
  } finally {
    opened.close();
  }
}
