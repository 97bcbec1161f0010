/**
 * The second transport: the same file system through the npm package fuse-native (libfuse 2.9). Paths instead
 * of nodes, every request in the main thread, no SEEK_HOLE, no fallocate(2), no page cache that is written back,
 * reads and writes of 128 KiB at most. An adapter and nothing more: it resolves a path, calls the file system, and
 * hands its status to the callback.
 */

import { EINVAL, EIO, ENODATA, ERANGE } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import { ROOT_NODE } from '../../fuse/abi.ts';
import { Attributes } from '../../fuse/attributes.ts';
import { FileSystem, O_DSYNC } from '../../fuse/filesystem.ts';
import type { Time } from '../../fuse/times.ts';
import { hasShared, isWritable } from '../../fuse/tree.ts';
import { reportOnce } from '../../image/report-once.ts';
import { MOUNT_TYPE, unmountPath } from '../kernel/mounter.ts';
import { findMount } from '../mountinfo.ts';
import type { Mount, MountEnd, MountRequest, Transport, TransportLog } from '../transport.ts';
import { type Done, loadPackage, type NativeHandlers, type NativeStat } from './binding.ts';
import { connect, MAX_TEXT_BYTES } from './connection.ts';

/** In a handle: opened with O_DSYNC or O_SYNC. With a write the package does not tell. */
const STABLE = 2 ** 30;

/** chown(2): the owner or the group stays as it is. */
const UNCHANGED = 0xffffffff;

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
    const fs = new FileSystem(request.tree, reportOnce(log.warn), request.threads + 1);
    let forced: MountEnd | undefined;
    const unmount = (how: 'clean' | 'force'): number => {
      if (findMount(mountpoint)?.type !== MOUNT_TYPE) return -EINVAL;
      const status = unmountPath(mountpoint, how);
      if (status === 0 && how === 'force') forced ??= { how: 'aborted' };
      return status;
    };
    const cut = (): void => {
      unmount('force');
    };
    const connection = await connect(native, mountpoint, mountOptions(request), handlersOf(fs, log), cut);
    log.debug('FUSE through libfuse 2, requests are answered by the main thread');
    const abandon = (reason: string): void => {
      forced = { how: 'failed', reason, abandoned: true };
      cut();
    };
    const ended = connection.ended.then((end) => forced ?? end);
    // Who asks is the thread that answers.
    return { ended, unmount, abandon, stop: () => false, isAnswering: () => true };
  },
};

/**
 * The text after -o. `use_ino` shows our node numbers, `kernel_cache` keeps pages over close and open: nobody but
 * the mount's users changes what is shown. Where files share a disk, `direct_io` goes past the page cache, for all
 * files, which then cannot be mapped as shared. `attr_timeout=0`: see `cuts` in `handlersOf`. libfuse refuses a mountpoint that is not empty (the daemon has checked that), while
 * fusermount3 does not know the option.
 */
export function mountOptions(request: MountRequest): string {
  const cache = hasShared(request.tree) ? 'direct_io' : 'kernel_cache';
  const options = ['noatime', 'default_permissions', 'use_ino', cache, 'subtype=vdisk-mount'];
  if (isWritable(request.tree)) options.push('rw', 'big_writes', 'attr_timeout=0');
  else options.push('ro');
  if (request.tree.sync) options.push('sync');
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

  /**
   * Files that were cut, and to what size. The kernel drops the pages behind a cut only where the size that it
   * is told is smaller than before; libfuse asks for that right after `truncate`. So it is told once what was
   * asked for; the disk's own size comes with the next question, which `attr_timeout=0` makes it ask every time.
   */
  const cuts = new Map<string, number>();
  const truncate = (path: string, size: number): number => {
    const status = at(path, (node) => fs.setattr(node, { size }));
    if (status === 0) cuts.set(path, size);
    return status;
  };

  const getattr = (path: string, done: (status: number, stat?: NativeStat) => void): void => {
    const found = new Attributes();
    const status = at(path, (node) => fs.getattr(node, found));
    const cut = cuts.get(path);
    if (cut !== undefined) {
      cuts.delete(path);
      found.size = cut;
    }
    if (status < 0) done(status);
    else done(0, statOf(found));
  };
  const refuse = (done: Done): void => done(guard(() => fs.refuse()));

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
      for (const entry of fs.listing.entries) {
        if (entry === undefined) continue;
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
      else done(0, (flags & O_DSYNC) === 0 ? handle : handle | STABLE);
    },
    read: (_path, handle, target, length, from, done) => {
      done(guard(() => fs.read(handle & ~STABLE, target, 0, length, from)));
    },
    write: (_path, handle, bytes, length, to, done) => {
      const flags = (handle & STABLE) === 0 ? 0 : O_DSYNC;
      done(guard(() => fs.write(handle & ~STABLE, bytes, 0, length, to, flags, false)));
    },
    truncate: (path, size, done) => done(truncate(path, size)),
    ftruncate: (path, _fd, size, done) => done(truncate(path, size)),
    utimens: (path, atime, mtime, done) => done(at(path, (node) => fs.setattr(node, { atime, mtime }))),
    chmod: (path, mode, done) => done(at(path, (node) => fs.setattr(node, { mode }))),
    chown: (path, uid, gid, done) => {
      const change = { uid: uid === UNCHANGED ? undefined : uid, gid: gid === UNCHANGED ? undefined : gid };
      done(at(path, (node) => fs.setattr(node, change)));
    },
    mknod: (_path, _mode, _device, done) => refuse(done),
    mkdir: (_path, _mode, done) => refuse(done),
    unlink: (_path, done) => refuse(done),
    rmdir: (_path, done) => refuse(done),
    symlink: (_path, _target, done) => refuse(done),
    link: (_path, _target, done) => refuse(done),
    rename: (_path, _target, done) => refuse(done),
    // Whether who closes has written is not known here: fsync(2) tells of errors.
    flush: (_path, handle, done) =>
      done(
        Math.max(
          0,
          guard(() => fs.closing(handle & ~STABLE)),
        ),
      ),
    fsync: (_path, _datasync, handle, done) => done(guard(() => fs.fsync(handle & ~STABLE))),
    release: (_path, _fd, done) => done(0),
    getxattr: (path, name, target, done) => {
      const outcome = at(path, (node) => {
        const value = fs.attribute(node, name);
        return value === undefined ? -ENODATA : putSized(Buffer.from(value), target);
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
