/**
 * A part of a disk as a byte range of its own: a partition. It has nothing of its own but two numbers, so what is
 * written through it or through the disk is the same bytes at once.
 */

import { ENOSPC, ENXIO, type Moved, type Status } from '../base/errno.ts';
import { type ByteCount, type GuestOffset, guestOffset } from '../base/units.ts';
import type { EditCounters } from '../image/driver.ts';
import type { Disk } from './disk.ts';

/** Methods as those of `Disk`, offsets counted from the window's start; nothing outside of it is touched. */
export class Window {
  readonly size: ByteCount;
  readonly #disk: Disk;
  readonly #start: number;

  /** `start + size` is within the disk. */
  constructor(disk: Disk, start: number, size: ByteCount) {
    this.#disk = disk;
    this.#start = start;
    this.size = size;
  }

  get writable(): boolean {
    return this.#disk.writable;
  }

  read(target: Uint8Array, start: number, length: ByteCount, at: GuestOffset): Moved {
    const wanted = Math.min(length, this.size - at);
    return wanted <= 0 ? 0 : this.#disk.read(target, start, wanted, this.#at(at));
  }

  write(bytes: Uint8Array, start: number, length: ByteCount, at: GuestOffset): Moved {
    const wanted = Math.min(length, this.size - at);
    if (wanted <= 0) return length === 0 ? 0 : -ENOSPC;
    return this.#disk.write(bytes, start, wanted, this.#at(at));
  }

  /** Blocks of the image that reach over an end of the window are not unmapped: the part inside is zeroed. */
  zero(at: GuestOffset, length: ByteCount, how: 'punch' | 'keep'): Status {
    const wanted = Math.min(length, this.size - at);
    return wanted <= 0 ? 0 : this.#disk.zero(this.#at(at), wanted, how);
  }

  /** Of the whole disk: what one window has to make stable cannot be told from the rest. */
  flush(): Status {
    return this.#disk.flush();
  }

  get isDirty(): boolean {
    return this.#disk.isDirty;
  }

  counters(): EditCounters {
    return this.#disk.counters();
  }

  seek(at: GuestOffset, whence: 'data' | 'hole'): Moved {
    if (at >= this.size) return -ENXIO;
    const found = this.#disk.seek(this.#at(at), whence, this.#start + this.size);
    return found < 0 ? found : found - this.#start;
  }

  #at(at: number): GuestOffset {
    return guestOffset(this.#start + at);
  }
}
