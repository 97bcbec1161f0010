/**
 * The file system: names, attributes and handles on one side, disks on the other. Inode-based, as the kernel
 * is; both transports call it. Data plane: nothing throws, results are counts or -errno. Which files there are is
 * the listing's (listing.ts).
 */

import {
  EACCES,
  EFBIG,
  EINVAL,
  EISDIR,
  ENOENT,
  ENOSPC,
  ENOTDIR,
  ENXIO,
  EOPNOTSUPP,
  EPERM,
  EROFS,
  type Moved,
  type Status,
} from '../base/errno.ts';
import { type ByteCount, guestOffset } from '../base/units.ts';
import type { Disk } from '../disk/disk.ts';
import type { Window } from '../disk/window.ts';
import type { Report } from '../image/driver.ts';
import type { PagePool } from '../shared/page-pool.ts';
import { ROOT_NODE } from './abi.ts';
import { type AttributeChange, type Attributes, S_IFDIR, S_IFREG } from './attributes.ts';
import { Counters, FLUSH, READ, WRITE, ZERO } from './counters.ts';
import { Listing } from './listing.ts';
import { ATIME, CTIME, FileTimes, MTIME } from './times.ts';
import { attachThread, type FileSeed, isWritable, type TreeSeed } from './tree.ts';

export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** Bits of open(2): 0 is O_RDONLY. */
export const O_ACCMODE = 3;
/** Of open(2); also a bit of O_SYNC. */
export const O_DSYNC = 0o10000;
const W_OK = 2;
const PERMISSIONS = 0o7777;

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;

export interface FileSystemSize {
  readonly bytes: ByteCount;
  readonly files: number;
}

/** Made anew for each request; the others are fixed when the mount is made. */
const STATS_ATTRIBUTE = 'user.vdisk.stats';

export class FileSystem {
  readonly listing: Listing;
  readonly #seed: TreeSeed;
  readonly #allocated: Float64Array;
  readonly #times: FileTimes;
  readonly #counters: Counters;
  readonly #pool: PagePool;
  /** Whether any file is writable; else the mount is read-only. Files that join later do not change it. */
  readonly writable: boolean;

  /** `thread` is this thread's number among those of the mount (TreeSeed.gate). */
  constructor(seed: TreeSeed, report: Report, thread: number) {
    this.#seed = seed;
    const attach = attachThread(seed, report, thread);
    this.listing = new Listing(seed, attach);
    this.#allocated = new Float64Array(seed.allocated);
    this.#times = new FileTimes(seed.times);
    this.#pool = attach.pool;
    this.#counters = new Counters(seed.counters, this.listing.members.capacity, thread);
    this.writable = isWritable(seed);
  }

  /** Bytes of a file; 0 where there is none. */
  sizeOf(node: number): ByteCount {
    return this.listing.fileOf(node)?.size ?? 0;
  }

  /** Whether the same bytes are changed through other files too: the kernel must not keep them. */
  isShared(node: number): boolean {
    return this.listing.fileOf(node)?.shared === true;
  }

  #isRootDirectory(node: number): boolean {
    return node === ROOT_NODE && this.#seed.shape === 'directory';
  }

  /** The node of `name` (its bytes, as Latin-1) in directory `parent`, or -errno. */
  lookup(parent: number, name: string): number {
    if (!this.#isRootDirectory(parent)) return -ENOTDIR;
    return this.listing.nodeOf(name);
  }

  getattr(node: number, out: Attributes): Status {
    const seed = this.#seed;
    out.node = node;
    out.uid = seed.uid;
    out.gid = seed.gid;
    if (this.#isRootDirectory(node)) {
      out.size = 0;
      out.blocks = 0;
      out.mode = S_IFDIR | (0o555 & ~seed.umask);
      out.links = 2;
      out.blockSize = 4096;
      out.atime = out.mtime = out.ctime = seed.mounted;
      return 0;
    }
    const file = this.listing.fileOf(node);
    if (file === undefined) return -ENOENT;
    out.size = file.size;
    // How much of that is in a window is not known: this is the most that can be, and is never 0 for data.
    out.blocks = Math.ceil(Math.min(this.#allocated[file.file]!, out.size) / 512);
    out.mode = S_IFREG | this.#permissions(file);
    out.links = 1;
    out.blockSize = file.blockSize;
    const times = this.#times;
    out.atime = times.get(file.file, ATIME, file.times.atime);
    out.mtime = times.get(file.file, MTIME, file.times.mtime);
    out.ctime = times.get(file.file, CTIME, file.times.ctime);
    return 0;
  }

  #permissions(file: FileSeed): number {
    return (file.writable ? 0o644 : 0o444) & ~this.#seed.umask;
  }

  /**
   * Changes times and size. A disk keeps its size: cutting it makes all that lies behind read as zeros, so that
   * what a program leaves behind that begins with O_TRUNC is what it wrote; -EFBIG where it would grow. Owner and
   * mode are those of the mount: -EPERM where they would change.
   */
  setattr(node: number, change: AttributeChange): Status {
    const index = this.listing.slotOf(node);
    const file = this.listing.shown[index];
    if (file === undefined && !this.#isRootDirectory(node)) return -ENOENT;
    if (!(file?.writable ?? this.writable)) return -EROFS;
    const { size, mode, uid, gid, atime, mtime, ctime } = change;
    const permissions = file === undefined ? 0o555 & ~this.#seed.umask : this.#permissions(file);
    if (mode !== undefined && (mode & PERMISSIONS) !== permissions) return -EPERM;
    if (uid !== undefined && uid !== this.#seed.uid) return -EPERM;
    if (gid !== undefined && gid !== this.#seed.gid) return -EPERM;
    if (file === undefined) {
      if (size !== undefined) return -EISDIR;
      return atime === undefined && mtime === undefined ? 0 : -EPERM;
    }
    if (size !== undefined) {
      const status = this.#cut(index, size);
      if (status < 0) return status;
    }
    const times = this.#times;
    if (atime !== undefined) times.set(file.file, ATIME, atime);
    if (mtime !== undefined) times.set(file.file, MTIME, mtime);
    if (ctime !== undefined) times.set(file.file, CTIME, ctime);
    else if (atime !== undefined || mtime !== undefined) times.set(file.file, CTIME, Date.now());
    return 0;
  }

  #cut(index: number, size: number): Status {
    const disk = this.listing.disks[index]!;
    if (size > disk.size) return -EFBIG;
    if (size === disk.size) return 0;
    return this.#zero(index, disk, size, disk.size - size, 'punch');
  }

  #zero(index: number, disk: Disk | Window, at: number, length: ByteCount, how: 'punch' | 'keep'): Status {
    const since = performance.now();
    const status = disk.zero(guestOffset(at), length, how);
    this.#counters.count(index, ZERO, status < 0 ? status : length, since);
    if (status < 0) return status;
    this.#times.touch(this.listing.shown[index]!.file);
    return this.#seed.sync ? this.#flush(index) : 0;
  }

  /** The answer to whoever wants to create, remove or rename something. */
  refuse(): Status {
    return this.writable ? -EPERM : -EROFS;
  }

  /** A handle (0 or more), or -errno. `flags` are those of open(2). */
  open(node: number, flags: number): number {
    if (this.#isRootDirectory(node)) return -EISDIR;
    const file = this.listing.fileOf(node);
    if (file === undefined) return -ENOENT;
    return (flags & O_ACCMODE) === 0 || file.writable ? node : -EROFS;
  }

  opendir(node: number): Status {
    if (this.#isRootDirectory(node)) return 0;
    return this.listing.fileOf(node) === undefined ? -ENOENT : -ENOTDIR;
  }

  /** Reads up to `length` bytes at `at` into target[start…]: short only at the end of the disk. */
  read(handle: number, target: Uint8Array, start: number, length: ByteCount, at: number): Moved {
    const index = this.listing.slotOfHandle(handle);
    if (index < 0) return index;
    const since = performance.now();
    const moved = this.listing.disks[index]!.read(target, start, length, guestOffset(at));
    this.#counters.count(index, READ, moved, since);
    return moved;
  }

  /**
   * Writes `length` bytes at `at` from bytes[start…]: fewer only at the end of the disk, -ENOSPC behind it. Stable
   * on return where the mount or the `flags` of open(2) ask for it.
   *
   * `cached` says that the kernel writes its page cache back. It then keeps the times, and it asks for a flush
   * where the writer wants one: which file the pages were written through is not known.
   */
  write(
    handle: number,
    bytes: Uint8Array,
    start: number,
    length: ByteCount,
    at: number,
    flags: number,
    cached: boolean,
  ): Moved {
    const index = this.listing.slotOfHandle(handle);
    if (index < 0) return index;
    const disk = this.listing.disks[index]!;
    const since = performance.now();
    const moved = disk.write(bytes, start, length, guestOffset(at));
    this.#counters.count(index, WRITE, moved, since);
    if (moved < 0) return moved;
    if (!cached) this.#times.touch(this.listing.shown[index]!.file);
    const stable = this.#seed.sync || (!cached && (flags & O_DSYNC) !== 0);
    const status = stable ? this.#flush(index) : 0;
    return status < 0 ? status : moved;
  }

  /** fsync(2) and fdatasync(2): all that was acknowledged before is stable. */
  fsync(handle: number): Status {
    const index = this.listing.slotOfHandle(handle);
    return index < 0 ? index : this.#flush(index);
  }

  #flush(index: number): Status {
    const since = performance.now();
    const status = this.listing.disks[index]!.flush();
    this.#counters.count(index, FLUSH, status, since);
    return status;
  }

  /**
   * close(2) of one of the file's descriptors: metadata that waits in memory is written, so that who reads the
   * image after the mount is gone need not wait for the daemon's end. Payload is in the host's page cache already.
   */
  closing(handle: number): Status {
    const index = this.listing.slotOfHandle(handle);
    return this.listing.disks[index]?.isDirty ? this.#flush(index) : 0;
  }

  /**
   * fallocate(2). Holes and zeros as asked for, as far as the disk goes; -ENOSPC where the file would become
   * longer. Nothing is reserved: a disk's space is taken when it is written.
   */
  allocate(handle: number, mode: number, at: number, length: ByteCount): Status {
    const index = this.listing.slotOfHandle(handle);
    if (index < 0) return index;
    const disk = this.listing.disks[index]!;
    if (!disk.writable) return -EROFS;
    if (length === 0) return -EINVAL;
    const what = mode & ~FALLOC_FL_KEEP_SIZE;
    const keepsSize = mode !== what;
    if (what !== 0 && what !== FALLOC_FL_ZERO_RANGE && (what !== FALLOC_FL_PUNCH_HOLE || !keepsSize)) {
      return -EOPNOTSUPP;
    }
    if (!keepsSize && at + length > disk.size) return -ENOSPC;
    if (what === 0) return 0;
    return this.#zero(index, disk, at, length, what === FALLOC_FL_PUNCH_HOLE ? 'punch' : 'keep');
  }

  /** SEEK_DATA or SEEK_HOLE of lseek(2): an offset, or -errno. */
  seek(handle: number, at: number, whence: number): Moved {
    const index = this.listing.slotOfHandle(handle);
    if (index < 0) return index;
    const disk = this.listing.disks[index]!;
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return -EINVAL;
    if (at >= disk.size) return -ENXIO;
    return disk.seek(guestOffset(at), whence === SEEK_DATA ? 'data' : 'hole');
  }

  /** access(2) where the kernel asks; it checks modes itself (default_permissions). */
  access(node: number, mask: number): Status {
    const file = this.listing.fileOf(node);
    if (!this.#isRootDirectory(node) && file === undefined) return -ENOENT;
    if ((mask & W_OK) !== 0 && file?.writable !== true) return this.writable && !file ? -EACCES : -EROFS;
    return (mask & 1) !== 0 && file !== undefined ? -EACCES : 0;
  }

  /** Extended attributes of a file: pairs of name and value; none of the directory. */
  attributes(node: number): readonly (readonly [string, string])[] {
    return this.listing.fileOf(node)?.attributes ?? [];
  }

  /** The value of one attribute, or undefined. STATS_ATTRIBUTE is not listed: it is another each time. */
  attribute(node: number, name: string): string | undefined {
    const index = this.listing.slotOf(node);
    const file = this.listing.shown[index];
    if (file === undefined) return undefined;
    if (name === STATS_ATTRIBUTE) return this.#stats(index);
    return file.attributes.find(([known]) => known === name)?.[1];
  }

  /** What happened to a file since the mount was made, as JSON: requests, flushes, the cache of tables. */
  #stats(index: number): string {
    const { flushes, shared, commits, dirtyBytes } = this.listing.disks[index]!.counters();
    const tally = (kind: number) => this.#counters.tally(index, kind);
    const [reads, writes, zeroings] = [tally(READ), tally(WRITE), tally(ZERO)];
    return JSON.stringify({
      reads: reads.count,
      readBytes: reads.bytes,
      writes: writes.count,
      writtenBytes: writes.bytes,
      zeroings: zeroings.count,
      zeroedBytes: zeroings.bytes,
      errors: reads.errors + writes.errors + zeroings.errors,
      flushes,
      flushesShared: shared,
      commits,
      dirtyBytes,
      cache: { ...this.#pool.counters(), bytes: this.#seed.pool.memory.byteLength },
    });
  }

  /** The disks' sizes added up: what df shows, all of it used. Windows are parts of them. */
  size(): FileSystemSize {
    let total = 0;
    let files = 0;
    for (const file of this.listing.shown) {
      if (file === undefined) continue;
      files += 1;
      if (!file.part) total += file.size;
    }
    return { bytes: total, files };
  }
}
