/** `vdisk add` and `vdisk remove`: images that join and leave a running mount. */

import { basename, join, resolve } from 'node:path';
import type { Argv } from 'yargs';
import { shownPath } from '../../base/text.ts';
import { DRIVERS } from '../../formats/registry.ts';
import type { FormatId } from '../../image/driver.ts';
import { type Command, OK } from '../command.ts';
import { takeMount, withMount } from './find.ts';

/** Counting clusters before an image may be written takes its time. */
const OPEN_LIMIT_MS = 600_000;

function takeAddArguments(command: Argv): void {
  takeMount(command)
    .positional('images', { type: 'string', array: true, demandOption: true, describe: 'image files' })
    .option('format', {
      type: 'string',
      choices: DRIVERS.map((driver) => driver.id),
      describe: 'the format, instead of recognizing it by content',
    })
    .option('ro', { type: 'boolean', alias: 'r', describe: 'read-only' })
    .option('json', { type: 'boolean', describe: 'a JSON object on stdout' })
    .example('$0 add /mnt/img extra.vhdx', 'show it as /mnt/img/extra.raw')
    .epilogue(
      'To a read-only mount images join read-only. With several, those before one that fails stay. ' +
        'Exit status: 0 done, 1 failed, 2 usage.',
    );
}

async function add(parsed: Record<string, unknown>): Promise<number> {
  const format = parsed['format'] as FormatId | undefined;
  const how = { ...(format === undefined ? {} : { format }), readOnly: parsed['ro'] === true };
  await withMount(parsed['mount'], async ({ client, state }) => {
    const files: string[] = [];
    for (const image of parsed['images'] as string[]) {
      const { names } = await client.ask('add', { path: resolve(String(image)), ...how }, OPEN_LIMIT_MS);
      const added = names.map((name) => join(state.mountpoint, name));
      files.push(...added);
      if (parsed['json'] !== true) process.stdout.write(added.map((path) => `${shownPath(path)}\n`).join(''));
    }
    if (parsed['json'] === true) process.stdout.write(`${JSON.stringify({ files }, null, 2)}\n`);
  });
  return OK;
}

export const addCommand: Command = {
  usage: 'add <mount> <images..>',
  describe: 'show more images in a running mount',
  take: takeAddArguments,
  run: add,
};

function takeRemoveArguments(command: Argv): void {
  takeMount(command)
    .positional('names', {
      type: 'string',
      array: true,
      demandOption: true,
      describe: 'files in the mount, or paths of what they show',
    })
    .option('json', { type: 'boolean', describe: 'a JSON object on stdout' })
    .option('force', { type: 'boolean', describe: 'also while it is open: whoever uses it gets errors' })
    .example('$0 remove /mnt/img extra.raw', 'write it out, close it, and take it away')
    .epilogue(
      'The image is left clean, and free for others to use. With --force, what was written before is flushed, and ' +
        'who has the file open gets EIO from then on. Exit status: 0 done, 1 failed or in use, 2 usage.',
    );
}

async function remove(parsed: Record<string, unknown>): Promise<number> {
  await withMount(parsed['mount'], async ({ client, state }) => {
    const removed: string[] = [];
    for (const given of (parsed['names'] as string[]).map(String)) {
      const path = resolve(given);
      const named = state.files.find(
        (file) => file.name === given || join(state.mountpoint, file.name) === path || file.path === path,
      );
      const name = named?.name ?? basename(given);
      const { names } = await client.ask('remove', { name, force: parsed['force'] === true });
      removed.push(...names);
      if (parsed['json'] !== true) process.stdout.write(`removed ${names.map(shownPath).join(', ')}\n`);
    }
    if (parsed['json'] === true) process.stdout.write(`${JSON.stringify({ removed }, null, 2)}\n`);
  });
  return OK;
}

export const removeCommand: Command = {
  usage: 'remove <mount> <names..>',
  describe: 'take images out of a running mount',
  take: takeRemoveArguments,
  run: remove,
};
