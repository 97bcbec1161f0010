/** `vdisk create`: makes an image file. */

import { resolve } from 'node:path';
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { formatSize, parseSize } from '../base/units.ts';
import { createImage, type MadeImage } from '../chain/create.ts';
import { holdersOfFile } from '../daemon/holders.ts';
import { DRIVERS, driverOf } from '../formats/registry.ts';
import type { FormatId } from '../image/driver.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { type Command, OK } from './command.ts';
import { formatOfName } from './image-arguments.ts';
import { interruptible, Progress, type ProgressMode, progressMode, takeProgress } from './progress.ts';

const CREATE_NOTE =
  'SIZE is in bytes, or with K, M, G or T behind it (powers of 1024). The file is there as a whole or not at all: ' +
  'Ctrl-C leaves nothing behind. Exit status: 0 made, 1 failed or interrupted, 2 usage.';

/** Adds the arguments of the command, whose positionals are `file` and `size`. */
function takeCreateArguments(command: Argv): void {
  const formats = DRIVERS.map(({ id }) => id);
  takeProgress(command)
    .positional('file', { type: 'string', describe: 'the image file to make' })
    .positional('size', {
      type: 'string',
      describe: 'of the disk, like 64G; a child has its parent’s by default',
    })
    .option('format', {
      alias: 'f',
      choices: formats,
      describe: 'its format, instead of what its name ends with',
    })
    .option('options', {
      alias: 'o',
      type: 'string',
      requiresArg: true,
      describe: 'name=value,…; -o help lists those of the format',
    })
    .option('parent', {
      alias: 'b',
      type: 'string',
      requiresArg: true,
      describe: 'make a child (differencing image) of this image',
    })
    .option('parent-format', {
      alias: 'F',
      choices: formats,
      describe: 'format of the parent, instead of recognizing it by content',
    })
    .option('force', { type: 'boolean', describe: 'replace a file that is there' })
    .option('json', { type: 'boolean', describe: 'a JSON object on stdout' })
    .example('$0 create disk.vhdx 64G', 'dynamic: takes space as it is written')
    .example('$0 create -f vhd -o azure disk.vhd 32G', 'fixed, as Azure takes it')
    .example('$0 create -f vhdx -b base.vhdx child.vhdx', 'a child, as large as its parent')
    .example('$0 create -f vdi -o subformat=fixed,preallocation=full disk.vdi 8G', 'all space taken now')
    .example('$0 create -f vhdx -o help', 'the options of a format')
    .epilogue(CREATE_NOTE);
}

interface CreateArguments {
  readonly file: string | undefined;
  readonly size: string | undefined;
  readonly format: FormatId | undefined;
  readonly options: readonly string[];
  readonly parent: string | undefined;
  readonly parentFormat: FormatId | undefined;
  readonly force: boolean;
  readonly json: boolean;
  readonly progress: ProgressMode;
}

/** What was given. Throws ImageError('usage'). */
function createArguments(parsed: Record<string, unknown>): CreateArguments {
  const once = (name: string): string | undefined => {
    const value = parsed[name];
    if (Array.isArray(value)) throw new ImageError('usage', `--${name}: is given more than once`);
    if (value === '') throw new ImageError('usage', `${name}: is empty`);
    return value === undefined ? undefined : String(value);
  };
  return {
    file: once('file'),
    size: once('size'),
    format: once('format') as FormatId | undefined,
    options: [parsed['options'] ?? []].flat().map(String),
    parent: once('parent'),
    parentFormat: once('parent-format') as FormatId | undefined,
    force: parsed['force'] === true,
    json: parsed['json'] === true,
    progress: progressMode(parsed),
  };
}

/** Makes it. Throws ImageError. */
async function create(request: CreateArguments): Promise<void> {
  const { file, size, parent, parentFormat: format } = request;
  const id = request.format ?? formatOfName(file ?? '');
  if (request.options.includes('help')) {
    if (id === undefined) throw new ImageError('usage', '-o help: of which format? Say it with -f');
    process.stdout.write(optionsText(id));
    return;
  }
  if (file === undefined) {
    throw new ImageError('usage', 'the file to make is not named', { hint: 'See vdisk create --help.' });
  }
  if (id === undefined) {
    const text = `${shownPath(file)}: its name does not tell its format`;
    throw new ImageError('usage', text, { hint: 'Say it: -f raw, -f vhdx, …' });
  }
  const virtualSize = size === undefined ? undefined : parseSize(size);
  if (size !== undefined && virtualSize === undefined) {
    throw new ImageError('usage', `"${size}" is no size`, { hint: 'Like 64G, 512M or 1073741824.' });
  }
  if (format !== undefined && parent === undefined) {
    throw new ImageError('usage', '--parent-format: no parent is named');
  }
  const notices = new Set<string>();
  const progress = new Progress(request.progress, 'writing');
  const made = await interruptible((signal) =>
    createImage({
      path: resolve(file),
      driver: driverOf(id),
      options: request.options,
      virtualSize,
      parent: parent === undefined ? undefined : { path: parent, format },
      replace: request.force,
      context: {
        tables: new TableAllocator(),
        formatOptions: [],
        lock: true,
        report: (text) => notices.add(text),
        holders: holdersOfFile,
      },
      progress: progress.update,
      signal,
    }).finally(() => progress.end()),
  );
  say(made, request, [...notices]);
}

export const createCommand: Command = {
  usage: 'create [file] [size]',
  describe: 'make an image file',
  take: takeCreateArguments,
  run: async (parsed) => {
    await create(createArguments(parsed));
    return OK;
  },
  writes: true,
};

function say(
  { image, path, fileSize, allocated }: MadeImage,
  { json }: CreateArguments,
  notices: string[],
): void {
  if (!json) {
    for (const text of notices) process.stderr.write(`vdisk: warning: ${text}\n`);
    const kind = `${image.format} (${image.variant})`;
    process.stdout.write(`${shownPath(path)}: ${kind}, ${formatSize(image.virtualSize)}\n`);
    return;
  }
  const made = {
    filename: path,
    format: image.format,
    variant: image.variant,
    'virtual-size': image.virtualSize,
    'file-size': fileSize,
    'actual-size': allocated,
    'block-size': image.blockSize,
    'logical-sector-size': image.logicalSectorSize,
    'physical-sector-size': image.physicalSectorSize,
    identity: Object.fromEntries(image.identity.map(({ name, text }) => [name, text])),
    parent: image.parent?.identity ?? null,
    warnings: notices,
  };
  process.stdout.write(`${JSON.stringify(made, null, 2)}\n`);
}

/** What -o takes with a format. */
export function optionsText(format: FormatId): string {
  const { create, title } = driverOf(format);
  const rows = create.options.map(({ name, values, doc }): [string, string] => [
    `${name}=${typeof values === 'string' ? values.toUpperCase() : values.join('|')}`,
    doc,
  ]);
  const width = Math.max(...rows.map(([name]) => name.length)) + 2;
  const lines = rows.map(([name, doc]) => `  ${name.padEnd(width)}${doc}\n`);
  const fit = create.parents.map((name) => name.toUpperCase()).join(', ');
  return `${title}\n${lines.join('')}Parents (-b): ${fit === '' ? 'none' : fit}\n`;
}
