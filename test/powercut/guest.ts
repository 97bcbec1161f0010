/** What a guest did to its disk, and what it may therefore find after a power cut. */

import { guestOffset, roundDown, roundUp } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { readDisk } from '../support/disk.ts';
import type { RecordingSource } from '../support/recording-source.ts';
import { SECTOR } from '../support/recording-source.ts';

export type GuestEvent =
  /** Whole sectors as the guest sees them from now on; `from` counts the host's changes when it began. */
  | { readonly kind: 'change'; readonly from: number; readonly at: number; readonly bytes: Uint8Array }
  /** Everything before it is acknowledged as stable, when the host had made `to` changes. */
  | { readonly kind: 'flush'; readonly to: number };

let someZeros = new Uint8Array(0);

function zeros(length: number): Uint8Array {
  if (someZeros.length < length) someZeros = new Uint8Array(length);
  return someZeros.subarray(0, length);
}

/** Works on a disk and keeps the trace. */
export class Guest {
  /** The disk as the guest sees it. */
  readonly now: Uint8Array;
  readonly events: GuestEvent[] = [];
  readonly #recording: RecordingSource;
  #disk: Disk | undefined;

  readonly #mayFail: () => boolean;

  constructor(recording: RecordingSource, content: Uint8Array, mayFail: () => boolean = () => false) {
    this.#recording = recording;
    this.#mayFail = mayFail;
    this.now = content.slice();
  }

  /**
   * Goes on with a disk that was opened again. What was not flushed before a daemon was killed may be gone: from
   * here on the guest counts on what it reads. (That this is allowed is seen by the cut at this point.)
   */
  attach(disk: Disk): void {
    this.#disk = disk;
    const from = this.#recording.changes.length;
    const found = readDisk(disk);
    for (let at = 0; at < found.length; at += SECTOR) {
      const bytes = found.subarray(at, at + SECTOR);
      if (Buffer.compare(bytes, this.now.subarray(at, at + SECTOR)) === 0) continue;
      this.now.set(bytes, at);
      this.events.push({ kind: 'change', from, at, bytes });
    }
  }

  get #open(): Disk {
    if (this.#disk === undefined) throw new Error('no disk is attached');
    return this.#disk;
  }

  /** Each of these returns false, or throws where `mayFail` does not allow that, if the disk gives an error. */
  write(at: number, bytes: Uint8Array): boolean {
    const from = this.#recording.changes.length;
    const moved = this.#open.write(bytes, 0, bytes.length, guestOffset(at));
    // Also where it failed: any of it may be there.
    this.now.set(bytes, at);
    this.#note(from, at, bytes.length);
    return this.#went(moved === bytes.length, `write of ${bytes.length} bytes at ${at}: ${moved}`);
  }

  zero(at: number, length: number, how: 'punch' | 'keep'): boolean {
    const from = this.#recording.changes.length;
    const status = this.#open.zero(guestOffset(at), length, how);
    this.now.fill(0, at, at + length);
    this.#note(from, at, length);
    return this.#went(status === 0, `zero (${how}) of ${length} bytes at ${at}: ${status}`);
  }

  #note(from: number, at: number, length: number): void {
    const first = roundDown(at, SECTOR);
    const end = Math.min(roundUp(at + length, SECTOR), this.now.length);
    const seen = this.now.subarray(first, end);
    // Large discards are many, and all the same.
    const bytes = seen.every((byte) => byte === 0) ? zeros(seen.length) : seen.slice();
    this.events.push({ kind: 'change', from, at: first, bytes });
  }

  flush(): boolean {
    return this.#flushed(this.#open.flush(), 'flush');
  }

  close(): boolean {
    return this.#flushed(this.#open.close(), 'close');
  }

  #flushed(status: number, what: string): boolean {
    if (status === 0) this.events.push({ kind: 'flush', to: this.#recording.changes.length });
    return this.#went(status === 0, `${what}: ${status}`);
  }

  #went(well: boolean, what: string): boolean {
    if (!well && !this.#mayFail()) throw new Error(what);
    return well;
  }
}

/** One value that a sector was given after the last flush. */
interface Value {
  readonly bytes: Uint8Array;
  readonly start: number;
}

/** Compared at once where nothing differs. */
const CHUNK = 64 * 1024;

/** What the disk must hold after a cut, as the cut moves forward through the trace. */
export class Expectation {
  /** The disk at the last completed flush. */
  readonly #flushed: Buffer;
  /** Sector number → the values after that. */
  #later = new Map<number, Value[]>();
  readonly #events: readonly GuestEvent[];
  /** Events that went into `#flushed`, and into `#later`. */
  #done = 0;
  #noted = 0;

  readonly #aligned: boolean;

  /**
   * `aligned`: sectors of the disk are sectors of the file. Else one lies in two of the file, of which each may be
   * old or new; then the bytes are looked at one by one.
   */
  constructor(content: Uint8Array, events: readonly GuestEvent[], aligned: boolean) {
    this.#flushed = Buffer.from(content);
    this.#events = events;
    this.#aligned = aligned;
  }

  /** For a cut after `count` changes of the host. It only moves forward. */
  moveTo(count: number): void {
    let flush = -1;
    for (let n = this.#done; n < this.#events.length; n += 1) {
      const event = this.#events[n]!;
      if (event.kind === 'flush' && event.to <= count) flush = n;
    }
    if (flush >= 0) {
      for (let n = this.#done; n <= flush; n += 1) {
        const event = this.#events[n]!;
        if (event.kind === 'change') this.#flushed.set(event.bytes, event.at);
      }
      this.#later = new Map();
      this.#done = flush + 1;
      this.#noted = this.#done;
    }
    for (; this.#noted < this.#events.length; this.#noted += 1) {
      const event = this.#events[this.#noted]!;
      if (event.kind === 'flush') continue;
      if (event.from >= count) break;
      for (let start = 0; start < event.bytes.length; start += SECTOR) {
        const sector = (event.at + start) / SECTOR;
        const values = this.#later.get(sector);
        const value = { bytes: event.bytes, start };
        if (values === undefined) this.#later.set(sector, [value]);
        else values.push(value);
      }
    }
  }
  /** What is wrong with the disk's bytes after a cut, or undefined. */
  problem(disk: Buffer): string | undefined {
    const flushed = this.#flushed;
    if (disk.length !== flushed.length) return `the disk has ${disk.length} bytes, not ${flushed.length}`;
    for (let chunk = 0; chunk < disk.length; chunk += CHUNK) {
      const chunkEnd = Math.min(chunk + CHUNK, disk.length);
      if (disk.compare(flushed, chunk, chunkEnd, chunk, chunkEnd) === 0) continue;
      for (let at = chunk; at < chunkEnd; at += SECTOR) {
        const end = Math.min(at + SECTOR, chunkEnd);
        if (disk.compare(flushed, at, end, at, end) === 0) continue;
        const values = this.#later.get(at / SECTOR) ?? [];
        if (this.#isOneOf(disk, at, end, values)) continue;
        // From the first byte on that is not the flushed one.
        const skip = differing(disk, flushed, at);
        const show = (bytes: Uint8Array, from: number) =>
          Buffer.from(bytes.subarray(from + skip, from + skip + 8)).toString('hex');
        const later = values.map(({ bytes, start }) => show(bytes, start)).join(', ') || 'nothing';
        return (
          `sector ${at / SECTOR}, byte ${skip}: it holds ${show(disk, at)}…, ` +
          `flushed was ${show(flushed, at)}…, written after that ${later}`
        );
      }
    }
    return undefined;
  }

  #isOneOf(disk: Buffer, at: number, end: number, values: readonly Value[]): boolean {
    if (values.some(({ bytes, start }) => disk.compare(bytes, start, start + end - at, at, end) === 0))
      return true;
    if (this.#aligned) return false;
    for (let n = at; n < end; n += 1) {
      const byte = disk[n];
      if (byte === this.#flushed[n]) continue;
      if (!values.some(({ bytes, start }) => bytes[start + n - at] === byte)) return false;
    }
    return true;
  }
}

function differing(one: Uint8Array, other: Uint8Array, at: number): number {
  let skip = 0;
  while (one[at + skip] === other[at + skip]) skip += 1;
  return skip;
}
