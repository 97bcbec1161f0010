/**
 * Writing differencing images (the orders that hold for all: editor.ts). A set bit says that the sector is here, a
 * clear one that the parent shows, whatever lies under it; there is no third state.
 *
 *   reservation  a block that is not there gets its place, which is zeros, its bitmap included, and an entry in memory:
 *                it shows the parent as before. The place of a sector is where it belongs in its block
 *   publication  payload is in that place; the bits of its sectors are set in memory
 *
 * At the commit, payload and the zeros of new blocks are made stable before bitmaps and table are written, in whichever
 * order these two reach the medium: an entry without its bits shows the parent, bits without their entry show nothing.
 * Of a bitmap of several sectors, each is old or new for itself.
 *
 * Nothing is ever unmapped: that would let the parent show through. The disk layer zeroes in place instead. So
 * bits are only ever set, and a batmap stays true.
 */

import { EAGAIN, EIO, type Status } from '../../base/errno.ts';
import { type ByteCount, type GuestOffset, roundDown, roundUp } from '../../base/units.ts';
import type { EditContext } from '../../image/driver.ts';
import type { Reservation } from '../../image/reservation.ts';
import { EIGHTH_WORDS, type PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { BlockEditor } from './editor.ts';
import type { DifferencingEdit } from './prepare.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import { putWord, turnBits, usedBytes, wordsPerBlock } from './table.ts';
import type { DynamicState, DynamicTranslator } from './translator.ts';

/** Words of the table of bitmaps that lie in one sector of the file: what is written at once. */
const SECTOR_WORDS = EIGHTH_WORDS;
const ALL = 0xffffffff;

export class DifferencingEditor extends BlockEditor {
  readonly unit = 0;
  readonly #bitmaps: PagedTable;
  readonly #perBlock: number;

  constructor(
    state: DynamicState,
    edit: DifferencingEdit,
    source: BlockSource,
    context: EditContext,
    translator: DynamicTranslator,
  ) {
    super(state, edit, source, context, translator);
    if (translator.bitmaps === undefined) throw new Error('a differencing image without bitmaps');
    this.#bitmaps = translator.bitmaps;
    this.#perBlock = wordsPerBlock(state.layout.blockSize);
  }

  /** It is asked for what reads as zeros though no parent shows, of which there is nothing. */
  protected allocateLocked(): Status {
    return -EIO;
  }

  protected discardLocked(): Status {
    return -EIO;
  }

  protected reserveLocked(at: GuestOffset, length: ByteCount, out: Reservation): Status {
    const { blockSize, bitmapBytes, size } = this.layout;
    const block = Math.floor(at / blockSize);
    let entry = this.table.get(block);
    if (entry < 0) return entry;
    const isNew = entry === UNALLOCATED;
    if (isNew) {
      entry = this.takePlace();
      const status = entry < 0 ? entry : this.link(block, entry);
      if (status < 0) return status;
    }
    const from = roundDown(at, SECTOR);
    const end = Math.min(roundUp(at + length, SECTOR), size);
    const host = entry * SECTOR + bitmapBytes + (from - block * blockSize);
    return out.set(from, end - from, host, isNew, 0);
  }

  protected publishLocked({ at, length }: Reservation): Status {
    const { blockSize } = this.layout;
    const block = Math.floor(at / blockSize);
    const entry = this.table.get(block);
    if (entry < 0) return entry;
    const base = block * this.#perBlock;
    const first = (at - block * blockSize) / SECTOR;
    const end = first + Math.ceil(length / SECTOR);
    for (let sector = first; sector < end; ) {
      const word = sector >>> 5;
      const next = Math.min(end, (word + 1) * 32);
      const bits = (ALL >>> (sector & 31)) & (ALL << ((word + 1) * 32 - next));
      const status = this.#setBits(base, word, bits, entry);
      // What is set is stable no later than what is not; the rest is for the next try.
      if (status < 0) return status;
      sector = next;
    }
    if (this.full !== undefined && this.#isFull(block)) Atomics.store(this.full, block, 1);
    return 0;
  }

  #setBits(base: number, word: number, bits: number, entry: number): Status {
    const key = base + roundDown(word, SECTOR_WORDS);
    const waits = this.pending.has(key);
    if (!waits && this.pending.isFull) return -EAGAIN;
    const old = this.#bitmaps.get(base + word);
    if (old < 0) return old;
    const status = this.#bitmaps.set(base + word, (old | bits) >>> 0);
    if (status === 0 && !waits) this.pending.add(key, entry);
    return status;
  }

  /** Whether all sectors of a block that the disk has are set. */
  #isFull(block: number): boolean {
    const base = block * this.#perBlock;
    const sectors = Math.ceil(usedBytes(this.layout, block) / SECTOR);
    const whole = sectors >>> 5;
    if (this.#bitmaps.run(base, ALL, whole, 0) < whole) return false;
    const rest = sectors & 31;
    if (rest === 0) return true;
    const last = this.#bitmaps.get(base + whole);
    return last >= 0 && (~last & (ALL << (32 - rest))) === 0;
  }

  /** The block stays, and shows the parent where it did. */
  protected cancelLocked(): void {}

  protected gatherBitmaps(): void {
    // They stay in memory until `settle`: copying them reads nothing.
    this.#bitmaps.gather(() => {});
    this.pending.forEach(this.#copySector);
  }

  readonly #copySector = (key: number, entry: number): Status => {
    const perBlock = this.#perBlock;
    const start = this.buffer.add((entry + (key % perBlock) / SECTOR_WORDS) * SECTOR, SECTOR);
    const { bytes } = this.buffer;
    let to = start;
    for (let n = 0; n < Math.min(perBlock, SECTOR_WORDS); n += 1) {
      to = putWord(bytes, to, this.#bitmaps.get(key + n));
    }
    bytes.fill(0, to, start + SECTOR);
    turnBits(bytes, start, to, this.layout.bitOrder);
    return 0;
  };

  protected writeBitmaps(): Status {
    return this.buffer.writeTo(this.source, 'bitmap.write', 0, this.tableFrom);
  }

  override settle(status: Status): void {
    super.settle(status);
    this.#bitmaps.settle(status === 0);
  }
}
