/** A large, mostly empty source in memory: what is written is kept in 4 KiB pages, the rest reads as zeros. */

import { EBADF, type Moved, type Status } from '../../src/base/errno.ts';
import type { ByteCount, HostOffset } from '../../src/base/units.ts';
import type { BlockSource, SharedSource } from '../../src/source/block-source.ts';

const PAGE = 4096;

export class SparseSource implements BlockSource {
  readonly label = 'sparse';
  size: ByteCount = 0;
  readonly #pages = new Map<number, Uint8Array>();

  get allocated(): ByteCount {
    return this.#pages.size * PAGE;
  }

  /** Bytes of `data` at `at`; the source grows to hold them. */
  put(at: number, data: Uint8Array): void {
    for (let done = 0; done < data.length; ) {
      const number = Math.floor((at + done) / PAGE);
      const within = (at + done) % PAGE;
      const count = Math.min(PAGE - within, data.length - done);
      let page = this.#pages.get(number);
      if (page === undefined) {
        page = new Uint8Array(PAGE);
        this.#pages.set(number, page);
      }
      page.set(data.subarray(done, done + count), within);
      done += count;
    }
    this.size = Math.max(this.size, at + data.length);
  }

  readAt(target: Uint8Array, start: number, length: ByteCount, at: HostOffset): Moved {
    const wanted = Math.max(0, Math.min(length, this.size - at));
    for (let done = 0; done < wanted; ) {
      const within = (at + done) % PAGE;
      const count = Math.min(PAGE - within, wanted - done);
      const page = this.#pages.get(Math.floor((at + done) / PAGE));
      if (page === undefined) target.fill(0, start + done, start + done + count);
      else target.set(page.subarray(within, within + count), start + done);
      done += count;
    }
    return wanted;
  }

  nextData(at: HostOffset): HostOffset {
    for (let number = Math.floor(at / PAGE); number * PAGE < this.size; number += 1) {
      if (this.#pages.has(number)) return Math.max(at, number * PAGE) as HostOffset;
    }
    return this.size as HostOffset;
  }

  nextHole(at: HostOffset): HostOffset {
    let number = Math.floor(at / PAGE);
    while (this.#pages.has(number)) number += 1;
    return Math.min(this.size, Math.max(at, number * PAGE)) as HostOffset;
  }

  readonly writable = false;

  writeAt(): Status {
    return -EBADF;
  }

  zero(): Status {
    return -EBADF;
  }

  setSize(): Status {
    return -EBADF;
  }

  flush(): Status {
    return -EBADF;
  }

  share(): SharedSource {
    throw new Error('a sparse test source cannot be shared between threads');
  }

  close(): void {}
}
