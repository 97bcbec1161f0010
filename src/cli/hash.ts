/** `vdisk hash`: digests of the files of an image and of its content, without mounting it. */

import { resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { MIB } from '../base/units.ts';
import { closeImages, type OpenedImage, openImages } from '../daemon/images.ts';
import { ALGORITHMS, type Algorithm, type Digests } from '../evidence/algorithms.ts';
import { CONTENT_FIELDS, describeDifference, differences, stateOf } from '../evidence/file-state.ts';
import { type HashOutcome, hashAll } from '../evidence/hash.ts';
import { diskTask, fileTask, stateOfLayer } from '../evidence/held.ts';
import { PagePool } from '../shared/page-pool.ts';
import { type Command, FAILED, OK, USAGE } from './command.ts';
import {
  complain,
  type ImageArguments,
  imageArguments,
  takeImageArguments,
  takeParentArguments,
} from './image-arguments.ts';
import { interruptible, Progress, type ProgressMode, progressMode, takeProgress } from './progress.ts';

/** Of the tables of one image. */
export const POOL_BYTES = 64 * MIB;

interface HashArguments extends ImageArguments {
  readonly algorithms: readonly Algorithm[];
  readonly progress: ProgressMode;
  readonly signal: AbortSignal;
}

/** One image as `vdisk hash` shows it; the names of the fields are those of its JSON. */
interface HashedImage {
  readonly filename: string;
  readonly format: string;
  readonly 'virtual-size': number;
  /** The image, then its parents, nearest first. */
  readonly files: readonly ({ readonly filename: string; readonly size: number } & Digests)[];
  /** Null where it cannot be read in all places. */
  readonly content: Digests | null;
  readonly warnings: readonly string[];
}

const found = (path: string, { digests, problem }: HashOutcome): Digests => {
  if (digests !== undefined) return digests;
  throw new ImageError(problem.kind, `${path}: hashing failed: ${problem.message}`);
};

async function hashImage(path: string, request: HashArguments): Promise<HashedImage> {
  const warnings: string[] = [];
  const { format, formatOptions, lock, chain } = request;
  const opened = openImages(
    { images: [path], format, formatOptions, lock, readOnly: true, chain, noAtime: true },
    (notice) => warnings.push(notice.startsWith(`${path}: `) ? notice.slice(path.length + 2) : notice),
  );
  try {
    return await hashOpened(opened[0]!, request, warnings);
  } finally {
    closeImages(opened);
  }
}

async function hashOpened(
  opened: OpenedImage,
  { algorithms, progress: mode, signal }: HashArguments,
  warnings: readonly string[],
): Promise<HashedImage> {
  const layers = [opened, ...opened.parents] as const;
  const tasks = [...layers.map(fileTask), diskTask(layers, PagePool.seed(POOL_BYTES))];
  const progress = new Progress(mode, 'hashing');
  const outcomes = await hashAll(tasks, { algorithms, signal, progress: progress.update }).finally(() =>
    progress.end(),
  );
  const files = layers.map(({ path, source }, index) => ({
    filename: path,
    size: source.size,
    ...found(path, outcomes[index]!),
  }));
  for (const layer of layers) {
    const before = stateOf(layer.source.found!.stat, layer.source.size);
    const [moved] = differences(layer.path, before, stateOfLayer(layer), CONTENT_FIELDS);
    if (moved === undefined) continue;
    throw new ImageError('io', `it changed while it was hashed: ${describeDifference(moved)}`);
  }
  const content = outcomes[layers.length]!;
  const { path, image } = opened;
  return {
    filename: path,
    format: image.format,
    'virtual-size': image.virtualSize,
    files,
    content: content.digests ?? null,
    warnings: content.problem === undefined ? warnings : [...warnings, unread(content.problem)],
  };
}

const unread = (problem: ImageError): string =>
  `the content has no hash: it cannot be read: ${problem.message}`;

/** A line as coreutils' --tag writes them: "SHA256 (/vm/disk.vhdx) = 5a…". */
function tagged(algorithm: Algorithm, name: string, digest: string): string {
  const escaped = name.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
  return `${escaped === name ? '' : '\\'}${algorithm.toUpperCase()} (${escaped}) = ${digest}\n`;
}

function asText({ filename, files, content }: HashedImage, algorithms: readonly Algorithm[]): string {
  const lines = (name: string, digests: Digests): string =>
    algorithms.map((algorithm) => tagged(algorithm, name, digests[algorithm]!)).join('');
  const contents = content === null ? '' : lines(`content of ${filename}`, content);
  return files.map((file) => lines(file.filename, file)).join('') + contents;
}

/** Returns the exit status: 0 done, 1 failed, 2 usage. */
async function hash(request: HashArguments): Promise<number> {
  let status = OK;
  const hashed: HashedImage[] = [];
  for (const path of request.paths) {
    try {
      const image = await hashImage(resolve(path), request);
      hashed.push(image);
      if (image.content === null) status = Math.max(status, FAILED);
      if (request.json) continue;
      for (const text of image.warnings) process.stderr.write(`vdisk: warning: ${image.filename}: ${text}\n`);
      process.stdout.write(asText(image, request.algorithms));
    } catch (problem) {
      status = Math.max(status, complain(problem).kind === 'usage' ? USAGE : FAILED);
    }
  }
  if (request.json) process.stdout.write(`${JSON.stringify(hashed, null, 2)}\n`);
  return status;
}

export const hashCommand: Command = {
  usage: 'hash <images..>',
  describe: 'digests of the files of an image, parents included, and of its content',
  take: (command) => {
    takeProgress(takeParentArguments(takeImageArguments(command)));
    for (const name of ALGORITHMS) command.option(name, { type: 'boolean', describe: name.toUpperCase() });
    command
      .example('$0 hash disk.vhdx', 'SHA-256 of the file and of the disk in it')
      .example('$0 hash --md5 --sha1 disk.vhd', 'others instead')
      .epilogue('Exit status: 0 done, 1 failed, 2 usage.');
  },
  run: (parsed) => {
    const named = ALGORITHMS.filter((name) => parsed[name] === true);
    const algorithms = named.length === 0 ? (['sha256'] as const) : named;
    const progress = progressMode(parsed);
    return interruptible((signal) => hash({ ...imageArguments(parsed), algorithms, progress, signal }));
  },
};
