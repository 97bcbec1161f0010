/**
 * Writing VHDX. Everything but payload goes through the log; what the log names is the same as in the file when no
 * entry waits in it, so it is named in the header only from the first change of the BAT to the end of the mount:
 *
 *   first write  1. both headers: new identities (one of each kind for both)
 *                   A log that was dirty at open is then replayed into the file, flushed, and no longer named.
 *   allocation   2. the block's place reads as zeros (the file grows, or the place is punched); the entry is
 *                   published in memory; payload goes there
 *   commit       3. flush: payload, size, and what the commit before wrote in place are stable
 *                4. a log entry with every changed 4 KiB sector of the BAT, naming itself as tail; flush
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
 */

import { EAGAIN, EFBIG, EIO, ENOSPC, type Status } from '../../base/errno.ts';
import { randomGuid } from '../../base/guid.ts';
import { type ByteCount, type GuestOffset, type HostOffset, MIB, roundDown } from '../../base/units.ts';
import type { EditContext } from '../../image/driver.ts';
import { DATA } from '../../image/extent.ts';
import { NONE } from '../../image/free-space.ts';
import { TableEditor } from '../../image/table-editor.ts';
import type { PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, entryOf, MIB_LIMIT, takenUntil } from './bat.ts';
import { GatheredSectors } from './gathered-sectors.ts';
import { HeaderWriter } from './header-writer.ts';
import { LogWriter, MAX_UPDATES } from './log-writer.ts';
import { type OverlayState, retire, writeInPlace } from './overlay.ts';
import type { VhdxEdit } from './prepare.ts';
import { FULLY_PRESENT, header, LOG_SECTOR, ZEROED } from './structs.ts';
import { kindOf } from './translator.ts';

const NEXT = 0;

/** The file grows by an eighth of its size at once, to save calls, and by no more than this. */
const MAX_GROWTH = 64 * MIB;

export class VhdxEditor extends TableEditor {
  readonly unit: ByteCount;
  readonly blockSize: ByteCount;
  readonly #bat: BatGeometry;
  readonly #edit: VhdxEdit;
  readonly #overlay: OverlayState | undefined;
  readonly #table: PagedTable;
  readonly #bounds: Uint32Array<SharedArrayBuffer>;
  readonly #clean: Int32Array<SharedArrayBuffer>;
  readonly #taken: Float64Array;
  readonly #headers: HeaderWriter;
  readonly #log: LogWriter | undefined;
  readonly #gathered = new GatheredSectors();
  /** Bytes of the file when the tables were gathered. */
  #size = 0;

  constructor(
    bat: BatGeometry,
    edit: VhdxEdit,
    source: BlockSource,
    context: EditContext,
    table: PagedTable,
    overlay: OverlayState | undefined,
  ) {
    super(edit, source, context);
    this.unit = edit.fixed ? 0 : bat.blockSize;
    this.blockSize = bat.blockSize;
    this.#bat = bat;
    this.#edit = edit;
    this.#overlay = overlay;
    this.#table = table;
    this.#bounds = new Uint32Array(edit.bounds);
    this.#clean = new Int32Array(edit.clean);
    this.#taken = new Float64Array(bat.taken);
    this.#headers = new HeaderWriter(edit.headers, source, this.#stable);
    this.#log = edit.log === undefined ? undefined : new LogWriter(edit.log, source, this.#stable);
  }

  readonly #stable = (): Status => {
    const status = this.commit.stable(this.source);
    if (status === 0) this.#headers.settled();
    return status;
  };

  protected first(): Status {
    const fileWriteGuid = randomGuid();
    const dataWriteGuid = randomGuid();
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
    // Another thread was first.
    if (kind === DATA) return 0;
    if (kind < 0) return -EIO;
    const mib = this.#take();
    if (mib < 0) return mib;
    const status = this.#table.set(entry, mib * 8 + FULLY_PRESENT);
    if (status < 0) this.free.giveBack(mib);
    return status;
  }

  /** The MiB at which there is room for a block, reading as zeros, that nobody uses; or -errno. */
  #take(): number {
    const { blockSize } = this.#bat;
    const freed = this.free.take();
    if (freed !== NONE) {
      const status = this.#makeZeros(freed, blockSize);
      if (status < 0) this.free.giveBack(freed);
      return status < 0 ? status : freed;
    }
    const blockMib = blockSize / MIB;
    let mib = this.#bounds[NEXT]!;
    // Regions behind the end of the file; each step takes one of them.
    for (let behind = mib; ; mib = behind) {
      behind = takenUntil(this.#taken, mib, mib + blockMib);
      if (behind === mib) break;
    }
    let status: Status = -ENOSPC;
    if (mib + blockMib <= MIB_LIMIT) {
      const stale = Math.max(0, this.#edit.fresh - mib) * MIB;
      status = this.#makeZeros(mib, Math.min(stale, blockSize));
    }
    // What was freed but not yet committed comes back.
    if ((status === -ENOSPC || status === -EFBIG) && this.free.count > 0) return -EAGAIN;
    if (status === 0) this.#bounds[NEXT] = mib + blockMib;
    return status < 0 ? status : mib;
  }

  /** A whole block at `mib` is in the file and reads as zeros, of which the first `stale` bytes may not yet do. */
  #makeZeros(mib: number, stale: ByteCount): Status {
    const start = mib * MIB;
    const { size } = this.source;
    if (stale > 0 && start < size) {
      const how = this.#edit.fixed ? 'keep' : 'punch';
      const status = this.source.zero(start as HostOffset, stale, how, 'payload.zero');
      if (status < 0) return status;
    }
    const { blockSize } = this.#bat;
    const needed = start + blockSize;
    if (needed <= size) return 0;
    const more = roundDown(Math.min(MAX_GROWTH, size / 8), blockSize);
    const status = more > 0 ? this.source.setSize(needed + more) : -ENOSPC;
    return status < 0 ? this.source.setSize(needed) : status;
  }

  protected reserveLocked(): Status {
    return -EIO;
  }

  protected publishLocked(): Status {
    return -EIO;
  }

  protected cancelLocked(): void {}

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
      if (word < 0) status = word;
      if (word < 0 || kindOf(word) !== DATA) continue;
      status = this.#table.set(entry, ZEROED);
      if (status < 0) continue;
      const mib = word >>> 3;
      this.free.release(mib);
      if (mib * MIB !== holeEnd) {
        status = this.#punch(hole, holeEnd);
        hole = mib * MIB;
      }
      holeEnd = mib * MIB + blockSize;
    }
    const punched = this.#punch(hole, holeEnd);
    return status < 0 ? status : punched;
  }

  #punch(at: number, end: number): Status {
    if (end <= at) return 0;
    return this.source.zero(at as HostOffset, end - at, 'punch', 'payload.zero');
  }

  gather(): boolean {
    if (this.#table.dirtyPages === 0) return false;
    const gathered = this.#gathered;
    gathered.clear();
    this.#table.gather((page, eighths, words, start) => gathered.addPage(page, eighths, words, start));
    this.free.gather();
    this.#size = this.source.size;
    return true;
  }

  write(metadata: boolean): Status {
    let status = this.#stable();
    if (!metadata || status < 0) return status;
    // Sectors of the BAT do not depend on one another: where one entry cannot have all, several may.
    const { count } = this.#gathered;
    for (let from = 0; from < count; from += MAX_UPDATES) {
      if (from > 0) status = this.#stable();
      if (status === 0) status = this.#writeSectors(from, Math.min(count, from + MAX_UPDATES));
      if (status < 0) return status;
    }
    return 0;
  }

  /** Gathered sectors `from` to `end - 1`: in the log, stable; then in place. What is in place already is stable. */
  #writeSectors(from: number, end: number): Status {
    const log = this.#log;
    // An image without a log has all its blocks, for ever.
    if (log === undefined) return -EIO;
    let status = this.#readSectors(from, end);
    if (status < 0) return status;
    const { buffer } = this;
    log.begin();
    buffer.forEach((at, start, length) => {
      for (let done = 0; done < length; done += LOG_SECTOR) {
        log.add((at + done) as HostOffset, buffer.bytes, start + done);
      }
    });
    status = log.end(this.#size);
    if (status < 0) return status;
    if (!log.named) {
      status = this.#nameLog(log.guid);
      if (status < 0) return status;
      log.setNamed();
    }
    return buffer.writeTo(this.source, 'table.write');
  }

  /** Fills the buffer with the sectors as they are on disk, but for the entries that were changed. */
  #readSectors(from: number, end: number): Status {
    const { buffer, source } = this;
    const gathered = this.#gathered;
    buffer.clear();
    for (let n = from; n < end; n += 1)
      buffer.add(this.#bat.at + gathered.sector(n) * LOG_SECTOR, LOG_SECTOR);
    const { bytes } = buffer;
    let status: Status = 0;
    buffer.forEach((at, start, length) => {
      if (status < 0) return;
      const moved = source.readAt(bytes, start, length, at as HostOffset);
      if (moved < 0) status = moved;
      // A file may end behind the last entry.
      else bytes.fill(0, start + moved, start + length);
    });
    if (status < 0) return status;
    // Pieces are in the order of adding, and so are their bytes.
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    for (let n = from; n < end; n += 1) gathered.put(n, view, (n - from) * LOG_SECTOR, this.#bat.entries);
    return 0;
  }

  settle(status: Status): void {
    this.#table.settle(status === 0);
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
    const cut = this.#cut();
    return cut || this.#headers.unstable ? this.#stable() : 0;
  }

  /** Takes away what nobody uses at the end of the file. Returns whether there was something. */
  #cut(): boolean {
    // A fixed image keeps its size, and the host's space with it.
    if (this.#edit.fixed) return false;
    const blockMib = this.#bat.blockSize / MIB;
    const holes = new Set(this.free.all());
    let end = this.#bounds[NEXT]!;
    while (holes.delete(end - blockMib)) end -= blockMib;
    // Where it fails (on a device), some space is wasted and nothing is wrong.
    return end * MIB < this.source.size && this.source.setSize(end * MIB) === 0;
  }
}
