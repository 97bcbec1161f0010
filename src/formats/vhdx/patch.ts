/** Changes of metadata that are to be made together: 4 KiB sectors of the file as they will be. */

import { type HostOffset, roundDown } from '../../base/units.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { readObject } from './read.ts';
import { LOG_SECTOR } from './structs.ts';

export class Patch {
  readonly #source: BlockSource;
  readonly #sectors = new Map<number, Uint8Array>();

  /** `source` has the log replayed. */
  constructor(source: BlockSource) {
    this.#source = source;
  }

  /** Sectors that are changed. */
  get count(): number {
    return this.#sectors.size;
  }

  clear(): void {
    this.#sectors.clear();
  }

  /** Puts `bytes` at `at`. What says so already is not changed. Throws ImageError where the file cannot be read. */
  put(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const sector = roundDown(at + done, LOG_SECTOR);
      const within = at + done - sector;
      const count = Math.min(LOG_SECTOR - within, bytes.length - done);
      const piece = bytes.subarray(done, done + count);
      const now = this.#sectors.get(sector) ?? this.#read(sector);
      done += count;
      if (piece.every((byte, n) => byte === now[within + n])) continue;
      now.set(piece, within);
      this.#sectors.set(sector, now);
    }
  }

  /** `length` bytes at `at` as they will be. */
  get(at: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const sector = roundDown(at + done, LOG_SECTOR);
      const within = at + done - sector;
      const count = Math.min(LOG_SECTOR - within, length - done);
      const now = this.#sectors.get(sector) ?? this.#read(sector);
      bytes.set(now.subarray(within, within + count), done);
      done += count;
    }
    return bytes;
  }

  /** In the order of the file. */
  each(visit: (at: HostOffset, bytes: Uint8Array) => void): void {
    for (const [at, bytes] of [...this.#sectors].sort(([a], [b]) => a - b)) visit(at as HostOffset, bytes);
  }

  #read(at: number): Uint8Array {
    // A file may end behind the last entry of the BAT.
    const length = Math.max(0, Math.min(LOG_SECTOR, this.#source.size - at));
    const bytes = new Uint8Array(LOG_SECTOR);
    bytes.set(readObject(this.#source, 'VHDX metadata', at, length));
    return bytes;
  }
}
