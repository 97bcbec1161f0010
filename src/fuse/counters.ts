/**
 * What was asked of each file since the mount was made, and how long it took, in shared memory: every thread counts in a
 * row of its own, so that counting costs no lock; whoever wants to know adds the rows up. 64-bit floats: exact up to
 * 2^53.
 *
 * Times are those that the daemon takes for a request, without what the kernel adds. They are sorted into buckets by
 * powers of two: bucket n holds those below 2^n µs, and from the one before on; the last one all that are longer.
 */

export const READ = 0;
export const WRITE = 1;
/** Holes punched, ranges zeroed, the end cut off. */
export const ZERO = 2;
/** fsync(2); closing where metadata waits. */
export const FLUSH = 3;
const KINDS = 4;

const BYTES = 1;
const ERRORS = 2;
const MICROSECONDS = 3;
const BUCKETS_AT = 4;
const BUCKETS = 28;
/** For each kind: four sums, then the buckets. A file and thread has a whole number of cache lines. */
const KIND_STRIDE = BUCKETS_AT + BUCKETS;
const STRIDE = KINDS * KIND_STRIDE;

/** Upper bounds of the buckets in seconds; the last bucket has none. */
export const BUCKET_BOUNDS: readonly number[] = Array.from(
  { length: BUCKETS - 1 },
  (_, n) => 2 ** n / 1_000_000,
);

/** Operations of one kind on one file. */
export interface Tally {
  readonly count: number;
  readonly bytes: number;
  readonly errors: number;
  /** All of them together. */
  readonly seconds: number;
  /** How many fell into each bucket: see BUCKET_BOUNDS. */
  readonly buckets: readonly number[];
}

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

  /** One operation of a kind on a file, begun at `since` (performance.now()): bytes moved, or -errno. */
  count(file: number, kind: number, moved: number, since: number): void {
    const all = this.#all;
    const at = this.#row + file * STRIDE + kind * KIND_STRIDE;
    const microseconds = (performance.now() - since) * 1000;
    all[at]! += 1;
    if (moved < 0) all[at + ERRORS]! += 1;
    else all[at + BYTES]! += moved;
    all[at + MICROSECONDS]! += microseconds;
    const bucket = 32 - Math.clz32(microseconds);
    all[at + BUCKETS_AT + (bucket < BUCKETS ? bucket : BUCKETS - 1)]! += 1;
  }

  /** All threads together. */
  tally(file: number, kind: number): Tally {
    const sums = new Float64Array(KIND_STRIDE);
    const step = this.#files * STRIDE;
    for (let row = file * STRIDE + kind * KIND_STRIDE; row < this.#all.length; row += step) {
      for (let n = 0; n < KIND_STRIDE; n += 1) sums[n]! += this.#all[row + n]!;
    }
    return {
      count: sums[0]!,
      bytes: sums[BYTES]!,
      errors: sums[ERRORS]!,
      seconds: sums[MICROSECONDS]! / 1_000_000,
      buckets: [...sums.subarray(BUCKETS_AT)],
    };
  }

  /** Makes all counts of a file 0, while nobody counts there: another file gets its place. */
  reset(file: number): void {
    const step = this.#files * STRIDE;
    for (let row = file * STRIDE; row < this.#all.length; row += step) this.#all.fill(0, row, row + STRIDE);
  }
}
