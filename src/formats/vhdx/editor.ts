/**
 * Writing VHDX. Everything but payload goes through the log; what the log names is the same as in the file when no
 * entry waits in it, so it is named in the header only from the first change of the BAT to the end of the mount:
 *
 *   first write  1. both headers: new identities (one of each kind for both)
 *                   A log that was dirty at open is then replayed into the file, flushed, and no longer named.
 *   allocation   2. the block's place reads as zeros (the file grows, or the place is punched); the entry is
 *                   published in memory; payload goes there
 *   commit       3. flush: payload, size, and what the commit before wrote in place are stable
 *                4. a log entry with every changed 4 KiB sector of the BAT and of sector bitmaps, naming itself as
 *                   tail; flush
 *                5. only the first time: the headers name the log, whose newest entry is stable by then; flush
 *                6. the same sectors in place, which the flush of the next commit makes stable
 *   end          7. flush; headers without log; space at the end that nothing uses is cut off; flush
 *
 * A crash before 4 is over leaves places that nobody names, after it a log to replay. The file is cut only when no
 * log is named: an entry says how long the file must be.
 *
 * Discarded blocks get state 2 (ZERO) and offset 0, not 3 (UNMAPPED): a discard here always reads as zeros, which
 * every reader must grant for 2, while it may give old bytes for 3 ([MS-VHDX] 2.5.1.1). Their places are punched,
 * and given out again after the commit. A fixed image keeps all its blocks.
 *
 * Where a parent shows, nothing names a place before it is filled (`reserve`, `publish`), for two reasons: a block in
 * state 7 with all bits clear would say nothing that state 0 does not, at the price of a commit more; and a fork that
 * fails leaves no trace. What is published is then one change: the bits of the block, where its chunk has none yet
 * an empty bitmap, and the entry in state 7; or, where the place is for all of the block, the entry in state 6, which
 * needs no bits. A block leaves state 0 once and for ever, and its bits are only ever set: so a reader who saw state 7
 * without a lock finds bits that were true at that time or later.
 */

import { EIO, ESTALE, type Status } from '../../base/errno.ts';
import { randomGuid } from '../../base/guid.ts';
import { type ByteCount, type GuestOffset, MIB, roundDown, roundUp } from '../../base/units.ts';
import type { EditContext } from '../../image/driver.ts';
import { DATA, HOLE } from '../../image/extent.ts';
import type { Reservation } from '../../image/reservation.ts';
import { TableEditor } from '../../image/table-editor.ts';
import type { PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, bitmapEntryOf, DAMAGED, entryOf, hostOf, kindOf, PARTIAL } from './bat.ts';
import type { SectorBits } from './bitmaps.ts';
import { HeaderWriter } from './header-writer.ts';
import { LogWriter } from './log-writer.ts';
import { type OverlayState, retire, writeInPlace } from './overlay.ts';
import type { VhdxEdit } from './prepare.ts';
import { HostSpace } from './space.ts';
import { FULLY_PRESENT, header, NOT_PRESENT, PARTIALLY_PRESENT, ZEROED } from './structs.ts';
import { TableWriter } from './table-writer.ts';

/** Token of a reservation in a block that is partially present; no block is at this MiB. */
const NAMED = 0;

export class VhdxEditor extends TableEditor {
  readonly unit: ByteCount;
  readonly blockSize: ByteCount;
  protected readonly tables: readonly PagedTable[];
  readonly #bat: BatGeometry;
  readonly #overlay: OverlayState | undefined;
  readonly #table: PagedTable;
  /** Undefined where there is no parent. */
  readonly #bits: SectorBits | undefined;
  readonly #clean: Int32Array<SharedArrayBuffer>;
  readonly #headers: HeaderWriter;
  readonly #log: LogWriter | undefined;
  readonly #nextIdentity: Uint8Array | undefined;
  readonly #space: HostSpace;
  readonly #tables: TableWriter;

  constructor(
    bat: BatGeometry,
    edit: VhdxEdit,
    source: BlockSource,
    context: EditContext,
    table: PagedTable,
    bits: SectorBits | undefined,
    overlay: OverlayState | undefined,
  ) {
    super(edit, source, context);
    this.unit = edit.fixed ? 0 : bat.blockSize;
    this.blockSize = bat.blockSize;
    this.#bat = bat;
    this.#overlay = overlay;
    this.#table = table;
    this.tables = bits === undefined ? [table] : [table, bits.table];
    this.#nextIdentity = edit.nextIdentity;
    this.#bits = bits;
    this.#clean = new Int32Array(edit.clean);
    this.#headers = new HeaderWriter(edit.headers, source, this.#stable);
    this.#log = edit.log === undefined ? undefined : new LogWriter(edit.log, source, this.#stable);
    this.#space = new HostSpace(bat, edit, source, this.free);
    this.#tables = new TableWriter(bat, table, bits?.table, source, {
      log: this.#log,
      stable: this.#stable,
      nameLog: (guid) => this.#nameLog(guid),
    });
  }

  readonly #stable = (): Status => {
    const status = this.commit.stable(this.source);
    if (status === 0) this.#headers.settled();
    return status;
  };

  protected first(): Status {
    const fileWriteGuid = randomGuid();
    const dataWriteGuid = this.#nextIdentity ?? randomGuid();
    const status = this.#headers.update((bytes) => {
      bytes.set(fileWriteGuid, header.at.fileWriteGuid);
      bytes.set(dataWriteGuid, header.at.dataWriteGuid);
    });
    if (status < 0) return status;
    if (this.#overlay !== undefined && this.#clean[0] === 0) {
      const replayed = this.#replay(this.#overlay);
      if (replayed < 0) return replayed;
    }
    // No header names a log from here on.
    this.#log?.restart();
    return 0;
  }

  /** The log that was dirty goes into the file for good; the headers name none any more. */
  #replay(overlay: OverlayState): Status {
    let status = writeInPlace(overlay, this.source);
    if (status === 0) status = this.#stable();
    if (status < 0) return status;
    retire(overlay);
    status = this.#nameLog(undefined);
    if (status === 0) this.#clean[0] = 1;
    return status;
  }

  #nameLog(guid: Uint8Array | undefined): Status {
    const { logGuid, logVersion } = header.at;
    return this.#headers.update((bytes) => {
      if (guid === undefined) bytes.fill(0, logGuid, logVersion);
      else bytes.set(guid, logGuid);
    });
  }

  protected allocateLocked(at: GuestOffset, length: ByteCount): Status {
    const { blockSize, chunkShift } = this.#bat;
    const first = Math.floor(at / blockSize);
    const end = Math.ceil((at + length) / blockSize);
    for (let block = first; block < end; block += 1) {
      const status = this.#allocateBlock(entryOf(block, chunkShift));
      // What follows comes with a call of its own.
      if (status < 0) return block === first ? status : 0;
    }
    return 0;
  }

  #allocateBlock(entry: number): Status {
    const word = this.#table.get(entry);
    if (word < 0) return word;
    const kind = kindOf(word);
    if (kind === DAMAGED) return -EIO;
    // Another thread was first; or the parent shows there, and nobody asked for it.
    if (kind === DATA || kind === PARTIAL || (kind === HOLE && this.#bits !== undefined)) return 0;
    const mib = this.#space.take();
    if (mib < 0) return mib;
    const status = this.#table.set(entry, mib * 8 + FULLY_PRESENT);
    if (status < 0) this.free.giveBack(mib);
    return status;
  }

  protected reserveLocked(at: GuestOffset, length: ByteCount, out: Reservation): Status {
    const { blockSize, chunkShift, sectorSize } = this.#bat;
    const block = Math.floor(at / blockSize);
    const word = this.#table.get(entryOf(block, chunkShift));
    if (word < 0) return word;
    const kind = kindOf(word);
    if (kind === DAMAGED) return -EIO;
    if (kind !== HOLE && kind !== PARTIAL) return -ESTALE;
    const from = roundDown(at, sectorSize);
    const bytes = roundUp(at + length, sectorSize) - from;
    const within = from - block * blockSize;
    // These sectors were clear when the caller looked, and nobody else sets any while it holds the block's lock.
    if (kind === PARTIAL) return out.set(from, bytes, hostOf(word) + within, false, NAMED);
    const mib = this.#space.take();
    return mib < 0 ? mib : out.set(from, bytes, mib * MIB + within, true, mib);
  }

  protected publishLocked({ at, length, token }: Reservation): Status {
    const { blockSize, chunkShift, sectorSize } = this.#bat;
    const bits = this.#bits;
    if (bits === undefined) return -EIO;
    const block = Math.floor(at / blockSize);
    const entry = entryOf(block, chunkShift);
    const word = this.#table.get(entry);
    if (word < 0) return word;
    const first = at / sectorSize;
    const end = (at + length) / sectorSize;
    const blockSectors = blockSize / sectorSize;
    const blockFirst = block * blockSectors;
    if (token === NAMED) {
      if (kindOf(word) !== PARTIAL) return -ESTALE;
      const status = bits.set(first, end);
      // With all its sectors there the block needs no bits any more. Where that cannot be said now, it can be later.
      if (status === 0 && bits.isFull(blockFirst, blockFirst + blockSectors)) {
        this.#table.set(entry, word - PARTIALLY_PRESENT + FULLY_PRESENT);
      }
      return status;
    }
    if (word !== NOT_PRESENT) {
      this.free.giveBack(token);
      return -ESTALE;
    }
    if (length >= Math.min(blockSize, this.#bat.virtualSize - block * blockSize)) {
      return this.#table.set(entry, token * 8 + FULLY_PRESENT);
    }
    let status = this.#provideBitmap(bitmapEntryOf(block, chunkShift));
    if (status === 0) status = bits.setOnly(first, end, blockFirst, blockFirst + blockSectors);
    return status < 0 ? status : this.#table.set(entry, token * 8 + PARTIALLY_PRESENT);
  }

  /** The chunk with this entry has a sector bitmap, which stays for good. A new one is all clear. */
  #provideBitmap(entry: number): Status {
    const word = this.#table.get(entry);
    if (word < 0) return word;
    if (word !== NOT_PRESENT) return kindOf(word) === DATA ? 0 : -EIO;
    const mib = this.#space.takeAtEnd(MIB);
    if (mib < 0) return mib;
    const status = this.#table.set(entry, mib * 8 + FULLY_PRESENT);
    if (status < 0) this.#space.giveBackEnd(mib);
    return status;
  }

  protected cancelLocked({ token }: Reservation): void {
    if (token !== NAMED) this.free.giveBack(token);
  }

  protected discardLocked(at: GuestOffset, length: ByteCount): Status {
    const { blockSize, chunkShift } = this.#bat;
    const end = Math.ceil((at + length) / blockSize);
    // Neighbours in the disk are often neighbours in the file: one hole for them.
    let hole = 0;
    let holeEnd = 0;
    let status: Status = 0;
    for (let block = Math.floor(at / blockSize); block < end && status === 0; block += 1) {
      const entry = entryOf(block, chunkShift);
      const word = this.#table.get(entry);
      const kind = kindOf(word);
      if (word < 0) status = word;
      const isThere = kind === DATA || kind === PARTIAL;
      // Where nothing is in the file, what the parent has must not show.
      if (word < 0 || (!isThere && (kind !== HOLE || this.#bits === undefined))) continue;
      status = this.#table.set(entry, ZEROED);
      if (status < 0 || !isThere) continue;
      const mib = word >>> 3;
      this.free.release(mib);
      if (mib * MIB !== holeEnd) {
        status = this.#space.punch(hole, holeEnd);
        hole = mib * MIB;
      }
      holeEnd = mib * MIB + blockSize;
    }
    const punched = this.#space.punch(hole, holeEnd);
    return status < 0 ? status : punched;
  }

  gather(): boolean {
    if (!this.#tables.gather()) return false;
    this.free.gather();
    return true;
  }

  write(metadata: boolean): Status {
    const status = this.#stable();
    return metadata && status === 0 ? this.#tables.write() : status;
  }

  settle(status: Status): void {
    this.#tables.settle(status === 0);
    this.free.settle(status === 0);
  }

  protected finish(): Status {
    const log = this.#log;
    if (log?.named === true) {
      // The log may be forgotten when all is in place.
      let status = this.#stable();
      if (status === 0) status = this.#nameLog(undefined);
      if (status < 0) return status;
      log.restart();
    }
    const cut = this.#space.cut();
    return cut || this.#headers.unstable ? this.#stable() : 0;
  }
}
