/** A regular file or block device on the host, opened read-only. */

import { closeSync, constants, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { EINTR, errnoOf, type Moved } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import type { ByteCount, HostOffset } from '../base/units.ts';
import type { BlockSource, SharedSource } from './block-source.ts';
import { type DirectIo, directIo, seekData, seekHole } from './syscalls.ts';

/** Arrays smaller than this are read into by Node's own functions. */
const DIRECT_BYTES = 4096;

export class FileSource implements BlockSource {
  readonly label: string;
  readonly size: ByteCount;
  readonly allocated: ByteCount;
  readonly #fd: number;
  readonly #direct: DirectIo | undefined;
  /** The array that was read into last, and where it is: nearly always the same one, the reply buffer. */
  #target: Uint8Array | undefined;
  #address = 0;

  /** `direct` is given where the data path reads through this source. */
  constructor(shared: SharedSource, direct?: DirectIo) {
    this.#fd = shared.fd;
    this.#direct = direct;
    this.label = shared.label;
    this.size = shared.size;
    this.allocated = shared.allocated;
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

  #readOnce(target: Uint8Array, start: number, length: number, at: number): Moved {
    const direct = this.#direct;
    if (direct !== undefined && target.length >= DIRECT_BYTES) {
      if (target !== this.#target) {
        this.#target = target;
        this.#address = direct.addressOf(target);
      }
      return direct.pread(this.#fd, this.#address + start, length, at);
    }
    try {
      return readSync(this.#fd, target, start, length, at);
    } catch (problem) {
      return -errnoOf(problem);
    }
  }

  nextData(at: HostOffset): HostOffset {
    return seekData(this.#fd, at, this.size) as HostOffset;
  }

  nextHole(at: HostOffset): HostOffset {
    return seekHole(this.#fd, at, this.size) as HostOffset;
  }

  share(): SharedSource {
    return {
      kind: 'file',
      fd: this.#fd,
      label: this.label,
      size: this.size,
      allocated: this.allocated,
    };
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** In any thread: the source that `share()` described, for its data path. */
export function attachSource(shared: SharedSource): BlockSource {
  return new FileSource(shared, directIo());
}

/** Opens `path` read-only. Throws ImageError with what to do about it. */
export function openFile(path: string): FileSource {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (problem) {
    throw describeOpenFailure(path, problem);
  }
  try {
    const stat = fstatSync(fd);
    if (stat.isDirectory()) {
      throw new ImageError('usage', `${path}: is a directory, not a disk image`, {
        hint: 'Name the image file inside it.',
      });
    }
    if (stat.isBlockDevice()) {
      const size = blockDeviceSize(path, stat.rdev);
      return new FileSource({ kind: 'file', fd, label: path, size, allocated: size });
    }
    if (!stat.isFile()) {
      throw new ImageError('usage', `${path}: is neither a regular file nor a block device`);
    }
    return new FileSource({
      kind: 'file',
      fd,
      label: path,
      size: stat.size,
      allocated: stat.blocks * 512,
    });
  } catch (problem) {
    closeSync(fd);
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

function describeOpenFailure(path: string, problem: unknown): ImageError {
  const code = problem instanceof Error && 'code' in problem ? problem.code : undefined;
  switch (code) {
    case 'ENOENT':
      return new ImageError('usage', `${path}: no such file`, { cause: problem });
    case 'ENOTDIR':
      return new ImageError('usage', `${path}: a part of the path is not a directory`, { cause: problem });
    case 'EACCES':
    case 'EPERM':
      return new ImageError('denied', `${path}: permission denied`, {
        cause: problem,
        hint: `Read access to the image is needed: see ls -l, or run as its owner.`,
      });
    default:
      return ImageError.from(problem, 'io', path);
  }
}
