/**
 * What is hashed, as one run of bytes: a file as it is, or the disk that a chain of images shows. Data is read,
 * holes are not: they go into the hash as the zeros that they read as, so that a hash does not depend on how sparse
 * a file is.
 */

import { ENXIO, type Moved } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { type ByteCount, type GuestOffset, type HostOffset, hex } from '../base/units.ts';
import type { Disk } from '../disk/disk.ts';
import type { BlockSource } from '../source/block-source.ts';
import { BUFFER_BYTES, type PipeInput } from './pipe.ts';

export interface Feed {
  readonly size: ByteCount;
  /** The first offset at or after `at` that may not be zeros; `size` where all is; or -errno. */
  nextData(at: number): Moved;
  /** As `Disk.read`. */
  read(target: Uint8Array, start: number, length: ByteCount, at: number): Moved;
}

/** The bytes of a file, as many as its source says that it has. */
export function feedOfSource(source: BlockSource): Feed {
  return {
    size: source.size,
    nextData: (at) => source.nextData(at as HostOffset),
    read: (target, start, length, at) => source.readAt(target, start, length, at as HostOffset),
  };
}

export function feedOfDisk(disk: Disk): Feed {
  return {
    size: disk.size,
    nextData: (at) => {
      const found = disk.seek(at as GuestOffset, 'data');
      return found === -ENXIO ? disk.size : found;
    },
    read: (target, start, length, at) => disk.read(target, start, length, at as GuestOffset),
  };
}

/** Sends all of `feed` through `pipe`. Throws ImageError('io') where it cannot be read, with the place. */
export function pump(feed: Feed, pipe: PipeInput): void {
  for (let at = 0; at < feed.size; ) {
    const data = feed.nextData(at);
    if (data < 0) throw unreadable(at, `looking for data failed with errno ${-data}`);
    if (data > at) {
      pipe.pushZeros(data - at);
      at = data;
      continue;
    }
    const wanted = Math.min(BUFFER_BYTES, feed.size - at);
    const start = pipe.reserve();
    const moved = feed.read(pipe.bytes, start, wanted, at);
    if (moved < 0) throw unreadable(at, `reading ${wanted} bytes failed with errno ${-moved}`);
    if (moved < wanted) {
      throw unreadable(at + moved, `it ends here, but had ${feed.size} bytes when hashing began`);
    }
    pipe.pushBytes(wanted);
    at += wanted;
  }
  pipe.end();
}

const unreadable = (at: number, text: string): ImageError => new ImageError('io', `at ${hex(at)}: ${text}`);
