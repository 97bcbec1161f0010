/** A regular file or block device on the host, opened read-only. */

import { closeSync, constants, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { errnoOf, type Moved } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import type { ByteCount, HostOffset } from '../base/units.ts';
import type { BlockSource, SharedSource } from './block-source.ts';
import { seekData, seekHole } from './syscalls.ts';

export class FileSource implements BlockSource {
  readonly label: string;
  readonly size: ByteCount;
  readonly allocated: ByteCount;
  readonly #fd: number;

  constructor(shared: SharedSource) {
    this.#fd = shared.fd;
    this.label = shared.label;
    this.size = shared.size;
    this.allocated = shared.allocated;
  }

  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved {
    let done = 0;
    while (done < length) {
      let moved: number;
      try {
        moved = readSync(this.#fd, target, start + done, length - done, at + done);
      } catch (problem) {
        return -errnoOf(problem);
      }
      if (moved === 0) return done;
      done += moved;
    }
    return done;
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

/** In any thread: the source that `share()` described. */
export function attachSource(shared: SharedSource): BlockSource {
  return new FileSource(shared);
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
