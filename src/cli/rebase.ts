/** `vdisk rebase`: gives an image another parent, or none. */

import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { formatSize } from '../base/units.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { FormatId } from '../image/driver.ts';
import { rebaseImage } from '../reshape/rebase.ts';
import { changing, oneText, sayChanged, takeChange, WHOLE } from './changing.ts';
import { type Command, OK } from './command.ts';

const REBASE_NOTE =
  'Where the old parents and the new one differ, the image gets the old bytes first, so that its disk stays the same. ' +
  'With --unsafe only the reference changes: for a parent that was moved or renamed, or that is lost; if it holds ' +
  'other bytes, the disk is another. The new parent’s disk may not be larger. What is no longer needed in the image ' +
  `is not given up. ${WHOLE}`;

function takeRebaseArguments(command: Argv): void {
  takeChange(command)
    .option('new-parent', {
      alias: 'b',
      type: 'string',
      requiresArg: true,
      demandOption: true,
      describe: 'image file that is to be the parent; "": none',
    })
    .option('parent-format', {
      alias: 'F',
      choices: DRIVERS.map(({ id }) => id),
      describe: 'format of the new parent, instead of recognizing it by content',
    })
    .option('unsafe', {
      alias: 'u',
      type: 'boolean',
      describe: 'change only what the image says of its parent',
    })
    .example('$0 rebase -b base.vhdx snapshot.vhdx', 'onto a parent further down, or another one')
    .example('$0 rebase -b "" snapshot.vdi', 'stand alone')
    .example('$0 rebase -u -b moved/base.vhd child.vhd', 'the parent was moved')
    .epilogue(REBASE_NOTE);
}

async function rebase(parsed: Record<string, unknown>): Promise<number> {
  const parent = oneText(parsed, 'new-parent')!;
  const format = oneText(parsed, 'parent-format') as FormatId | undefined;
  if (parent === '' && format !== undefined) {
    throw new ImageError('usage', '--parent-format: the image is to have no parent');
  }
  const unsafe = parsed['unsafe'] === true;
  const changed = await changing(parsed, 'copying', (request) =>
    rebaseImage({ ...request, parent: parent === '' ? undefined : { path: parent, format }, unsafe }),
  );
  const { done } = changed;
  const told = {
    filename: done.path,
    format: done.format,
    parent: done.parent ?? null,
    unsafe,
    'copied-bytes': done.copied,
  };
  const now = done.parent === undefined ? 'stands alone' : `its parent is ${shownPath(done.parent)}`;
  const copied = done.copied === 0 ? '' : `; ${formatSize(done.copied)} copied, so that its disk is the same`;
  sayChanged(changed, parsed['json'], told, `${shownPath(done.path)}: ${now}${copied}`);
  return OK;
}

export const rebaseCommand: Command = {
  usage: 'rebase <image>',
  describe: 'give an image another parent, or none',
  take: takeRebaseArguments,
  run: rebase,
  writes: true,
};
