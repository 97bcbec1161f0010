/**
 * Writing dynamic images (the orders that hold for all: editor.ts).
 *
 *   allocation   the block's place is zeros, its bitmap is written, all ones; the entry is published in memory; payload
 *                goes there
 *
 * A block of another writer may have clear bits, under which anything may lie. Before the first write to such a
 * sector, zeros are written under all clear bits; in memory the block is full then. On disk its bits stay clear,
 * and the sectors read as zeros, until the commit has made the zeros stable.
 *
 * Discarded blocks become unallocated; their places are punched, and given out again after the commit. Blocks
 * that tapdisk's batmap calls full stay and are zeroed in place: so the batmap is always true without being
 * written.
 */

import { EAGAIN, EIO, type Status } from '../../base/errno.ts';
import type { ByteCount, GuestOffset, HostOffset } from '../../base/units.ts';
import type { EditContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { BlockEditor } from './editor.ts';
import { type DynamicEdit, RELEASED } from './prepare.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import { BitmapReader, FITS, type Layout, placement, usedBytes } from './table.ts';
import type { DynamicState, DynamicTranslator } from './translator.ts';

export class DynamicEditor extends BlockEditor {
  readonly unit: ByteCount;
  readonly #edit: DynamicEdit;
  /** The bitmap of a new block, as it is in the file. */
  readonly #ones: Uint8Array;
  /** Under the allocation lock. */
  readonly #bitmap: BitmapReader;
  /** Under the commit lock. */
  readonly #committed: BitmapReader;

  constructor(
    state: DynamicState,
    edit: DynamicEdit,
    source: BlockSource,
    context: EditContext,
    translator: DynamicTranslator,
  ) {
    super(state, edit, source, context, translator);
    this.unit = edit.unmaps ? state.layout.blockSize : 0;
    this.#edit = edit;
    this.#bitmap = new BitmapReader(source, state.layout);
    this.#committed = new BitmapReader(source, state.layout);
    this.#ones = onesOf(state.layout);
  }

  protected allocateLocked(at: GuestOffset, length: ByteCount): Status {
    const { blockSize } = this.layout;
    const first = Math.floor(at / blockSize);
    const end = Math.ceil((at + length) / blockSize);
    for (let block = first; block < end; block += 1) {
      const entry = this.table.get(block);
      let status: Status = entry;
      if (entry === UNALLOCATED) status = this.#allocateBlock(block);
      else if (entry >= 0) status = this.#fillBlock(block, entry);
      if (status < 0) return block === first ? status : 0;
    }
    return 0;
  }

  #allocateBlock(block: number): Status {
    const sector = this.takePlace();
    if (sector < 0) return sector;
    const ones = this.#ones;
    const at = (sector * SECTOR) as HostOffset;
    const status = this.source.writeAt(ones, 0, ones.length, at, 'bitmap.write');
    if (status < 0) {
      this.free.giveBack(sector);
      return status;
    }
    // Before the entry, so that no thread looks for bits of the block that was here before.
    if (this.full !== undefined) Atomics.store(this.full, block, 1);
    return this.link(block, sector);
  }

  /** Makes a block that is in the file full: what lies under clear bits becomes zeros. */
  #fillBlock(block: number, entry: number): Status {
    const full = this.full;
    if (full === undefined || Atomics.load(full, block) === 1) return 0;
    if (placement(this.layout, block, entry) !== FITS) return -EIO;
    if (this.pending.isFull) return -EAGAIN;
    const bitmap = this.#bitmap;
    let status = bitmap.read(entry);
    if (status < 0) return status;
    if (!bitmap.isFull(block)) {
      status = this.#zeroClear(block, entry * SECTOR + this.layout.bitmapBytes);
      if (status < 0) return status;
      this.pending.add(block, entry);
    }
    Atomics.store(full, block, 1);
    return 0;
  }

  /** Zeros what lies under the clear bits of the bitmap that was read, as far as the disk goes. */
  #zeroClear(block: number, dataAt: number): Status {
    const bytes = usedBytes(this.layout, block);
    const sectors = Math.ceil(bytes / SECTOR);
    for (let sector = 0; sector < sectors; sector += 1) {
      if (this.#bitmap.isSet(sector)) continue;
      const from = sector;
      while (sector + 1 < sectors && !this.#bitmap.isSet(sector + 1)) sector += 1;
      const end = Math.min(bytes, (sector + 1) * SECTOR);
      const status = this.makeZeros(dataAt + from * SECTOR, end - from * SECTOR);
      if (status < 0) return status;
    }
    return 0;
  }

  /** No parent shows anywhere: nobody forks. */
  protected reserveLocked(): Status {
    return -EIO;
  }

  protected publishLocked(): Status {
    return -EIO;
  }

  protected cancelLocked(): void {}

  protected discardLocked(at: GuestOffset, length: ByteCount): Status {
    const layout = this.layout;
    const { table } = this;
    const end = Math.ceil((at + length) / layout.blockSize);
    for (let block = Math.floor(at / layout.blockSize); block < end; block += 1) {
      const entry = table.get(block);
      if (entry === UNALLOCATED) continue;
      if (entry < 0) return entry;
      if (placement(layout, block, entry) !== FITS) return -EIO;
      let status: Status = 0;
      const kept = this.#isKept(block);
      if (!kept) {
        status = table.set(block, UNALLOCATED);
        if (status < 0) return status;
        this.free.release(entry);
        this.bounds[RELEASED]! += 1;
      }
      const bytes = kept ? usedBytes(layout, block) : layout.blockSize;
      status = this.makeZeros(entry * SECTOR + layout.bitmapBytes, bytes);
      if (status < 0) return status;
    }
    return 0;
  }

  #isKept(block: number): boolean {
    const { batmap, keepsLast } = this.#edit;
    if (keepsLast && block === this.layout.blockCount - 1) return true;
    return batmap !== undefined && (batmap[block >>> 3]! & (0x80 >> (block & 7))) !== 0;
  }

  protected gatherBitmaps(): void {}

  protected writeBitmaps(): Status {
    return this.pending.forEach(this.#writeBitmap);
  }

  /** Sets the bits of all that the disk has of a block; those behind its end stay as they are. */
  readonly #writeBitmap = (block: number, entry: number): Status => {
    const status = this.#committed.read(entry);
    if (status < 0) return status;
    this.#committed.fill(Math.ceil(usedBytes(this.layout, block) / SECTOR));
    return this.#committed.write(entry);
  };
}

/** The bitmap of a full block: bits for its sectors, zeros behind. */
function onesOf(layout: Layout): Uint8Array {
  const sectors = layout.blockSize / SECTOR;
  const ones = new Uint8Array(layout.bitmapBytes);
  ones.fill(0xff, 0, sectors >>> 3);
  if (sectors < 8) {
    const some = (1 << sectors) - 1;
    ones[0] = layout.bitOrder === 'lsb' ? some : some << (8 - sectors);
  }
  return ones;
}
