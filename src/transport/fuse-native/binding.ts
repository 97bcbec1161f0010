/**
 * The package fuse-native 2.2.6, as far as it is called here: declared by hand, because it brings no types,
 * and loaded late, because it is optional. What each member does is said in its index.js and fuse-native.c.
 */

import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { ImageError } from '../../base/errors.ts';

/** Attributes as the package takes them; times in whole milliseconds since 1970, 0 or more. */
export interface NativeStat {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly nlink: number;
  readonly ino: number;
  readonly blksize: number;
  readonly blocks: number;
  readonly atime: number;
  readonly mtime: number;
  readonly ctime: number;
}

/** All 32 bits wide. */
export interface NativeStatfs {
  readonly bsize: number;
  readonly frsize: number;
  readonly blocks: number;
  readonly files: number;
  readonly namemax: number;
}

/** Called exactly once: 0 (for READ and WRITE: the bytes moved) or -errno. */
export type Done = (status: number) => void;

/** One handler per operation, called in the main thread. A missing one is answered with ENOSYS by libfuse. */
export interface NativeHandlers {
  getattr(path: string, done: (status: number, stat?: NativeStat) => void): void;
  /** Only its presence counts: the package calls getattr in its place. */
  fgetattr(path: string, fd: number, done: (status: number, stat?: NativeStat) => void): void;
  access(path: string, mode: number, done: Done): void;
  statfs(path: string, done: (status: number, statfs?: NativeStatfs) => void): void;
  opendir(path: string, flags: number, done: (status: number, fd?: number) => void): void;
  readdir(
    path: string,
    done: (status: number, names?: readonly string[], stats?: readonly NativeStat[]) => void,
  ): void;
  releasedir(path: string, fd: number, done: Done): void;
  fsyncdir(path: string, datasync: number, fd: number, done: Done): void;
  open(path: string, flags: number, done: (status: number, fd?: number) => void): void;
  read(path: string, fd: number, target: Buffer, length: number, at: number, done: Done): void;
  write(path: string, fd: number, bytes: Buffer, length: number, at: number, done: Done): void;
  truncate(path: string, size: number, done: Done): void;
  ftruncate(path: string, fd: number, size: number, done: Done): void;
  /** Times in ms since 1970. A defect of the package: `mtime` is `atime` (fuse-native.c, `utimens`). */
  utimens(path: string, atime: number, mtime: number, done: Done): void;
  chmod(path: string, mode: number, done: Done): void;
  /** 2^32 - 1: stays as it is. */
  chown(path: string, uid: number, gid: number, done: Done): void;
  mknod(path: string, mode: number, device: number, done: Done): void;
  mkdir(path: string, mode: number, done: Done): void;
  unlink(path: string, done: Done): void;
  rmdir(path: string, done: Done): void;
  symlink(path: string, target: string, done: Done): void;
  link(path: string, target: string, done: Done): void;
  rename(path: string, target: string, done: Done): void;
  flush(path: string, fd: number, done: Done): void;
  fsync(path: string, datasync: number, fd: number, done: Done): void;
  release(path: string, fd: number, done: Done): void;
  /** Not the package's own signature: see `NativeSession._op_getxattr`. */
  getxattr(path: string, name: string, target: Buffer, done: Done): void;
  /** Not the package's own signature: see `NativeSession._op_listxattr`. */
  listxattr(path: string, target: Buffer, done: Done): void;
}

type Signal = (status: number, memory: ArrayBufferLike) => void;

/** An instance of the package's class: one mount. */
export interface NativeSession {
  /** Called once when the kernel's INIT is answered. */
  _openCallback: (() => void) | null;
  /** libfuse's state; it must live as long as the mount. */
  _thread: Buffer | null;
  readonly _malloc: (size: number) => Buffer;
  readonly _handlers: readonly unknown[];
  _getImplementedArray(): Uint32Array;
  _op_getxattr(signal: Signal, path: string, name: string, target: Buffer): void;
  _op_listxattr(signal: Signal, path: string, target: Buffer): void;
}

export type NativeClass = new (
  mountpoint: string,
  handlers: NativeHandlers,
  options: { readonly timeout: false },
) => NativeSession;

/** The compiled half of the package. */
export interface NativeLibrary {
  readonly sizeof_fuse_thread_t: number;
  /** Mounts and starts libfuse's threads. Throws Error('fuse failed'); libfuse says why on stderr. */
  fuse_native_mount(
    mountpoint: string,
    options: string,
    thread: Buffer,
    session: NativeSession,
    malloc: NativeSession['_malloc'],
    handlers: NativeSession['_handlers'],
    implemented: Uint32Array,
  ): void;
  /** Lets go of the event loop; it unmounts nothing. */
  fuse_native_unmount(mountpoint: string, thread: Buffer): void;
}

export interface NativePackage {
  readonly Fuse: NativeClass;
  readonly library: NativeLibrary;
}

/** Loads the package. Throws ImageError('mount') where it is missing or its binary does not fit. */
export function loadPackage(): NativePackage {
  const require = createRequire(import.meta.url);
  try {
    const entry = require.resolve('fuse-native');
    const Fuse = require('fuse-native') as NativeClass;
    const build = createRequire(entry)('node-gyp-build') as (directory: string) => NativeLibrary;
    return { Fuse, library: build(dirname(entry)) };
  } catch (problem) {
    throw describeLoadFailure(problem);
  }
}

/** What to do about a package that cannot be loaded. */
export function describeLoadFailure(problem: unknown): ImageError {
  const text = problem instanceof Error ? problem.message : String(problem);
  const first = text.split('\n')[0]!;
  const missing = /Cannot find (module|package) 'fuse-native'/.test(text);
  const hint = missing
    ? 'Install it with "npm install fuse-native@2.2.6", or leave out --transport fuse-native.'
    : text.includes('libfuse.so.2')
      ? 'Install libfuse 2 ("apt install libfuse2"), or leave out --transport fuse-native.'
      : 'It has binaries for x86-64 only: leave out --transport fuse-native.';
  const what = missing
    ? 'the package fuse-native is not installed'
    : `fuse-native cannot be loaded: ${first}`;
  return new ImageError('mount', what, { hint, cause: problem });
}
