/** The command line of vdisk-mount: read, checked, and turned into what one mount is to be. */

import { realpathSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import parser from 'yargs-parser';
import { ImageError } from '../base/errors.ts';
import { parseSize } from '../base/units.ts';
import { DEFAULT_POLICY } from '../chain/policy.ts';
import type { MountConfig } from '../daemon/config.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { FormatId } from '../image/driver.ts';
import type { TransportName } from '../transport/transport.ts';
import {
  checkValues,
  defaultThreads,
  MOUNT_OPTIONS,
  type OptionValues,
  readOptionWords,
  splitOptions,
} from './mount-options.ts';

export interface CommandLine {
  readonly paths: readonly string[];
  readonly values: OptionValues;
}

/** Flags that are on the command line only; the rest is in MOUNT_OPTIONS. */
const FLAGS = ['s', 'n', 'help', 'version'];
const ALIASES: Readonly<Record<string, string>> = {
  help: 'h',
  version: 'V',
  ...Object.fromEntries(
    MOUNT_OPTIONS.flatMap(({ name, short }) => (short === undefined ? [] : [[name, short]])),
  ),
};

/** `-oro,noexec` as `-o ro,noexec`: getopt's users write both. */
function detached(args: readonly string[]): string[] {
  const end = args.indexOf('--');
  return args.flatMap((word, at) =>
    /^-o[^=]/.test(word) && (end < 0 || at < end) ? ['-o', word.slice(2)] : [word],
  );
}

/**
 * Reads the command line. Throws ImageError('usage'). It takes the parser of yargs alone: all of yargs, which
 * takes as long to load as Node to start, is for the help (mount-help.ts).
 */
export function readCommandLine(args: readonly string[]): CommandLine | 'help' | 'version' {
  const { argv, error } = parser.detailed(detached(args), {
    boolean: [...FLAGS, ...MOUNT_OPTIONS.filter(({ value }) => value === undefined).map(({ name }) => name)],
    string: ['o', ...MOUNT_OPTIONS.filter(({ value }) => value !== undefined).map(({ name }) => name)],
    array: ['o'],
    narg: { o: 1 },
    alias: ALIASES,
    configuration: {
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'strip-aliased': true,
    },
  });
  if (error !== null) throw usage(error.message);
  const known = new Set(['_', 'o', ...FLAGS, ...MOUNT_OPTIONS.map(({ name }) => name)]);
  const unknown = Object.keys(argv).find((key) => !known.has(key));
  if (unknown !== undefined) throw usage(`${unknown.length === 1 ? '-' : '--'}${unknown}: unknown option`);
  if (argv['help'] === true) return 'help';
  if (argv['version'] === true) return 'version';
  const values: OptionValues = new Map();
  const words = ((argv['o'] as string[] | undefined) ?? []).flatMap(splitOptions);
  readOptionWords(words, values, argv['s'] === true);
  for (const { name } of MOUNT_OPTIONS) {
    const value: unknown = argv[name];
    if (value === undefined || value === false) continue;
    values.set(name, String(Array.isArray(value) ? value.at(-1) : value));
  }
  checkValues(values);
  return { paths: argv._.map(String), values };
}

function usage(message: string): ImageError {
  return new ImageError('usage', message, { hint: 'See vdisk-mount --help.' });
}

/** The configuration that a command line asks for. Throws ImageError('usage'). */
export function configure({ paths, values }: CommandLine): MountConfig {
  if (paths.length < 2) {
    throw new ImageError('usage', 'an image and a mountpoint are needed', {
      hint: 'vdisk-mount IMAGE... MOUNTPOINT; see vdisk-mount --help.',
    });
  }
  const number = (name: string, otherwise: number, base = 10): number => {
    const value = values.get(name);
    return value === undefined ? otherwise : Number.parseInt(value, base);
  };
  const path = (name: string): string | undefined => {
    const value = values.get(name);
    return value === undefined ? undefined : resolve(value);
  };
  const threads = number('threads', defaultThreads());
  if (threads < 1 || threads > 64) {
    throw new ImageError('usage', `--threads: expected 1 to 64, found ${threads}`);
  }
  const formatNames = new Set(DRIVERS.flatMap((driver) => driver.options.map((option) => option.name)));
  const trace = values.has('debug');
  return {
    images: paths.slice(0, -1).map((image) => resolve(image)),
    mountpoint: resolveMountpoint(paths.at(-1)!),
    format: values.get('format') as FormatId | undefined,
    formatOptions: [...values].filter(([name]) => formatNames.has(name)),
    chain: DEFAULT_POLICY,
    readOnly: values.has('ro'),
    sync: values.has('sync'),
    transport: (values.get('transport') ?? 'kernel') as TransportName,
    threads,
    cacheBytes: parseSize(values.get('cache-size') ?? '64M')!,
    allowOther: values.has('allow-other'),
    nonempty: values.has('nonempty'),
    noexec: values.has('noexec'),
    lock: values.get('lock') !== 'off',
    uid: number('uid', process.getuid!()),
    gid: number('gid', process.getgid!()),
    umask: number('umask', 0o022, 8),
    fsname: values.get('fsname'),
    foreground: trace || values.has('foreground'),
    trace,
    verbose: values.has('verbose') || trace,
    logFile: path('log-file'),
    pidFile: path('pid-file'),
  };
}

/** The mountpoint's absolute path. Only its directory is resolved: the last part may be a dead mount. */
function resolveMountpoint(given: string): string {
  if (/^\/dev\/fd\/\d+$/.test(given)) return given;
  const absolute = resolve(given);
  try {
    return realpathSync(absolute);
  } catch {
    // A dead mount, or nothing: the daemon says which.
  }
  try {
    return join(realpathSync(dirname(absolute)), basename(absolute));
  } catch {
    return absolute;
  }
}
