/**
 * Which files a mount shows at this moment, in shared memory: files join and leave while it serves. A file has a slot,
 * its place in all that is counted per file, and a node, by which the kernel knows it. Slots are used again; nodes are
 * not, since the kernel may still hold one of a file that has left: the slot and how often it was used make the node.
 *
 * What has changed goes to the threads as messages; here stands only that there is something to read (`generation`), and
 * for each slot how many times its file is open, or that it has left. One word for both: so a file leaves only while
 * nobody has it open, and nobody opens it afterwards.
 */

const GENERATION = 0;
const SLOTS = 1;
/** The file has left, or there is none yet. */
const GONE = -1;

/** Slots of a mount beyond those of the files that it begins with. */
export const SPARE_SLOTS = 1024;

/** Handles, which are node numbers, have 31 bits. */
const LAST_NODE = 2 ** 31 - 1;

export class Members {
  readonly capacity: number;
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
    this.capacity = this.#words.length - SLOTS;
  }

  /** For `slots` files, the first `shown` of them there from the beginning. */
  static seed(shown: number, slots: number): SharedArrayBuffer {
    const memory = new SharedArrayBuffer((SLOTS + slots) * Int32Array.BYTES_PER_ELEMENT);
    new Int32Array(memory).fill(GONE, SLOTS + shown);
    return memory;
  }

  /** The node of the file that is the `use`-th one (from 0) in its slot; undefined where the numbers have run out. */
  nodeOf(first: number, slot: number, use: number): number | undefined {
    const node = first + slot + use * this.capacity;
    return node <= LAST_NODE ? node : undefined;
  }

  /** Changes with each message that was sent to the threads. */
  get generation(): number {
    return Atomics.load(this.#words, GENERATION);
  }

  /** All threads have been sent a change: each reads it before the next request that it answers. */
  announce(): void {
    Atomics.add(this.#words, GENERATION, 1);
  }

  /** A file is opened; false where it has left, or there is none (a slot below 0). */
  open(slot: number): boolean {
    if (slot < 0) return false;
    const at = SLOTS + slot;
    for (;;) {
      const opens = Atomics.load(this.#words, at);
      if (opens < 0) return false;
      if (Atomics.compareExchange(this.#words, at, opens, opens + 1) === opens) return true;
    }
  }

  /** One of those that opened it is done. */
  close(slot: number): void {
    const at = SLOTS + slot;
    for (;;) {
      const opens = Atomics.load(this.#words, at);
      if (opens <= 0) return;
      if (Atomics.compareExchange(this.#words, at, opens, opens - 1) === opens) return;
    }
  }

  /** How many times it is open; 0 where it has left. */
  opens(slot: number): number {
    return Math.max(0, Atomics.load(this.#words, SLOTS + slot));
  }

  /** The file leaves, if nobody has it open; says whether it did. */
  leave(slot: number): boolean {
    return Atomics.compareExchange(this.#words, SLOTS + slot, 0, GONE) === 0;
  }

  /** The file leaves, whoever has it open. */
  cut(slot: number): void {
    Atomics.store(this.#words, SLOTS + slot, GONE);
  }

  /** A file takes the slot, or comes back to it. */
  join(slot: number): void {
    Atomics.store(this.#words, SLOTS + slot, 0);
  }
}
