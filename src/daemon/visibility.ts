/** Who can see a mount: what an ordinary user learns otherwise from root's "Permission denied". */

import type { MountConfig } from './config.ts';

export interface VisibilityNote {
  readonly text: string;
  readonly hint: string;
}

/**
 * What there is to say of who can see the mount of the user `euid`; undefined where others can, or where it is not ours to
 * know. (The kernel keeps even root out, fuse_allow_current_process(): a file system of a user's could delay for ever
 * whoever comes to it.)
 */
export function visibilityNote(
  { allowOther, mountpoint }: Pick<MountConfig, 'allowOther' | 'mountpoint'>,
  euid: number | undefined = process.geteuid?.(),
): VisibilityNote | undefined {
  // Mounted already, by mount.fuse3 with options of its own.
  const isGiven = mountpoint.startsWith('/dev/fd/');
  if (euid === undefined || euid === 0 || allowOther || isGiven) return undefined;
  return {
    text: `only you can see ${mountpoint}, not even root: losetup, mount -o loop and services get "Permission denied"`,
    hint: 'To change that: -o allow_other, with the line "user_allow_other" in /etc/fuse.conf.',
  };
}
