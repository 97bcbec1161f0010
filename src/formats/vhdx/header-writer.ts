/**
 * Changing the headers ([MS-VHDX] 2.2.2.1): the slot that is not current gets the new header, and is current when
 * that is stable; then the other slot gets the same with the next number, so that both say the same. At every
 * instant one of them is valid, and every reader takes either the old or the new one.
 *
 * One thread at a time: the holder of the image's commit lock.
 */

import type { Status } from '../../base/errno.ts';
import type { HostOffset } from '../../base/units.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type CurrentHeader, checksumOf } from './headers.ts';
import { HEADER_BYTES, HEADER_OFFSETS, header } from './structs.ts';

/** Index in HEADER_OFFSETS of the current header. */
const SLOT = 0;
/** The slot written last may not be on the medium yet: the other one must not be touched. */
const UNSTABLE = 1;

/** Plain data: shared by all threads. */
export interface HeaderSeed {
  /** The bytes of the current header. */
  readonly bytes: SharedArrayBuffer;
  readonly words: SharedArrayBuffer;
}

export function headerSeed(current: CurrentHeader): HeaderSeed {
  const bytes = new SharedArrayBuffer(HEADER_BYTES);
  new Uint8Array(bytes).set(current.raw);
  const words = new SharedArrayBuffer(8);
  new Int32Array(words)[SLOT] = current.slot - 1;
  return { bytes, words };
}

export class HeaderWriter {
  readonly #current: Uint8Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #source: BlockSource;
  readonly #stable: () => Status;
  readonly #next = new Uint8Array(HEADER_BYTES);
  readonly #view = new DataView(this.#next.buffer);

  /** `stable` flushes the source, and calls `settled` where that worked. */
  constructor(seed: HeaderSeed, source: BlockSource, stable: () => Status) {
    this.#current = new Uint8Array(seed.bytes);
    this.#words = new Int32Array(seed.words);
    this.#source = source;
    this.#stable = stable;
  }

  /** The source was flushed. */
  settled(): void {
    this.#words[UNSTABLE] = 0;
  }

  /** Whether a header was written that no flush has made stable. */
  get unstable(): boolean {
    return this.#words[UNSTABLE] === 1;
  }

  /**
   * Gives both headers what `change` makes of the bytes of the current one. When it returns 0, a header with the
   * change is stable and current; the other slot follows with the next flush. Returns 0 or -errno: then either
   * header may be current.
   */
  update(change: (bytes: Uint8Array) => void): Status {
    const words = this.#words;
    if (words[UNSTABLE] === 1) {
      const status = this.#stable();
      if (status < 0) return status;
    }
    this.#next.set(this.#current);
    change(this.#next);
    let status = this.#write(1 - words[SLOT]!);
    if (status === 0) status = this.#stable();
    if (status < 0) return status;
    this.#adopt();
    status = this.#write(1 - words[SLOT]!);
    if (status < 0) return status;
    this.#adopt();
    words[UNSTABLE] = 1;
    return 0;
  }

  #write(slot: number): Status {
    const { sequenceNumber, checksum } = header.at;
    const view = this.#view;
    view.setBigUint64(sequenceNumber, view.getBigUint64(sequenceNumber, true) + 1n, true);
    view.setUint32(checksum, checksumOf(this.#next, checksum), true);
    const at = HEADER_OFFSETS[slot]! as HostOffset;
    return this.#source.writeAt(this.#next, 0, HEADER_BYTES, at, 'header.write');
  }

  /** What was written last is the current header. */
  #adopt(): void {
    this.#current.set(this.#next);
    this.#words[SLOT] = 1 - this.#words[SLOT]!;
  }
}
