/** From an image to its parents: each is found, opened for reading, and judged by its child. */

import { fstatSync } from 'node:fs';
import { ImageError } from '../base/errors.ts';
import type { ParentLink, ParentMismatch } from '../image/parent.ts';
import { candidates } from './find.ts';
import { type Layer, type LayerContext, openLayer } from './layer.ts';
import type { ChainPolicy } from './policy.ts';

/** Images of a chain, the first included. */
export const MAX_DEPTH = 64;

export interface Parents {
  /** Nearest first. */
  readonly layers: readonly Layer[];
  /** Why the chain may be read only: a parent is not (quite) the recorded one. */
  readonly readOnly: string | undefined;
}

/**
 * Opens the parents of `top`, down to an image that stands alone. Throws ImageError with none of them left open:
 * 'missing' says which file is wanted, by whom, and where it was looked for.
 */
export function openParents(top: Layer, policy: ChainPolicy, context: LayerContext): Parents {
  const layers: Layer[] = [];
  const seen = new Map([[keyOf(top), top.path]]);
  let readOnly: string | undefined;
  try {
    for (let child = top; child.image.parent !== undefined; child = layers.at(-1)!) {
      if (layers.length + 2 > MAX_DEPTH) {
        throw new ImageError(
          'unsupported',
          `${top.path}: its chain of parents has more than ${MAX_DEPTH} images`,
        );
      }
      const { layer, mismatch } = openParent(child, child.image.parent, top.path, seen, policy, context);
      layers.push(layer);
      seen.set(keyOf(layer), layer.path);
      if (mismatch === undefined) continue;
      readOnly = `${layer.path}: wanted is ${mismatch.wanted}, found ${mismatch.found}`;
      context.report(`${child.path}: its parent ${readOnly}`);
    }
    return { layers, readOnly };
  } catch (problem) {
    for (const { source } of layers) source.close();
    throw problem;
  }
}

interface OpenedParent {
  readonly layer: Layer;
  readonly mismatch: ParentMismatch | undefined;
}

function openParent(
  child: Layer,
  link: ParentLink,
  root: string,
  seen: ReadonlyMap<string, string>,
  policy: ChainPolicy,
  context: LayerContext,
): OpenedParent {
  const looked: string[] = [];
  let failure: ImageError | undefined;
  for (const { path, refused } of candidates(child.path, link, root, policy)) {
    if (refused !== undefined) {
      looked.push(`${path} (${refused})`);
      continue;
    }
    let layer: Layer;
    try {
      layer = openLayer(path, 'read', link.format, context);
    } catch (problem) {
      failure ??= ImageError.from(problem, 'bug');
      looked.push(`${path} (${failure.message.replace(`${path}: `, '')})`);
      continue;
    }
    const reason = judge(link, layer, seen, policy);
    if (typeof reason === 'object') return { layer, mismatch: reason.mismatch };
    layer.source.close();
    looked.push(`${path} (${reason})`);
  }
  throw missing(child, link, looked, failure);
}

/** What keeps `layer` from being the parent; or that nothing does. */
function judge(
  link: ParentLink,
  layer: Layer,
  seen: ReadonlyMap<string, string>,
  policy: ChainPolicy,
): string | { readonly mismatch: ParentMismatch | undefined } {
  const cycle = seen.get(keyOf(layer));
  if (cycle !== undefined) return `it is ${cycle} of this chain: an image cannot be its own parent`;
  const mismatch = link.compare(layer.image);
  if (mismatch === undefined || mismatch.severity === 'changed') return { mismatch };
  if (mismatch.severity === 'other' && policy.force) return { mismatch };
  return `wanted is ${mismatch.wanted}, found ${mismatch.found}`;
}

function missing(
  child: Layer,
  link: ParentLink,
  looked: readonly string[],
  failure: ImageError | undefined,
): ImageError {
  const wanted = link.identity === undefined ? '' : ` with ${link.identity}`;
  const recorded = link.places.map(({ path, origin }) => `${JSON.stringify(path)} (${origin})`).join(', ');
  const text =
    `${child.path}: its parent${wanted} was not found` +
    (recorded === '' ? '' : `; the image names ${recorded}`) +
    (looked.length === 0 ? '' : `; looked at ${looked.join(', ')}`);
  return new ImageError('missing', text, {
    hint: 'Name it with --parent=FILE, or the directory where it is with --parent-dir=DIR.',
    cause: failure,
  });
}

/** Two paths of one file have the same key. */
function keyOf({ source }: Layer): string {
  const { dev, ino } = fstatSync(source.share().fd, { bigint: true });
  return `${dev}:${ino}`;
}
