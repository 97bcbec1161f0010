/**
 * Handing a mount over to libfuse's helper of mount(8), mount.fuse3(8), for the two options that are its own: setuid=USER
 * becomes another user, drop_privileges mounts first and gives all rights up; only then it starts vdisk-mount, which in the
 * second case finds the device at "/dev/fd/N". For our types our own helper stands where it would be looked for.
 */

import { spawnSync } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { dirname } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { clearStaleMount, findHelper, MOUNT_TYPE, unmountPath } from '../transport/kernel/mounter.ts';
import { findMount } from '../transport/mountinfo.ts';
import { INTERRUPTED } from './exit-code.ts';

const DROPS = 'drop_privileges';

/** Whether one of the words of -o is for mount.fuse3 alone. */
export function isForLibfuse(words: readonly string[]): boolean {
  return words.some((word) => word === DROPS || word.startsWith('setuid='));
}

/** What our own mounts always have (mounter.ts), which is mount.fuse3's to ask for where it mounts. */
const ALWAYS = ['nosuid', 'nodev', 'noatime', 'default_permissions'];

/** The caller's is not trusted: mount(8) may have been called by anybody. */
const SYSTEM_PATH = '/usr/sbin:/usr/bin:/sbin:/bin';

const escaped = (word: string): string => word.replaceAll('\\', '\\\\').replaceAll(',', '\\,');

/**
 * Runs mount.fuse3 with the words of -o and waits; returns its exit status, which is vdisk-mount's. A dead mount of ours is
 * cleared before, and what it has mounted is taken away where vdisk-mount failed. Throws ImageError('mount') where it is not
 * to be had.
 */
export function runLibfuseHelper(source: string, mountpoint: string, words: readonly string[]): number {
  const program = findHelper('mount.fuse3');
  if (program === undefined) {
    throw new ImageError(
      'mount',
      `-o ${words.find((word) => isForLibfuse([word]))}: mount.fuse3 was not found`,
      {
        hint: 'Install it ("apt install fuse3").',
      },
    );
  }
  const drops = words.includes(DROPS);
  if (drops) clearStaleMount(mountpoint);
  const before = findMount(mountpoint)?.id;
  const named = words.some((word) => word.startsWith('fsname='));
  const all = [...words, ...(drops ? ALWAYS : []), ...(drops && !named ? [`fsname=${source}`] : [])];
  // It looks for vdisk-mount in PATH, and that for node: ours are where this program and its interpreter are.
  const programs = [dirname(realpathSync(process.argv[1]!)), dirname(process.execPath), SYSTEM_PATH];
  const args = [source, mountpoint, '-t', MOUNT_TYPE, '-o', all.map(escaped).join(',')];
  const outcome = spawnSync(program, args, {
    stdio: 'inherit',
    env: { ...process.env, PATH: programs.join(':') },
  });
  const status = outcome.status ?? INTERRUPTED;
  const left = findMount(mountpoint);
  if (status !== 0 && left?.type === MOUNT_TYPE && left.id !== before) unmountPath(mountpoint, 'lazy');
  if (outcome.error !== undefined) throw new ImageError('mount', `${program}: ${outcome.error.message}`);
  return status;
}
