/**
 * Writing where the parent shows: the bytes of the disk get a place in the image before anything names it. What
 * the place holds besides the new bytes (the rest of the sector or block) is copied from the parent. One per thread.
 */

import { EIO, ESTALE, type Moved, type Status } from '../base/errno.ts';
import { type ByteCount, type GuestOffset, type HostOffset, MIB } from '../base/units.ts';
import type { Editor, Translator } from '../image/driver.ts';
import { Extent, HOLE } from '../image/extent.ts';
import { Reservation } from '../image/reservation.ts';
import type { BlockSource } from '../source/block-source.ts';

/** The parent's bytes are copied in pieces of at most this size. */
const COPY_BYTES = MIB;
/** What is compared with zeros at once: the unit in which copies of a sparse parent stay sparse. */
const ZERO_BYTES = 4096;
const ZEROS = Buffer.alloc(ZERO_BYTES);

/** The disk beneath: reads zeros behind its end. */
export interface ParentBytes {
  readFilled(target: Uint8Array, start: number, length: ByteCount, at: GuestOffset): Status;
}

export class Forker {
  readonly #editor: Editor;
  readonly #translator: Translator;
  readonly #source: BlockSource;
  readonly #parent: ParentBytes;
  readonly #place = new Reservation();
  readonly #extent = new Extent();
  #buffer: Buffer | undefined;

  constructor(editor: Editor, translator: Translator, source: BlockSource, parent: ParentBytes) {
    this.#editor = editor;
    this.#translator = translator;
    this.#source = source;
    this.#parent = parent;
  }

  /**
   * Writes bytes[start…], or zeros where there are no `bytes`, to the disk at `at`: as much of `length` as lies in
   * one block and is HOLE. Returns how much that is: 0 where it is HOLE no more; or -errno.
   */
  write(bytes: Uint8Array | undefined, start: number, length: ByteCount, at: GuestOffset): Moved {
    const editor = this.#editor;
    editor.lockBlock(at);
    try {
      const { blockSize } = editor;
      const rest = blockSize - (at % blockSize);
      let status = this.#translator.locate(at, Math.min(length, rest), this.#extent);
      if (status < 0) return status;
      if (this.#extent.kind !== HOLE) return 0;
      const wanted = Math.min(length, rest, this.#extent.length);
      const place = this.#place;
      status = editor.reserve(at, wanted, place);
      if (status === -ESTALE) return 0;
      if (status < 0) return status;
      const done = Math.min(wanted, place.at + place.length - at);
      // A driver's promise.
      if (place.at > at || done < 1) return -EIO;
      status = this.#fill(bytes, start, done, at);
      if (status < 0) {
        editor.cancel(place);
        return status;
      }
      status = editor.publish(place);
      if (status === -ESTALE) return 0;
      return status < 0 ? status : done;
    } finally {
      editor.unlockBlock(at);
    }
  }

  #fill(bytes: Uint8Array | undefined, start: number, length: ByteCount, at: GuestOffset): Status {
    const place = this.#place;
    const host = (place.host + (at - place.at)) as HostOffset;
    let status = this.#copy(place.at, at);
    if (status < 0) return status;
    if (bytes !== undefined) status = this.#source.writeAt(bytes, start, length, host, 'payload.write');
    else if (!place.zeros) status = this.#source.zero(host, length, 'punch', 'payload.zero');
    return status < 0 ? status : this.#copy(at + length, place.at + place.length);
  }

  /** The parent's bytes `from` to `to` of the disk, into the place. */
  #copy(from: number, to: number): Status {
    if (from >= to) return 0;
    const place = this.#place;
    this.#buffer ??= Buffer.allocUnsafeSlow(COPY_BYTES);
    const buffer = this.#buffer;
    for (let at = from; at < to; ) {
      const count = Math.min(COPY_BYTES, to - at);
      const status = this.#parent.readFilled(buffer, 0, count, at as GuestOffset);
      if (status < 0) return status;
      const written = this.#put(buffer, count, place.host + (at - place.at));
      if (written < 0) return written;
      at += count;
    }
    return 0;
  }

  /** `count` bytes of the buffer to host offset `host`, zeros left out where they are there. */
  #put(buffer: Buffer, count: ByteCount, host: number): Status {
    if (!this.#place.zeros) {
      return this.#source.writeAt(buffer, 0, count, host as HostOffset, 'payload.write');
    }
    for (let at = 0; at < count; ) {
      let end = at;
      while (end < count && !isZero(buffer, end, count)) end = Math.min(count, end + ZERO_BYTES);
      if (end > at) {
        const status = this.#source.writeAt(buffer, at, end - at, (host + at) as HostOffset, 'payload.write');
        if (status < 0) return status;
      }
      at = Math.min(count, end + ZERO_BYTES);
    }
    return 0;
  }
}

/** Whether the next ZERO_BYTES of `buffer` from `at` on, up to `end`, are zeros. */
function isZero(buffer: Buffer, at: number, end: number): boolean {
  const to = Math.min(end, at + ZERO_BYTES);
  return buffer.compare(ZEROS, 0, to - at, at, to) === 0;
}
