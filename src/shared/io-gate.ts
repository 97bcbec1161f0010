/**
 * Tells when host space that was freed may be given to somebody else: when no thread can still be reading or
 * writing it. A reader looks into a table and then moves the bytes, without a lock; between the two, the place
 * may be freed. So each thread says when it is inside an operation, and since which epoch.
 *
 * Why it is safe: an entry is unlinked before `close` ends the epoch. A thread that enters later sees the table
 * without the entry; one that entered before is waited for. All accesses are sequentially consistent.
 */

const EPOCH = 0;
/** Words per thread: 64 bytes, so that no two threads share a cache line. */
const STRIDE = 16;
const OUTSIDE = 0;

export class IoGate {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #mine: number;

  /** `thread` is unique among those that use the gate, from 0. */
  constructor(memory: SharedArrayBuffer, thread: number) {
    this.#words = new Int32Array(memory);
    this.#mine = (thread + 1) * STRIDE;
    if (this.#mine >= this.#words.length) throw new Error(`the gate has no room for thread ${thread}`);
  }

  static seed(threads: number): SharedArrayBuffer {
    const memory = new SharedArrayBuffer((threads + 1) * STRIDE * 4);
    new Int32Array(memory)[EPOCH] = 1;
    return memory;
  }

  /** Before the first look into a table. Operations do not nest. */
  enter(): void {
    Atomics.store(this.#words, this.#mine, Atomics.load(this.#words, EPOCH));
  }

  /**
   * Within an operation, while it holds no place that it looked up: as if it ended here and began anew. Who waits
   * for others' operations to end calls it, or two of them would wait for one another.
   */
  renew(): void {
    if (Atomics.load(this.#words, this.#mine) !== OUTSIDE) this.enter();
  }

  /** After the last byte was moved. */
  leave(): void {
    Atomics.store(this.#words, this.#mine, OUTSIDE);
  }

  /** Ends the epoch; returns its number for `isPast`. */
  close(): number {
    // Epochs are odd: none is OUTSIDE, also after 2^31 of them.
    return Atomics.add(this.#words, EPOCH, 2);
  }

  /** Whether every operation of another thread that was running when `epoch` was closed has ended. */
  isPast(epoch: number): boolean {
    for (let at = STRIDE; at < this.#words.length; at += STRIDE) {
      if (at === this.#mine) continue;
      const since = Atomics.load(this.#words, at);
      if (since !== OUTSIDE && ((since - epoch) | 0) <= 0) return false;
    }
    return true;
  }
}
