/** Ending and changing mounts from outside, for umount(8) and `mount -o remount`. */

import { EBUSY, EPERM } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { remount } from '../source/syscalls.ts';
import { MOUNT_TYPE, type UnmountHow, unmountPath } from '../transport/kernel/mounter.ts';
import { findMount, type MountEntry } from '../transport/mountinfo.ts';
import { holdersOfMount } from './holders.ts';
import { awaitCleanEnd, findRecord } from './mount-record.ts';

function ourMount(mountpoint: string): MountEntry {
  const entry = findMount(mountpoint);
  if (entry === undefined)
    throw new ImageError('mount', `${shownPath(mountpoint)}: nothing is mounted there`);
  if (entry.type !== MOUNT_TYPE) {
    throw new ImageError(
      'mount',
      `${shownPath(mountpoint)}: expected a mount of type ${MOUNT_TYPE}, found ${entry.type}`,
    );
  }
  return entry;
}

/**
 * Unmounts `mountpoint`, and waits at most `limitMs` until its daemon has left the images clean; not with 'lazy', where the
 * mount may be used for as long as somebody likes. `say` gets a line where it is worth knowing.
 * Throws ImageError: 'mount' where it stays mounted, 'io' where an image was not left clean.
 */
export async function unmountAndWait(
  mountpoint: string,
  how: UnmountHow,
  limitMs: number,
  say: (text: string) => void,
): Promise<void> {
  const entry = ourMount(mountpoint);
  const record = findRecord(mountpoint);
  const status = unmountPath(mountpoint, how);
  if (status === -EBUSY) {
    const holders = holdersOfMount(entry.id, mountpoint);
    const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`;
    throw new ImageError('mount', `${shownPath(mountpoint)}: in use${by}`, {
      hint: 'Unmount and detach what stands on it first (umount, losetup -d).',
    });
  }
  if (status < 0) {
    const kind = status === -EPERM ? 'denied' : 'mount';
    throw new ImageError(kind, `${shownPath(mountpoint)}: unmounting failed (errno ${-status})`);
  }
  if (how === 'lazy' || record === undefined) return;
  await awaitCleanEnd(record, limitMs, () =>
    say(`waiting until the daemon (pid ${record.pid}) has written the images out`),
  );
}

/** sys/mount.h; by their names in the mount table. */
const FLAGS: Readonly<Record<string, number>> = {
  ro: 1,
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  sync: 16,
  noatime: 1024,
  nodiratime: 2048,
};

/**
 * Makes a mount read-only, or leaves it as it is. Throws ImageError: 'mount' for what cannot be: a mount that began
 * read-only has its images open for reading only.
 */
export function remountAs(mountpoint: string, access: 'ro' | 'rw'): void {
  const { options, superOptions } = ourMount(mountpoint);
  const now = options.includes('ro') || superOptions.includes('ro') ? 'ro' : 'rw';
  if (now === access) return;
  if (access === 'rw') {
    throw new ImageError('mount', `${shownPath(mountpoint)}: remounting it for writing is not supported`, {
      hint: 'Unmount it, and mount it again with -o rw.',
    });
  }
  const flags = options.reduce((sum, name) => sum | (FLAGS[name] ?? 0), FLAGS['ro']!);
  const status = remount(mountpoint, flags);
  if (status === 0) return;
  const kind = status === -EPERM ? 'denied' : 'mount';
  const why = status === -EBUSY ? 'a file on it is open for writing' : `errno ${-status}`;
  throw new ImageError(kind, `${shownPath(mountpoint)}: remounting it read-only failed: ${why}`);
}
