/**
 * When a table may become stable together with the payload that it names. Where the file grew in an earlier commit,
 * it holds zeros on the medium, and so does the disk where no entry named anything: whichever of a new entry and its
 * payload survives a power cut alone, each sector of the disk reads as it did, or as it was written. Only in a place
 * that was used before, or is not stable yet, the payload must be there first.
 *
 * One object per thread, shared words. All calls are made under the image's allocation lock, but `isOrdered`, which
 * belongs to the commit that was gathered.
 */

/** Units of the file below this one, if they were never given out, are in it and zeros, on the medium. */
const STABLE_END = 0;
/** Whether an entry came to name another place since the last commit began. */
const ORDERED = 1;

export class FreshSpace {
  readonly #words: Uint32Array<SharedArrayBuffer>;
  #gatheredEnd = 0;
  #ordered = false;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Uint32Array(memory);
  }

  static seed(): SharedArrayBuffer {
    return new SharedArrayBuffer(8);
  }

  /** An entry names `unit`, which was never given out before and is zeros. */
  namedNew(unit: number): void {
    if (unit >= this.#words[STABLE_END]!) this.#words[ORDERED] = 1;
  }

  /** An entry names a unit that another one named once. */
  namedUsed(): void {
    this.#words[ORDERED] = 1;
  }

  /** A commit begins that makes the file stable as zeros up to unit `end`, where nothing was put there. */
  gather(end: number): void {
    this.#gatheredEnd = end;
    this.#ordered = this.#words[ORDERED] === 1;
    this.#words[ORDERED] = 0;
  }

  /** Whether all that was written before must be stable before the tables that were gathered. */
  get isOrdered(): boolean {
    return this.#ordered;
  }

  /** The commit that `gather` was called for has ended. */
  settle(committed: boolean): void {
    if (committed) this.#words[STABLE_END] = this.#gatheredEnd;
    else if (this.#ordered) this.#words[ORDERED] = 1;
  }

  /** The file was cut: no unit from `end` on is known to be there. */
  cut(end: number): void {
    this.#words[STABLE_END] = Math.min(this.#words[STABLE_END]!, end);
  }
}
