/** `vdisk unmount`: ends a mount, and says whether its images are clean. */

import type { Argv } from 'yargs';
import { ImageError } from '../../base/errors.ts';
import { shownPath } from '../../base/text.ts';
import { type Command, OK } from '../command.ts';
import { takeMount, withMount } from './find.ts';

function takeUnmountArguments(command: Argv): void {
  takeMount(command)
    .option('wait', {
      type: 'boolean',
      describe: 'return when the daemon is gone and its images are clean, or say why they are not',
    })
    .option('json', { type: 'boolean', describe: 'a JSON object on stdout' })
    .example('$0 unmount --wait /mnt/img', 'then the image may be moved, or started in a virtual machine')
    .epilogue(
      'A mount in use stays as it is. Exit status: 0 unmounted (with --wait: and clean), 1 in use or failed, 2 usage.',
    );
}

async function unmount(parsed: Record<string, unknown>): Promise<number> {
  const wait = parsed['wait'] === true;
  await withMount(parsed['mount'], async ({ client, state }) => {
    const { mountpoint } = state;
    // Without --wait nobody knows yet.
    const tell = (clean: true | null): void => {
      if (parsed['json'] !== true) return;
      process.stdout.write(`${JSON.stringify({ unmounted: mountpoint, clean }, null, 2)}\n`);
    };
    await client.ask('unmount', { wait });
    if (!wait) return tell(null);
    const { how, clean, reason } = await client.ended();
    if (how === 'unmounted' && clean) return tell(true);
    const why = reason ?? (clean ? `the mount was ${how}` : 'an image was not left clean; the log says why');
    throw new ImageError('io', `${shownPath(mountpoint)}: ${why}`);
  });
  return OK;
}

export const unmountCommand: Command = {
  usage: 'unmount <mount>',
  describe: 'end a running mount',
  take: takeUnmountArguments,
  run: unmount,
};
