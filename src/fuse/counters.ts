/**
 * What was asked of each file since the mount was made, in shared memory: every thread counts in a row of its own,
 * so that counting costs no lock; whoever wants to know adds the rows up. 64-bit floats: exact up to 2^53.
 */

const FIELDS = ['reads', 'readBytes', 'writes', 'writtenBytes', 'zeroings', 'zeroedBytes', 'errors'] as const;
export type Count = (typeof FIELDS)[number];

/** 64 bytes for each file and thread. */
const STRIDE = 8;

export const READS = 0;
export const WRITES = 2;
export const ZEROINGS = 4;
const ERRORS = 6;

export class Counters {
  readonly #all: Float64Array<SharedArrayBuffer>;
  readonly #files: number;
  readonly #row: number;

  /** `thread` is one of those that `seed` was made for. */
  constructor(memory: SharedArrayBuffer, files: number, thread: number) {
    this.#all = new Float64Array(memory);
    this.#files = files;
    this.#row = thread * files * STRIDE;
  }

  static seed(threads: number, files: number): SharedArrayBuffer {
    return new SharedArrayBuffer(Math.max(1, threads * files) * STRIDE * 8);
  }

  /** One operation of a kind (READS, WRITES, ZEROINGS) on a file: bytes moved, or -errno. */
  count(file: number, kind: number, moved: number): void {
    const at = this.#row + file * STRIDE;
    this.#all[at + kind]! += 1;
    if (moved < 0) this.#all[at + ERRORS]! += 1;
    else this.#all[at + kind + 1]! += moved;
  }

  /** All threads together. */
  total(file: number): Readonly<Record<Count, number>> {
    const sums = Object.fromEntries(FIELDS.map((name) => [name, 0])) as Record<Count, number>;
    for (let row = file * STRIDE; row < this.#all.length; row += this.#files * STRIDE) {
      FIELDS.forEach((name, at) => {
        sums[name] += this.#all[row + at]!;
      });
    }
    return sums;
  }
}
