/** An image file opened to be changed as a whole: locked as a mount that writes locks it, its parents beside it. */

import { resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { openParents } from '../chain/chain.ts';
import { type Layer, type LayerContext, openContextOf, openLayer } from '../chain/layer.ts';
import type { ChainPolicy } from '../chain/policy.ts';
import { driverOf } from '../formats/registry.ts';
import type { FormatDriver, FormatId, OpenContext } from '../image/driver.ts';
import type { Reshaper, ReshapeStep, Reshaping } from '../image/reshape.ts';

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
  /** How parents are found. */
  readonly policy: ChainPolicy;
}

/** The image that is changed, and its parents, nearest first. */
export interface OpenedImage {
  readonly layer: Layer;
  readonly parents: readonly Layer[];
  /** Why a mount would not write: a parent is not (quite) the recorded one. */
  readonly readOnly: string | undefined;
  readonly driver: FormatDriver;
  readonly context: OpenContext;
  /** Closes the file of a parent before the others. */
  release(parent: Layer): void;
  close(): void;
}

/** With `alone`, no parent is looked for: it may be missing. Throws ImageError, with nothing left open. */
export function openForReshape(
  { path, format, context, policy }: ReshapeRequest,
  alone = false,
): OpenedImage {
  const layer = openLayer(resolve(path), 'write', format, context);
  try {
    if (layer.device && layer.image.format === 'raw' && format === undefined) {
      throw new ImageError('usage', `${shownPath(layer.path)}: is a device without a known format`, {
        hint: 'Such a one is changed only with --format=raw.',
      });
    }
    const found = alone ? undefined : openParents(layer, policy, context);
    const parents = found?.layers ?? [];
    const open = new Set([layer, ...parents]);
    const release = (file: Layer): void => {
      if (open.delete(file)) file.source.close();
    };
    return {
      layer,
      parents,
      readOnly: found?.readOnly,
      driver: driverOf(layer.image.format),
      context: openContextOf(layer.path, context),
      release,
      close: () => {
        for (const file of open) release(file);
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

/**
 * Throws ImageError('mismatched') where a parent is not (quite) the recorded one: what the disk shows over it is not
 * what it was. `force` of the policy takes it all the same.
 */
export function refuseDoubt({ layer, readOnly }: OpenedImage, { force }: ChainPolicy): void {
  if (readOnly === undefined || force) return;
  throw new ImageError('mismatched', `${shownPath(layer.path)}: is not changed: ${readOnly}`, {
    hint: 'With --force-parent, what it shows over this parent is taken as it is.',
  });
}

/** Signals are heard so often. */
const BREATH_MS = 20;

const breathe = (): Promise<void> => new Promise((done) => setImmediate(done));

/**
 * Runs an operation to its end, or to the first step at which the signal has come: then ImageError('interrupted'). Every
 * ImageError begins with `path`, or with that of another file.
 */
export async function runSteps<Result>(
  steps: Reshaping<Result>,
  path: string,
  { progress, signal }: ReshapeControl,
): Promise<Result> {
  for (let breath = performance.now(); ; ) {
    const { done, value } = nextStep(steps, path);
    if (done === true) return value;
    progress(value.done, value.total);
    if (performance.now() < breath + BREATH_MS && !signal.aborted) continue;
    await breathe();
    breath = performance.now();
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

function nextStep<Result>(steps: Reshaping<Result>, path: string): IteratorResult<ReshapeStep, Result> {
  try {
    return steps.next();
  } catch (problem) {
    const error = ImageError.from(problem, 'bug');
    if (error.message.startsWith('/')) throw error;
    throw new ImageError(error.kind, `${shownPath(path)}: ${error.message}`, {
      hint: error.hint,
      cause: problem,
    });
  }
}
