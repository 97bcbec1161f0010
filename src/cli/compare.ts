/** `vdisk compare`: whether two images show the same disk. It changes nothing. */

import { fstatSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { formatSize, hex } from '../base/units.ts';
import { type ComparedDisk, type Comparison, compareDisks } from '../disk/compare.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { FormatId } from '../image/driver.ts';
import type { Command } from './command.ts';
import {
  complain,
  type ImageArguments,
  imageArguments,
  takeImageOptions,
  takeParentArguments,
} from './image-arguments.ts';
import { type ChainLayers, closeChain, diskOfChain, openChain, reportUnusedParents } from './open-chain.ts';
import { Progress, type ProgressMode, progressMode, takeProgress } from './progress.ts';

/** Exit statuses, as qemu-img compare has them. */
const SAME = 0;
const DIFFERENT = 1;
const NOT_COMPARED = 2;
const NOT_LOOKED_UP = 3;
const NOT_READ = 4;

const COMPARE_HELP =
  'Of images of different sizes the smaller is taken to go on with zeros, unless --strict is given. ' +
  'Exit status, as of qemu-img compare: 0 the same, 1 different, 2 it could not be compared (an image cannot be ' +
  'opened, usage), 3 a table of an image is damaged or cannot be read, 4 data cannot be read.';

interface CompareArguments extends Omit<ImageArguments, 'paths' | 'format'> {
  readonly paths: readonly [string, string];
  /** undefined: by content. */
  readonly formats: readonly [FormatId | undefined, FormatId | undefined];
  /** Also sizes, and what is allocated. */
  readonly strict: boolean;
  readonly progress: ProgressMode;
}

function takeCompareArguments(command: Argv): void {
  for (const name of ['first', 'second']) {
    command.positional(name, { type: 'string', demandOption: true, describe: 'image file' });
  }
  takeProgress(takeParentArguments(takeImageOptions(command, 'a JSON object on stdout')))
    .option('second-format', {
      type: 'string',
      choices: DRIVERS.map((driver) => driver.id),
      describe: 'the format of the second image; --format is that of the first',
    })
    .option('strict', {
      type: 'boolean',
      describe: 'also the sizes, and what is allocated, must be the same',
    })
    .example('$0 compare disk.vhd disk.vhdx', 'was it converted without loss?')
    .example('$0 compare snapshot.avhdx copy.img', 'a chain is one disk')
    .example('$0 compare --second-format raw disk.qed /dev/vg/disk', 'a device by itself is of no format')
    .epilogue(COMPARE_HELP);
}

function compareArguments(parsed: Record<string, unknown>): CompareArguments {
  const given = imageArguments(parsed);
  return {
    ...given,
    paths: [String(parsed['first']), String(parsed['second'])],
    formats: [given.format, parsed['second-format'] as FormatId | undefined],
    strict: parsed['strict'] === true,
    progress: progressMode(parsed),
  };
}

type Outcome = Exclude<Comparison, { readonly result: 'failed' }>;

/** What `vdisk compare` found; the names of the fields are those of its JSON. */
interface Compared {
  readonly images: readonly {
    readonly filename: string;
    readonly format: string;
    readonly 'virtual-size': number;
  }[];
  readonly result: 'same' | 'different';
  /** What is not the same; null where all is. */
  readonly difference: 'size' | 'allocation' | 'content' | null;
  /** The first byte for which it is not; null where all is the same. */
  readonly offset: number | null;
}

function describe(chains: readonly ChainLayers[], outcome: Outcome): Compared {
  const images = chains.map(([{ path, image }]) => ({
    filename: path,
    format: image.format,
    'virtual-size': image.virtualSize,
  }));
  if (outcome.result === 'same') return { images, result: 'same', difference: null, offset: null };
  return { images, result: 'different', difference: outcome.what, offset: outcome.at };
}

function asText({ images, difference, offset }: Compared): string {
  const [one, two] = images.map((image) => image['virtual-size']) as [number, number];
  switch (difference) {
    case 'size':
      return `different: one disk has ${formatSize(one)}, the other ${formatSize(two)}\n`;
    case 'allocation':
      return `different: not allocated alike from ${place(offset!)} on\n`;
    case 'content':
      return `different: the first byte that is not the same is at ${place(offset!)}\n`;
    default: {
      const larger = images[one > two ? 0 : 1]!;
      return one === two
        ? `the same: ${formatSize(one)}\n`
        : `the same: ${formatSize(Math.min(one, two))}, and what ${shownPath(larger.filename)} has behind is zeros\n`;
    }
  }
}

const place = (offset: number): string => `${hex(offset)} (${offset})`;

/** Equal for files that are one file. */
function fileKey({ source }: ChainLayers[0]): string {
  const { dev, ino, rdev } = fstatSync(source.share().fd, { bigint: true });
  return source.share().device ? `device ${rdev}` : `${dev} ${ino}`;
}

interface Failure {
  readonly error: ImageError;
  readonly status: number;
}

function compareChains(
  chains: readonly [ChainLayers, ChainLayers],
  { strict, progress: mode }: CompareArguments,
): Outcome | Failure {
  const damage: string[] = [];
  const disk = (layers: ChainLayers): ComparedDisk => ({
    disk: diskOfChain(layers, (text) => damage.push(text)),
    files: layers.map(fileKey),
  });
  const progress = new Progress(mode, 'comparing');
  const disks = [disk(chains[0]), disk(chains[1])] as const;
  const outcome = compareDisks(disks, { strict, progress: progress.isShown ? progress.update : undefined });
  progress.end();
  if (outcome.result !== 'failed') return outcome;
  const { side, doing, at, status } = outcome;
  const why = [
    `at ${hex(at)} of the disk: ${doing === 'read' ? 'data' : 'a table'} cannot be read (errno ${-status})`,
  ];
  return {
    error: new ImageError('io', `${chains[side][0].path}: ${[...why, ...damage].join(': ')}`, {
      hint: 'vdisk check says what is damaged. Up to there the disks are the same.',
    }),
    status: doing === 'read' ? NOT_READ : NOT_LOOKED_UP,
  };
}

/** Returns the exit status. */
function compare(request: CompareArguments): number {
  const warn = (text: string): void => void process.stderr.write(`vdisk: warning: ${text}\n`);
  const chains: ChainLayers[] = [];
  try {
    for (const [at, path] of request.paths.entries()) {
      chains.push(openChain(resolve(path), request.formats[at], request, warn));
    }
    reportUnusedParents(request, chains, warn);
    const [one, two] = chains as [ChainLayers, ChainLayers];
    const outcome = compareChains([one, two], request);
    if ('error' in outcome) {
      complain(outcome.error);
      return outcome.status;
    }
    const found = describe(chains, outcome);
    process.stdout.write(request.json ? `${JSON.stringify(found, null, 2)}\n` : asText(found));
    return outcome.result === 'same' ? SAME : DIFFERENT;
  } catch (problem) {
    complain(problem);
    return NOT_COMPARED;
  } finally {
    for (const layers of chains) closeChain(layers);
  }
}

export const compareCommand: Command = {
  usage: 'compare <first> <second>',
  describe: 'say whether two images show the same disk',
  take: takeCompareArguments,
  run: (parsed) => compare(compareArguments(parsed)),
  // 1 would say that they differ.
  failed: NOT_COMPARED,
};
