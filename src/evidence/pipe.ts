/**
 * From the thread that reads to the thread that hashes: a ring of buffers in shared memory, so that the next one is
 * read while one is hashed. What reads as zeros goes through as a count. One thread at each end; both may wait.
 *
 * Layout: u32 produced, u32 consumed (how many buffers so far, modulo 2^32); f64 bytes hashed; f64 per buffer, what
 * is in it: bytes (above 0), zeros (below 0), the end (0); u32 1 when it is cut; the buffers.
 */

import { ImageError } from '../base/errors.ts';
import { type ByteCount, MIB } from '../base/units.ts';

/** Large enough that a disk which has to seek between two of them still reads at its speed. */
export const BUFFER_BYTES: ByteCount = 4 * MIB;
/** A power of two: the counts run over. */
const BUFFERS = 4;

const PRODUCED = 0;
const CONSUMED = 1;
const HASHED_AT = 8;
const CONTENTS_AT = 16;
const CUT = (CONTENTS_AT + BUFFERS * 8) / 4;
const BUFFERS_AT = 4096;
/** Who waits looks again after this long, should the wake-up be lost with its thread. */
const STEP_MS = 100;

/** Structured-cloneable. */
export type PipeSeed = SharedArrayBuffer;

export class Pipe {
  /** All buffers, one behind the other. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly #counts: Int32Array<SharedArrayBuffer>;
  readonly #contents: Float64Array<SharedArrayBuffer>;
  readonly #hashed: Float64Array<SharedArrayBuffer>;

  constructor(seed: PipeSeed) {
    this.bytes = new Uint8Array(seed, BUFFERS_AT, BUFFERS * BUFFER_BYTES);
    this.#counts = new Int32Array(seed, 0, CUT + 1);
    this.#hashed = new Float64Array(seed, HASHED_AT, 1);
    this.#contents = new Float64Array(seed, CONTENTS_AT, BUFFERS);
  }

  static seed(): PipeSeed {
    return new SharedArrayBuffer(BUFFERS_AT + BUFFERS * BUFFER_BYTES);
  }

  /**
   * Anybody: what waits, or comes to wait, at either end throws ImageError('interrupted'). Threads end by this and are
   * not terminated: one that is inside a native call then would take the process with it.
   */
  cut(): void {
    Atomics.store(this.#counts, CUT, 1);
    Atomics.notify(this.#counts, PRODUCED);
    Atomics.notify(this.#counts, CONSUMED);
  }

  #wait(word: number, value: number): void {
    Atomics.wait(this.#counts, word, value, STEP_MS);
  }

  #checkCut(): void {
    if (Atomics.load(this.#counts, CUT) === 1)
      throw new ImageError('interrupted', 'interrupted while hashing');
  }

  /** Reader: waits for a free buffer; returns where it begins in `bytes`. */
  reserve(): number {
    const produced = Atomics.load(this.#counts, PRODUCED);
    for (;;) {
      this.#checkCut();
      const consumed = Atomics.load(this.#counts, CONSUMED);
      if (((produced - consumed) | 0) < BUFFERS) return placeOf(produced) * BUFFER_BYTES;
      this.#wait(CONSUMED, consumed);
    }
  }

  /** Reader: the buffer that was reserved last holds `length` bytes, at least 1. */
  pushBytes(length: ByteCount): void {
    this.#push(length);
  }

  /** Reader: the next `count` bytes, at least 1, are zeros. */
  pushZeros(count: ByteCount): void {
    this.reserve();
    this.#push(-count);
  }

  /** Reader: nothing follows. */
  end(): void {
    this.reserve();
    this.#push(0);
  }

  #push(content: number): void {
    this.#contents[placeOf(Atomics.load(this.#counts, PRODUCED))] = content;
    Atomics.add(this.#counts, PRODUCED, 1);
    Atomics.notify(this.#counts, PRODUCED);
  }

  /** Hasher: waits for what comes next: so many bytes in `buffer`, so many zeros where negative, the end where 0. */
  next(): number {
    const consumed = Atomics.load(this.#counts, CONSUMED);
    for (;;) {
      this.#checkCut();
      const produced = Atomics.load(this.#counts, PRODUCED);
      if (produced !== consumed) return this.#contents[placeOf(consumed)]!;
      this.#wait(PRODUCED, produced);
    }
  }

  /** Hasher: the `length` bytes that `next` announced. */
  buffer(length: ByteCount): Uint8Array {
    const start = placeOf(Atomics.load(this.#counts, CONSUMED)) * BUFFER_BYTES;
    return this.bytes.subarray(start, start + length);
  }

  /** Hasher: done with what `next` announced. */
  release(): void {
    Atomics.add(this.#counts, CONSUMED, 1);
    Atomics.notify(this.#counts, CONSUMED);
  }

  /** Hasher: `count` more bytes are in the hash. Looks whether the pipe is cut: a hole may take hours. */
  advance(count: ByteCount): void {
    this.#checkCut();
    this.#hashed[0]! += count;
  }

  /** Anybody: bytes hashed so far, for the progress. */
  get hashed(): ByteCount {
    return this.#hashed[0]!;
  }
}

/** The end of the reader. */
export type PipeInput = Pick<Pipe, 'bytes' | 'reserve' | 'pushBytes' | 'pushZeros' | 'end'>;

/** Which buffer a count stands for. */
const placeOf = (count: number): number => (count >>> 0) % BUFFERS;
