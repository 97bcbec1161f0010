/** A guest whose operations may fail: what it may then count on. */

import { expect } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { readDisk } from '../support/disk.ts';

export class FaultGuest {
  /** The disk as the guest sees it. */
  readonly now: Uint8Array;
  /** Negative results so far. */
  failures: number[] = [];
  /** The disk at the last flush that went well, and after every operation since. */
  #versions: Uint8Array[];
  readonly #disk: Disk;

  constructor(disk: Disk, content: Uint8Array) {
    this.#disk = disk;
    this.now = content.slice();
    this.#versions = [content.slice()];
  }

  write(at: number, bytes: Uint8Array): boolean {
    const moved = this.#disk.write(bytes, 0, bytes.length, guestOffset(at));
    return this.#changed(moved === bytes.length ? 0 : moved, at, bytes);
  }

  zero(at: number, length: number, how: 'punch' | 'keep'): boolean {
    const status = this.#disk.zero(guestOffset(at), length, how);
    return this.#changed(status, at, new Uint8Array(length));
  }

  /** What failed may have happened in part: then every byte is the old or the new one, and stays so. */
  #changed(status: number, at: number, bytes: Uint8Array): boolean {
    this.#count(status);
    if (status === 0) this.now.set(bytes, at);
    else {
      const found = readDisk(this.#disk, at, bytes.length);
      const old = this.now.subarray(at, at + found.length);
      const wrong = found.findIndex((byte, n) => byte !== bytes[n] && byte !== old[n]);
      if (wrong >= 0) expect.fail(`after errno ${-status}, byte ${at + wrong} is neither old nor new`);
      this.now.set(found, at);
    }
    this.#versions.push(this.now.slice());
    return status === 0;
  }

  flush(): boolean {
    return this.#flushed(this.#disk.flush());
  }

  close(): boolean {
    return this.#flushed(this.#disk.close());
  }

  #flushed(status: number): boolean {
    this.#count(status);
    if (status === 0) this.#versions = [this.now.slice()];
    return status === 0;
  }

  #count(status: number): void {
    if (!Number.isInteger(status) || status > 0) expect.fail(`the result is ${status}`);
    if (status < 0) this.failures.push(status);
  }

  /** Whether the open disk reads as the guest counts on. */
  expectReads(what: string): void {
    const found = readDisk(this.#disk);
    if (Buffer.compare(found, this.now) !== 0) expect.fail(`${what}: ${firstDifference(found, this.now)}`);
  }

  /** What is wrong with a disk that was opened after the daemon was killed now. */
  problemAfterKill(found: Uint8Array): string | undefined {
    const flushed = this.#versions[0]!;
    if (found.length !== flushed.length) return `the disk has ${found.length} bytes`;
    const same = (at: number) =>
      Buffer.compare(found.subarray(at, at + 512), flushed.subarray(at, at + 512)) === 0;
    for (let at = 0; at < found.length; at += 1) {
      if (at % 512 === 0 && same(at)) {
        at += 511;
        continue;
      }
      const byte = found[at];
      if (byte !== flushed[at] && !this.#versions.some((version) => version[at] === byte)) {
        return `byte ${at} is ${byte}: neither what was flushed nor written after it`;
      }
    }
    return undefined;
  }
}

export function firstDifference(found: Uint8Array, wanted: Uint8Array): string {
  const at = wanted.findIndex((byte, n) => byte !== found[n]);
  return `byte ${at} is ${found[at]}, not ${wanted[at]}`;
}
