/** `vdisk resize`: gives a disk another size. */

import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { type ByteCount, formatSize, parseSize } from '../base/units.ts';
import { type Resized, resizeImage } from '../reshape/resize.ts';
import { type Command, OK } from './command.ts';
import { imageArguments, takeImageOptions, takeParentArguments } from './image-arguments.ts';
import { interruptible, Progress, progressMode, takeProgress } from './progress.ts';
import { reshapeContext } from './reshape-context.ts';

const RESIZE_NOTE =
  'SIZE is in bytes, or with K, M, G or T behind it (powers of 1024); with + before it, it is added. ' +
  'Power may fail at any instant: the disk has the old size or the new one. What is inside, partitions and file ' +
  'systems, is not changed. Exit status: 0 done, 1 failed or interrupted, 2 usage.';

function takeResizeArguments(command: Argv): void {
  command
    .positional('image', { type: 'string', demandOption: true, describe: 'image file' })
    .positional('size', { type: 'string', demandOption: true, describe: 'of the disk: 64G, or +16G' });
  takeProgress(takeParentArguments(takeImageOptions(command, 'a JSON object on stdout')))
    .example('$0 resize disk.vhdx 128G', 'larger: the new part reads as zeros')
    .example('$0 resize disk.vdi +16G', 'by so much')
    .epilogue(RESIZE_NOTE);
}

function sizeFrom(text: string, before: ByteCount): ByteCount {
  const [, sign = '', rest = ''] = /^([+-]?)(.*)$/s.exec(text)!;
  const bytes = parseSize(rest);
  if (bytes === undefined)
    throw new ImageError('usage', `"${text}" is no size`, { hint: 'Like 64G or +512M.' });
  return sign === '' ? bytes : sign === '+' ? before + bytes : before - bytes;
}

async function resize(parsed: Record<string, unknown>): Promise<number> {
  const { format, chain, json } = imageArguments(parsed);
  const progress = new Progress(progressMode(parsed), 'resizing');
  const { context, notices } = reshapeContext(parsed);
  const done = await interruptible((signal) =>
    resizeImage({
      path: String(parsed['image']),
      format,
      chain,
      context,
      sizeFrom: (before) => sizeFrom(String(parsed['size']), before),
      progress: progress.update,
      signal,
    }).finally(() => progress.end()),
  );
  say(done, json, notices());
  return OK;
}

function say({ path, format, before, after }: Resized, json: boolean, warnings: readonly string[]): void {
  if (json) {
    const told = { filename: path, format, 'virtual-size': after, 'virtual-size-before': before, warnings };
    process.stdout.write(`${JSON.stringify(told, null, 2)}\n`);
    return;
  }
  for (const text of warnings) process.stderr.write(`vdisk: warning: ${text}\n`);
  process.stdout.write(
    before === after
      ? `${shownPath(path)}: has ${formatSize(after)} already\n`
      : `${shownPath(path)}: ${formatSize(before)} → ${formatSize(after)}\n`,
  );
}

export const resizeCommand: Command = {
  usage: 'resize <image> <size>',
  describe: 'give a disk another size',
  take: takeResizeArguments,
  run: resize,
};
