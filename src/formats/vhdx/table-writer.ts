/**
 * Writing the BAT and the sector bitmaps: what a commit gathered goes into the log, and then in place (editor.ts has the
 * order in which that happens).
 */

import { EIO, type Status } from '../../base/errno.ts';
import type { ByteCount, HostOffset } from '../../base/units.ts';
import { CommitBuffer } from '../../image/commit-buffer.ts';
import type { PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { BatGeometry } from './bat.ts';
import { bitmapPageHost, GatheredBitmaps } from './bitmaps.ts';
import { GatheredSectors } from './gathered-sectors.ts';
import { type LogWriter, MAX_UPDATES } from './log-writer.ts';
import { LOG_SECTOR } from './structs.ts';

/** What the editor of the same thread does for it. */
export interface LogAccess {
  /** Undefined where the image has all its blocks, for ever: then no table ever changes. */
  readonly log: LogWriter | undefined;
  /** Flushes the source. */
  stable(): Status;
  /** Makes the headers name the log. */
  nameLog(guid: Uint8Array): Status;
}

/** One per thread; `gather` and `settle` are called under both locks of the image, `write` under that of commits. */
export class TableWriter {
  readonly #bat: BatGeometry;
  readonly #table: PagedTable;
  readonly #bits: PagedTable | undefined;
  readonly #source: BlockSource;
  readonly #access: LogAccess;
  readonly #buffer = new CommitBuffer();
  readonly #gathered = new GatheredSectors();
  readonly #gatheredBits = new GatheredBitmaps();
  /** Bytes of the file when the tables were gathered. */
  #size: ByteCount = 0;

  /** `bits`: the sector bitmaps, where there is a parent. */
  constructor(
    bat: BatGeometry,
    table: PagedTable,
    bits: PagedTable | undefined,
    source: BlockSource,
    access: LogAccess,
  ) {
    this.#bat = bat;
    this.#table = table;
    this.#bits = bits;
    this.#source = source;
    this.#access = access;
  }

  /** Copies what was changed. Returns whether there is something. */
  gather(): boolean {
    const bits = this.#bits;
    if (this.#table.dirtyPages === 0 && (bits === undefined || bits.dirtyPages === 0)) return false;
    const gathered = this.#gathered;
    gathered.clear();
    this.#gatheredBits.clear();
    bits?.gather((page, _, words, start) => this.#gatheredBits.add(page, words, start));
    this.#table.gather((page, eighths, words, start) => gathered.addPage(page, eighths, words, start));
    this.#size = this.#source.size;
    return true;
  }

  /** Everything else that was written before is stable. Returns 0 or -errno. */
  write(): Status {
    let status: Status = 0;
    // Where one entry cannot have all, several may, if no block is named as partially present before its bits, and
    // before its chunk's sector bitmap: so bits are first, then the BAT from its end, for the entry of a bitmap stands
    // behind those of its blocks. Other entries of the BAT do not depend on one another.
    let bits = this.#gatheredBits.count;
    let sectors = this.#gathered.count;
    for (let isFirst = true; bits + sectors > 0; isFirst = false) {
      const bitsEnd = bits;
      const sectorsEnd = sectors;
      bits = Math.max(0, bitsEnd - MAX_UPDATES);
      sectors = Math.max(0, sectorsEnd - (MAX_UPDATES - (bitsEnd - bits)));
      if (!isFirst) status = this.#access.stable();
      if (status === 0) status = this.#writeSectors(bits, bitsEnd, sectors, sectorsEnd);
      if (status < 0) return status;
    }
    return 0;
  }

  /**
   * Gathered sectors of bitmaps and of the BAT, `from` to `end - 1` of each: in the log, stable; then in place. What
   * is in place already is stable.
   */
  #writeSectors(bitsFrom: number, bitsEnd: number, from: number, end: number): Status {
    const log = this.#access.log;
    // An image without a log has all its blocks, for ever.
    if (log === undefined) return -EIO;
    let status = this.#readSectors(from, end);
    const tablePieces = this.#buffer.pieces;
    if (status === 0) status = this.#addBits(bitsFrom, bitsEnd);
    if (status < 0) return status;
    const buffer = this.#buffer;
    log.begin();
    buffer.forEach((at, start, length) => {
      for (let done = 0; done < length; done += LOG_SECTOR) {
        log.add((at + done) as HostOffset, buffer.bytes, start + done);
      }
    });
    status = log.end(this.#size);
    if (status < 0) return status;
    if (!log.named) {
      status = this.#access.nameLog(log.guid);
      if (status < 0) return status;
      log.setNamed();
    }
    status = buffer.writeTo(this.#source, 'table.write', 0, tablePieces);
    return status < 0 ? status : buffer.writeTo(this.#source, 'bitmap.write', tablePieces);
  }

  /** Adds gathered pages of bits to the buffer. Their places never change. */
  #addBits(from: number, end: number): Status {
    const buffer = this.#buffer;
    for (let n = from; n < end; n += 1) {
      const host = bitmapPageHost(this.#bat, this.#table, this.#gatheredBits.page(n));
      if (host < 0) return host;
      const start = buffer.add(host, LOG_SECTOR);
      this.#gatheredBits.put(n, buffer.bytes, start);
    }
    return 0;
  }

  /** Fills the buffer with the sectors as they are on disk, but for the entries that were changed. */
  #readSectors(from: number, end: number): Status {
    const buffer = this.#buffer;
    const source = this.#source;
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

  settle(committed: boolean): void {
    this.#table.settle(committed);
    this.#bits?.settle(committed);
  }
}
