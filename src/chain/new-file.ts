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

/**
 * A link, and not a rename, so that what another process made meanwhile is not replaced. On file systems without links
 * it is a rename, and what was made in that very moment is.
 */
function giveName(temporary: string, path: string): void {
  try {
    linkSync(temporary, path);
  } catch (problem) {
    const code = String(codeOf(problem));
    if (code === 'EEXIST') return;
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'].includes(code)) throw problem;
    if (!existsSync(path)) renameSync(temporary, path);
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
    case 'EROFS':
      return new ImageError('denied', `${path}: cannot be created: permission denied`, { cause: problem });
    default:
      return ImageError.from(problem, 'io', `${path}: cannot be created`);
  }
}
