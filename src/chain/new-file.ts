/** New files that are there as a whole or not at all, whatever fails in between. */

import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';

export interface NewFile {
  /** The first bytes; the rest is a hole. */
  readonly head: Uint8Array;
  /** Bytes of the file. */
  readonly size: number;
}

let count = 0;

/** A name that nobody else has in `directory`. */
function unusedPath(directory: string): string {
  count += 1;
  return join(directory, `.vdisk-${process.pid}-${Date.now()}-${count}.new`);
}

/**
 * Makes `path` a file that is stable when this returns. A file that is there already stays as it is: then this does
 * nothing. `mode`: permission bits, before the umask. Throws ImageError, with nothing left behind.
 */
export function createFile(path: string, mode: number, file: NewFile): void {
  const directory = dirname(path);
  const temporary = unusedPath(directory);
  try {
    const fd = openSync(temporary, 'wx', mode);
    try {
      fill(fd, file);
      fsyncSync(fd);
      giveName(temporary, path);
    } finally {
      closeSync(fd);
      rmSync(temporary, { force: true });
    }
    syncDirectory(directory);
  } catch (problem) {
    throw describeFailure(path, problem);
  }
}

export interface MakeFile {
  /** Permission bits, before the umask. */
  readonly mode: number;
  readonly replace: boolean;
  /**
   * Of what it is made: a file in the same directory that is there from before, or is made; `keeps` is asked where it
   * did not get its name. Undefined: one that nobody else knows.
   */
  readonly partial?: { readonly path: string; keeps(): boolean } | undefined;
  /** Whether its name is stable too at the end. */
  readonly flush: boolean;
}

/**
 * Makes `path` a file of what `fill` writes into the descriptor, stable when this returns. With `replace` it takes the
 * place of a file that is there, at once; else one that is there stays, and is an error. Throws ImageError, or what
 * `fill` threw, with nothing left behind but a `partial` that is kept, and nothing replaced.
 */
export async function makeFile(
  path: string,
  { mode, replace, partial, flush }: MakeFile,
  fill: (fd: number) => Promise<void>,
): Promise<void> {
  const directory = dirname(path);
  const temporary = partial?.path ?? unusedPath(directory);
  try {
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK } = constants;
    const mine = partial === undefined ? O_EXCL : O_NOFOLLOW | O_NONBLOCK;
    const fd = openSync(temporary, O_RDWR | O_CREAT | mine, mode);
    let named = false;
    try {
      await fill(fd);
      if (replace) renameSync(temporary, path);
      else if (!giveName(temporary, path)) throw alreadyThere(path);
      named = true;
    } finally {
      closeSync(fd);
      if (named || partial?.keeps() !== true) rmSync(temporary, { force: true });
    }
    if (flush) syncDirectory(directory);
  } catch (problem) {
    throw problem instanceof ImageError ? problem : describeFailure(path, problem);
  }
}

export const alreadyThere = (path: string): ImageError =>
  new ImageError('usage', `${shownPath(path)}: is there already`, {
    hint: 'Name another file; or --force puts the new one in its place, and what is in it is lost.',
  });

/**
 * A link, and not a rename, so that what another process made meanwhile is not replaced. On file systems without links
 * it is a rename, and what was made in that very moment is. False where another file has the name.
 */
function giveName(temporary: string, path: string): boolean {
  try {
    linkSync(temporary, path);
    return true;
  } catch (problem) {
    const code = String(codeOf(problem));
    if (code === 'EEXIST') return false;
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'].includes(code)) throw problem;
    if (existsSync(path)) return false;
    renameSync(temporary, path);
    return true;
  }
}

/** A file without a name in `directory`, open for reading and writing: it is gone when it is closed. Throws ImageError. */
export function openUnnamed(directory: string, file: NewFile): number {
  const path = unusedPath(directory);
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    unlinkSync(path);
    fill(fd, file);
    return fd;
  } catch (problem) {
    if (fd !== undefined) closeSync(fd);
    throw describeFailure(`a temporary file in ${directory}`, problem);
  }
}

function fill(fd: number, { head, size }: NewFile): void {
  for (let done = 0; done < head.length; ) done += writeSync(fd, head, done, head.length - done, done);
  ftruncateSync(fd, size);
}

function syncDirectory(directory: string): void {
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

const codeOf = (problem: unknown): unknown =>
  problem instanceof Error && 'code' in problem ? problem.code : undefined;

function describeFailure(path: string, problem: unknown): ImageError {
  switch (codeOf(problem)) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new ImageError('usage', `${path}: cannot be created: its directory is not there`, {
        cause: problem,
      });
    case 'EACCES':
    case 'EPERM':
      return new ImageError('denied', `${path}: cannot be created: permission denied`, { cause: problem });
    case 'EROFS':
      return new ImageError('denied', `${path}: cannot be created: its file system is mounted read-only`, {
        cause: problem,
      });
    case 'ENOSPC':
    case 'EDQUOT':
      return new ImageError('io', `${path}: cannot be created: no space is left on the file system`, {
        cause: problem,
      });
    case 'EFBIG':
      return new ImageError('io', `${path}: cannot be created: the file system has no files that large`, {
        cause: problem,
      });
    default:
      return ImageError.from(problem, 'io', `${path}: cannot be created`);
  }
}
