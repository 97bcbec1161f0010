/** Several disks one behind the other, as one that is read; zeros behind the last. */

import { EIO, type Status } from '../base/errno.ts';
import type { ByteCount, GuestOffset } from '../base/units.ts';
import type { Disk } from '../disk/disk.ts';
import { isZeros, type Walker } from '../disk/walker.ts';

interface Part {
  readonly disk: Disk;
  readonly walker: Walker;
  /** In the whole. */
  readonly from: number;
  readonly end: number;
}

/** One per thread. Nobody may be writing to the disks. */
export class JoinedDisks {
  readonly size: ByteCount;
  readonly #parts: readonly Part[];
  /** What `look` found: whether it reads as zeros, as far as can be told without reading, and up to where. */
  zeros = false;
  end = 0;

  constructor(disks: readonly Disk[]) {
    let from = 0;
    this.#parts = disks.map((disk) => {
      const part = { disk, walker: disk.walker(), from, end: from + disk.size };
      from = part.end;
      return part;
    });
    this.size = from;
  }

  #partAt(at: number): Part | undefined {
    return this.#parts.find(({ end }) => at < end);
  }

  /** Returns 0 or -errno. */
  look(at: number): Status {
    const part = this.#partAt(at);
    if (part === undefined) {
      this.zeros = true;
      this.end = Number.POSITIVE_INFINITY;
      return 0;
    }
    const { walker, from } = part;
    const status = walker.look((at - from) as GuestOffset);
    if (status < 0) return status;
    this.zeros = isZeros(walker);
    this.end = at + walker.length;
    return 0;
  }

  /** Reads all of `length` bytes, zeros behind the end. Returns 0 or -errno. */
  read(target: Uint8Array, start: number, length: ByteCount, at: number): Status {
    let done = 0;
    while (done < length) {
      const here = at + done;
      const part = this.#partAt(here);
      if (part === undefined) {
        target.fill(0, start + done, start + length);
        return 0;
      }
      const count = Math.min(length - done, part.end - here);
      const moved = part.disk.read(target, start + done, count, (here - part.from) as GuestOffset);
      if (moved < 0) return moved;
      if (moved < count) return -EIO;
      done += count;
    }
    return 0;
  }
}
