/**
 * The medium under an image file, and what a power cut leaves on it.
 *
 * The model: what was changed before the last completed flush is there. Of what was changed since, each change
 * may be there or not, in any order, independently of the others:
 * - a write or a punched hole: as a whole, or each 512-byte sector for itself, old or new. A write beyond the end
 *   of the file that survives extends it; what lies between reads as zeros.
 * - a larger size: it may or may not have happened.
 * - a smaller size: likewise; it never touches what was flushed after it. What grows again behind it reads as
 *   zeros where the cut survived, and as before where it did not.
 * A sector itself is never torn. Real file systems promise more (a size that survives implies the cut before it);
 * drivers must not need it.
 */

import { MemorySource } from '../support/memory-source.ts';
import type { Change } from '../support/recording-source.ts';
import { SECTOR } from '../support/recording-source.ts';

/** Whether a sector of a torn change survives, by its number within the change. */
export type Survives = (sector: number) => boolean;

/** The file on a medium, with all the room it will ever need. Bytes behind the size are zeros. */
export class Medium {
  readonly bytes: Uint8Array;
  size: number;
  /** Ranges changed since `restore`, as pairs of offset and length. */
  readonly #touched: number[] = [];

  constructor(file: Uint8Array, capacity: number) {
    this.bytes = new Uint8Array(Math.max(capacity, file.length));
    this.bytes.set(file);
    this.size = file.length;
  }

  /** The file as a source that is only read; valid until the medium changes. */
  get source(): MemorySource {
    return new MemorySource(this.bytes.subarray(0, this.size), 'crash image');
  }

  apply(change: Change, survives?: Survives): void {
    if (change.kind === 'flush') return;
    if (change.kind === 'size') this.#setSize(change.from, change.to);
    else if (survives === undefined) this.#put(change, 0, change.length);
    else {
      for (let done = 0, sector = 0; done < change.length; done += SECTOR, sector += 1) {
        if (survives(sector)) this.#put(change, done, Math.min(SECTOR, change.length - done));
      }
    }
  }

  #put(change: Extract<Change, { at: number }>, start: number, length: number): void {
    const at = change.at + start;
    // A hole is never behind the end.
    const count = change.kind === 'zero' ? Math.min(length, this.size - at) : length;
    if (count <= 0) return;
    this.#touched.push(at, count);
    if (change.bytes === undefined) this.bytes.fill(0, at, at + count);
    else this.bytes.set(change.bytes.subarray(start, start + count), at);
    this.size = Math.max(this.size, at + count);
  }

  #setSize(from: number, to: number): void {
    if (to > from) {
      this.size = Math.max(this.size, to);
      return;
    }
    if (to >= this.size) return;
    this.#touched.push(to, this.size - to);
    this.bytes.fill(0, to, this.size);
    this.size = to;
  }

  /** What was changed is stable: `restore` does not go back behind it. */
  settle(): void {
    this.#touched.length = 0;
  }

  /** Makes everything as on `base` again, which this medium was a copy of before the changes. */
  restore(base: Medium): void {
    const touched = this.#touched;
    for (let n = 0; n < touched.length; n += 2) {
      const at = touched[n]!;
      this.bytes.set(base.bytes.subarray(at, at + touched[n + 1]!), at);
    }
    touched.length = 0;
    this.size = base.size;
  }
}
