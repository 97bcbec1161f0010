/** From disk ranges to extents, through the BAT. */

import { EIO, type Status } from '../../base/errno.ts';
import { type ByteCount, type GuestOffset, hex, MIB, roundUp } from '../../base/units.ts';
import type { Report, Translator } from '../../image/driver.ts';
import { DATA, type Extent, HOLE, ZERO } from '../../image/extent.ts';
import type { PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, DAMAGED, describeDamage, entryOf, hostOf, kindOf, PARTIAL } from './bat.ts';
import { describeLackOfBits, type SectorBits } from './bitmaps.ts';
import type { Overlay } from './overlay.ts';

export class VhdxTranslator implements Translator {
  readonly #bat: BatGeometry;
  /** The BAT, for the editor of this thread too. */
  readonly table: PagedTable;
  /** Where there is a parent; for the editor too. */
  readonly bits: SectorBits | undefined;
  /** The file as replayed. */
  readonly #source: BlockSource;
  /** The same, where a log was replayed. */
  readonly #overlay: Overlay | undefined;
  /** The file as it is. */
  readonly #file: BlockSource;
  readonly #report: Report;

  constructor(
    bat: BatGeometry,
    table: PagedTable,
    bits: SectorBits | undefined,
    source: BlockSource,
    overlay: Overlay | undefined,
    report: Report,
  ) {
    this.#bat = bat;
    this.table = table;
    this.bits = bits;
    this.#source = overlay ?? source;
    this.#overlay = overlay;
    this.#file = source;
    this.#report = report;
  }

  locate(at: GuestOffset, length: ByteCount, out: Extent): Status {
    const { blockSize, blocks, chunkShift, virtualSize } = this.#bat;
    const first = Math.floor(at / blockSize);
    const within = at - first * blockSize;
    const word = this.table.get(entryOf(first, chunkShift));
    if (word < 0) return this.#unreadable(first, word);
    const kind = kindOf(word);
    if (kind === DAMAGED) return this.#damaged(first);
    if (kind === PARTIAL) return this.#partial(first, hostOf(word) + within, at, length, out);

    // Data goes on as long as each block follows the one before in the file; then words differ by this much.
    const step = kind === DATA ? (blockSize / MIB) * 8 : 0;
    const end = Math.min(blocks, Math.ceil((at + length) / blockSize));
    const next = this.#runEnd(first, word, end, step);
    const covered = Math.min(next * blockSize, virtualSize) - at;
    if (kind !== DATA) return out.set(kind, 0, covered);
    return this.#data(first, hostOf(word) + within, covered, out);
  }

  #data(block: number, host: number, length: ByteCount, out: Extent): Status {
    const overlay = this.#overlay;
    if (overlay === undefined || overlay.retired) return out.set(DATA, host, length);
    return this.#replayed(overlay, block, host, length, out);
  }

  /** In a block that is partially present, at `host` in the file: the sectors from `at` on with the same bit. */
  #partial(block: number, host: number, at: number, length: ByteCount, out: Extent): Status {
    const { blockSize, sectorSize, virtualSize } = this.#bat;
    const first = Math.floor(at / sectorSize);
    const limit = Math.min((block + 1) * blockSize, virtualSize, roundUp(at + length, sectorSize));
    const run = this.bits === undefined ? 0 : this.bits.run(first, limit / sectorSize);
    if (run === 0) {
      this.#report(describeLackOfBits(this.#source, this.#bat, this.table, block));
      return -EIO;
    }
    const covered = (first + Math.abs(run)) * sectorSize - at;
    return run < 0 ? out.set(HOLE, 0, covered) : this.#data(block, host, covered, out);
  }

  /**
   * The first block after `first`, at most `end`, whose word does not go on with `word` by `step`. The words of
   * a chunk stand together; between two chunks is the entry of a sector bitmap.
   */
  #runEnd(first: number, word: number, end: number, step: number): number {
    const { chunkShift } = this.#bat;
    let block = first + 1;
    while (block < end) {
      const chunkEnd = ((block >>> chunkShift) + 1) * 2 ** chunkShift;
      const limit = Math.min(end, chunkEnd) - block;
      const expected = word + step * (block - first);
      const run = this.table.run(entryOf(block, chunkShift), expected, limit, step);
      block += run;
      if (run < limit) break;
    }
    return block;
  }

  /**
   * Data of an image whose log was replayed in memory. Replay extends the file with zeros, so what lies past
   * its real end is zero. A log never writes payload ([MS-VHDX] 2.3); if one does all the same, zeros are
   * honoured, and other bytes, which no extent can name, are damage at that place only.
   */
  #replayed(overlay: Overlay, block: number, host: number, length: ByteCount, out: Extent): Status {
    const end = host + length;
    const patch = overlay.nextPatch(host, end);
    if (patch > host) {
      const fileEnd = this.#file.size;
      if (host >= fileEnd) return out.set(ZERO, 0, patch - host);
      return out.set(DATA, host, Math.min(patch, fileEnd) - host);
    }
    const zeros = overlay.zerosUntil(host, end);
    if (zeros > host) return out.set(ZERO, 0, zeros - host);
    this.#report(
      `VHDX log: writes at ${hex(host)}, inside the data of payload block ${block}; ` +
        'the log must be replayed into the file before this can be read',
    );
    return -EIO;
  }

  #damaged(block: number): Status {
    this.#report(describeDamage(this.#source, this.#bat, entryOf(block, this.#bat.chunkShift)));
    return -EIO;
  }

  #unreadable(block: number, status: Status): Status {
    const entry = entryOf(block, this.#bat.chunkShift);
    this.#report(`VHDX BAT at ${hex(this.#bat.at)}: entry ${entry} cannot be read (errno ${-status})`);
    return status;
  }
}
