/** What the commands that change an image as a whole have in common. */

import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import type { LayerContext } from '../chain/layer.ts';
import { holdersOfFile } from '../daemon/holders.ts';
import type { ReshapeRequest } from '../reshape/image.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { imageArguments, takeFormatOptions, takeParentArguments } from './image-arguments.ts';
import { interruptible, Progress, progressMode, takeProgress } from './progress.ts';

/** For the end of their help. */
export const WHOLE =
  'Power may fail and Ctrl-C may come at any instant: the image is whole, and shows the same disk. ' +
  'Exit status: 0 done, 1 failed or interrupted, 2 usage.';

/** Adds the options that all of them have. The positional is `image`. */
export function takeChange(command: Argv): Argv {
  command.positional('image', { type: 'string', demandOption: true, describe: 'image file' });
  const parents = takeParentArguments(
    takeFormatOptions(command, 'a JSON object on stdout'),
    'take a parent that was changed since, or is another one, as it is',
  );
  return takeProgress(parents);
}

/** What a command got from its work. */
export interface Changed<Result> {
  readonly done: Result;
  /** Each once. */
  readonly warnings: readonly string[];
}

/** Runs `work` with what was given, telling how far it is (`doing`: "compacting"), until a signal comes. */
export async function changing<Result>(
  parsed: Record<string, unknown>,
  doing: string,
  work: (request: ReshapeRequest) => Promise<Result>,
): Promise<Changed<Result>> {
  const { format, formatOptions, chain } = imageArguments(parsed);
  const path = oneText(parsed, 'image')!;
  const notices = new Set<string>();
  const context: LayerContext = {
    tables: new TableAllocator(),
    formatOptions,
    lock: true,
    report: (text) => void notices.add(text),
    holders: holdersOfFile,
  };
  const progress = new Progress(progressMode(parsed), doing);
  const done = await interruptible((signal) =>
    work({ path, format, policy: chain, context, progress: progress.update, signal }).finally(() =>
      progress.end(),
    ),
  );
  return { done, warnings: [...notices] };
}

/** An argument that may be given once. Throws ImageError('usage'). */
export function oneText(parsed: Record<string, unknown>, name: string): string | undefined {
  const value = parsed[name];
  if (Array.isArray(value)) throw new ImageError('usage', `--${name}: is given more than once`);
  return value === undefined ? undefined : String(value);
}

/** Warnings on standard error, and what was done: an object, or a line. */
export function sayChanged(
  { warnings }: Pick<Changed<unknown>, 'warnings'>,
  json: unknown,
  told: object,
  line: string,
): void {
  if (json === true) {
    process.stdout.write(`${JSON.stringify({ ...told, warnings }, null, 2)}\n`);
    return;
  }
  for (const text of warnings) process.stderr.write(`vdisk: warning: ${text}\n`);
  process.stdout.write(`${line}\n`);
}
