/**
 * Changing an image as a whole: what an editor is for the writes of a guest (editor.ts). Everything but payload goes
 * through the log:
 *
 *   begin    1. both headers: a new FileWriteGuid, and a new DataWriteGuid where what a guest sees is to change
 *               A log that was dirty is then replayed into the file, flushed, and no longer named.
 *   commit   2. flush, but the first time: payload, size, what was written where nobody looks, and what the commit before
 *               wrote in place
 *            3. one log entry with all sectors of the patch; flush. This is the instant at which all of it happens
 *            4. only the first time, when it is this instead: the headers name the log; flush
 *            5. the same sectors in place, which the next flush makes stable
 *   end      6. flush; headers without a log; flush
 *            7. the file is cut off; flush. No log is named by then that says how long the file must be.
 */

import { ImageError, unsupported } from '../../base/errors.ts';
import { randomGuid } from '../../base/guid.ts';
import { type HostOffset, hex, MIB } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { HeaderWriter, headerSeed } from './header-writer.ts';
import { LogWriter, logSeed, MAX_UPDATES } from './log-writer.ts';
import type { OpenedVhdx } from './open.ts';
import { retire, writeInPlace } from './overlay.ts';
import type { Patch } from './patch.ts';
import { SEQUENCE_LIMIT } from './prepare.ts';
import { header } from './structs.ts';

/** Sectors of the BAT that one commit may change, so that those of metadata, region tables and bitmaps fit beside them. */
export const BAT_SECTORS = MAX_UPDATES - 62;

export class Session {
  readonly opened: OpenedVhdx;
  readonly source: BlockSource;
  readonly #headers: HeaderWriter;
  readonly #log: LogWriter;
  #isBegun = false;
  #isOver = false;

  /** Changes nothing. Throws ImageError where the image has no log that could be written. */
  constructor(source: BlockSource, opened: OpenedVhdx) {
    const { current } = opened;
    const { logOffset, logLength, logVersion, slot } = current;
    if (current.sequenceNumber >= SEQUENCE_LIMIT) {
      throw unsupported(`VHDX header ${slot}: sequence number ${current.sequenceNumber} has no successors`);
    }
    if (logLength === 0 || logOffset + logLength > source.size || logVersion !== 0) {
      throw unsupported(
        `VHDX header ${slot}: the log is ${hex(logLength)} bytes at ${hex(logOffset)}, version ${logVersion}; ` +
          'expected one of version 0 inside the file; without it the image cannot be changed safely',
      );
    }
    this.source = source;
    this.opened = opened;
    this.#headers = new HeaderWriter(headerSeed(current), source, this.#flush);
    this.#log = new LogWriter(logSeed(logOffset, logLength), source, this.#flush);
  }

  readonly #flush = () => {
    const status = this.source.flush();
    if (status === 0) this.#headers.settled();
    return status;
  };

  /** Whether anything was changed. */
  get isBegun(): boolean {
    return this.#isBegun;
  }

  /** Before the first change; later calls do nothing. `dataWriteGuid`: what a guest sees is to change. */
  begin(dataWriteGuid?: Uint8Array): void {
    if (this.#isBegun) return;
    const { source } = this;
    const fileWriteGuid = randomGuid();
    this.#isBegun = true;
    const status = this.#headers.update((bytes) => {
      bytes.set(fileWriteGuid, header.at.fileWriteGuid);
      if (dataWriteGuid !== undefined) bytes.set(dataWriteGuid, header.at.dataWriteGuid);
    });
    must(status, source, 'its headers cannot be written');
    const { current, replay } = this.opened;
    const overlay = replay?.overlay;
    // Opened without it.
    if (current.dirty && replay === undefined) this.#nameLog(undefined);
    if (overlay !== undefined) {
      must(writeInPlace(overlay, source), source, 'its log cannot be replayed');
      this.flush();
      retire(overlay);
      this.#nameLog(undefined);
    }
    this.#log.restart();
  }

  #nameLog(guid: Uint8Array | undefined): void {
    const { logGuid, logVersion } = header.at;
    const status = this.#headers.update((bytes) => {
      if (guid === undefined) bytes.fill(0, logGuid, logVersion);
      else bytes.set(guid, logGuid);
    });
    must(status, this.source, 'its headers cannot be written');
  }

  flush(): void {
    must(this.#flush(), this.source, 'what was written cannot be made stable');
  }

  /** Makes all changes of `patch` at once, none or all of them being on disk at any instant; then clears it. */
  commit(patch: Patch): void {
    if (patch.count === 0) return;
    if (patch.count > MAX_UPDATES) {
      throw new ImageError('bug', `${patch.count} sectors in one entry of the VHDX log`);
    }
    this.begin();
    const { source } = this;
    const log = this.#log;
    // Until a header names the log its entries count for nothing: what 3 flushes comes early enough.
    if (log.named) this.flush();
    log.begin();
    patch.each((at, bytes) => log.add(at, bytes, 0));
    must(log.end(source.size), source, 'its log cannot be written');
    if (!log.named) {
      this.#nameLog(log.guid);
      log.setNamed();
    }
    patch.each((at, bytes) => {
      must(source.writeAt(bytes, 0, bytes.length, at, 'table.write'), source, 'its tables cannot be written');
    });
    patch.clear();
  }

  /** Whatever happened: nothing is written any more. A log that is named is replayed by whoever opens the image. */
  abandon(): void {
    this.#isOver = true;
  }

  /** The image is clean again. */
  finish(): void {
    if (this.#isOver || !this.#isBegun) return;
    this.#isOver = true;
    this.flush();
    if (this.#log.named) {
      this.#nameLog(undefined);
      this.flush();
    }
  }

  /** The same, and the file gets `mib` MiB. */
  finishWith(mib: number): void {
    if (this.source.size !== mib * MIB) this.begin();
    this.finish();
    if (this.source.size === mib * MIB) return;
    must(this.source.setSize(mib * MIB), this.source, 'its size cannot be changed');
    must(this.source.flush(), this.source, 'its size cannot be made stable');
  }

  /** The file holds what ends at `end`. */
  reach(end: number): void {
    if (end <= this.source.size) return;
    this.begin();
    must(this.source.setSize(end), this.source, 'it cannot grow');
  }

  /** Puts bytes of the disk, or of a new sector bitmap, where nobody sees them yet. */
  write(at: number, bytes: Uint8Array): void {
    this.begin();
    const status = this.source.writeAt(bytes, 0, bytes.length, at as HostOffset, 'payload.write');
    must(status, this.source, 'it cannot be written');
  }

  /** `length` bytes at `at`, which nobody uses and the file has, read as zeros. */
  clear(at: number, length: number, how: 'punch' | 'keep' = 'punch'): void {
    if (length <= 0) return;
    this.begin();
    const status = this.source.zero(at as HostOffset, length, how, 'payload.zero');
    must(status, this.source, 'it cannot be written');
  }
}

/**
 * Runs `steps` with a session on the image. Where the caller stops early the image is left clean, where something
 * fails as it is: whole, maybe with a log to be replayed.
 */
export function* within<Step, Result>(
  session: Session,
  steps: (session: Session) => Generator<Step, Result, undefined>,
): Generator<Step, Result, undefined> {
  try {
    return yield* steps(session);
  } catch (problem) {
    session.abandon();
    throw problem;
  } finally {
    session.finish();
  }
}
