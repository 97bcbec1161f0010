/**
 * What a daemon and its clients say to one another over the control socket (docs/control.md): lines of JSON, UTF-8, each
 * ended by a newline. The daemon speaks first, with `Hello`; then each request line gets one answer line, in order.
 */

import type { WireError } from '../base/errors.ts';
import type { FormatId } from '../image/driver.ts';
import type { MountStats } from './stats.ts';

/** Raised where something that was understood before no longer is. What is only added does not raise it. */
export const PROTOCOL = 1;

/** Bytes of a request line, without its newline. Paths have 4096 at most. */
export const MAX_REQUEST_BYTES: number = 64 * 1024;
/** Of an answer: statistics of some ten thousand images. */
export const MAX_ANSWER_BYTES: number = 64 * 1024 * 1024;

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface Hello {
  readonly 'vdisk-mount': typeof PROTOCOL;
  readonly pid: number;
  readonly mountpoint: string;
}

/** A raw file of a mount. */
export interface ShownFile {
  /** In the mount: "disk.raw". */
  readonly name: string;
  /** Of the image. */
  readonly path: string;
  readonly format: FormatId;
  /** Bytes of the disk. */
  readonly size: number;
  readonly writable: boolean;
}

export interface MountState {
  readonly mountpoint: string;
  readonly pid: number;
  /** ms since 1970. */
  readonly since: number;
  readonly files: readonly ShownFile[];
}

/** How it ended, for who asked to wait. */
export interface Ended {
  readonly how: 'unmounted' | 'aborted' | 'failed';
  /** Every image was left clean. */
  readonly clean: boolean;
  readonly reason?: string;
}

/** Verbs: what each takes and what it gives. */
export interface Verbs {
  state: { takes: object; gives: MountState };
  stats: { takes: object; gives: MountStats };
  /** Everything, or one file, is on stable storage: the kernel's page cache included. */
  flush: { takes: { name?: string }; gives: object };
  'log-level': { takes: { level: LogLevel }; gives: { before: string } };
  add: {
    takes: { path: string; format?: FormatId; readOnly?: boolean };
    gives: { names: readonly string[] };
  };
  remove: { takes: { name: string; force?: boolean }; gives: { names: readonly string[] } };
  /** Answered when it is unmounted; with `wait` a second time, with Ended, when the images are written out. */
  unmount: { takes: { wait?: boolean }; gives: object };
}
export type Verb = keyof Verbs;

export type Answer<Gives> =
  | { readonly ok: true; readonly result: Gives }
  | { readonly ok: false; readonly error: WireError };

/** Cuts bytes into lines. A line longer than `most` bytes ends it: `push` then returns undefined, once and for all. */
export class LineReader {
  readonly #most: number;
  #pieces: Buffer[] = [];
  #held = 0;
  #overrun = false;

  constructor(most: number) {
    this.#most = most;
  }

  /** Lines that `piece` completes, without their newlines. Holds `most` bytes at most, and the piece. */
  push(piece: Buffer): string[] | undefined {
    const lines: string[] = [];
    let rest = piece;
    while (!this.#overrun) {
      const end = rest.indexOf(0x0a);
      const length = end < 0 ? rest.length : end;
      if (this.#held + length > this.#most) {
        this.#overrun = true;
        this.#pieces = [];
        break;
      }
      if (end < 0) {
        if (length > 0) this.#pieces.push(rest);
        this.#held += length;
        return lines;
      }
      lines.push(Buffer.concat([...this.#pieces, rest.subarray(0, end)]).toString('utf8'));
      this.#pieces = [];
      this.#held = 0;
      rest = rest.subarray(end + 1);
    }
    return lines.length > 0 ? lines : undefined;
  }

  /** A line was too long; nothing more comes. */
  get overrun(): boolean {
    return this.#overrun;
  }
}
