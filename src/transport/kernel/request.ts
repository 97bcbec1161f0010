/**
 * The request at hand, as it came from the device: the fields of its header, and numbers, handles and text at places of
 * its body. Nothing is allocated but for text.
 */

import { MAX_REQUEST, RequestHeader } from '../../fuse/abi.ts';

/** Of a read-only mount: the header and names; 8 KiB is the kernel's minimum. */
export const REQUEST_BYTES = 64 * 1024;
/** Of a writable one: the kernel asks for the largest write and its headers. */
const WRITE_REQUEST_BYTES = MAX_REQUEST + 4096;

/** Where the body of a request starts in the request buffer. */
export const BODY_AT = RequestHeader.size;
const BODY = BODY_AT >> 2;
const TWO_32 = 2 ** 32;

/** Marks the handles of files that are open for writing: bit 31, which no node number reaches. */
const OPEN_TO_WRITE = 1 << 31;
const OPEN_TO_WRITE_VALUE = 2 ** 31;

/** The handle `handle` of the file system as the kernel gets it where the file is open for writing. */
export function handleToWrite(handle: number): number {
  return handle + OPEN_TO_WRITE_VALUE;
}

/** One per thread, reused for every request. Where a call takes a place, it is a byte of the body. */
export class RequestBuffer {
  /** The request is read to its start. */
  readonly bytes: Buffer;
  readonly #words: Uint32Array;
  #length = 0;

  /** `writes`: whether there are requests that bring what is to be written. */
  constructor(writes: boolean) {
    const size = writes ? WRITE_REQUEST_BYTES : REQUEST_BYTES;
    this.bytes = Buffer.allocUnsafeSlow(size);
    this.#words = new Uint32Array(this.bytes.buffer, this.bytes.byteOffset, size >> 2);
  }

  get opcode(): number {
    return this.#words[1]!;
  }

  /** The number of the request: its halves, low first. */
  get uniqueLow(): number {
    return this.#words[2]!;
  }

  get uniqueHigh(): number {
    return this.#words[3]!;
  }

  get node(): number {
    return this.#words[4]! + this.#words[5]! * TWO_32;
  }

  /** Of `received` bytes, at least a header, those count that the header tells of. */
  begin(received: number): void {
    this.#length = Math.min(received, this.#words[0]!);
  }

  /** Bytes behind the header; negative where the header tells of less than itself. */
  get bodyLength(): number {
    return this.#length - BODY_AT;
  }

  u32(at: number): number {
    return this.#words[BODY + (at >> 2)]!;
  }

  /** As a number; beyond 2^53 it is inexact but still large. */
  u64(at: number): number {
    const word = BODY + (at >> 2);
    return this.#words[word]! + this.#words[word + 1]! * TWO_32;
  }

  /** The time at the i64 seconds and the u32 nanoseconds given, in ms. */
  time(secondsAt: number, nanosecondsAt: number): number {
    const word = BODY + (secondsAt >> 2);
    const seconds = this.#words[word]! + (this.#words[word + 1]! | 0) * TWO_32;
    return seconds * 1000 + this.u32(nanosecondsAt) / 1_000_000;
  }

  /** A handle as the file system gave it out; -1 where it gave out none such. */
  handle(at: number): number {
    const word = BODY + (at >> 2);
    return this.#words[word + 1] === 0 ? this.#words[word]! & ~OPEN_TO_WRITE : -1;
  }

  /** Whether a handle is that of a file that is open for writing. */
  isToWrite(at: number): boolean {
    return (this.u32(at) & OPEN_TO_WRITE) !== 0;
  }

  /** Text up to its NUL; undefined where the request ends before one. */
  text(at: number, encoding: 'latin1' | 'utf8'): string | undefined {
    const end = this.bytes.indexOf(0, BODY_AT + at);
    return end < 0 || end >= this.#length ? undefined : this.bytes.toString(encoding, BODY_AT + at, end);
  }
}
