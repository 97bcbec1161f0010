/** A filter that fails operations of the source underneath on command. */

import { EFBIG, type Moved, type Status } from '../../src/base/errno.ts';
import { type ByteCount, type HostOffset, roundDown } from '../../src/base/units.ts';
import type { BlockSource, SharedSource, WriteStep } from '../../src/source/block-source.ts';

export interface Fault {
  /** What fails; any operation that changes or flushes if undefined. */
  readonly step: WriteStep | undefined;
  /** The first operation of `step` that fails, counted from when the fault is set: 1 is the next one. */
  readonly nth: number;
  /** How many fail, from the nth on: 1, or Infinity until `lift`. */
  readonly times: number;
  /** Positive. */
  readonly errno: number;
  /** A failing write writes this share of its bytes first, 0 to below 1, up to the end of a sector. */
  readonly part: number;
}

export class FaultSource implements BlockSource {
  /** Operations so far, by step. */
  readonly counts = new Map<WriteStep, number>();
  /** Operations that failed since the fault was set. */
  hits = 0;
  /** The source cannot become longer than this: EFBIG, as a file-size limit gives it. */
  limit = Number.POSITIVE_INFINITY;
  readonly #inner: BlockSource;
  #fault: Fault | undefined;
  #seen = 0;

  constructor(inner: BlockSource) {
    this.#inner = inner;
  }

  set(fault: Fault): void {
    this.#fault = fault;
    this.#seen = 0;
    this.hits = 0;
  }

  lift(): void {
    this.#fault = undefined;
    this.limit = Number.POSITIVE_INFINITY;
  }

  /** -errno if this operation is to fail, else 0. */
  #meet(step: WriteStep): Status {
    this.counts.set(step, (this.counts.get(step) ?? 0) + 1);
    const fault = this.#fault;
    if (fault === undefined || (fault.step !== undefined && fault.step !== step)) return 0;
    this.#seen += 1;
    if (this.#seen < fault.nth || this.#seen >= fault.nth + fault.times) return 0;
    this.hits += 1;
    return -fault.errno;
  }

  #partOf(at: number, length: number): number {
    return Math.max(0, roundDown(at + Math.floor(length * this.#fault!.part), 512) - at);
  }

  #overLimit(end: number): boolean {
    if (end <= this.limit || end <= this.size) return false;
    this.hits += 1;
    return true;
  }

  get label(): string {
    return this.#inner.label;
  }

  get size(): ByteCount {
    return this.#inner.size;
  }

  get writable(): boolean {
    return this.#inner.writable;
  }

  get allocated(): ByteCount {
    return this.#inner.allocated;
  }

  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved {
    return this.#inner.readAt(target, start, length, at);
  }

  writeAt(bytes: Uint8Array, start: number, length: ByteCount, at: HostOffset, step: WriteStep): Status {
    const failed = this.#meet(step);
    if (failed < 0) {
      const part = this.#partOf(at, length);
      if (part > 0) this.#inner.writeAt(bytes, start, part, at, step);
      return failed;
    }
    if (this.#overLimit(at + length)) {
      // write(2) writes what fits, and fails where nothing does.
      const part = Math.max(0, this.limit - at);
      if (part > 0) this.#inner.writeAt(bytes, start, part, at, step);
      return -EFBIG;
    }
    return this.#inner.writeAt(bytes, start, length, at, step);
  }

  zero(at: HostOffset, length: ByteCount, how: 'punch' | 'keep', step: WriteStep): Status {
    const failed = this.#meet(step);
    if (failed < 0) {
      const part = this.#partOf(at, length);
      if (part > 0) this.#inner.zero(at, part, how, step);
      return failed;
    }
    return this.#inner.zero(at, length, how, step);
  }

  setSize(size: ByteCount): Status {
    const failed = this.#meet('size.set');
    if (failed < 0) return failed;
    return this.#overLimit(size) ? -EFBIG : this.#inner.setSize(size);
  }

  flush(): Status {
    const failed = this.#meet('flush');
    return failed < 0 ? failed : this.#inner.flush();
  }

  nextData(at: HostOffset): HostOffset {
    return this.#inner.nextData(at);
  }

  nextHole(at: HostOffset): HostOffset {
    return this.#inner.nextHole(at);
  }

  share(): SharedSource {
    return this.#inner.share();
  }

  close(): void {
    this.#inner.close();
  }
}
