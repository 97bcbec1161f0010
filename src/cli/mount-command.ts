/** The command line of vdisk-mount: read, checked, and turned into what one mount is to be. */

import { existsSync, realpathSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import parser from 'yargs-parser';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { parseSize } from '../base/units.ts';
import { type ChainPolicy, TEMPORARY } from '../chain/policy.ts';
import type { MountConfig } from '../daemon/config.ts';
import type { EvidenceSettings } from '../evidence/custody.ts';
import type { HashMode } from '../evidence/record.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { FormatId } from '../image/driver.ts';
import type { TransportName } from '../transport/transport.ts';
import { readConfig } from './config-file.ts';
import {
  addTo,
  checkValues,
  defaultThreads,
  MOUNT_OPTIONS,
  NETDEV,
  type OptionLists,
  type OptionValues,
  readOptionWords,
  splitOptions,
} from './mount-options.ts';
import { VERSION } from './version.ts';

export interface CommandLine {
  readonly paths: readonly string[];
  readonly values: OptionValues;
  readonly lists: OptionLists;
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
    string: [
      'o',
      'config',
      ...MOUNT_OPTIONS.filter(({ value }) => value !== undefined).map(({ name }) => name),
    ],
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
  const known = new Set(['_', 'o', 'config', ...FLAGS, ...MOUNT_OPTIONS.map(({ name }) => name)]);
  const unknown = Object.keys(argv).find((key) => !known.has(key));
  if (unknown !== undefined) throw usage(`${unknown.length === 1 ? '-' : '--'}${unknown}: unknown option`);
  if (argv['help'] === true) return 'help';
  if (argv['version'] === true) return 'version';
  const described = argv['config'] === undefined ? undefined : fromConfig(argv['config'], argv._.length);
  const values: OptionValues = new Map(described?.values);
  const lists: OptionLists = new Map(described?.lists);
  const words = ((argv['o'] as string[] | undefined) ?? []).flatMap(splitOptions);
  readOptionWords(words, values, lists, argv['s'] === true);
  for (const { name, repeatable } of MOUNT_OPTIONS) {
    const value: unknown = argv[name];
    if (value === undefined || value === false) continue;
    const given = (Array.isArray(value) ? value : [value]).map(String);
    // What is typed goes before what the file says.
    if (described !== undefined && name === 'ro') values.delete('rw');
    if (described !== undefined && name === 'rw') values.delete('ro');
    if (repeatable === true) addTo(lists, name, given);
    else values.set(name, given.at(-1)!);
  }
  checkValues(values, lists);
  return { paths: described?.paths ?? argv._.map(String), values, lists };
}

function fromConfig(given: unknown, operands: number): CommandLine {
  if (Array.isArray(given)) throw usage('--config: was given twice');
  if (given === '') throw usage('--config: needs a value');
  if (operands > 0) throw usage('--config: says what is mounted where; images and a mountpoint are too much');
  return readConfig(String(given));
}

function usage(message: string): ImageError {
  return new ImageError('usage', message, { hint: 'See vdisk-mount --help.' });
}

/** The configuration that a command line asks for. Throws ImageError('usage'). */
export function configure({ paths, values, lists }: CommandLine): MountConfig {
  if (paths.length < 2) {
    throw new ImageError('usage', 'an image and a mountpoint are needed', {
      hint: 'vdisk-mount IMAGE... MOUNTPOINT; see vdisk-mount --help.',
    });
  }
  for (const path of paths) refuseBytes(path);
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
  const images = paths.slice(0, -1).map((image) => resolve(image));
  const mountpoint = resolveMountpoint(paths.at(-1)!);
  const evidence = evidenceSettings(values, images, mountpoint);
  return {
    images,
    mountpoint,
    format: values.get('format') as FormatId | undefined,
    formatOptions: [...values].filter(([name]) => formatNames.has(name)),
    chain: chainPolicy(values, lists),
    layers: values.has('layers'),
    readOnly: values.has('ro') || evidence !== undefined,
    overlay: overlayPlace(values, images),
    evidence,
    partitions: values.has('partitions'),
    sync: values.has('sync'),
    transport: (values.get('transport') ?? 'kernel') as TransportName,
    threads,
    cacheBytes: parseSize(values.get('cache-size') ?? '64M')!,
    allowOther: values.has('allow-other'),
    nonempty: values.has('nonempty'),
    noexec: values.has('noexec') || evidence !== undefined,
    netdev: values.has(NETDEV),
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
    metrics: path('metrics'),
  };
}

/** Node hands over the words of a command line as text: bytes that are no UTF-8 are lost by now. */
function refuseBytes(path: string): void {
  if (!path.includes('\ufffd') || existsSync(path)) return;
  throw new ImageError(
    'usage',
    `${shownPath(path)}: the name is not valid UTF-8, and cannot be opened by it`,
    {
      hint: 'Rename it, or make a symbolic link to it whose name is.',
    },
  );
}

/** The overlay's path, or TEMPORARY. Throws ImageError('usage') for what it cannot be put on. */
function overlayPlace(values: OptionValues, images: readonly string[]): string | undefined {
  const given = values.get('overlay');
  if (given === undefined) return undefined;
  if (images.length > 1) {
    throw new ImageError('usage', `--overlay: is for one image, ${images.length} were named`, {
      hint: 'Make a mount for each.',
    });
  }
  if (given !== TEMPORARY) return resolve(given);
  if (values.has('ro')) {
    throw new ImageError('usage', `--overlay=${TEMPORARY} and --ro: nothing could be written to it`);
  }
  return TEMPORARY;
}

/** How parents are found. */
export function chainPolicy(values: OptionValues, lists: OptionLists): ChainPolicy {
  const paths = (name: string): string[] => (lists.get(name) ?? []).map((path) => resolve(path));
  return { parents: paths('parent'), parentDirs: paths('parent-dir'), force: values.has('force-parent') };
}

/** What evidence mode asks for; undefined without it. Throws ImageError('usage') for what does not go with it. */
function evidenceSettings(
  values: OptionValues,
  images: readonly string[],
  mountpoint: string,
): EvidenceSettings | undefined {
  if (!values.has('evidence')) {
    const stray = ['record', 'hash'].find((name) => values.has(name));
    if (stray === undefined) return undefined;
    throw new ImageError('usage', `--${stray}: is for evidence`, { hint: 'Say --evidence as well.' });
  }
  for (const name of ['rw', 'overlay']) {
    if (!values.has(name)) continue;
    throw new ImageError('usage', `--evidence and --${name}: evidence is only read`, {
      hint: 'Leave out one of the two. For mount(8) and fstab, which add rw by themselves: -o ro,evidence.',
    });
  }
  const writes = ['record', 'log-file', 'pid-file', 'metrics'].filter((name) => values.has(name));
  const realImages = images.map(realPath);
  for (const name of writes) {
    const path = resolve(values.get(name)!);
    if (realImages.includes(realPath(path))) {
      throw new ImageError('usage', `--${name}: ${path} is evidence, and would be written to`);
    }
  }
  const record = values.get('record');
  const path = record === undefined ? undefined : realPath(resolve(record));
  if (path !== undefined && (path === mountpoint || path.startsWith(`${mountpoint}/`))) {
    throw new ImageError('usage', `--record: ${path} is in the mountpoint, which hides it`);
  }
  return {
    record: path,
    hash: (values.get('hash') ?? 'now') as HashMode,
    version: VERSION,
    commandLine: ['vdisk-mount', ...process.argv.slice(2)],
    watched: process.stderr.isTTY,
  };
}

/** With its directory resolved; what is not there, as it is written. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    // A file that is yet to be made.
  }
  try {
    return join(realpathSync(dirname(path)), basename(path));
  } catch {
    return path;
  }
}

/** The mountpoint's absolute path. Only its directory is resolved: the last part may be a dead mount. */
function resolveMountpoint(given: string): string {
  if (/^\/dev\/fd\/\d+$/.test(given)) return given;
  // A dead mount's last part cannot be resolved: the daemon says what it is.
  return realPath(resolve(given));
}
