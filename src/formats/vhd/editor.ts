/**
 * Writing VHD. There is no journal; safety is the order of writes:
 *
 *   first write  the footer's time of writing, in both copies: each is one sector, so each is whole at any time.
 *                Copies that differ, or of which one is missing, are mended one after the other, the first stable
 *                before the second is touched.
 *   growth       the footer is written at the new end and made stable; then blocks are given out from the space
 *                before it, and the place of the old footer is zeros. The file grows by several blocks at once, so
 *                that this is rare.
 *   allocation   1. the block's place is zeros, its bitmap is written, all ones; the entry is published in memory;
 *                   payload goes there
 *   commit       2. flush: payload and bitmaps are stable
 *                3. the changed sectors of the table, and the bitmaps of blocks that were not full before
 *                4. flush
 *
 * A crash before 3 leaves a place that no entry names: prepareEdit finds it again.
 *
 * A block of another writer may have clear bits, under which anything may lie. Before the first write to such a
 * sector, zeros are written under all clear bits; in memory the block is full then. On disk its bits stay clear,
 * and the sectors read as zeros, until 3.
 *
 * Discarded blocks become unallocated; their places are punched, and given out again after the commit. Blocks
 * that tapdisk's batmap calls full stay and are zeroed in place: so the batmap is always true without being
 * written. At the end, unused space at the end of the file is cut off; free places inside stay for the next
 * writer of ours.
 */

import { EAGAIN, EFBIG, EINVAL, EIO, ENOSPC, type Status } from '../../base/errno.ts';
import { type ByteCount, type GuestOffset, type HostOffset, MIB } from '../../base/units.ts';
import type { EditContext } from '../../image/driver.ts';
import { NONE } from '../../image/free-space.ts';
import { TableEditor } from '../../image/table-editor.ts';
import { EIGHTH_WORDS } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { stampFooter } from './footer.ts';
import { PendingBitmaps } from './pending.ts';
import { CLEAN, type DynamicEdit, NEXT, RELEASED } from './prepare.ts';
import { blockBytes, endOfUse, LAST_SECTOR, listBlocks, nextPlace } from './space.ts';
import { SECTOR, UNALLOCATED } from './structs.ts';
import { BitmapReader, FITS, type Layout, placement, usedBytes } from './table.ts';
import type { DynamicState, DynamicTranslator } from './translator.ts';

/** The file grows by as much as it has, at most by this. */
const MAX_GROWTH = 64 * MIB;

export class DynamicEditor extends TableEditor {
  readonly unit: ByteCount;
  readonly blockSize: ByteCount;
  readonly #layout: Layout;
  readonly #edit: DynamicEdit;
  readonly #bounds: Float64Array<SharedArrayBuffer>;
  readonly #translator: DynamicTranslator;
  readonly #full: Uint8Array<SharedArrayBuffer> | undefined;
  readonly #pending: PendingBitmaps;
  /** The bitmap of a new block, as it is in the file. */
  readonly #ones: Uint8Array;
  /** Under the allocation lock. */
  readonly #bitmap: BitmapReader;
  /** Under the commit lock. */
  readonly #committed: BitmapReader;
  readonly #footer = new Uint8Array(SECTOR);

  constructor(
    state: DynamicState,
    edit: DynamicEdit,
    source: BlockSource,
    context: EditContext,
    translator: DynamicTranslator,
  ) {
    super(edit, source, context);
    this.#layout = state.layout;
    this.unit = edit.unmaps ? state.layout.blockSize : 0;
    this.blockSize = state.layout.blockSize;
    this.#edit = edit;
    this.#bounds = edit.bounds;
    this.#translator = translator;
    this.#full = state.full === undefined ? undefined : new Uint8Array(state.full);
    this.#pending = new PendingBitmaps(edit.pending);
    this.#bitmap = new BitmapReader(source, state.layout);
    this.#committed = new BitmapReader(source, state.layout);
    this.#ones = onesOf(state.layout);
  }

  protected first(): Status {
    const { footer, tailAt, repair } = this.#edit;
    stampFooter(footer, Math.floor(Date.now() / 1000));
    // Where one copy is no good it must not be the only one for a moment, nor the only one on its way.
    let status = this.#writeFooter(0);
    if (status === 0 && repair) status = this.commit.stable(this.source);
    if (status === 0) status = this.#writeFooter(tailAt);
    if (status === 0 && repair) status = this.commit.stable(this.source);
    if (status === 0) this.#layout.limit[0] = tailAt;
    return status;
  }

  /** Writes the footer at host offset `at`. Where that fails, the file is as long as before. */
  #writeFooter(at: number): Status {
    const { size } = this.source;
    this.#footer.set(this.#edit.footer);
    const status = this.source.writeAt(this.#footer, 0, SECTOR, at as HostOffset, 'footer.write');
    if (status < 0 && this.source.size > size) this.source.setSize(size);
    return status;
  }

  protected allocateLocked(at: GuestOffset, length: ByteCount): Status {
    const { blockSize } = this.#layout;
    const first = Math.floor(at / blockSize);
    const end = Math.ceil((at + length) / blockSize);
    for (let block = first; block < end; block += 1) {
      const entry = this.#translator.table.get(block);
      let status: Status = entry;
      if (entry === UNALLOCATED) status = this.#allocateBlock(block);
      else if (entry >= 0) status = this.#fillBlock(block, entry);
      if (status < 0) return block === first ? status : 0;
    }
    return 0;
  }

  #allocateBlock(block: number): Status {
    const bounds = this.#bounds;
    const freed = this.free.take();
    const sector = freed === NONE ? this.#takeAtEnd() : freed;
    if (sector < 0) return sector;
    const start = sector * SECTOR;
    const { bitmapBytes, blockSize } = this.#layout;
    let status = freed === NONE ? 0 : this.#makeZeros(start + bitmapBytes, blockSize);
    const ones = this.#ones;
    if (status === 0) {
      status = this.source.writeAt(ones, 0, ones.length, start as HostOffset, 'bitmap.write');
    }
    if (status < 0) {
      if (freed !== NONE) this.free.giveBack(freed);
      return status;
    }
    if (freed === NONE) bounds[NEXT] = start + blockBytes(this.#layout);
    // Before the entry, so that no thread looks for bits of the block that was here before.
    if (this.#full !== undefined) Atomics.store(this.#full, block, 1);
    status = this.#translator.table.set(block, sector);
    if (status < 0) this.free.giveBack(sector);
    return status;
  }

  /** The sector of a place behind all that is given out, reading as zeros; or -errno. */
  #takeAtEnd(): number {
    const bounds = this.#bounds;
    const start = nextPlace(this.#layout, bounds[NEXT]!);
    const end = start + blockBytes(this.#layout);
    let status: Status = 0;
    if (start / SECTOR > LAST_SECTOR) status = -ENOSPC;
    else if (end > this.#layout.limit[0]!) {
      // A commit costs no more than growing does, and gives back what was freed.
      if (bounds[RELEASED]! > 0) return -EAGAIN;
      status = this.#grow(end);
    }
    if (status === -ENOSPC || status === -EFBIG) return this.free.count > 0 ? -EAGAIN : -ENOSPC;
    if (status < 0) return status;
    const clean = bounds[CLEAN]!;
    if (start < clean) status = this.#makeZeros(start, Math.min(end, clean) - start);
    return status < 0 ? status : start / SECTOR;
  }

  #makeZeros(at: number, length: ByteCount): Status {
    return this.source.zero(at as HostOffset, length, 'punch', 'payload.zero');
  }

  /** Moves the footer to `end` or beyond it, as far as pays. Returns 0 or -errno: then it is where it was. */
  #grow(end: number): Status {
    const step = nextPlace(this.#layout, end) + blockBytes(this.#layout) - end;
    const most = Math.floor((LAST_SECTOR * SECTOR - end) / step);
    const more = Math.min(most, Math.floor(Math.min(this.#layout.limit[0]!, MAX_GROWTH) / step) - 1);
    if (more > 0) {
      const status = this.#moveFooter(end + more * step);
      if (status !== -ENOSPC && status !== -EFBIG) return status;
    }
    return this.#moveFooter(end);
  }

  #moveFooter(at: number): Status {
    const { size } = this.source;
    let status = this.#writeFooter(at);
    if (status === 0) status = this.commit.stable(this.source);
    if (status < 0) return status;
    this.#bounds[CLEAN] = Math.max(this.#bounds[CLEAN]!, size);
    this.#layout.limit[0] = at;
    return 0;
  }

  /** Makes a block that is in the file full: what lies under clear bits becomes zeros. */
  #fillBlock(block: number, entry: number): Status {
    const full = this.#full;
    if (full === undefined || Atomics.load(full, block) === 1) return 0;
    if (placement(this.#layout, block, entry) !== FITS) return -EIO;
    if (this.#pending.isFull) return -EAGAIN;
    const bitmap = this.#bitmap;
    let status = bitmap.read(entry);
    if (status < 0) return status;
    if (!bitmap.isFull(block)) {
      status = this.#zeroClear(block, entry * SECTOR + this.#layout.bitmapBytes);
      if (status < 0) return status;
      this.#pending.add(block, entry);
    }
    Atomics.store(full, block, 1);
    return 0;
  }

  /** Zeros what lies under the clear bits of the bitmap that was read, as far as the disk goes. */
  #zeroClear(block: number, dataAt: number): Status {
    const bytes = usedBytes(this.#layout, block);
    const sectors = Math.ceil(bytes / SECTOR);
    for (let sector = 0; sector < sectors; sector += 1) {
      if (this.#bitmap.isSet(sector)) continue;
      const from = sector;
      while (sector + 1 < sectors && !this.#bitmap.isSet(sector + 1)) sector += 1;
      const end = Math.min(bytes, (sector + 1) * SECTOR);
      const status = this.#makeZeros(dataAt + from * SECTOR, end - from * SECTOR);
      if (status < 0) return status;
    }
    return 0;
  }

  protected reserveLocked(): Status {
    return -EIO;
  }

  protected publishLocked(): Status {
    return -EIO;
  }

  protected cancelLocked(): void {}

  protected discardLocked(at: GuestOffset, length: ByteCount): Status {
    const layout = this.#layout;
    const { table } = this.#translator;
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
        this.#bounds[RELEASED]! += 1;
      }
      const bytes = kept ? usedBytes(layout, block) : layout.blockSize;
      status = this.#makeZeros(entry * SECTOR + layout.bitmapBytes, bytes);
      if (status < 0) return status;
    }
    return 0;
  }

  #isKept(block: number): boolean {
    const { batmap, keepsLast } = this.#edit;
    if (keepsLast && block === this.#layout.blockCount - 1) return true;
    return batmap !== undefined && (batmap[block >>> 3]! & (0x80 >> (block & 7))) !== 0;
  }

  gather(): boolean {
    const { table } = this.#translator;
    const { tableAt } = this.#layout;
    if (table.dirtyPages === 0 && this.#pending.count === 0) return false;
    this.buffer.clear();
    table.gather((page, eighths, words, start) => {
      for (let eighth = 0; eighth < 8; eighth += 1) {
        if ((eighths & (1 << eighth)) === 0) continue;
        const first = (page * 8 + eighth) * EIGHTH_WORDS;
        const count = Math.min(EIGHTH_WORDS, table.words - first);
        const from = start + eighth * EIGHTH_WORDS;
        let to = this.buffer.add(tableAt + first * 4, count * 4);
        const { bytes } = this.buffer;
        for (let n = from; n < from + count; n += 1) to = putWord(bytes, to, words[n]!);
      }
    });
    this.#pending.gather();
    this.free.gather();
    this.#bounds[RELEASED] = 0;
    return true;
  }

  write(metadata: boolean): Status {
    let status = this.commit.stable(this.source);
    if (status < 0 || !metadata) return status;
    status = this.#pending.forEach(this.#writeBitmap);
    if (status === 0) status = this.buffer.writeTo(this.source, 'table.write');
    return status < 0 ? status : this.commit.stable(this.source);
  }

  /** Sets the bits of all that the disk has of a block; those behind its end stay as they are. */
  readonly #writeBitmap = (block: number, entry: number): Status => {
    const status = this.#committed.read(entry);
    if (status < 0) return status;
    this.#committed.fill(Math.ceil(usedBytes(this.#layout, block) / SECTOR));
    return this.#committed.write(entry);
  };

  settle(status: Status): void {
    const written = status === 0;
    this.#translator.table.settle(written);
    this.#pending.settle(written);
    this.free.settle(written);
  }

  /** The file ends with the last block in use. What a device has behind it stays. */
  protected finish(): Status {
    const layout = this.#layout;
    const { entries, reserved } = this.#edit;
    let end: number;
    try {
      end = endOfUse(
        layout,
        listBlocks(this.source, layout, entries, () => {}),
        reserved,
      );
    } catch {
      return -EIO;
    }
    if (end >= layout.limit[0]!) return 0;
    let status = this.#writeFooter(end);
    if (status === 0) status = this.commit.stable(this.source);
    if (status === 0) status = this.source.setSize(end + SECTOR);
    // A device keeps its size, and so its footer in the last sector.
    if (status === -EINVAL) return 0;
    if (status < 0) return status;
    layout.limit[0] = end;
    this.#bounds[NEXT] = end;
    return this.commit.stable(this.source);
  }
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

/** A big-endian u32; returns where the next one goes. */
function putWord(bytes: Uint8Array, at: number, value: number): number {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
  return at + 4;
}
