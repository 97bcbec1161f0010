/**
 * The gate before every file that is opened because an image says so: regular files in the allowed directories, by
 * their real paths, looked at before they are opened and again when they are open.
 */

import { fstatSync, readlinkSync, realpathSync, type Stats, statSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { ChainPolicy } from './policy.ts';

/** VirtualBox puts the differencing images of a machine there, below the directory of their base images. */
export const SNAPSHOTS = 'Snapshots';

interface Tree {
  /** A real path. */
  readonly path: string;
  /** Whether what lies in directories below it is allowed as well. */
  readonly deep: boolean;
}

/** The real path of a file that may be opened, or why it may not. */
export type Admission =
  | { readonly path: string; readonly key: string }
  | { readonly refused: string; readonly missing: boolean };

/** Two paths of one file have the same key. */
export function keyOf({ dev, ino }: Pick<Stats, 'dev' | 'ino'>): string {
  return `${dev}:${ino}`;
}

/** Where the file behind a descriptor really is. Throws ImageError('io') where the system does not say. */
export function realPathOf(fd: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch (problem) {
    throw ImageError.from(problem, 'io', 'where an open file is cannot be told');
  }
}

const refuse = (refused: string, missing = false): Admission => ({ refused, missing });

function unseen(problem: unknown): Admission {
  const code = problem instanceof Error && 'code' in problem ? problem.code : undefined;
  if (code === 'ENOENT' || code === 'ENOTDIR') return refuse('there is no such file', true);
  if (code === 'ELOOP') return refuse('its links lead nowhere');
  if (code === 'EACCES' || code === 'EPERM') return refuse('permission denied');
  return refuse(`it cannot be looked at (${code})`);
}

/** Looks at a file that the user named: it may be anywhere, and be a device. */
export function admitNamed(path: string): Admission {
  try {
    return { path, key: keyOf(statSync(path)) };
  } catch (problem) {
    return unseen(problem);
  }
}

const isBelow = (directory: string, path: string): boolean =>
  path.startsWith(directory === '/' ? '/' : `${directory}/`);

export class Gate {
  /** The directories of the user, by their real paths, in the order given; those that are not there left out. */
  readonly parentDirs: readonly string[];
  readonly #trees: readonly Tree[];

  /**
   * `root` is where the first image really is: its directory and all below it are allowed, and in the layout of
   * VirtualBox the files beside the directory of snapshots. Undefined for a device, which lies in no directory of
   * images. `report` is told of directories of the policy that are not there.
   */
  constructor(root: string | undefined, policy: ChainPolicy, report: (text: string) => void) {
    this.parentDirs = policy.parentDirs.flatMap((path) => {
      try {
        if (statSync(path).isDirectory()) return [realpathSync(path)];
      } catch {
        // Told below.
      }
      report(`--parent-dir=${shownPath(path)}: is no directory`);
      return [];
    });
    const trees = this.parentDirs.map((path) => ({ path, deep: true }));
    if (root !== undefined) {
      const path = dirname(root);
      trees.unshift({ path, deep: true });
      if (basename(path) === SNAPSHOTS) trees.push({ path: dirname(path), deep: false });
    }
    this.#trees = trees;
  }

  /** The allowed directory in which an absolute path without "." and ".." lies; undefined where it lies in none. */
  treeOf(path: string): string | undefined {
    const tree = this.#trees.find(({ path: top, deep }) =>
      deep ? isBelow(top, path) : dirname(path) === top,
    );
    return tree?.path;
  }

  /** Whether the files of a directory may be opened. */
  allowsDirectory(path: string): boolean {
    return this.#trees.some(({ path: top, deep }) => path === top || (deep && isBelow(top, path)));
  }

  /** Why nothing outside of the allowed directories is opened. */
  get outside(): string {
    const trees = this.#trees.map(({ path }) => shownPath(path));
    return trees.length === 0
      ? 'no directory is allowed: a device lies in none'
      : `it is outside of ${trees.join(' and ')}, where parents may lie`;
  }

  /** Looks at a path without opening what is there. */
  admit(path: string): Admission {
    if (this.treeOf(path) === undefined) return refuse(this.outside);
    try {
      const real = realpathSync(path);
      if (this.treeOf(real) === undefined) return refuse(`it leads to ${shownPath(real)}: ${this.outside}`);
      const stat = statSync(real);
      return stat.isFile() ? { path: real, key: keyOf(stat) } : refuse('it is not a regular file');
    } catch (problem) {
      return unseen(problem);
    }
  }

  /**
   * Looks at what was opened: between `admit` and the opening somebody may have put something else there. Throws
   * ImageError('denied').
   */
  verify(fd: number): void {
    const path = realPathOf(fd);
    if (!fstatSync(fd).isFile())
      throw new ImageError('denied', `${shownPath(path)}: it is not a regular file`);
    if (this.treeOf(path) === undefined)
      throw new ImageError('denied', `${shownPath(path)}: ${this.outside}`);
  }
}
