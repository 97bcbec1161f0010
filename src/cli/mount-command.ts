/** The command line of vdisk-mount: read with yargs, checked, and turned into what one mount is to be. */

import { realpathSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import yargs from 'yargs';
import { ImageError } from '../base/errors.ts';
import { parseSize } from '../base/units.ts';
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
import { VERSION } from './version.ts';

const EXAMPLES = [
  ['$0 disk.vhdx /mnt/img', 'show disk.vhdx as /mnt/img/disk.raw'],
  ['losetup -rfP --show /mnt/img/disk.raw', 'then attach it with its partitions'],
  ['$0 a.vdi b.qed /mnt/img', 'two images in one mount'],
  ['$0 disk.vhd ./disk.raw', 'on a regular file: that file becomes the disk'],
  ['$0 -o allow_other,format=raw dump /mnt/img', 'options in the manner of mount(8)'],
  ['umount /mnt/img', 'the end (not root: fusermount3 -u /mnt/img)'],
] as const;

const EPILOGUE =
  `Formats: ${DRIVERS.map((driver) => driver.id).join(', ')}. ` +
  'Exit status: 0 mounted, 1 usage or permission, 2 system error, 4 internal bug, 8 interrupted, 32 mount failure.';

export interface CommandLine {
  readonly paths: readonly string[];
  readonly values: OptionValues;
}

/**
 * Reads the command line; undefined where it asked for help or the version, which have been printed. Throws
 * ImageError('usage').
 */
export async function readCommandLine(args: readonly string[]): Promise<CommandLine | undefined> {
  let parser = yargs([...args])
    .scriptName('vdisk-mount')
    .usage('Usage: $0 [options] IMAGE... MOUNTPOINT\n\nShows disk images as flat raw files.')
    .parserConfiguration({
      'boolean-negation': false,
      'parse-positional-numbers': false,
      'camel-case-expansion': false,
    })
    .option('o', {
      type: 'string',
      array: true,
      nargs: 1,
      requiresArg: true,
      describe: 'options, separated by commas: every long option, and those of mount(8)',
    })
    .option('s', { type: 'boolean', describe: 'ignore unknown words in -o' })
    .option('n', { type: 'boolean', hidden: true })
    .version('version', 'show the version and the formats', VERSION)
    .alias('version', 'V')
    .help('help')
    .alias('help', 'h')
    .strictOptions()
    .wrap(Math.min(100, process.stdout.columns ?? 100))
    .epilogue(EPILOGUE)
    .exitProcess(false)
    .fail((message, problem) => {
      throw problem ?? new ImageError('usage', message, { hint: 'See vdisk-mount --help.' });
    });
  for (const spec of MOUNT_OPTIONS) {
    parser = parser.option(spec.name, {
      type: spec.value === undefined ? 'boolean' : 'string',
      describe: spec.doc,
      ...(spec.short === undefined ? {} : { alias: spec.short }),
      ...(spec.value === undefined ? {} : { requiresArg: true }),
      ...(spec.choices === undefined ? {} : { choices: spec.choices }),
      ...(spec.default === undefined ? {} : { defaultDescription: spec.default }),
    });
  }
  for (const [command, what] of EXAMPLES) parser = parser.example(command, what);
  const parsed = (await parser.parseAsync()) as Record<string, unknown>;
  if (parsed['help'] === true || parsed['version'] === true) return undefined;
  const values: OptionValues = new Map();
  readOptionWords(
    ((parsed['o'] as string[] | undefined) ?? []).flatMap(splitOptions),
    values,
    parsed['s'] === true,
  );
  for (const { name } of MOUNT_OPTIONS) {
    const value = parsed[name];
    if (value === undefined || value === false) continue;
    values.set(name, String(Array.isArray(value) ? value.at(-1) : value));
  }
  checkValues(values);
  return { paths: (parsed['_'] as unknown[]).map(String), values };
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
