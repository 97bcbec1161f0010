/** What the commands of `vdisk` that look at images have in common: their arguments, and how they complain. */

import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { FormatId } from '../image/driver.ts';
import { MOUNT_OPTIONS } from './mount-options.ts';

/** Images to look at, and how. */
export interface ImageArguments {
  readonly paths: readonly string[];
  /** undefined: by content. */
  readonly format: FormatId | undefined;
  readonly formatOptions: readonly (readonly [string, string])[];
  /** Whether a writer keeps us out. */
  readonly lock: boolean;
  readonly json: boolean;
}

const formatOptions = MOUNT_OPTIONS.filter((spec) =>
  DRIVERS.some((driver) => driver.options.some((option) => option.name === spec.name)),
);

/** Adds the arguments to a command whose positional is `images`. */
export function takeImageArguments(command: Argv): Argv {
  command
    .positional('images', { type: 'string', array: true, describe: 'image files' })
    .option('json', { type: 'boolean', describe: 'a JSON array on stdout' })
    .option('format', {
      type: 'string',
      choices: DRIVERS.map((driver) => driver.id),
      describe: 'the format, instead of recognizing it by content',
    })
    .option('force-share', {
      alias: 'U',
      type: 'boolean',
      describe: 'look although a virtual machine writes to it',
    });
  for (const spec of formatOptions) {
    command.option(spec.name, { type: 'string', choices: spec.choices ?? [], describe: spec.doc });
  }
  return command;
}

/** What was given. */
export function imageArguments(parsed: Record<string, unknown>): ImageArguments {
  return {
    paths: (parsed['images'] as string[]).map(String),
    format: parsed['format'] as FormatId | undefined,
    formatOptions: formatOptions.flatMap(({ name }) =>
      typeof parsed[name] === 'string' ? [[name, parsed[name]] as const] : [],
    ),
    lock: parsed['force-share'] !== true,
    json: parsed['json'] === true,
  };
}

/** One line on stderr, a second with what to do. Returns the error. */
export function complain(problem: unknown): ImageError {
  const error = ImageError.from(problem, 'bug');
  process.stderr.write(`vdisk: ${error.message}\n`);
  const hint =
    error.kind === 'in-use'
      ? 'Stop it first, or use --force-share and accept that what is read may be torn.'
      : error.hint;
  if (hint !== undefined) process.stderr.write(`  ${hint}\n`);
  return error;
}
