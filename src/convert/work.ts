/**
 * The work of one pass over a disk, shared by the threads that do it: each claims the next chunk, and says which one it
 * is at, so that anybody can tell up to where all is done.
 *
 * Layout: u32 the next chunk to claim, u32 whether to stop, u32 when it was made stable last (seconds since 1970), one
 * u32 for each thread; f64 bytes moved by each thread.
 */

import { type ByteCount, MIB } from '../base/units.ts';

/** Small, so that the threads end together; large against what claiming one costs. */
const CHUNK_BYTES: ByteCount = 4 * MIB;
/** What no chunk has as its number: 64 TiB in chunks of CHUNK_BYTES have a hundredth of it. */
const IDLE = 0x7fffffff;

const NEXT = 0;
const STOP = 1;
const STABLE = 2;
const CURRENT = 3;

/** Structured-cloneable. */
export interface WorkSeed {
  readonly memory: SharedArrayBuffer;
  readonly threads: number;
  /** Bytes of the disk. */
  readonly size: ByteCount;
  readonly chunk: ByteCount;
}

export interface Chunk {
  /** Of the disk. */
  readonly from: number;
  readonly end: number;
}

export class Work {
  readonly #seed: WorkSeed;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #moved: Float64Array<SharedArrayBuffer>;
  readonly #chunks: number;

  constructor(seed: WorkSeed) {
    this.#seed = seed;
    this.#words = new Int32Array(seed.memory, 0, CURRENT + seed.threads);
    this.#moved = new Float64Array(seed.memory, movedAt(seed.threads), seed.threads);
    this.#chunks = Math.ceil(seed.size / seed.chunk);
  }

  /** `from`: what lies below it is done, a multiple of the chunk of a disk of this size. */
  static seed(threads: number, size: ByteCount, from: number): WorkSeed {
    const chunk = chunkOf(size);
    const memory = new SharedArrayBuffer(movedAt(threads) + threads * 8);
    const words = new Int32Array(memory);
    words[NEXT] = Math.floor(from / chunk);
    words[STABLE] = now();
    words.fill(IDLE, CURRENT, CURRENT + threads);
    return { memory, threads, size, chunk };
  }

  /** Thread: the next chunk, the one before being done; undefined where there is none, or all is to stop. */
  claim(thread: number): Chunk | undefined {
    if (this.isStopped) return undefined;
    // Before it claims, it says that it is at or behind what nobody has claimed: see `doneUpTo`.
    Atomics.store(this.#words, CURRENT + thread, Atomics.load(this.#words, NEXT));
    const index = Atomics.add(this.#words, NEXT, 1);
    if (index >= this.#chunks) {
      Atomics.sub(this.#words, NEXT, 1);
      this.rest(thread);
      return undefined;
    }
    Atomics.store(this.#words, CURRENT + thread, index);
    const from = index * this.#seed.chunk;
    return { from, end: Math.min(this.#seed.size, from + this.#seed.chunk) };
  }

  /** Thread: its chunk is done, and it has none. */
  rest(thread: number): void {
    Atomics.store(this.#words, CURRENT + thread, IDLE);
  }

  /** Thread: from the chunk that it is at up to `end` there is nothing to do. */
  skipTo(end: number): void {
    const index = end >= this.#seed.size ? this.#chunks : Math.floor(end / this.#seed.chunk);
    for (let next = Atomics.load(this.#words, NEXT); next < index; ) {
      const found = Atomics.compareExchange(this.#words, NEXT, next, index);
      if (found === next) return;
      next = found;
    }
  }

  /**
   * Up to where all is done, in bytes of the disk. The words are read in this order: a thread that is seen without a
   * chunk claims one that is no earlier than what was unclaimed before it was looked at.
   */
  get doneUpTo(): number {
    let first = Atomics.load(this.#words, NEXT);
    for (let thread = 0; thread < this.#seed.threads; thread += 1) {
      first = Math.min(first, Atomics.load(this.#words, CURRENT + thread));
    }
    return Math.min(this.#seed.size, first * this.#seed.chunk);
  }

  /** Whether all of it is done. */
  get isDone(): boolean {
    return this.doneUpTo === this.#seed.size;
  }

  /** For the progress: what is claimed. */
  get claimed(): ByteCount {
    return Math.min(this.#seed.size, Atomics.load(this.#words, NEXT) * this.#seed.chunk);
  }

  stop(): void {
    Atomics.store(this.#words, STOP, 1);
  }

  get isStopped(): boolean {
    return Atomics.load(this.#words, STOP) === 1;
  }

  /** Thread: whether `seconds` have gone since anybody was told so: then it is this one's turn. */
  takesTurn(seconds: number): boolean {
    const last = Atomics.load(this.#words, STABLE);
    const time = now();
    return time - last >= seconds && Atomics.compareExchange(this.#words, STABLE, last, time) === last;
  }

  /** Thread: `bytes` more were moved. */
  moved(thread: number, bytes: ByteCount): void {
    this.#moved[thread]! += bytes;
  }

  /** Bytes moved by all threads. */
  get allMoved(): ByteCount {
    return this.#moved.reduce((sum, bytes) => sum + bytes, 0);
  }
}

const movedAt = (threads: number): number => Math.ceil(((CURRENT + threads) * 4) / 8) * 8;

const now = (): number => Math.floor(Date.now() / 1000);

/** Larger where the disk would have more chunks than a word can count. */
function chunkOf(size: ByteCount): ByteCount {
  let chunk = CHUNK_BYTES;
  while (size / chunk > 2 ** 30) chunk *= 2;
  return chunk;
}
