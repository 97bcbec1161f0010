/** Times of files: those of the image file, until somebody changes them; then in shared memory, for all threads. */

/** Since 1970. Milliseconds in a double would not be exact. */
export interface Time {
  readonly seconds: number;
  readonly nanoseconds: number;
}

export const EPOCH: Time = { seconds: 0, nanoseconds: 0 };

const BILLION = 1_000_000_000n;

export function timeOf(nanoseconds: bigint): Time {
  const rest = ((nanoseconds % BILLION) + BILLION) % BILLION;
  return { seconds: Number((nanoseconds - rest) / BILLION), nanoseconds: Number(rest) };
}

/** From milliseconds, exact to a quarter of a microsecond. */
function timeOfMs(ms: number): Time {
  const seconds = Math.floor(ms / 1000);
  return { seconds, nanoseconds: Math.min(999_999_999, Math.floor((ms - seconds * 1000) * 1_000_000)) };
}

/** Which of a file's times. */
export const ATIME = 0;
export const MTIME = 1;
export const CTIME = 2;
const TIMES = 3;

/**
 * As writes and utimensat(2) changed them: 64-bit floats, in ms since 1970; 0 where nobody did. Written by whoever serves
 * the change: the last one counts.
 */
export class FileTimes {
  readonly #ms: Float64Array<SharedArrayBuffer>;

  constructor(memory: SharedArrayBuffer) {
    this.#ms = new Float64Array(memory);
  }

  static seed(files: number): SharedArrayBuffer {
    return new SharedArrayBuffer(files * TIMES * Float64Array.BYTES_PER_ELEMENT);
  }

  /** `original`: the time of a file that nobody changed. */
  get(file: number, which: number, original: Time): Time {
    const ms = this.#ms[file * TIMES + which]!;
    return ms === 0 ? original : timeOfMs(ms);
  }

  /** A time of 1970-01-01 00:00 itself is told apart from "nobody changed it" by less than a nanosecond. */
  set(file: number, which: number, ms: number): void {
    this.#ms[file * TIMES + which] = ms === 0 ? Number.MIN_VALUE : ms;
  }

  /** Another file gets the place of this one. */
  forget(file: number): void {
    this.#ms.fill(0, file * TIMES, (file + 1) * TIMES);
  }

  /** Bytes of the file were changed. */
  touch(file: number): void {
    const now = Date.now();
    this.set(file, MTIME, now);
    this.set(file, CTIME, now);
  }
}
