/**
 * The file system: names, attributes and handles on one side, disks on the other. Inode-based, as the kernel
 * is; both transports call it. Data plane: nothing throws, results are counts or -errno.
 *
 * Nodes: 1 is the root; file n of the seed is node n + 2, or the root itself where the mountpoint is a file.
 * A handle is the node's number: a file has no state per open.
 */

import {
  EACCES,
  EBADF,
  EINVAL,
  EISDIR,
  ENAMETOOLONG,
  ENOENT,
  ENOTDIR,
  ENXIO,
  EROFS,
  type Moved,
  type Status,
} from '../base/errno.ts';
import { type ByteCount, guestOffset } from '../base/units.ts';
import type { Disk } from '../disk/disk.ts';
import type { Report } from '../image/driver.ts';
import { ROOT_NODE } from './abi.ts';
import { attachDisks, type FileSeed, type Time, type TreeSeed } from './tree.ts';

export const S_IFDIR = 0o040000;
export const S_IFREG = 0o100000;

export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** Longest name, as statfs says: NAME_MAX of <linux/limits.h>. */
export const NAME_BYTES = 255;

const O_ACCMODE = 3;
const W_OK = 2;

const EPOCH: Time = { seconds: 0, nanoseconds: 0 };

/** Attributes of a node. Owned and reused by the caller. */
export class Attributes {
  node = 0;
  size = 0;
  /** Allocated, in 512-byte units. */
  blocks = 0;
  mode = 0;
  links = 1;
  uid = 0;
  gid = 0;
  blockSize = 4096;
  atime = EPOCH;
  mtime = EPOCH;
  ctime = EPOCH;
}

export interface DirectoryEntry {
  readonly name: Buffer;
  readonly node: number;
  readonly mode: number;
}

export interface FileSystemSize {
  readonly bytes: ByteCount;
  readonly files: number;
}

export class FileSystem {
  /** The root directory's entries, in order; none where the mountpoint is a file. */
  readonly entries: readonly DirectoryEntry[];
  readonly #seed: TreeSeed;
  readonly #disks: readonly Disk[];
  readonly #allocated: Float64Array;
  /** Node of file 0. */
  readonly #first: number;
  readonly #byName: ReadonlyMap<string, number>;

  constructor(seed: TreeSeed, report: Report) {
    this.#seed = seed;
    this.#disks = attachDisks(seed, report);
    this.#allocated = new Float64Array(seed.allocated);
    this.#first = seed.shape === 'file' ? ROOT_NODE : ROOT_NODE + 1;
    this.entries =
      seed.shape === 'file'
        ? []
        : seed.files.map((file, index) => ({
            name: Buffer.from(file.name),
            node: this.#first + index,
            mode: S_IFREG,
          }));
    this.#byName = new Map(this.entries.map((entry) => [entry.name.toString('latin1'), entry.node]));
  }

  #isRootDirectory(node: number): boolean {
    return node === ROOT_NODE && this.#seed.shape === 'directory';
  }

  #file(node: number): FileSeed | undefined {
    return this.#seed.files[node - this.#first];
  }

  /** The node of `name` (its bytes, as Latin-1) in directory `parent`, or -errno. */
  lookup(parent: number, name: string): number {
    if (!this.#isRootDirectory(parent)) return -ENOTDIR;
    return this.#byName.get(name) ?? (name.length > NAME_BYTES ? -ENAMETOOLONG : -ENOENT);
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
    const index = node - this.#first;
    const file = seed.files[index];
    if (file === undefined) return -ENOENT;
    out.size = file.image.virtualSize;
    out.blocks = Math.ceil(Math.min(this.#allocated[index]!, out.size) / 512);
    out.mode = S_IFREG | (0o444 & ~seed.umask);
    out.links = 1;
    out.blockSize = file.blockSize;
    out.atime = file.times.atime;
    out.mtime = file.times.mtime;
    out.ctime = file.times.ctime;
    return 0;
  }

  /** Times, mode and size are those of a read-only device: nothing changes them. */
  setattr(node: number): Status {
    return this.#isRootDirectory(node) || this.#file(node) !== undefined ? -EROFS : -ENOENT;
  }

  /** A handle (0 or more), or -errno. `flags` are those of open(2). */
  open(node: number, flags: number): number {
    if (this.#isRootDirectory(node)) return -EISDIR;
    if (this.#file(node) === undefined) return -ENOENT;
    return (flags & O_ACCMODE) === 0 ? node : -EROFS;
  }

  opendir(node: number): Status {
    if (this.#isRootDirectory(node)) return 0;
    return this.#file(node) === undefined ? -ENOENT : -ENOTDIR;
  }

  /** Reads up to `length` bytes at `at` into target[start…]: short only at the end of the disk. */
  read(handle: number, target: Uint8Array, start: number, length: ByteCount, at: number): Moved {
    const disk = this.#disks[handle - this.#first];
    return disk === undefined ? -EBADF : disk.read(target, start, length, guestOffset(at));
  }

  /** SEEK_DATA or SEEK_HOLE of lseek(2): an offset, or -errno. */
  seek(handle: number, at: number, whence: number): Moved {
    const disk = this.#disks[handle - this.#first];
    if (disk === undefined) return -EBADF;
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return -EINVAL;
    if (at >= disk.size) return -ENXIO;
    return disk.seek(guestOffset(at), whence === SEEK_DATA ? 'data' : 'hole');
  }

  /** access(2) as a read-only file system answers it; modes are checked by the kernel (default_permissions). */
  access(node: number, mask: number): Status {
    if (!this.#isRootDirectory(node) && this.#file(node) === undefined) return -ENOENT;
    if ((mask & W_OK) !== 0) return -EROFS;
    return (mask & 1) !== 0 && !this.#isRootDirectory(node) ? -EACCES : 0;
  }

  /** Extended attributes of a file: pairs of name and value; none of the directory. */
  attributes(node: number): readonly (readonly [string, string])[] {
    return this.#file(node)?.attributes ?? [];
  }

  /** The disks' sizes added up: what df shows, all of it used. */
  size(): FileSystemSize {
    let total = 0;
    for (const file of this.#seed.files) total += file.image.virtualSize;
    return { bytes: total, files: this.#seed.files.length };
  }
}
