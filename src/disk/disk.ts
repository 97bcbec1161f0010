/**
 * The disk: the flat byte range that users see. This is the only place where mapping becomes bytes: one read
 * loop, one write loop and one zero loop over extents, for every format. Where an image has a parent, its holes are
 * the parent's disk, and so on down the chain.
 */

import { EIO, ENOSPC, ENXIO, EROFS, type Moved, type Status } from '../base/errno.ts';
import { type ByteCount, GIB, type GuestOffset, roundDown, roundUp } from '../base/units.ts';
import type { EditCounters, Editor, Translator } from '../image/driver.ts';
import { DATA, Extent, HOLE } from '../image/extent.ts';
import type { IoGate } from '../shared/io-gate.ts';
import type { BlockSource } from '../source/block-source.ts';
import { Forker } from './forker.ts';
import { Walker } from './walker.ts';

/** A 64 TiB disk of 1 MiB blocks takes less than a second. */
const MAX_SEEK_MS = 2000;
/** The clock is looked at every so many bytes of the disk: some ten thousand table words. */
const SEEK_SPAN = 16 * GIB;

/** Over a parent, so many units are discarded before it is looked again whether there is anything at all. */
const DISCARD_UNITS = 64;

/** A write allocates anew so often where somebody discards what it is writing to; more is a defect. */
const MAX_TRIES = 10_000;

const NOTHING_COUNTED: EditCounters = { flushes: 0, shared: 0, commits: 0, dirtyBytes: 0 };

/** What writing takes. */
export interface DiskEdit {
  readonly editor: Editor;
  /** Of this thread. */
  readonly gate: IoGate;
}

export class Disk {
  readonly size: ByteCount;
  readonly #translator: Translator;
  readonly #source: BlockSource;
  readonly #extent = new Extent();
  readonly #edit: DiskEdit | undefined;
  readonly #parent: Disk | undefined;
  readonly #forker: Forker | undefined;

  /**
   * Without `edit` the disk is only read. `parent` shows where the image has holes, and reads as zeros behind its
   * end; nobody writes to it.
   */
  constructor(
    size: ByteCount,
    translator: Translator,
    source: BlockSource,
    { edit, parent }: { readonly edit?: DiskEdit | undefined; readonly parent?: Disk | undefined } = {},
  ) {
    this.size = size;
    this.#translator = translator;
    this.#source = source;
    this.#edit = edit;
    this.#parent = parent;
    if (edit !== undefined && parent !== undefined) {
      this.#forker = new Forker(edit.editor, translator, source, parent);
    }
  }

  get writable(): boolean {
    return this.#edit !== undefined;
  }

  /**
   * Reads up to `length` bytes of the disk at `at` into target[start…]. Short only at the end of the disk;
   * -errno if any part of the range cannot be read. `start + length` is within `target`.
   */
  read(target: Uint8Array, start: number, length: ByteCount, at: GuestOffset): Moved {
    const wanted = Math.min(length, this.size - at);
    if (wanted <= 0) return 0;
    if (this.#edit === undefined) return this.#read(target, start, wanted, at);
    // Somebody may free what is read here.
    const { gate } = this.#edit;
    gate.enter();
    try {
      return this.#read(target, start, wanted, at);
    } finally {
      gate.leave();
    }
  }

  #read(target: Uint8Array, start: number, wanted: ByteCount, at: GuestOffset): Moved {
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
      } else if (extent.kind === HOLE && this.#parent !== undefined) {
        const filled = this.#parent.readFilled(target, start + done, count, (at + done) as GuestOffset);
        if (filled < 0) return filled;
      } else {
        target.fill(0, start + done, start + done + count);
      }
      done += count;
    }
    return wanted;
  }

  /** Reads all of `length` bytes, zeros behind the end of the disk. Returns 0 or -errno. */
  readFilled(target: Uint8Array, start: number, length: ByteCount, at: GuestOffset): Status {
    const moved = at < this.size ? this.read(target, start, length, at) : 0;
    if (moved < 0) return moved;
    if (moved < length) target.fill(0, start + moved, start + length);
    return 0;
  }

  /**
   * Writes `length` bytes of the disk at `at` from bytes[start…]. Returns how many: fewer only at the end of the
   * disk, where -ENOSPC says that none fit. -EROFS where the disk is only read; other -errno where part of it
   * may have been written. It is stable after the next `flush`.
   */
  write(bytes: Uint8Array, start: number, length: ByteCount, at: GuestOffset): Moved {
    const edit = this.#edit;
    if (edit === undefined) return -EROFS;
    const wanted = Math.min(length, this.size - at);
    if (wanted <= 0) return length === 0 ? 0 : -ENOSPC;
    const begun = edit.editor.begin();
    if (begun < 0) return begun;
    edit.gate.enter();
    try {
      return this.#write(edit.editor, bytes, start, wanted, at);
    } finally {
      edit.editor.changed();
      edit.gate.leave();
    }
  }

  #write(editor: Editor, bytes: Uint8Array, start: number, wanted: ByteCount, at: GuestOffset): Moved {
    const extent = this.#extent;
    let done = 0;
    let tries = 0;
    while (done < wanted) {
      const here = (at + done) as GuestOffset;
      let status = this.#translator.locate(here, wanted - done, extent);
      if (status < 0) return status;
      if (extent.kind === HOLE && this.#forker !== undefined) {
        const forked = this.#forker.write(bytes, start + done, wanted - done, here);
        if (forked < 0) return forked;
        done += forked;
        continue;
      }
      if (extent.kind !== DATA) {
        const count = Math.min(extent.length, wanted - done);
        if (count < 1) return -EIO;
        status = editor.allocate(here, count);
        if (status < 0) return status;
        status = this.#translator.locate(here, wanted - done, extent);
        if (status < 0) return status;
        // Freed again meanwhile by somebody who discards what is written here: the next round allocates anew.
        if (!extent.isData) {
          tries += 1;
          if (tries > MAX_TRIES) return -EIO;
          continue;
        }
      }
      const count = Math.min(extent.length, wanted - done);
      if (count < 1) return -EIO;
      status = this.#source.writeAt(bytes, start + done, count, extent.host, 'payload.write');
      if (status < 0) return status;
      done += count;
    }
    return wanted;
  }

  /**
   * Makes `length` bytes at `at` read as zeros, as far as the disk goes. With 'punch' what can be given back to
   * the host is; 'keep' leaves space that is allocated reserved. Returns 0 or -errno as `write`.
   */
  zero(at: GuestOffset, length: ByteCount, how: 'punch' | 'keep'): Status {
    const edit = this.#edit;
    if (edit === undefined) return -EROFS;
    const end = Math.min(at + length, this.size);
    if (at >= end) return 0;
    const begun = edit.editor.begin();
    if (begun < 0) return begun;
    edit.gate.enter();
    try {
      return this.#zero(edit.editor, at, end, how);
    } finally {
      edit.editor.changed();
      edit.gate.leave();
    }
  }

  #zero(editor: Editor, at: number, end: number, how: 'punch' | 'keep'): Status {
    const { unit } = editor;
    if (unit === 0 || how === 'keep') return this.#zeroInPlace(at, end, how);
    const first = roundUp(at, unit);
    const last = end === this.size ? end : roundDown(end, unit);
    if (first >= last) return this.#zeroInPlace(at, end, how);
    let status = this.#zeroInPlace(at, first, how);
    if (status < 0) return status;
    status = this.#discard(editor, first, last);
    return status < 0 ? status : this.#zeroInPlace(last, end, how);
  }

  /** Discards from `first` to `last`, which are bounds of units; not what reads as zeros through all parents. */
  #discard(editor: Editor, first: number, last: number): Status {
    if (this.#forker === undefined) return editor.discard(first as GuestOffset, last - first);
    let status: Status = 0;
    for (let here = first; here < last && status === 0; ) {
      const next = this.#skipEmpty(here, last, editor.unit);
      if (next < 0) return next;
      if (next > here) {
        here = next;
        continue;
      }
      const end = Math.min(last, here + DISCARD_UNITS * editor.unit);
      status = editor.discard(here as GuestOffset, end - here);
      here = end;
    }
    return status;
  }

  /** The end of the units from `at` on in which neither this image nor a parent has anything; or -errno. */
  #skipEmpty(at: number, last: number, unit: ByteCount): Moved {
    const extent = this.#extent;
    const status = this.#translator.locate(at as GuestOffset, last - at, extent);
    if (status < 0) return status;
    if (extent.kind !== HOLE) return at;
    const end = Math.min(last, at + extent.length);
    const data = this.#parent!.#find(at, end, 'data', Number.POSITIVE_INFINITY);
    return data < 0 || data === last ? data : Math.max(at, roundDown(data, unit));
  }

  /** Zeros what is DATA between `at` and `end`, or what the parent shows; the rest is zeros already. */
  #zeroInPlace(at: number, end: number, how: 'punch' | 'keep'): Status {
    const extent = this.#extent;
    for (let here = at; here < end; ) {
      let status = this.#translator.locate(here as GuestOffset, end - here, extent);
      if (status < 0) return status;
      const count = Math.min(extent.length, end - here);
      if (count < 1) return -EIO;
      if (extent.kind === DATA) {
        status = this.#source.zero(extent.host, count, how, 'payload.zero');
        if (status < 0) return status;
      } else if (extent.kind === HOLE && this.#forker !== undefined) {
        const hidden = this.#hide(this.#forker, here as GuestOffset, count);
        if (hidden < 0) return hidden;
        here += hidden;
        continue;
      }
      here += count;
    }
    return 0;
  }

  /**
   * Makes a hole read as zeros, whatever the parent has: as much of `length` bytes as can be done at once. Where the
   * parent has no data nothing is done: nobody writes to it. Returns how much was done, or -errno.
   */
  #hide(forker: Forker, at: GuestOffset, length: ByteCount): Moved {
    const data = this.#parent!.#find(at, at + length, 'data', Number.POSITIVE_INFINITY);
    if (data < 0) return data;
    if (data > at) return data - at;
    const hole = this.#parent!.#find(at, at + length, 'hole', Number.POSITIVE_INFINITY);
    return hole < 0 ? hole : forker.write(undefined, 0, hole - at, at);
  }

  /** Makes all stable that was acknowledged before the call. Returns 0 or -errno; 0 where the disk is only read. */
  flush(): Status {
    return this.#edit === undefined ? 0 : this.#edit.editor.flush();
  }

  /** Whether metadata waits in memory for a flush. */
  get isDirty(): boolean {
    return this.#edit?.editor.isDirty ?? false;
  }

  /** Whether the image was written to since it was opened. */
  get isWritten(): boolean {
    return this.#edit?.editor.isWritten ?? false;
  }

  /** Flushes, commits, and what waits for one; zeros where the disk is only read. */
  counters(): EditCounters {
    return this.#edit?.editor.counters() ?? NOTHING_COUNTED;
  }

  /** Bytes that the image and its parents take on their media. Not for the data path. */
  get allocated(): ByteCount {
    return this.#source.allocated + (this.#parent?.allocated ?? 0);
  }

  /** At the end of a mount, when no other thread works on the disk: leaves the image clean. Returns 0 or -errno. */
  close(): Status {
    return this.#edit === undefined ? 0 : this.#edit.editor.close();
  }

  /** Tells where bytes come from, down the chain. Not for the data path; of a disk that nobody is writing to. */
  walker(): Walker {
    return new Walker(this.size, this.#translator, this.#source, this.#parent?.walker());
  }

  /**
   * lseek(2) SEEK_DATA and SEEK_HOLE: the first offset at or after `at` that holds data (or no data), true to
   * the image's allocation and to holes of the source inside it. The end of the disk is a hole. -ENXIO at or
   * past the end, and where no data follows.
   *
   * One call works for MAX_SEEK_MS or a little longer; what lies behind is then called data, as lseek(2) allows,
   * so that no seek over a vast table stops a worker for long. With `end`, the disk is taken to end there.
   */
  seek(at: GuestOffset, whence: 'data' | 'hole', end: number = this.size): Moved {
    if (at >= end) return -ENXIO;
    const found = this.#find(at, end, whence, performance.now() + MAX_SEEK_MS);
    return found === end && whence === 'data' ? -ENXIO : found;
  }

  /**
   * The first offset from `at` on, below `end`, that holds data, or none; `end` where there is no such, -errno.
   * Past the deadline, all is data.
   */
  #find(at: number, end: number, whence: 'data' | 'hole', deadline: number): Moved {
    const wantData = whence === 'data';
    const extent = this.#extent;
    const limit = Math.min(end, this.size);
    let here = at;
    while (here < limit) {
      if (performance.now() > deadline) return wantData ? here : end;
      const span = Math.min(limit - here, SEEK_SPAN);
      const status = this.#translator.locate(here as GuestOffset, span, extent);
      if (status < 0) return status;
      const length = Math.min(extent.length, limit - here);
      if (length < 1) return -EIO;
      let found = here + length;
      if (extent.kind === DATA) {
        const { host } = extent;
        const there = wantData ? this.#source.nextData(host) : this.#source.nextHole(host);
        found = Math.min(found, here + (there - host));
      } else if (extent.kind === HOLE && this.#parent !== undefined) {
        found = this.#parent.#find(here, found, whence, deadline);
        if (found < 0) return found;
      } else if (!wantData) return here;
      if (found < here + length) return found;
      here += length;
    }
    // Behind the end of the disk there is none.
    return wantData ? end : here;
  }
}
