/** `vdisk list`: the running mounts, and what they show. */

import type { Argv } from 'yargs';
import { shownPath } from '../../base/text.ts';
import { formatSize } from '../../base/units.ts';
import type { MountState } from '../../control/protocol.ts';
import { removeStaleRecords } from '../../daemon/mount-record.ts';
import { type Command, OK } from '../command.ts';
import { withAll } from './find.ts';

function takeListArguments(command: Argv): void {
  command
    .option('json', { type: 'boolean', describe: 'a JSON array on stdout' })
    .example('$0 list', 'every mount, and its files')
    .epilogue('Shows your own mounts; root sees those of everybody. Exit status: 0 done, 1 failed, 2 usage.');
}

function text({ mountpoint, pid, files }: MountState): string {
  const lines = files.map(
    ({ name, path, format, size, writable }) =>
      `  ${shownPath(name)}  ${formatSize(size)}  ${format}${writable ? '' : ', read-only'}  ${shownPath(path)}\n`,
  );
  return `${shownPath(mountpoint)}  (pid ${pid})\n${lines.join('')}`;
}

async function list(parsed: Record<string, unknown>): Promise<number> {
  removeStaleRecords();
  const states = await withAll(async (found) => found.map(({ state }) => state));
  if (parsed['json'] === true) process.stdout.write(`${JSON.stringify(states, null, 2)}\n`);
  else process.stdout.write(states.map(text).join(''));
  return OK;
}

export const listCommand: Command = {
  usage: 'list',
  describe: 'show the running mounts',
  take: takeListArguments,
  run: list,
};
