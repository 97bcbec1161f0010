/** `vdisk commit`: merges a child into its parent. */

import type { Argv } from 'yargs';
import { shownPath } from '../base/text.ts';
import { formatSize } from '../base/units.ts';
import { commitImage } from '../reshape/commit.ts';
import { changing, sayChanged, takeChange, WHOLE } from './changing.ts';
import { type Command, OK } from './command.ts';

const COMMIT_NOTE =
  'What the image has of its own is written to its parent, which then shows the same disk; it is made larger where its ' +
  'disk is smaller. The image stays, empty, as a child of the parent. All other children of the parent show a wrong ' +
  'disk from then on: merge or rebase them first, or throw them away. A merge that ended early is begun again by the ' +
  `same command. ${WHOLE}`;

function takeCommitArguments(command: Argv): void {
  takeChange(command)
    .option('keep', {
      alias: 'd',
      type: 'boolean',
      describe: 'leave in the image what it has, as qemu-img does with -d',
    })
    .example('$0 commit snapshot.vhdx', 'into its parent')
    .example('$0 commit -d child.vdi && rm child.vdi', 'where the child is not needed any more')
    .epilogue(COMMIT_NOTE);
}

async function commit(parsed: Record<string, unknown>): Promise<number> {
  const keep = parsed['keep'] === true;
  const changed = await changing(parsed, 'merging', (request) => commitImage({ ...request, keep }));
  const { path, format, parent, written, before, after } = changed.done;
  const told = {
    filename: path,
    format,
    parent,
    'written-bytes': written,
    'virtual-size': after,
    'virtual-size-before': before,
    kept: keep,
  };
  const grown = after === before ? '' : `, which is ${formatSize(after)} now`;
  const line = `${shownPath(path)}: ${formatSize(written)} merged into ${shownPath(parent)}${grown}`;
  sayChanged(changed, parsed['json'], told, line);
  return OK;
}

export const commitCommand: Command = {
  usage: 'commit <image>',
  describe: 'merge a child (differencing image) into its parent',
  take: takeCommitArguments,
  run: commit,
  writes: true,
};
