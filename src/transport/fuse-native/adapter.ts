/**
 * The second transport: the same file system through the npm package fuse-native (libfuse 2.9). Paths instead
 * of nodes, every request in the main thread, no SEEK_HOLE, reads of 128 KiB at most. An adapter and nothing
 * more: it resolves a path, calls the file system, and hands its status to the callback.
 */

import { EIO, ENODATA, ERANGE } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import { ROOT_NODE } from '../../fuse/abi.ts';
import { Attributes, FileSystem } from '../../fuse/filesystem.ts';
import type { Time } from '../../fuse/tree.ts';
import { reportOnce } from '../../image/report-once.ts';
import { unmountPath } from '../kernel/mounter.ts';
import type { Mount, MountRequest, Transport, TransportLog } from '../transport.ts';
import { loadPackage, type NativeHandlers, type NativeStat } from './binding.ts';
import { connect, MAX_TEXT_BYTES } from './connection.ts';

export const fuseNativeTransport: Transport = {
  name: 'fuse-native',
  async mount(request: MountRequest): Promise<Mount> {
    const { mountpoint, log } = request;
    if (mountpoint.startsWith('/dev/fd/')) {
      throw new ImageError('usage', `${mountpoint}: fuse-native takes no descriptor, only a path`, {
        hint: 'Leave out --transport fuse-native.',
      });
    }
    if (Buffer.byteLength(mountpoint) > MAX_TEXT_BYTES) {
      throw new ImageError(
        'usage',
        `${mountpoint}: fuse-native takes paths of ${MAX_TEXT_BYTES} bytes at most`,
      );
    }
    const native = loadPackage();
    const fs = new FileSystem(request.tree, reportOnce(log.warn));
    const unmount = (how: 'clean' | 'force'): number => unmountPath(mountpoint, how);
    const cut = (): void => {
      unmount('force');
    };
    const { ended } = await connect(native, mountpoint, mountOptions(request), handlersOf(fs, log), cut);
    log.debug('FUSE through libfuse 2, requests are answered by the main thread');
    return { ended, unmount };
  },
};

/**
 * The text after -o. `use_ino` shows our node numbers, `kernel_cache` keeps pages over close and open: what is
 * shown does not change. libfuse refuses a mountpoint that is not empty (the daemon has checked that), while
 * fusermount3 does not know the option.
 */
export function mountOptions(request: MountRequest): string {
  const options = ['ro', 'noatime', 'default_permissions', 'use_ino', 'kernel_cache', 'subtype=vdisk-mount'];
  if (process.geteuid?.() === 0) options.push('nonempty');
  if (request.noexec) options.push('noexec');
  if (request.allowOther) options.push('allow_other');
  if (request.trace) options.push('debug');
  const text = options.join(',');
  // It is only shown: better cut at its start than that options are lost.
  let name = request.fsname.slice(-MAX_TEXT_BYTES);
  const withName = (): string => `${text},fsname=${name.replaceAll('\\', '\\\\').replaceAll(',', '\\,')}`;
  while (Buffer.byteLength(withName()) > MAX_TEXT_BYTES - 2) name = name.slice(1);
  return withName();
}

function statOf(from: Attributes): NativeStat {
  const time = ({ seconds, nanoseconds }: Time): number =>
    Math.max(0, seconds * 1000 + Math.floor(nanoseconds / 1_000_000));
  return {
    mode: from.mode,
    uid: from.uid,
    gid: from.gid,
    size: from.size,
    nlink: from.links,
    ino: from.node,
    blksize: from.blockSize,
    blocks: from.blocks,
    atime: time(from.atime),
    mtime: time(from.mtime),
    ctime: time(from.ctime),
  };
}

/** `value` copied into `target`; only its size where there is no room at all, as getxattr(2) has it. */
function putSized(value: Buffer, target: Buffer): number {
  if (target.length === 0) return value.length;
  return value.length > target.length ? -ERANGE : value.copy(target);
}

/** The file system as fuse-native calls it. */
export function handlersOf(fs: FileSystem, log: TransportLog): NativeHandlers {
  /** What `work` answers; EIO where it throws, which is a defect of this program. */
  const guard = (work: () => number): number => {
    try {
      return work();
    } catch (problem) {
      const text = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
      log.error(`internal error, answered with EIO: ${text}`);
      return -EIO;
    }
  };
  const at = (path: string, work: (node: number) => number): number =>
    guard(() => {
      if (path === '/') return work(ROOT_NODE);
      const node = fs.lookup(ROOT_NODE, Buffer.from(path.slice(1)).toString('latin1'));
      return node < 0 ? node : work(node);
    });

  const getattr = (path: string, done: (status: number, stat?: NativeStat) => void): void => {
    const found = new Attributes();
    const status = at(path, (node) => fs.getattr(node, found));
    if (status < 0) done(status);
    else done(0, statOf(found));
  };

  return {
    getattr,
    fgetattr: (path, _fd, done) => getattr(path, done),
    access: (path, mode, done) => done(at(path, (node) => fs.access(node, mode))),
    statfs: (_path, done) => {
      let bytes = 0;
      let files = 0;
      const status = guard(() => {
        ({ bytes, files } = fs.size());
        return 0;
      });
      // The package carries 32 bits: less than 16 TiB in blocks of 4 KiB.
      let unit = 4096;
      while (bytes / unit > 0xffffffff) unit *= 2;
      if (status < 0) done(status);
      else done(0, { bsize: unit, frsize: unit, blocks: Math.ceil(bytes / unit), files, namemax: 255 });
    },
    opendir: (path, _flags, done) => done(at(path, (node) => fs.opendir(node))),
    readdir: (path, done) => {
      const names = ['.', '..'];
      const directory = new Attributes();
      const status = at(path, (node) => fs.opendir(node) || fs.getattr(node, directory));
      if (status < 0) {
        done(status);
        return;
      }
      // Of each entry only the type and the number are looked at.
      const root = statOf(directory);
      const stats = [root, root];
      for (const entry of fs.entries) {
        names.push(entry.name.toString());
        stats.push({ ...root, mode: entry.mode, ino: entry.node });
      }
      done(0, names, stats);
    },
    releasedir: (_path, _fd, done) => done(0),
    fsyncdir: (_path, _datasync, _fd, done) => done(0),
    open: (path, flags, done) => {
      const handle = at(path, (node) => fs.open(node, flags));
      if (handle < 0) done(handle);
      else done(0, handle);
    },
    read: (_path, handle, target, length, from, done) => {
      done(guard(() => fs.read(handle, target, 0, length, from)));
    },
    flush: (_path, _fd, done) => done(0),
    fsync: (_path, _datasync, _fd, done) => done(0),
    release: (_path, _fd, done) => done(0),
    getxattr: (path, name, target, done) => {
      const outcome = at(path, (node) => {
        const found = fs.attributes(node).find(([known]) => known === name);
        return found === undefined ? -ENODATA : putSized(Buffer.from(found[1]), target);
      });
      done(outcome);
    },
    listxattr: (path, target, done) => {
      const outcome = at(path, (node) => {
        const names = fs.attributes(node).map(([name]) => `${name}\0`);
        return putSized(Buffer.from(names.join('')), target);
      });
      done(outcome);
    },
  };
}
