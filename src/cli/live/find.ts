/** Which running mount is meant: by its mountpoint, by a file in it, or by an image that it shows. */

import { realpathSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { Argv } from 'yargs';
import { ImageError } from '../../base/errors.ts';
import { shownPath } from '../../base/text.ts';
import { type Found, findAll } from '../../control/client.ts';

export const MOUNT_DOC = 'mountpoint, or a path of what it shows';

/** Adds the operand that names a mount. */
export function takeMount(command: Argv): Argv {
  return command.positional('mount', { type: 'string', demandOption: true, describe: MOUNT_DOC });
}

function real(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** As the daemon knows a mountpoint: its directory resolved, and not the last part, which may be a dead mount. */
function asMountpoint(path: string): string {
  return join(real(dirname(path)), basename(path));
}

const warn = (text: string): void => void process.stderr.write(`vdisk: warning: ${text}\n`);

const close = (found: readonly Found[]): void => {
  for (const { client } of found) client.close();
};

/**
 * The mount that is meant by `given`. Throws ImageError('missing') where there is none that this user may speak with, and
 * ImageError('usage') where it could be several. The caller closes the client.
 */
export async function findMounted(given: string): Promise<Found> {
  const path = resolve(given);
  const mountpoint = asMountpoint(path);
  const direct = await findAll(warn, mountpoint);
  if (direct.length === 1) return direct[0]!;
  close(direct);
  const all = await findAll(warn);
  const meant = all.filter(
    ({ state }) =>
      state.mountpoint === mountpoint ||
      state.files.some(
        (file) => path === join(state.mountpoint, file.name) || real(path) === real(file.path),
      ),
  );
  close(all.filter((one) => !meant.includes(one)));
  if (meant.length === 1) return meant[0]!;
  close(meant);
  if (meant.length > 1) {
    const places = meant.map(({ state }) => shownPath(state.mountpoint)).join(', ');
    throw new ImageError('usage', `${shownPath(given)}: is shown by several mounts: ${places}`, {
      hint: 'Name the mountpoint.',
    });
  }
  throw new ImageError(
    'missing',
    `${shownPath(given)}: no running mount of this user's is there or shows it`,
    {
      hint: 'vdisk list shows those that are there.',
    },
  );
}

/** Does `work` with the mount that is meant. */
export async function withMount<T>(given: unknown, work: (found: Found) => Promise<T>): Promise<T> {
  const found = await findMounted(String(given));
  try {
    return await work(found);
  } finally {
    found.client.close();
  }
}

/** All mounts, for as long as `work` takes. */
export async function withAll<T>(work: (found: readonly Found[]) => Promise<T>): Promise<T> {
  const found = await findAll(warn);
  try {
    return await work(found);
  } finally {
    close(found);
  }
}
