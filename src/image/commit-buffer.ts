/**
 * The metadata of one commit, copied while the allocation lock is held and written after it is given back:
 * pieces of bytes with their host offsets. Pieces that follow one another in the file become one write.
 *
 * The bytes are memory of the thread, not of the image: a thread runs one commit at a time, and its steps do not
 * overlap with those of another.
 */

import type { Status } from '../base/errno.ts';
import type { HostOffset } from '../base/units.ts';
import type { BlockSource, WriteStep } from '../source/block-source.ts';

const MIN_BYTES = 64 * 1024;

let memory = new Uint8Array(0);

export class CommitBuffer {
  #used = 0;
  #pieces = 0;
  #at = new Float64Array(64);
  #start = new Int32Array(64);
  #length = new Int32Array(64);

  /** The bytes of all pieces. It changes with `add`: ask again after each. */
  get bytes(): Uint8Array {
    return memory;
  }

  get pieces(): number {
    return this.#pieces;
  }

  clear(): void {
    this.#used = 0;
    this.#pieces = 0;
  }

  /** Room for `length` bytes that go to host offset `at`: where they start in `bytes`. Fill all of them. */
  add(at: number, length: number): number {
    if (this.#used + length > memory.length) this.#grow(this.#used + length);
    const start = this.#used;
    this.#used += length;
    const last = this.#pieces - 1;
    if (last >= 0 && this.#at[last]! + this.#length[last]! === at) {
      this.#length[last]! += length;
      return start;
    }
    if (this.#pieces === this.#at.length) this.#morePieces();
    this.#at[this.#pieces] = at;
    this.#start[this.#pieces] = start;
    this.#length[this.#pieces] = length;
    this.#pieces += 1;
    return start;
  }

  /** Calls `visit` with the host offset, the start in `bytes` and the length of each piece, in the order of adding. */
  forEach(visit: (at: number, start: number, length: number) => void): void {
    for (let n = 0; n < this.#pieces; n += 1) visit(this.#at[n]!, this.#start[n]!, this.#length[n]!);
  }

  /** Writes the pieces from number `first` on, up to `end` (not included). Returns 0 or the first -errno. */
  writeTo(source: BlockSource, step: WriteStep, first = 0, end = this.#pieces): Status {
    for (let n = first; n < end; n += 1) {
      const at = this.#at[n]! as HostOffset;
      const status = source.writeAt(memory, this.#start[n]!, this.#length[n]!, at, step);
      if (status < 0) return status;
    }
    return 0;
  }

  #grow(bytes: number): void {
    const larger = new Uint8Array(Math.max(MIN_BYTES, bytes, memory.length * 2));
    larger.set(memory);
    memory = larger;
  }

  #morePieces(): void {
    const size = this.#at.length * 2;
    const [at, start, length] = [this.#at, this.#start, this.#length];
    this.#at = new Float64Array(size);
    this.#at.set(at);
    this.#start = new Int32Array(size);
    this.#start.set(start);
    this.#length = new Int32Array(size);
    this.#length.set(length);
  }
}
