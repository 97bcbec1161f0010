/** `vdisk resize`: gives a disk another size. */

import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { type ByteCount, formatSize, parseSize } from '../base/units.ts';
import { resizeImage } from '../reshape/resize.ts';
import { changing, oneText, sayChanged, takeChange } from './changing.ts';
import { type Command, OK } from './command.ts';

const RESIZE_NOTE =
  'SIZE is in bytes, or with K, M, G or T behind it (powers of 1024); with + or - before it, it is added or taken ' +
  'off. What a disk grows by reads as zeros; what is cut off must read as zeros before. What is inside, partitions ' +
  'and file systems, is not changed: make it smaller before, or larger after. Children of the image, if there are ' +
  'any, may no longer fit. Power may fail and Ctrl-C may come at any instant: the disk has the old size or the new ' +
  'one. Exit status: 0 done, 1 failed or interrupted, 2 usage.';

function takeResizeArguments(command: Argv): void {
  takeChange(command)
    .positional('size', { type: 'string', demandOption: true, describe: 'of the disk: 64G, +16G or -16G' })
    .option('shrink', { type: 'boolean', describe: 'let the disk become smaller' })
    .example('$0 resize disk.vhdx 128G', 'larger: the new part reads as zeros')
    .example('$0 resize disk.vdi +16G', 'by so much')
    .example('$0 resize --shrink disk.vhd -16G', 'smaller, where what is cut off is zeros')
    .epilogue(RESIZE_NOTE);
}

/** A size that begins with "-" is no option, which yargs would take it for without a space before it. */
export function arrangeSizes(words: readonly string[]): readonly string[] {
  return words.map((word) => (/^-\d/.test(word) ? ` ${word}` : word));
}

interface Size {
  readonly sign: '' | '+' | '-';
  readonly bytes: ByteCount;
}

function parseChange(text: string): Size {
  const [, sign = '', rest = ''] = /^([+-]?)(.*)$/s.exec(text.trim())!;
  const bytes = parseSize(rest);
  if (bytes !== undefined) return { sign: sign as Size['sign'], bytes };
  throw new ImageError('usage', `"${text.trim()}" is no size`, { hint: 'Like 64G, +512M or -512M.' });
}

function sizeFrom({ sign, bytes }: Size, before: ByteCount): ByteCount {
  const after = sign === '' ? bytes : sign === '+' ? before + bytes : before - bytes;
  if (after > 0 && Number.isSafeInteger(after)) return after;
  throw new ImageError('usage', `no disk has a size of ${after} bytes`, {
    hint: `It has ${formatSize(before)} now.`,
  });
}

async function resize(parsed: Record<string, unknown>): Promise<number> {
  const size = parseChange(oneText(parsed, 'size')!);
  const changed = await changing(parsed, 'resizing', (request) =>
    resizeImage({
      ...request,
      sizeFrom: (before) => sizeFrom(size, before),
      shrink: parsed['shrink'] === true,
    }),
  );
  const { path, format, before, after } = changed.done;
  const told = { filename: path, format, 'virtual-size': after, 'virtual-size-before': before };
  const line =
    before === after ? `has ${formatSize(after)} already` : `${formatSize(before)} → ${formatSize(after)}`;
  sayChanged(changed, parsed['json'], told, `${shownPath(path)}: ${line}`);
  return OK;
}

export const resizeCommand: Command = {
  usage: 'resize <image> <size>',
  describe: 'give a disk another size',
  take: takeResizeArguments,
  arrange: arrangeSizes,
  run: resize,
  writes: true,
};
