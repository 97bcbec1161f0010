/**
 * Host blocks that were freed and may be given out again, oldest first: a queue in shared memory of one word per
 * block, in the format's own unit. What is freed passes through four states, in order:
 *
 *   released    no table in memory names it any more
 *   committing  the commit that makes this stable is running
 *   committed   no table on disk names it; a thread may still be moving bytes there
 *   ready       nobody does
 *
 * All calls are made under the image's allocation lock. What does not fit is forgotten: it is leaked until the
 * image is opened again.
 */

import type { IoGate } from '../shared/io-gate.ts';

/** The queue's room; its memory is touched only as it is used. */
const CAPACITY = 1 << 18;

const READY_FROM = 0;
const COMMITTED_FROM = 1;
const COMMITTING_FROM = 2;
const RELEASED_FROM = 3;
const END = 4;
const EPOCH = 5;
const HEADER_WORDS = 8;

/** What `take` returns where nothing is ready. */
export const NONE = -1;

export class FreeSpace {
  readonly #state: Uint32Array<SharedArrayBuffer>;
  readonly #queue: Uint32Array<SharedArrayBuffer>;
  readonly #gate: IoGate;

  constructor(memory: SharedArrayBuffer, gate: IoGate) {
    this.#state = new Uint32Array(memory, 0, HEADER_WORDS);
    this.#queue = new Uint32Array(memory, HEADER_WORDS * 4, CAPACITY);
    this.#gate = gate;
  }

  /** With the blocks that were found free when the image was opened: they are ready. */
  static seed(ready: Iterable<number> = []): SharedArrayBuffer {
    const memory = new SharedArrayBuffer((HEADER_WORDS + CAPACITY) * 4);
    const state = new Uint32Array(memory, 0, HEADER_WORDS);
    const queue = new Uint32Array(memory, HEADER_WORDS * 4, CAPACITY);
    let count = 0;
    for (const unit of ready) {
      if (count === CAPACITY) break;
      queue[count] = unit;
      count += 1;
    }
    state.fill(count, COMMITTED_FROM, END + 1);
    return memory;
  }

  /** A block that nobody names or touches, or NONE. Its old bytes are still there. */
  take(): number {
    const state = this.#state;
    if (state[READY_FROM] === state[COMMITTED_FROM]) {
      if (state[COMMITTED_FROM] === state[COMMITTING_FROM]) return NONE;
      if (!this.#gate.isPast(state[EPOCH]! | 0)) return NONE;
      state[COMMITTED_FROM] = state[COMMITTING_FROM]!;
    }
    const unit = this.#queue[state[READY_FROM]! % CAPACITY]!;
    state[READY_FROM]! += 1;
    return unit;
  }

  /**
   * Takes back a block that `take` gave out, or a new one, which no table ever came to name: nothing is to be
   * committed for it, so it is ready at once, and the next to be given out.
   */
  giveBack(unit: number): void {
    const state = this.#state;
    if (this.count >= CAPACITY) return;
    state[READY_FROM]! -= 1;
    this.#queue[state[READY_FROM]! % CAPACITY] = unit;
  }

  /** A block that no table in memory names any more. */
  release(unit: number): void {
    const state = this.#state;
    if (this.count >= CAPACITY) return;
    this.#queue[state[END]! % CAPACITY] = unit;
    state[END]! += 1;
  }

  /** A commit begins that has every table as it is now. */
  gather(): void {
    this.#state[RELEASED_FROM] = this.#state[END]!;
  }

  /** The commit that `gather` was called for has ended. */
  settle(committed: boolean): void {
    const state = this.#state;
    if (!committed) return;
    // Commits may follow one another faster than every thread is seen to leave: what can be given out is kept apart.
    if (this.#gate.isPast(state[EPOCH]! | 0)) state[COMMITTED_FROM] = state[COMMITTING_FROM]!;
    state[COMMITTING_FROM] = state[RELEASED_FROM]!;
    state[EPOCH] = this.#gate.close() >>> 0;
  }

  /** Every block in the queue, newest first: for the end of a mount, after the last commit. */
  *all(): Generator<number> {
    const first = this.#state[READY_FROM]!;
    for (let n = this.count - 1; n >= 0; n -= 1) yield this.#queue[(first + n) % CAPACITY]!;
  }

  /** Nothing waits any more: who asked for `all` has found a use for each. */
  clear(): void {
    const state = this.#state;
    state.fill(state[END]!, READY_FROM, END);
  }

  /** Whether the next `release` would be forgotten. */
  get isFull(): boolean {
    return this.count >= CAPACITY;
  }

  /** Blocks that wait in the queue. */
  get count(): number {
    return (this.#state[END]! - this.#state[READY_FROM]!) >>> 0;
  }
}
