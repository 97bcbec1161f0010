/** What the commands of `vdisk` that look at images have in common: their arguments, and how they complain. */

import { extname, resolve } from 'node:path';
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import type { ChainPolicy } from '../chain/policy.ts';
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
  /** How parents are found, by the commands that look for them (`takeParentArguments`). */
  readonly chain: ChainPolicy;
  readonly json: boolean;
}

const formatOptions = MOUNT_OPTIONS.filter((spec) =>
  DRIVERS.some((driver) => driver.options.some((option) => option.name === spec.name)),
);

/** Of a new image: by what its name ends with. */
export function formatOfName(path: string): FormatId | undefined {
  const suffix = extname(path).toLowerCase();
  return DRIVERS.find(({ suffixes }) => suffixes.includes(suffix))?.id;
}

/** Adds the arguments to a command whose positional is `images`. */
export function takeImageArguments(command: Argv): Argv {
  command.positional('images', { type: 'string', array: true, describe: 'image files' });
  return takeImageOptions(command);
}

/** Adds the options of these, for a command with positionals of its own. */
export function takeImageOptions(command: Argv, json = 'a JSON array on stdout'): Argv {
  return takeFormatOptions(command, json).option('force-share', {
    alias: 'U',
    type: 'boolean',
    describe: 'look although a virtual machine writes to it',
  });
}

/** Adds the options of a command that changes an image: nobody else may write to it meanwhile. */
export function takeFormatOptions(command: Argv, json: string): Argv {
  command.option('json', { type: 'boolean', describe: json }).option('format', {
    alias: 'f',
    choices: DRIVERS.map((driver) => driver.id),
    describe: 'the format, instead of recognizing it by content',
  });
  for (const spec of formatOptions) {
    command.option(spec.name, { type: 'string', choices: spec.choices ?? [], describe: spec.doc });
  }
  return command;
}

const PARENT_OPTIONS = ['parent', 'parent-dir', 'force-parent'];

/** Adds the arguments by which parents are found, as vdisk-mount has them; what --force-parent says may differ. */
export function takeParentArguments(command: Argv, force?: string): Argv {
  for (const spec of MOUNT_OPTIONS.filter(({ name }) => PARENT_OPTIONS.includes(name))) {
    const text = { type: 'string', requiresArg: true } as const;
    command.option(spec.name, {
      ...(spec.value === undefined ? { type: 'boolean' } : text),
      describe: spec.name === 'force-parent' ? (force ?? spec.doc) : spec.doc,
    });
  }
  return command;
}

function parentArguments(parsed: Record<string, unknown>): ChainPolicy {
  const paths = (name: string): string[] =>
    [parsed[name] ?? []].flat().map((path) => {
      if (path !== '') return resolve(String(path));
      throw new ImageError('usage', `--${name}: needs a value`);
    });
  return {
    parents: paths('parent'),
    parentDirs: paths('parent-dir'),
    force: parsed['force-parent'] === true,
  };
}

/** What was given. Throws ImageError('usage'). */
export function imageArguments(parsed: Record<string, unknown>): ImageArguments {
  return {
    paths: ((parsed['images'] ?? []) as string[]).map(String),
    format: parsed['format'] as FormatId | undefined,
    formatOptions: formatOptions.flatMap(({ name }) =>
      typeof parsed[name] === 'string' ? [[name, parsed[name]] as const] : [],
    ),
    lock: parsed['force-share'] !== true,
    chain: parentArguments(parsed),
    json: parsed['json'] === true,
  };
}

const HINT_IN_USE = 'Stop it first, or use --force-share and accept that what is read may be torn.';
const HINT_IN_USE_WRITING =
  'Stop the virtual machine or end the mount first: an image in use is not changed.';

/**
 * One line on stderr, and below it what explains it and what to do; `writes`: of a command that changes images. Returns
 * the error.
 */
export function complain(problem: unknown, writes = false): ImageError {
  const error = ImageError.from(problem, 'bug');
  const { kind, message, wanted } = error;
  process.stderr.write(`vdisk: ${message}\n`);
  const hint = writes ? HINT_IN_USE_WRITING : HINT_IN_USE;
  const shown = kind === 'in-use' ? new ImageError(kind, message, { hint, wanted }) : error;
  for (const line of shown.explanation) process.stderr.write(`  ${line}\n`);
  return error;
}
