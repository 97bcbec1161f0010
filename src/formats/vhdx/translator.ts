/** From disk ranges to extents, through the BAT. */

import { EIO, type Status } from '../../base/errno.ts';
import { type ByteCount, type GuestOffset, hex, MIB } from '../../base/units.ts';
import type { Report, Translator } from '../../image/driver.ts';
import { DATA, type Extent, type ExtentKind, HOLE, ZERO } from '../../image/extent.ts';
import type { PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, describeDamage, entryOf, MISPLACED } from './bat.ts';
import type { Overlay } from './overlay.ts';
import { FULLY_PRESENT, NOT_PRESENT, ZEROED } from './structs.ts';

const DAMAGED = -1;

/** What a word of the BAT loader means in an image without a parent ([MS-VHDX] 2.5.1.1). */
export function kindOf(word: number): ExtentKind | typeof DAMAGED {
  if (word === NOT_PRESENT) return HOLE;
  if (word === ZEROED) return ZERO;
  return (word & 7) === FULLY_PRESENT && word !== MISPLACED ? DATA : DAMAGED;
}

export class VhdxTranslator implements Translator {
  readonly #bat: BatGeometry;
  /** The BAT, for the editor of this thread too. */
  readonly table: PagedTable;
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
    source: BlockSource,
    overlay: Overlay | undefined,
    report: Report,
  ) {
    this.#bat = bat;
    this.table = table;
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

    // Data goes on as long as each block follows the one before in the file; then words differ by this much.
    const step = kind === DATA ? (blockSize / MIB) * 8 : 0;
    const end = Math.min(blocks, Math.ceil((at + length) / blockSize));
    const next = this.#runEnd(first, word, end, step);
    const covered = Math.min(next * blockSize, virtualSize) - at;
    if (kind !== DATA) return out.set(kind, 0, covered);
    const host = (word >>> 3) * MIB + within;
    if (this.#overlay === undefined || this.#overlay.retired) return out.set(DATA, host, covered);
    return this.#replayed(this.#overlay, first, host, covered, out);
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
    this.#report(describeDamage(this.#source, this.#bat, block));
    return -EIO;
  }

  #unreadable(block: number, status: Status): Status {
    const entry = entryOf(block, this.#bat.chunkShift);
    this.#report(`VHDX BAT at ${hex(this.#bat.at)}: entry ${entry} cannot be read (errno ${-status})`);
    return status;
  }
}
