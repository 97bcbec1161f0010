/**
 * A filter that keeps every change of the source underneath, in memory: what a power cut may have left on the
 * medium is rebuilt from it (test/powercut).
 */

import type { Moved, Status } from '../../src/base/errno.ts';
import { type ByteCount, type HostOffset, hostOffset, roundDown, roundUp } from '../../src/base/units.ts';
import type { BlockSource, SharedSource, WriteStep } from '../../src/source/block-source.ts';

/** What a medium writes as a whole: a torn write leaves each sector old or new. */
export const SECTOR = 512;

export type Change =
  /**
   * Bytes of the source, widened to whole sectors: the page cache writes a sector out with everything that was
   * changed in it before. `bytes` is undefined where all are zeros. A hole that was punched is no different.
   */
  | {
      readonly kind: 'write' | 'zero';
      readonly at: number;
      readonly length: number;
      readonly bytes: Uint8Array | undefined;
      readonly step: WriteStep;
    }
  | { readonly kind: 'size'; readonly from: number; readonly to: number }
  /** Everything before it is stable. Only those that succeeded. */
  | { readonly kind: 'flush' };

/** "table.write 0x200 +512": for messages. */
export function describeChange(change: Change): string {
  switch (change.kind) {
    case 'flush':
      return 'flush';
    case 'size':
      return `size.set 0x${change.from.toString(16)} -> 0x${change.to.toString(16)}`;
    default: {
      const what = change.kind === 'zero' ? `${change.step} (zero)` : change.step;
      return `${what} 0x${change.at.toString(16)} +${change.length}`;
    }
  }
}

export class RecordingSource implements BlockSource {
  readonly changes: Change[] = [];
  readonly #inner: BlockSource;

  constructor(inner: BlockSource) {
    this.#inner = inner;
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
    const before = this.size;
    const status = this.#inner.writeAt(bytes, start, length, at, step);
    // Where it failed, any part of it may be there: that part is recorded.
    if (at > before && this.size > before) this.changes.push({ kind: 'size', from: before, to: at });
    this.#record('write', at, length, step);
    return status;
  }

  zero(at: HostOffset, length: ByteCount, how: 'punch' | 'keep', step: WriteStep): Status {
    const status = this.#inner.zero(at, length, how, step);
    this.#record('zero', at, length, step);
    return status;
  }

  #record(kind: 'write' | 'zero', at: number, length: number, step: WriteStep): void {
    const first = roundDown(at, SECTOR);
    const end = Math.min(roundUp(at + length, SECTOR), this.size);
    if (end <= first) return;
    const whole = kind === 'zero' && first === at && end <= at + length;
    let bytes: Uint8Array | undefined;
    if (!whole) {
      bytes = new Uint8Array(end - first);
      const moved = this.#inner.readAt(bytes, 0, bytes.length, hostOffset(first));
      if (moved !== bytes.length) throw new Error(`what was written cannot be read back: ${moved}`);
    }
    this.changes.push({ kind, at: first, length: end - first, bytes, step });
  }

  setSize(size: ByteCount): Status {
    const from = this.size;
    const status = this.#inner.setSize(size);
    if (this.size !== from) this.changes.push({ kind: 'size', from, to: this.size });
    return status;
  }

  flush(): Status {
    const status = this.#inner.flush();
    if (status === 0) this.changes.push({ kind: 'flush' });
    return status;
  }

  nextData(at: HostOffset): HostOffset {
    return this.#inner.nextData(at);
  }

  nextHole(at: HostOffset): HostOffset {
    return this.#inner.nextHole(at);
  }

  share(): SharedSource {
    throw new Error(`${this.label}: a recording cannot be shared between threads`);
  }

  close(): void {
    this.#inner.close();
  }
}
