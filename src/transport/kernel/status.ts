/**
 * What each worker is doing, in shared memory: written by that worker only (but for the word that it shall stop), read by the
 * main thread, which answers for a worker that died. 64 bytes per worker, so that no two share a cache line.
 */

const WORDS = 16;
const BUSY = 0;
const OPCODE = 1;
const UNIQUE_LOW = 2;
const UNIQUE_HIGH = 3;
const REQUESTS = 4;
const NODE = 5;
const GENERATION = 6;
const STOP = 7;

export function makeStatus(workers: number): SharedArrayBuffer {
  return new SharedArrayBuffer(workers * WORDS * 4);
}

export interface UnansweredRequest {
  readonly opcode: number;
  /** The two halves of its `unique`. */
  readonly low: number;
  readonly high: number;
  /** The low half of its node number: ours are small. */
  readonly node: number;
}

export class WorkerStatus {
  readonly #words: Uint32Array<SharedArrayBuffer>;

  constructor(memory: SharedArrayBuffer, worker: number) {
    this.#words = new Uint32Array(memory, worker * WORDS * 4, WORDS);
  }

  begin(opcode: number, uniqueLow: number, uniqueHigh: number, node: number): void {
    this.#words[OPCODE] = opcode;
    this.#words[UNIQUE_LOW] = uniqueLow;
    this.#words[UNIQUE_HIGH] = uniqueHigh;
    this.#words[NODE] = node;
    // The others see that it is busy before it looks at what they share.
    Atomics.store(this.#words, BUSY, 1);
  }

  end(): void {
    this.#words[REQUESTS]! += 1;
    Atomics.store(this.#words, BUSY, 0);
  }

  /** The request that was begun and not ended, if there is one. */
  unanswered(): UnansweredRequest | undefined {
    if (this.#words[BUSY] === 0) return undefined;
    return {
      opcode: this.#words[OPCODE]!,
      low: this.#words[UNIQUE_LOW]!,
      high: this.#words[UNIQUE_HIGH]!,
      node: this.#words[NODE]!,
    };
  }

  /** From now on the worker answers by this generation of the tree (Members.generation). */
  follow(generation: number): void {
    Atomics.store(this.#words, GENERATION, generation);
  }

  /** Whether the worker answers by that generation of the tree or a later one. */
  follows(generation: number): boolean {
    return ((Atomics.load(this.#words, GENERATION) - generation) | 0) >= 0;
  }

  /** The worker shall end before its next request. */
  stop(): void {
    Atomics.store(this.#words, STOP, 1);
  }

  get isStopped(): boolean {
    return Atomics.load(this.#words, STOP) !== 0;
  }

  /** Names the request that the worker is in, unlike those before it; undefined where it waits for one. */
  get stage(): string | undefined {
    const request = this.unanswered();
    return request === undefined ? undefined : `${request.high}:${request.low}:${this.requests}`;
  }

  /** Whether a request is being answered. */
  get isBusy(): boolean {
    return Atomics.load(this.#words, BUSY) !== 0;
  }

  /** Requests answered since the mount was made, modulo 2^32. */
  get requests(): number {
    return this.#words[REQUESTS]!;
  }
}
