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
    .example('$0 unmount --wait /mnt/img', 'then the image may be moved, or started in a virtual machine')
    .epilogue(
      'A mount in use stays as it is. Exit status: 0 unmounted (with --wait: and clean), 1 in use or failed, 2 usage.',
    );
}

async function unmount(parsed: Record<string, unknown>): Promise<number> {
  const wait = parsed['wait'] === true;
  await withMount(parsed['mount'], async ({ client, state }) => {
    await client.ask('unmount', { wait });
    if (!wait) return;
    const { how, clean, reason } = await client.ended();
    if (how === 'unmounted' && clean) return;
    const why = reason ?? (clean ? `the mount was ${how}` : 'an image was not left clean; the log says why');
    throw new ImageError('io', `${shownPath(state.mountpoint)}: ${why}`);
  });
  return OK;
}

export const unmountCommand: Command = {
  usage: 'unmount <mount>',
  describe: 'end a running mount',
  take: takeUnmountArguments,
  run: unmount,
};
