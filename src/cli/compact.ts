/** `vdisk compact`: makes an image file small. */

import type { Argv } from 'yargs';
import { shownPath } from '../base/text.ts';
import { formatSize } from '../base/units.ts';
import { compactImage } from '../reshape/compact.ts';
import { changing, sayChanged, takeChange, WHOLE } from './changing.ts';
import { type Command, OK } from './command.ts';

const COMPACT_NOTE =
  'Blocks that hold zeros are given up, as is space that nothing uses; what stands at the end of the file moves into ' +
  'the free places, and the file is cut off. A raw or fixed image keeps its length: its zeros become holes of the ' +
  'file. What a guest has deleted is zeros only where it said so (fstrim), or wrote zeros over it. Children stay ' +
  `valid. ${WHOLE}`;

function takeCompactArguments(command: Argv): void {
  takeChange(command)
    .example('$0 compact disk.vhdx', 'after fstrim or zeroing inside the guest')
    .example('$0 compact --json --progress=json disk.vdi', 'for programs')
    .epilogue(COMPACT_NOTE);
}

async function compact(parsed: Record<string, unknown>): Promise<number> {
  const changed = await changing(parsed, 'compacting', compactImage);
  const { path, format, before, after, zeros } = changed.done;
  const told = {
    filename: path,
    format,
    'file-size': after.file,
    'file-size-before': before.file,
    'actual-size': after.allocated,
    'actual-size-before': before.allocated,
    'zeros-given-up': zeros,
  };
  const row = (name: string, from: number, to: number): string =>
    `  ${name}: ${from === to ? `${formatSize(to)}, as before` : `${formatSize(from)} → ${formatSize(to)}`}`;
  const gained = Math.max(0, before.allocated - after.allocated);
  sayChanged(
    changed,
    parsed['json'],
    told,
    [
      `${shownPath(path)}: ${gained === 0 ? 'nothing to gain' : `${formatSize(gained)} gained`}`,
      row('file', before.file, after.file),
      row('on disk', before.allocated, after.allocated),
    ].join('\n'),
  );
  return OK;
}

export const compactCommand: Command = {
  usage: 'compact <image>',
  describe: 'make an image file small: give up zeros and space that nothing uses',
  take: takeCompactArguments,
  run: compact,
  writes: true,
};
