/** The parent that an image is to get: which may be one, and how its child is told of it. */

import { fstatSync, realpathSync } from 'node:fs';
import { dirname, relative, resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { ByteCount } from '../base/units.ts';
import type { NewParent } from '../image/create.ts';
import type { FormatDriver, FormatId, Image } from '../image/driver.ts';
import { keyOfLayer, openParents } from './chain.ts';
import { Gate } from './gate.ts';
import { type Layer, type LayerContext, openLayer } from './layer.ts';
import { DEFAULT_POLICY } from './policy.ts';

/** As the user names it. */
export interface NamedParent {
  readonly path: string;
  readonly format: FormatId | undefined;
}

/** Opens the image that is to be the parent of one of `driver`'s format. Throws ImageError where it cannot be. */
export function openNewParent(
  { path, format }: NamedParent,
  driver: FormatDriver,
  context: LayerContext,
): Layer {
  const { id, create } = driver;
  const title = id.toUpperCase();
  if (create.parents.length === 0) throw new ImageError('usage', `a ${title} image cannot have a parent`);
  const layer = openLayer(resolve(path), 'read', format, context);
  try {
    const found = layer.image.format;
    if (!create.parents.includes(found)) {
      const fit = create.parents.map((name) => name.toUpperCase()).join(' or ');
      throw new ImageError(
        'usage',
        `${shownPath(layer.path)}: is a ${found.toUpperCase()} image; the parent of a ${title} is ${fit}`,
      );
    }
    if (layer.device) {
      throw new ImageError('usage', `${shownPath(layer.path)}: is a device, and cannot be a parent`);
    }
    return layer;
  } catch (problem) {
    layer.source.close();
    throw problem;
  }
}

/** Throws what `refusal` makes where the file with `key` is the parent, or one that it stands on. */
export function refuseAncestor(
  key: string,
  parent: Layer,
  context: LayerContext,
  refusal: () => ImageError,
): void {
  const chain = [parent];
  try {
    // Without locks: the file may be one that is locked here already.
    const unlocked = { ...context, lock: false, report: () => {} };
    chain.push(...openParents(parent, DEFAULT_POLICY, unlocked).layers);
  } catch {
    // A file that cannot be found is none that can be told from the other.
  }
  try {
    if (chain.some((layer) => keyOfLayer(layer) === key)) throw refusal();
  } finally {
    for (const { source } of chain.slice(1)) source.close();
  }
}

/** The disk of a child is at least as large as its parent's. Throws ImageError('usage'). */
export function refuseLargerParent(size: ByteCount, least: ByteCount, hint?: string): void {
  if (size >= least) return;
  throw new ImageError('usage', `a disk of ${size} bytes: its parent has ${least}, and would be cut off`, {
    hint,
  });
}

/** Both by their real paths: a recorded path is followed from where the child really is (`directory`). */
export function describeParent({ path, source }: Layer, image: Image, directory: string): NewParent {
  const absolute = realpathSync(path);
  const { mtimeMs } = fstatSync(source.share().fd);
  return { image, absolute, relative: relative(directory, absolute), modified: Math.floor(mtimeMs / 1000) };
}

/** Tells of a parent that opens for the image at `path` only because the user named it. */
export function warnOfDistance(path: string, parent: Layer, { report }: LayerContext): void {
  const gate = new Gate(path, DEFAULT_POLICY, report);
  if (gate.treeOf(realpathSync(parent.path)) !== undefined) return;
  report(
    `${path}: to find its parent, a mount has to be told where: --parent-dir=${dirname(realpathSync(parent.path))}`,
  );
}
