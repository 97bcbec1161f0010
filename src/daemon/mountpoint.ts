/** Is the mountpoint fit to be mounted on? Answered before anything is opened or mounted. */

import { readdirSync, type Stats, statSync } from 'node:fs';
import { ImageError } from '../base/errors.ts';
import type { Report } from '../image/driver.ts';
import { clearStaleMount } from '../transport/kernel/mounter.ts';
import { findMount } from '../transport/mountinfo.ts';
import type { MountConfig } from './config.ts';

const refuse = (text: string, hint?: string): ImageError =>
  new ImageError('usage', text, hint === undefined ? {} : { hint });

/**
 * Checks the mountpoint, clears a dead mount of ours from it, and says what the mount will be: a directory of
 * raw files, or (on a regular file) the raw file itself. Throws ImageError('usage' or 'mount').
 */
export function mountShape(config: MountConfig, report: Report): 'directory' | 'file' {
  const { mountpoint } = config;
  if (mountpoint.startsWith('/dev/fd/')) return 'directory';
  const state = clearStaleMount(mountpoint);
  if (state === 'cleared') report(`${mountpoint}: a dead mount was cleared`);
  if (state === 'alive') {
    const entry = findMount(mountpoint);
    throw refuse(
      `${mountpoint}: already mounted (${entry?.type} from ${entry?.source})`,
      `Unmount it first: umount ${mountpoint}`,
    );
  }
  const stat = statMountpoint(mountpoint);
  if (stat.isFile()) {
    if (config.images.some((image) => isSameFile(image, stat))) {
      throw refuse(`${mountpoint}: is the image itself, which the mount would hide`);
    }
    if (config.layers) {
      throw refuse(`${mountpoint}: is a file, which cannot show layers`, 'Mount on a directory instead.');
    }
    if (config.images.length === 1) return 'file';
    throw refuse(
      `${mountpoint}: is a file, which can show one image only; ${config.images.length} were given`,
      'Mount on a directory instead.',
    );
  }
  if (!stat.isDirectory()) throw refuse(`${mountpoint}: is neither a directory nor a regular file`);
  if (!config.nonempty && readdirSync(mountpoint).length > 0) {
    throw refuse(
      `${mountpoint}: is not empty, and what it holds would be hidden`,
      'Choose an empty directory, or say -o nonempty.',
    );
  }
  return 'directory';
}

function isSameFile(path: string, stat: Stats): boolean {
  try {
    const other = statSync(path);
    return other.dev === stat.dev && other.ino === stat.ino;
  } catch {
    // Opening it will say why.
    return false;
  }
}

function statMountpoint(mountpoint: string): Stats {
  try {
    return statSync(mountpoint);
  } catch (problem) {
    const code = problem instanceof Error && 'code' in problem ? problem.code : undefined;
    if (code === 'ENOENT') {
      throw refuse(`${mountpoint}: does not exist`, `Make it first: mkdir -p ${mountpoint}`);
    }
    throw ImageError.from(problem, 'usage', mountpoint);
  }
}
