/**
 * Bitmaps on disk that lack bits: a list in shared memory, kept under the allocation lock. A bitmap is written by the
 * commit after what lies under its bits is stable.
 *
 * In a dynamic image these are blocks that became full. One that is unmapped meanwhile stays in the list. That does no
 * harm: its place is given out again only after the commit that has both. In a differencing image they are sectors of
 * bitmaps, by their first word in the table of bitmaps.
 */

import { MAX_PENDING } from './prepare.ts';

const COUNT = 0;
const GATHERED = 1;
const FIRST = 2;

export class PendingBitmaps {
  readonly #words: Uint32Array<SharedArrayBuffer>;
  /** Copies of the gathered ones, for the thread that commits: block, sector, block, sector, … */
  readonly #mine = new Uint32Array(2 * MAX_PENDING);
  #gathered = 0;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Uint32Array(memory);
  }

  get count(): number {
    return this.#words[COUNT]!;
  }

  get isFull(): boolean {
    return this.count === MAX_PENDING;
  }

  /** Block or word `key`, of the block at sector `entry`. There is room. */
  add(key: number, entry: number): void {
    const at = FIRST + 2 * this.count;
    this.#words[at] = key;
    this.#words[at + 1] = entry;
    this.#words[COUNT]! += 1;
  }

  /** Whether `key` is in the list, and no commit has gathered it. What was added last is found first. */
  has(key: number): boolean {
    const words = this.#words;
    for (let n = this.count - 1; n >= words[GATHERED]!; n -= 1) if (words[FIRST + 2 * n] === key) return true;
    return false;
  }

  gather(): void {
    const words = this.#words;
    this.#gathered = words[COUNT]!;
    words[GATHERED] = this.#gathered;
    this.#mine.set(words.subarray(FIRST, FIRST + 2 * this.#gathered));
  }

  /** Calls `visit` with the gathered ones, without a lock. Returns 0 or its first -errno. */
  forEach(visit: (key: number, entry: number) => number): number {
    for (let n = 0; n < this.#gathered; n += 1) {
      const status = visit(this.#mine[2 * n]!, this.#mine[2 * n + 1]!);
      if (status < 0) return status;
    }
    return 0;
  }

  settle(written: boolean): void {
    const words = this.#words;
    const done = words[GATHERED]!;
    words[GATHERED] = 0;
    if (!written || done === 0) return;
    words.copyWithin(FIRST, FIRST + 2 * done, FIRST + 2 * words[COUNT]!);
    words[COUNT]! -= done;
  }
}
