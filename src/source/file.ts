/** A regular file or block device on the host. */

import {
  type BigIntStats,
  closeSync,
  constants,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  writeSync,
} from 'node:fs';
import {
  EBADF,
  EINTR,
  EINVAL,
  EIO,
  ENOSYS,
  EOPNOTSUPP,
  EPERM,
  errnoOf,
  type Moved,
  type Status,
} from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import type { ByteCount, HostOffset } from '../base/units.ts';
import type { BlockSource, SharedSource, WriteStep } from './block-source.ts';
import {
  type DirectIo,
  dataSync,
  directIo,
  punchHole,
  seekData,
  seekHole,
  truncateFile,
  zeroRange,
} from './syscalls.ts';

/** Arrays smaller than this are moved by Node's own functions. */
const DIRECT_BYTES = 4096;

/** What is written where the host cannot make zeros by itself. */
const ZEROS = new Uint8Array(64 * 1024);

/** What a file was when it was opened, before anything of it was read. */
export interface FoundFile {
  readonly stat: BigIntStats;
  /** Reading does not change its access time: it is open with O_NOATIME. */
  readonly noAtime: boolean;
}

export class FileSource implements BlockSource {
  readonly label: string;
  readonly writable: boolean;
  /** Only of the source that `openFile` returned. */
  readonly found: FoundFile | undefined;
  readonly #shared: SharedSource;
  readonly #fd: number;
  readonly #size: Float64Array;
  readonly #direct: DirectIo | undefined;
  /** The array that was read into or written from last, and where it is: nearly always the same one. */
  #array: Uint8Array | undefined;
  #address = 0;

  /** `direct` is given where the data path moves bytes through this source. */
  constructor(shared: SharedSource, direct?: DirectIo, found?: FoundFile) {
    this.#shared = shared;
    this.#fd = shared.fd;
    this.#size = new Float64Array(shared.size);
    this.#direct = direct;
    this.found = found;
    this.label = shared.label;
    this.writable = shared.writable;
  }

  get size(): ByteCount {
    return this.#size[0]!;
  }

  get allocated(): ByteCount {
    return this.#shared.device ? this.size : fstatSync(this.#fd).blocks * 512;
  }

  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved {
    let done = 0;
    while (done < length) {
      const moved = this.#readOnce(target, start + done, length - done, at + done);
      if (moved < 0) {
        if (moved === -EINTR) continue;
        return moved;
      }
      if (moved === 0) return done;
      done += moved;
    }
    return done;
  }

  writeAt(bytes: Uint8Array, start: number, length: ByteCount, at: HostOffset, _step: WriteStep): Status {
    if (!this.writable) return -EBADF;
    let done = 0;
    while (done < length) {
      const moved = this.#writeOnce(bytes, start + done, length - done, at + done);
      if (moved === -EINTR) continue;
      if (moved === 0) return -EIO;
      if (moved < 0) return moved;
      done += moved;
      // Also where the rest fails: the file is this long now.
      if (at + done > this.#size[0]!) this.#size[0] = at + done;
    }
    return 0;
  }

  zero(at: HostOffset, length: ByteCount, how: 'punch' | 'keep', step: WriteStep): Status {
    if (!this.writable) return -EBADF;
    const count = Math.min(length, this.size - at);
    if (count <= 0) return 0;
    const status = how === 'punch' ? punchHole(this.#fd, at, count) : zeroRange(this.#fd, at, count);
    if (status !== -EOPNOTSUPP && status !== -ENOSYS) return status;
    for (let done = 0; done < count; ) {
      const piece = Math.min(ZEROS.length, count - done);
      const written = this.writeAt(ZEROS, 0, piece, (at + done) as HostOffset, step);
      if (written < 0) return written;
      done += piece;
    }
    return 0;
  }

  setSize(size: ByteCount): Status {
    if (!this.writable) return -EBADF;
    if (this.#shared.device) return size === this.size ? 0 : -EINVAL;
    let status = truncateFile(this.#fd, size);
    if (status === -ENOSYS) status = attempt(() => ftruncateSync(this.#fd, size));
    if (status === 0) this.#size[0] = size;
    return status;
  }

  flush(): Status {
    const status = dataSync(this.#fd);
    return status === -ENOSYS ? attempt(() => fdatasyncSync(this.#fd)) : status;
  }

  #readOnce(target: Uint8Array, start: number, length: number, at: number): Moved {
    const direct = this.#direct;
    if (direct !== undefined && target.length >= DIRECT_BYTES) {
      return direct.pread(this.#fd, this.#addressOf(direct, target) + start, length, at);
    }
    try {
      return readSync(this.#fd, target, start, length, at);
    } catch (problem) {
      return -errnoOf(problem);
    }
  }

  #writeOnce(bytes: Uint8Array, start: number, length: number, at: number): Moved {
    const direct = this.#direct;
    if (direct !== undefined && bytes.length >= DIRECT_BYTES) {
      return direct.pwrite(this.#fd, this.#addressOf(direct, bytes) + start, length, at);
    }
    try {
      return writeSync(this.#fd, bytes, start, length, at);
    } catch (problem) {
      return -errnoOf(problem);
    }
  }

  #addressOf(direct: DirectIo, array: Uint8Array): number {
    if (array !== this.#array) {
      this.#array = array;
      this.#address = direct.addressOf(array);
    }
    return this.#address;
  }

  nextData(at: HostOffset): HostOffset {
    return seekData(this.#fd, at, this.size) as HostOffset;
  }

  nextHole(at: HostOffset): HostOffset {
    return seekHole(this.#fd, at, this.size) as HostOffset;
  }

  share(): SharedSource {
    return this.#shared;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function attempt(call: () => void): Status {
  try {
    call();
    return 0;
  } catch (problem) {
    return -errnoOf(problem);
  }
}

/** In any thread: the source that `share()` described, for its data path. */
export function attachSource(shared: SharedSource): BlockSource {
  return new FileSource(shared, directIo());
}

/**
 * Opens `path`, for reading or for both. With `noAtime` reading does not change the file's access time, where the
 * host lets us: `found` says whether. Throws ImageError with what to do about it.
 */
export function openFile(path: string, access: 'read' | 'write' = 'read', noAtime = false): FileSource {
  const writable = access === 'write';
  const flags = (writable ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NONBLOCK;
  let fd: number | undefined;
  try {
    fd = noAtime ? openQuietly(path, flags) : undefined;
    noAtime = fd !== undefined;
    fd ??= openSync(path, flags);
  } catch (problem) {
    throw describeOpenFailure(path, problem, writable);
  }
  try {
    const stat = fstatSync(fd, { bigint: true });
    if (stat.isDirectory()) {
      throw new ImageError('usage', `${path}: is a directory, not a disk image`, {
        hint: 'Name the image file inside it.',
      });
    }
    const device = stat.isBlockDevice();
    if (!device && !stat.isFile()) {
      throw new ImageError('usage', `${path}: is neither a regular file nor a block device`);
    }
    const size = new SharedArrayBuffer(8);
    new Float64Array(size)[0] = device ? blockDeviceSize(path, Number(stat.rdev)) : Number(stat.size);
    const shared: SharedSource = { kind: 'file', fd, label: path, writable, device, size };
    return new FileSource(shared, undefined, { stat, noAtime });
  } catch (problem) {
    closeSync(fd);
    throw problem;
  }
}

/** Opens with O_NOATIME; undefined where that is not permitted: it is for the owner of a file (open(2), EPERM). */
function openQuietly(path: string, flags: number): number | undefined {
  try {
    return openSync(path, flags | constants.O_NOATIME);
  } catch (problem) {
    if (errnoOf(problem) === EPERM) return undefined;
    throw problem;
  }
}

/** The kernel's own count of 512-byte sectors: fstat says 0 for a device. */
function blockDeviceSize(path: string, rdev: number): ByteCount {
  const major = (rdev >>> 8) & 0xfff;
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  try {
    return Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, 'ascii')) * 512;
  } catch (problem) {
    throw ImageError.from(problem, 'io', `${path}: the size of the device is not known`);
  }
}

function describeOpenFailure(path: string, problem: unknown, writable: boolean): ImageError {
  const code = problem instanceof Error && 'code' in problem ? problem.code : undefined;
  switch (code) {
    case 'ENOENT':
      return new ImageError('usage', `${path}: no such file`, { cause: problem });
    case 'ENOTDIR':
      return new ImageError('usage', `${path}: a part of the path is not a directory`, { cause: problem });
    case 'EISDIR':
      return new ImageError('usage', `${path}: is a directory, not a disk image`, {
        cause: problem,
        hint: 'Name the image file inside it.',
      });
    case 'EACCES':
    case 'EPERM':
    case 'ETXTBSY':
      return new ImageError('denied', `${path}: permission denied`, {
        cause: problem,
        hint: `${writable ? 'Write' : 'Read'} access to the image is needed: see ls -l, or run as its owner.`,
      });
    case 'EROFS':
      return new ImageError('denied', `${path}: its file system is mounted read-only`, {
        cause: problem,
        hint: 'Mount that for writing, or copy the image to another place.',
      });
    default:
      return ImageError.from(problem, 'io', path);
  }
}
