/**
 * The disk: the flat byte range that users see. This is the only place where mapping becomes bytes: one read
 * loop over extents, for every format.
 */

import { EIO, ENXIO, type Moved } from '../base/errno.ts';
import { type ByteCount, GIB, type GuestOffset, type HostOffset } from '../base/units.ts';
import type { Translator } from '../image/driver.ts';
import { DATA, Extent } from '../image/extent.ts';
import type { BlockSource } from '../source/block-source.ts';

/** A 64 TiB disk of 1 MiB blocks takes less than a second. */
const MAX_SEEK_MS = 2000;
/** The clock is looked at every so many bytes of the disk: some ten thousand table words. */
const SEEK_SPAN = 16 * GIB;

export class Disk {
  readonly size: ByteCount;
  readonly #translator: Translator;
  readonly #source: BlockSource;
  readonly #extent = new Extent();

  constructor(size: ByteCount, translator: Translator, source: BlockSource) {
    this.size = size;
    this.#translator = translator;
    this.#source = source;
  }

  /**
   * Reads up to `length` bytes of the disk at `at` into target[start…]. Short only at the end of the disk;
   * -errno if any part of the range cannot be read. `start + length` is within `target`.
   */
  read(target: Uint8Array, start: number, length: ByteCount, at: GuestOffset): Moved {
    const wanted = Math.min(length, this.size - at);
    if (wanted <= 0) return 0;
    const extent = this.#extent;
    let done = 0;
    while (done < wanted) {
      const status = this.#translator.locate((at + done) as GuestOffset, wanted - done, extent);
      if (status < 0) return status;
      const count = Math.min(extent.length, wanted - done);
      // A driver's promise; without it a defect there would be an endless loop here.
      if (count < 1) return -EIO;
      if (extent.kind === DATA) {
        const moved = this.#source.readAt(target, start + done, count, extent.host);
        if (moved < 0) return moved;
        if (moved < count) return -EIO;
      } else {
        target.fill(0, start + done, start + done + count);
      }
      done += count;
    }
    return wanted;
  }

  /**
   * lseek(2) SEEK_DATA and SEEK_HOLE: the first offset at or after `at` that holds data (or no data), true to
   * the image's allocation and to holes of the source inside it. The end of the disk is a hole. -ENXIO at or
   * past the end, and where no data follows.
   *
   * One call works for MAX_SEEK_MS or a little longer; what lies behind is then called data, as lseek(2) allows,
   * so that no seek over a vast table stops a worker for long.
   */
  seek(at: GuestOffset, whence: 'data' | 'hole'): Moved {
    if (at >= this.size) return -ENXIO;
    const wantData = whence === 'data';
    const extent = this.#extent;
    let here: number = at;
    const deadline = performance.now() + MAX_SEEK_MS;
    while (here < this.size) {
      if (performance.now() > deadline) return wantData ? here : this.size;
      const span = Math.min(this.size - here, SEEK_SPAN);
      const status = this.#translator.locate(here as GuestOffset, span, extent);
      if (status < 0) return status;
      const length = Math.min(extent.length, this.size - here);
      if (length < 1) return -EIO;
      if (extent.kind !== DATA) {
        if (!wantData) return here;
        here += length;
        continue;
      }
      const end = extent.host + length;
      const found = wantData
        ? this.#source.nextData(extent.host)
        : this.#source.nextHole(extent.host as HostOffset);
      if (found < end) return here + (found - extent.host);
      here += length;
    }
    return wantData ? -ENXIO : this.size;
  }
}
