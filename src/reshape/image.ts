/** An image file opened to be changed as a whole: locked as a mount that writes locks it, its parents beside it. */

import { resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { openParents } from '../chain/chain.ts';
import { type Layer, type LayerContext, openContextOf, openLayer } from '../chain/layer.ts';
import type { ChainPolicy } from '../chain/policy.ts';
import { driverOf } from '../formats/registry.ts';
import type { FormatDriver, FormatId, OpenContext } from '../image/driver.ts';
import type { Reshaper, Reshaping } from '../image/reshape.ts';

/** Said to whoever waits. */
export interface ReshapeControl {
  readonly progress: (done: number, total: number) => void;
  /** Ends it at the next step. */
  readonly signal: AbortSignal;
}

export interface ReshapeRequest extends ReshapeControl {
  readonly path: string;
  readonly format: FormatId | undefined;
  readonly context: LayerContext;
  /** How parents are found; undefined: the image alone is opened, its parent may be missing. */
  readonly chain: ChainPolicy | undefined;
}

/** The image that is changed, and its parents, nearest first. */
export interface OpenedImage {
  readonly layer: Layer;
  readonly parents: readonly Layer[];
  /** Why a mount would not write: a parent is not (quite) the recorded one. */
  readonly readOnly: string | undefined;
  readonly driver: FormatDriver;
  readonly context: OpenContext;
  close(): void;
}

/** Throws ImageError, with nothing left open. */
export function openForReshape({ path, format, context, chain }: ReshapeRequest): OpenedImage {
  const layer = openLayer(resolve(path), 'write', format, context);
  try {
    const found = chain === undefined ? undefined : openParents(layer, chain, context);
    const parents = found?.layers ?? [];
    return {
      layer,
      parents,
      readOnly: found?.readOnly,
      driver: driverOf(layer.image.format),
      context: openContextOf(layer.path, context),
      close: () => {
        for (const { source } of [layer, ...parents]) source.close();
      },
    };
  } catch (problem) {
    layer.source.close();
    throw problem;
  }
}

/** What the format can do of `name`. Throws ImageError('unsupported') where that is nothing. */
export function abilityOf<Name extends keyof Reshaper>(
  { driver, layer }: OpenedImage,
  name: Name,
): NonNullable<Reshaper[Name]> {
  const ability = driver.reshape[name];
  if (ability !== undefined) return ability;
  throw new ImageError(
    'unsupported',
    `${shownPath(layer.path)}: is a ${driver.id.toUpperCase()} image, which vdisk cannot ${name}`,
  );
}

/** Lets signals be heard. */
const breathe = (): Promise<void> => new Promise((done) => setImmediate(done));

/** Runs an operation to its end, or to the first step at which the signal has come: then ImageError('interrupted'). */
export async function runSteps<Result>(
  steps: Reshaping<Result>,
  path: string,
  { progress, signal }: ReshapeControl,
): Promise<Result> {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    progress(value.done, value.total);
    await breathe();
    if (!signal.aborted) continue;
    steps.return(undefined as Result);
    throw new ImageError(
      'interrupted',
      `${shownPath(path)}: stopped by ${signal.reason}; the image is whole`,
      {
        hint: 'Run the same command again to go on.',
      },
    );
  }
}
