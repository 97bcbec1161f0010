/**
 * Where control sockets are. One per daemon, named after its mountpoint and process, so that a directory tells of all and
 * a mountpoint finds its own without asking the others. The mountpoint is hashed: a socket's path has 107 bytes at most.
 * No two processes ever make one of the same name, so what a daemon left that was killed can be removed at any time.
 */

import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { isThere, ownMark } from './process.ts';

/** sun_path of unix(7), without its NUL. */
const MAX_PATH_BYTES = 107;

const ROOT_DIRECTORY = '/run/vdisk-mount';
const USERS = '/run/user';
const SOCKET = /^[0-9a-f]{16}-(\d+-\d+)\.sock$/;

const uid = (): number => process.geteuid!();

/** The directory for this user's sockets, and records of mounts; undefined where there is none: no XDG_RUNTIME_DIR. */
export function ownDirectory(): string | undefined {
  if (uid() === 0) return ROOT_DIRECTORY;
  const runtime = process.env['XDG_RUNTIME_DIR'] ?? join(USERS, `${uid()}`);
  return runtime.startsWith('/') && isDirectory(runtime) ? join(runtime, 'vdisk-mount') : undefined;
}

function isDirectory(path: string): boolean {
  try {
    return lstatSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** Where this user's sockets may be, and for root those of everybody. */
export function directories(): string[] {
  const own = ownDirectory();
  if (uid() !== 0) return own === undefined ? [] : [own];
  return [ROOT_DIRECTORY, ...listed(USERS).map((name) => join(USERS, name, 'vdisk-mount'))];
}

function listed(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

const markOf = (mountpoint: string): string =>
  createHash('sha256').update(mountpoint).digest('hex').slice(0, 16);

/** Makes sure that `ownDirectory` is there, and is nobody else's. Throws ImageError where there is no such place, with why. */
export function makeOwnDirectory(): string {
  const directory = ownDirectory();
  if (directory === undefined) {
    throw new ImageError('io', 'no place for a control socket: XDG_RUNTIME_DIR names no directory');
  }
  try {
    mkdirSync(directory, { mode: uid() === 0 ? 0o755 : 0o700 });
  } catch (problem) {
    if (!(problem instanceof Error && 'code' in problem && problem.code === 'EEXIST')) {
      throw ImageError.from(problem, 'io', 'no place for a control socket');
    }
  }
  const stat = lstatSync(directory);
  if (!stat.isDirectory() || stat.uid !== uid() || (stat.mode & 0o022) !== 0) {
    throw new ImageError('denied', `${directory}: is not a directory that only this user may write to`);
  }
  return directory;
}

/** The path for a new socket. Throws ImageError as `makeOwnDirectory`. */
export function newSocketPath(mountpoint: string): string {
  const directory = makeOwnDirectory();
  const path = join(directory, `${markOf(mountpoint)}-${ownMark()}.sock`);
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) {
    throw new ImageError('io', `${path}: is too long for a socket (${MAX_PATH_BYTES} bytes at most)`);
  }
  return path;
}

/** The sockets of all daemons that this user may speak to, or of those on `mountpoint`: some may be stale. */
export function socketPaths(mountpoint?: string): string[] {
  const mark = mountpoint === undefined ? '' : markOf(mountpoint);
  return directories().flatMap((directory) =>
    listed(directory)
      .filter((name) => SOCKET.test(name) && name.startsWith(mark))
      .map((name) => join(directory, name)),
  );
}

/**
 * Whether the process that made a socket is gone. Only of sockets in our own directory: another user's may be made to lead
 * elsewhere. A process in another container may look as if it were: whether somebody listens must be tried as well.
 */
export function isOrphaned(path: string): boolean {
  const [, mark] = SOCKET.exec(basename(path)) ?? [];
  return mark !== undefined && dirname(path) === ownDirectory() && !isThere(mark);
}
