/** A source in memory. Never shared between threads. */

import type { Moved } from '../../src/base/errno.ts';
import type { ByteCount, HostOffset } from '../../src/base/units.ts';
import type { BlockSource, SharedSource } from '../../src/source/block-source.ts';

export class MemorySource implements BlockSource {
  readonly label: string;
  readonly size: ByteCount;
  readonly allocated: ByteCount;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array, label = 'memory') {
    this.#bytes = bytes;
    this.label = label;
    this.size = bytes.length;
    this.allocated = bytes.length;
  }

  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved {
    const count = Math.max(0, Math.min(length, this.size - at));
    target.set(this.#bytes.subarray(at, at + count), start);
    return count;
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
