/** A source in memory. Never shared between threads. */

import { EBADF, type Moved, type Status } from '../../src/base/errno.ts';
import type { ByteCount, HostOffset } from '../../src/base/units.ts';
import type { BlockSource, SharedSource } from '../../src/source/block-source.ts';

export class MemorySource implements BlockSource {
  readonly label: string;
  readonly writable: boolean;
  /** All of it, and room behind. */
  #memory: Uint8Array;
  #size: ByteCount;

  /** `bytes` are copied where the source is writable. */
  constructor(bytes: Uint8Array, label = 'memory', writable = false) {
    this.#memory = writable ? bytes.slice() : bytes;
    this.#size = bytes.length;
    this.label = label;
    this.writable = writable;
  }

  get size(): ByteCount {
    return this.#size;
  }

  get allocated(): ByteCount {
    return this.#size;
  }

  /** The bytes as they are now. */
  get bytes(): Uint8Array {
    return this.#memory.subarray(0, this.#size);
  }

  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved {
    const count = Math.max(0, Math.min(length, this.size - at));
    target.set(this.#memory.subarray(at, at + count), start);
    return count;
  }

  writeAt(bytes: Uint8Array, start: number, length: ByteCount, at: HostOffset): Status {
    if (!this.writable) return -EBADF;
    if (at + length > this.#size) this.setSize(at + length);
    this.#memory.set(bytes.subarray(start, start + length), at);
    return 0;
  }

  zero(at: HostOffset, length: ByteCount): Status {
    if (!this.writable) return -EBADF;
    this.#memory.fill(0, at, Math.max(at, Math.min(at + length, this.#size)));
    return 0;
  }

  setSize(size: ByteCount): Status {
    if (!this.writable) return -EBADF;
    if (size > this.#memory.length) {
      const larger = new Uint8Array(Math.max(size, this.#memory.length * 2));
      larger.set(this.bytes);
      this.#memory = larger;
    }
    if (size > this.#size) this.#memory.fill(0, this.#size, size);
    this.#size = size;
    return 0;
  }

  flush(): Status {
    return this.writable ? 0 : -EBADF;
  }

  nextData(at: HostOffset): HostOffset {
    return Math.min(at, this.size) as HostOffset;
  }

  nextHole(_at: HostOffset): HostOffset {
    return this.size as HostOffset;
  }

  share(): SharedSource {
    throw new Error(`${this.label}: a source in memory cannot be shared between threads`);
  }

  close(): void {}
}
