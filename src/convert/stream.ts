/** A disk as raw bytes into a pipe, or whatever else a descriptor is, in one thread: it waits for whoever reads there. */

import { writeSync } from 'node:fs';
import { EAGAIN, EPIPE, errnoOf } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { type ByteCount, hex, MIB } from '../base/units.ts';
import { attachForReading, type SourceSeed } from './attach.ts';
import { JoinedDisks } from './joined.ts';

const PIECE_BYTES = MIB;
/** A pipe that does not block is looked at again after this long. */
const RETRY_MS = 5;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Writes all of the disks, one behind the other. Returns how many bytes that are. Throws ImageError. */
export function stream(
  seeds: readonly SourceSeed[],
  fd: number,
  progress?: (done: ByteCount, total: ByteCount) => void,
): ByteCount {
  let damage = '';
  const report = (text: string): void => {
    damage = `: ${text}`;
  };
  const joined = new JoinedDisks(seeds.map((seed) => attachForReading(seed, report)));
  const { size } = joined;
  const bytes = new Uint8Array(PIECE_BYTES);
  const zeros = new Uint8Array(PIECE_BYTES);
  for (let at = 0; at < size; ) {
    let status = joined.look(at);
    const length = Math.min(PIECE_BYTES, joined.end - at, size - at);
    if (status >= 0 && !joined.zeros) status = joined.read(bytes, 0, length, at);
    if (status < 0) {
      throw new ImageError('io', `at ${hex(at)} of the disk: it cannot be read: errno ${-status}${damage}`);
    }
    writeAll(fd, joined.zeros ? zeros : bytes, length);
    at += length;
    progress?.(at, size);
  }
  return size;
}

function writeAll(fd: number, bytes: Uint8Array, length: number): void {
  for (let done = 0; done < length; ) {
    try {
      done += writeSync(fd, bytes, done, length - done);
    } catch (problem) {
      const errno = errnoOf(problem);
      if (errno === EAGAIN) Atomics.wait(sleeper, 0, 0, RETRY_MS);
      else if (errno === EPIPE)
        throw new ImageError('io', 'standard output was closed before all was written');
      else throw ImageError.from(problem, 'io', 'standard output cannot be written');
    }
  }
}
