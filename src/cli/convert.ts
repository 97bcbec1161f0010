/** `vdisk convert`: a disk as a new image of another format, or of the same. */

import { resolve } from 'node:path';
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { ByteCount } from '../base/units.ts';
import {
  type Converted,
  convert,
  describeConverted,
  refuseChanged,
  seedsOf,
  sizeOfSources,
} from '../convert/convert.ts';
import { Crew } from '../convert/crew.ts';
import { stream } from '../convert/stream.ts';
import { DEFAULT_THREADS } from '../convert/workers.ts';
import { holdersOfFile } from '../daemon/holders.ts';
import { DRIVERS, driverOf } from '../formats/registry.ts';
import type { FormatDriver, FormatId } from '../image/driver.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { type Command, OK, STDOUT } from './command.ts';
import { optionsText } from './create.ts';
import {
  formatOfName,
  type ImageArguments,
  imageArguments,
  takeImageOptions,
  takeParentArguments,
} from './image-arguments.ts';
import { type ChainLayers, closeChain, openChain, reportUnusedParents } from './open-chain.ts';
import { interruptible, Progress, type ProgressMode, progressMode, takeProgress } from './progress.ts';

const MOST_THREADS = 16;

const CONVERT_NOTE =
  'The last name is that of the new image; "-" is standard output, raw. Several images become one disk, one behind the ' +
  'other. Parents are read through, what is zeros takes no space. The new image is there as a whole and stable, or not ' +
  'at all: Ctrl-C leaves nothing behind, but with --resume DST.partial and DST.partial.json, with which the same command ' +
  'goes on. Exit status: 0 done, 1 failed or interrupted, 2 usage.';

function takeConvertArguments(command: Argv): void {
  command.positional('images', {
    type: 'string',
    array: true,
    describe: 'the images to convert, and last the one to make',
  });
  takeProgress(takeParentArguments(takeImageOptions(command, 'a JSON object on stdout')))
    .option('output-format', {
      alias: 'O',
      choices: DRIVERS.map(({ id }) => id),
      describe: 'format of the new image, instead of what its name ends with',
    })
    .option('options', {
      alias: 'o',
      type: 'string',
      requiresArg: true,
      describe: 'name=value,… as vdisk create takes them; -o help lists those of the format',
    })
    .option('layer', {
      type: 'string',
      requiresArg: true,
      describe: 'only what one file holds: 0 the image itself, 1 its parent, …',
    })
    .option('force', { type: 'boolean', describe: 'replace a file that is there' })
    .option('resume', { type: 'boolean', describe: 'keep what is done when interrupted, and go on with it' })
    .option('verify', { type: 'boolean', describe: 'read the new image again and compare it' })
    .option('flush', {
      choices: ['on', 'off'],
      default: 'on',
      describe: 'off: do not wait until the new image is on the medium',
    })
    .option('threads', {
      alias: 'm',
      type: 'string',
      requiresArg: true,
      describe: `how many threads, 1 to ${MOST_THREADS}; by default 2 to 4, by cores`,
    })
    .example('$0 convert disk.vhd disk.vhdx', 'the formats are told by content, and by name')
    .example('$0 convert -O vhd -o azure disk.vhdx disk.vhd', 'fixed, as Azure takes it')
    .example('$0 convert --verify --resume old.vdi /mnt/usb/new.img', 'a long one')
    .example('$0 convert snapshot.avhdx flat.vhdx', 'a chain becomes one image')
    .example('$0 convert --layer 0 snapshot.avhdx only.img', 'what the snapshot itself holds')
    .example('$0 convert disk.vhdx - | zstd > disk.img.zst', 'into a pipe')
    .example('$0 convert split.001 split.002 whole.raw', 'parts become one disk')
    .epilogue(CONVERT_NOTE);
}

interface ConvertArguments extends ImageArguments {
  readonly sources: readonly string[];
  readonly target: string;
  readonly driver: FormatDriver;
  readonly options: readonly string[];
  readonly layer: number | undefined;
  readonly force: boolean;
  readonly resume: boolean;
  readonly verify: boolean;
  readonly flush: boolean;
  readonly threads: number;
  readonly progress: ProgressMode;
}

const usage = (message: string, hint?: string): ImageError => new ImageError('usage', message, { hint });

/** What was given; undefined where only the options of a format were asked for, and were told. Throws ImageError('usage'). */
function convertArguments(parsed: Record<string, unknown>): ConvertArguments | undefined {
  const given = imageArguments(parsed);
  const format = once(parsed, 'output-format') as FormatId | undefined;
  const options = [parsed['options'] ?? []].flat().map(String);
  if (options.includes('help')) {
    const named = format ?? formatOfName(given.paths.at(-1) ?? '');
    if (named === undefined) throw usage('-o help: of which format? Say it with -O');
    process.stdout.write(optionsText(named));
    return undefined;
  }
  const sources = given.paths.slice(0, -1);
  const target = given.paths.at(-1);
  if (target === undefined || sources.length === 0) {
    throw usage('the new image is not named: an image to convert and one to make are needed');
  }
  if (given.paths.includes('')) throw usage('a name is empty');
  const id = format ?? (target === STDOUT ? 'raw' : formatOfName(target));
  if (id === undefined) {
    throw usage(`${shownPath(target)}: its name does not tell its format`, 'Say it: -O raw, -O vhdx, …');
  }
  const request: ConvertArguments = {
    ...given,
    sources,
    target,
    driver: driverOf(id),
    options,
    layer: numberOf(parsed, 'layer', 0, 63),
    force: parsed['force'] === true,
    resume: parsed['resume'] === true,
    verify: parsed['verify'] === true,
    flush: once(parsed, 'flush') !== 'off',
    threads: numberOf(parsed, 'threads', 1, MOST_THREADS) ?? DEFAULT_THREADS,
    progress: progressMode(parsed),
  };
  refuseTogether(request);
  return request;
}

function refuseTogether({
  target,
  driver,
  options,
  resume,
  verify,
  force,
  json,
  flush,
}: ConvertArguments): void {
  if (resume && !flush)
    throw usage('--resume and --flush=off: only what is on the medium can be gone on with');
  if (target !== STDOUT) return;
  const given = Object.entries({ resume, verify, force, json }).find(([, value]) => value);
  if (given !== undefined) throw usage(`--${given[0]}: not to standard output`);
  if (driver.id !== 'raw' || options.length > 0) throw usage('standard output takes raw bytes only');
  if (process.stdout.isTTY) throw usage('standard output is a terminal', 'Lead it into a file or a pipe.');
}

function once(parsed: Record<string, unknown>, name: string): string | undefined {
  const value = parsed[name];
  if (Array.isArray(value)) throw usage(`--${name}: is given more than once`);
  return value === undefined ? undefined : String(value);
}

function numberOf(
  parsed: Record<string, unknown>,
  name: string,
  least: number,
  most: number,
): number | undefined {
  const text = once(parsed, name);
  if (text === undefined) return undefined;
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw usage(`--${name}=${text}: expected a number from ${least} to ${most}`);
}

/** Of each source the files to read, nearest first; `opened` gets all that is to be closed. */
function openSources(
  request: ConvertArguments,
  opened: ChainLayers[],
  report: (text: string) => void,
): ChainLayers[] {
  const { sources, format, layer } = request;
  const chains = sources.map((path) => {
    const layers = openChain(resolve(path), format, request, report, layer === 0);
    opened.push(layers);
    if (layer === undefined) return layers;
    const one = layers[layer];
    if (one !== undefined) return [one] as const;
    throw usage(
      `--layer=${layer}: ${shownPath(path)} has ${layers.length} files, the last is ${layers.length - 1}`,
    );
  });
  if (layer !== 0) reportUnusedParents(request, opened, report);
  return chains;
}

async function run(request: ConvertArguments): Promise<number> {
  const notices: string[] = [];
  const report = (text: string): void => {
    if (notices.includes(text)) return;
    notices.push(text);
    if (!request.json) process.stderr.write(`vdisk: warning: ${text}\n`);
  };
  const crew = request.target === STDOUT ? undefined : new Crew(request.threads);
  const opened: ChainLayers[] = [];
  try {
    const sources = openSources(request, opened, report);
    if (crew === undefined) toStdout(sources, request.progress);
    else {
      const begun = performance.now();
      const made = await interruptible((signal) => toImage(request, sources, crew, report, signal));
      say(request, sources, made, notices, performance.now() - begun);
    }
    return OK;
  } finally {
    for (const layers of opened) closeChain(layers);
    await crew?.dismiss();
  }
}

/** Signals end the process, as they do any filter: there is nothing to tidy up. */
function toStdout(sources: readonly ChainLayers[], mode: ProgressMode): void {
  const progress = new Progress(mode, 'writing');
  try {
    stream(seedsOf(sources), process.stdout.fd, progress.isShown ? progress.update : undefined);
  } finally {
    progress.end();
  }
  refuseChanged(sources);
}

async function toImage(
  request: ConvertArguments,
  sources: readonly ChainLayers[],
  crew: Crew,
  report: (text: string) => void,
  signal: AbortSignal,
): Promise<Converted> {
  const { target, driver, options, force, resume, verify, flush, threads } = request;
  let progress: Progress | undefined;
  const converted = convert({
    sources,
    target: {
      path: resolve(target),
      driver,
      options,
      replace: force,
      context: {
        tables: new TableAllocator(),
        formatOptions: request.formatOptions,
        lock: true,
        report,
        holders: holdersOfFile,
      },
      signal,
    },
    crew,
    threads,
    resume,
    verify,
    flush,
    progress: (doing) => {
      progress?.end();
      progress = new Progress(request.progress, doing);
      return progress.update;
    },
  });
  return await converted.finally(() => progress?.end());
}

function say(
  { json, verify }: ConvertArguments,
  sources: readonly ChainLayers[],
  made: Converted,
  warnings: readonly string[],
  elapsedMs: number,
): void {
  if (!json) {
    process.stdout.write(`${describeConverted(made)}${verify ? ', verified' : ''}\n`);
    return;
  }
  const bytes: ByteCount = sizeOfSources(sources);
  const told = {
    sources: sources.map((layers) => ({
      format: layers[0].image.format,
      'virtual-size': layers[0].image.virtualSize,
      files: layers.map(({ path }) => path),
    })),
    filename: made.path,
    format: made.image.format,
    variant: made.image.variant,
    'virtual-size': made.image.virtualSize,
    'source-size': bytes,
    'file-size': made.fileSize,
    'actual-size': made.allocated,
    written: made.written,
    'resumed-from': made.resumed,
    verified: verify,
    seconds: Number((elapsedMs / 1000).toFixed(3)),
    warnings,
  };
  process.stdout.write(`${JSON.stringify(told, null, 2)}\n`);
}

export const convertCommand: Command = {
  usage: 'convert <images..>',
  describe: 'make an image of any format from others',
  take: takeConvertArguments,
  run: async (parsed) => {
    const request = convertArguments(parsed);
    return request === undefined ? OK : await run(request);
  },
};
