/**
 * A lock in shared memory, one 32-bit word: 0 free, 1 held, 2 held and waited for. Only threads that may block
 * take it (workers); the main thread never does.
 *
 * Waits are bounded by steps, so that a waiter whose wake-up was lost with its thread looks again.
 */

const FREE = 0;
const HELD = 1;
const CONTENDED = 2;
const STEP_MS = 50;

export class Mutex {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #at: number;

  /** The lock is `words[at]`, which starts as 0. */
  constructor(words: Int32Array<SharedArrayBuffer>, at: number) {
    this.#words = words;
    this.#at = at;
  }

  lock(): void {
    if (Atomics.compareExchange(this.#words, this.#at, FREE, HELD) === FREE) return;
    while (Atomics.exchange(this.#words, this.#at, CONTENDED) !== FREE) {
      Atomics.wait(this.#words, this.#at, CONTENDED, STEP_MS);
    }
  }

  /** Takes the lock if it is free; never waits. */
  tryLock(): boolean {
    return Atomics.compareExchange(this.#words, this.#at, FREE, HELD) === FREE;
  }

  unlock(): void {
    if (Atomics.exchange(this.#words, this.#at, FREE) === CONTENDED) {
      Atomics.notify(this.#words, this.#at, 1);
    }
  }
}
