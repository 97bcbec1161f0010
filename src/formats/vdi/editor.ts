/**
 * Writing VDI. There is no journal and no checksum; safety is the order of writes:
 *
 *   allocation   1. the new block's place is zeros (the file grows, or the place is punched); the entry is
 *                   published in memory; payload goes there
 *   commit       2. the counter of allocated blocks in the header, never behind the map: all that the file holds
 *                3. flush: payload, size and counter are stable. Not needed, and not done, where every new entry
 *                   names a place that an earlier commit made stable as zeros, and the counter covered
 *                   (fresh-space.ts)
 *                4. the changed sectors of the map
 *                5. flush
 *
 * The file grows in batches, so most commits are one flush. A crash leaves blocks that nobody names: the counter is
 * too large, which every reader bears.
 *
 * Where a parent shows, the place is filled before the entry is published (`reserve`), and step 3 is always done: what
 * the disk shows until then is no zeros.
 *
 * Discarded blocks become zero entries; their places are punched, and given out again after the commit. VDI
 * knows no free blocks inside the file: used numbers are 0 to counter - 1, and another writer allocates at the
 * counter. So at the end of a mount, places that nobody uses are cut off at the end of the file, and those in
 * between are given to blocks of the disk that read as zeros (`finish`). Only where a parent shows in all that is left
 * are data moved for it.
 */

import { EAGAIN, ENOSPC, ESTALE, type Status } from '../../base/errno.ts';
import { randomGuid } from '../../base/guid.ts';
import { type ByteCount, type GuestOffset, type HostOffset, MIB } from '../../base/units.ts';
import type { EditContext } from '../../image/driver.ts';
import { NONE } from '../../image/free-space.ts';
import { FreshSpace } from '../../image/fresh-space.ts';
import type { Reservation } from '../../image/reservation.ts';
import { TableEditor } from '../../image/table-editor.ts';
import { EIGHTH_WORDS, type PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { strideOf } from './map-scan.ts';
import { NEXT, type VdiEdit, WRITTEN } from './prepare.ts';
import { ENTRY_FREE, ENTRY_ZERO } from './structs.ts';
import { blockHost, type VdiState } from './translator.ts';

/** The file grows by an eighth of its size at once, and by no less and no more than this. */
const MIN_GROWTH = 8 * MIB;
const MAX_GROWTH = 64 * MIB;

export class VdiEditor extends TableEditor {
  readonly unit: ByteCount;
  readonly blockSize: ByteCount;
  protected readonly tables: readonly PagedTable[];
  readonly #state: VdiState;
  readonly #edit: VdiEdit;
  readonly #bounds: Uint32Array<SharedArrayBuffer>;
  readonly #fresh: FreshSpace;
  readonly #map: PagedTable;
  readonly #counter = new Uint8Array(4);
  /** Of the commit that this thread gathered. */
  #counterValue = 0;
  #taken = 0;

  constructor(state: VdiState, edit: VdiEdit, source: BlockSource, context: EditContext, map: PagedTable) {
    super(edit, source, context);
    this.unit = edit.unmaps ? state.blockSize : 0;
    this.blockSize = state.blockSize;
    this.#state = state;
    this.#edit = edit;
    this.#bounds = new Uint32Array(edit.bounds);
    this.#fresh = new FreshSpace(edit.fresh);
    this.#map = map;
    this.tables = [map];
  }

  protected first(): Status {
    const { modifyUuid, modifyUuidAt } = this.#edit;
    return this.source.writeAt(modifyUuid ?? randomGuid(), 0, 16, modifyUuidAt as HostOffset, 'header.write');
  }

  protected allocateLocked(at: GuestOffset, length: ByteCount): Status {
    const { blockSize } = this.#state;
    const first = Math.floor(at / blockSize);
    const end = Math.ceil((at + length) / blockSize);
    for (let block = first; block < end; block += 1) {
      const status = this.#allocateBlock(block);
      if (status < 0) return block === first ? status : 0;
    }
    return 0;
  }

  #allocateBlock(block: number): Status {
    const entry = this.#map.get(block);
    if (entry < 0) return entry;
    // Another thread was first; or the parent shows there, and nobody asked for it.
    if (entry < ENTRY_ZERO || (entry === ENTRY_FREE && this.#edit.hasParent)) return 0;
    const wasUsed = this.#take();
    if (wasUsed < 0) return wasUsed;
    const status = this.#link(block, this.#taken, wasUsed === 1);
    if (status < 0) this.free.giveBack(this.#taken);
    return status;
  }

  /** Finds a physical block that nobody uses, makes it zeros, puts it in `#taken`. 1 if it was used before, else 0; -errno. */
  #take(): number {
    // What was freed but not yet committed comes back; more blocks than the disk has there are not.
    const freed = this.free.take();
    const physical = freed === NONE ? this.#bounds[NEXT]! : freed;
    if (physical >= this.#state.blocks) return this.free.count > 0 ? -EAGAIN : -ENOSPC;
    const status = this.#makeZeros(physical, freed !== NONE);
    if (status < 0) {
      if (freed !== NONE) this.free.giveBack(physical);
      return status;
    }
    this.#taken = physical;
    if (freed !== NONE) return 1;
    this.#bounds[NEXT] = physical + 1;
    return 0;
  }

  protected reserveLocked(at: GuestOffset, _length: ByteCount, out: Reservation): Status {
    const { blockSize, virtualSize } = this.#state;
    const block = Math.floor(at / blockSize);
    const entry = this.#map.get(block);
    if (entry < 0) return entry;
    if (entry !== ENTRY_FREE) return -ESTALE;
    const status = this.#take();
    if (status < 0) return status;
    const from = block * blockSize;
    const host = blockHost(this.#state, this.#taken);
    return out.set(from, Math.min(blockSize, virtualSize - from), host, true, this.#taken);
  }

  protected publishLocked({ at, token }: Reservation): Status {
    const block = Math.floor(at / this.#state.blockSize);
    const entry = this.#map.get(block);
    if (entry < 0) return entry;
    if (entry !== ENTRY_FREE) {
      this.free.giveBack(token);
      return -ESTALE;
    }
    // What the parent shows is no zeros: the copy must be there before the entry, wherever its place is.
    return this.#link(block, token, true);
  }

  protected cancelLocked({ token }: Reservation): void {
    this.free.giveBack(token);
  }

  #link(block: number, physical: number, wasUsed: boolean): Status {
    const status = this.#map.set(block, physical);
    if (status < 0) return status;
    if (wasUsed || !this.#isAdded(physical)) this.#fresh.namedUsed();
    else this.#fresh.namedNew(physical);
    return 0;
  }

  /** Whether this mount added the place of a physical block to the file: then it is zeros until it is given out. */
  #isAdded(physical: number): boolean {
    return blockHost(this.#state, physical) - this.#state.blockExtra >= this.#edit.sizeAtOpen;
  }

  /** The place of a physical block, its extra bytes included, is in the file and reads as zeros. */
  #makeZeros(physical: number, wasUsed: boolean): Status {
    const { blockSize, blockExtra, blocks } = this.#state;
    const start = blockHost(this.#state, physical) - blockExtra;
    const length = blockSize + blockExtra;
    const end = start + length;
    if (end > Number.MAX_SAFE_INTEGER) return -ENOSPC;
    const { size } = this.source;
    if ((wasUsed || !this.#isAdded(physical)) && start < size) {
      const status = this.source.zero(start as HostOffset, length, 'punch', 'payload.zero');
      if (status < 0) return status;
    }
    if (end <= size) return 0;
    const growth = Math.max(MIN_GROWTH, Math.min(MAX_GROWTH, size / 8));
    const more = Math.min(blocks - physical - 1, Math.floor(growth / length));
    const status = more > 0 ? this.source.setSize(end + more * length) : -ENOSPC;
    return status < 0 ? this.source.setSize(end) : status;
  }

  protected discardLocked(at: GuestOffset, length: ByteCount): Status {
    const { blockSize, blocks } = this.#state;
    const end = Math.ceil((at + length) / blockSize);
    // Neighbours in the file are punched in one go.
    let from = 0;
    let upTo = 0;
    let status: Status = 0;
    for (let block = Math.floor(at / blockSize); block < end && status === 0; block += 1) {
      const entry = this.#map.get(block);
      if (entry === ENTRY_FREE && this.#edit.hasParent) status = this.#map.set(block, ENTRY_ZERO);
      if (entry >= blocks) continue;
      status = entry < 0 ? entry : this.#unmap(block, entry);
      if (status < 0) break;
      const host = blockHost(this.#state, entry);
      if (host !== upTo) {
        status = this.#punch(from, upTo);
        from = host;
      }
      upTo = host + blockSize;
    }
    const punched = this.#punch(from, upTo);
    return status < 0 ? status : punched;
  }

  /** Where no more freed places can be remembered the block keeps its own: it is zeros all the same. */
  #unmap(block: number, physical: number): Status {
    if (this.free.isFull) return 0;
    const status = this.#map.set(block, ENTRY_ZERO);
    if (status === 0) this.free.release(physical);
    return status;
  }

  #punch(from: number, upTo: number): Status {
    if (from === upTo) return 0;
    return this.source.zero(from as HostOffset, upTo - from, 'punch', 'payload.zero');
  }

  gather(): boolean {
    const bounds = this.#bounds;
    if (this.#map.dirtyPages === 0 && bounds[NEXT]! <= bounds[WRITTEN]!) return false;
    const { mapOffset, map } = this.#state;
    this.buffer.clear();
    this.#map.gather((page, eighths, words, start) => {
      for (let eighth = 0; eighth < 8; eighth += 1) {
        if ((eighths & (1 << eighth)) === 0) continue;
        const first = page * 8 * EIGHTH_WORDS + eighth * EIGHTH_WORDS;
        const count = Math.min(EIGHTH_WORDS, map.words - first);
        let to = this.buffer.add(mapOffset + first * 4, count * 4);
        const { bytes } = this.buffer;
        for (
          let n = start + eighth * EIGHTH_WORDS;
          count > 0 && n < start + eighth * EIGHTH_WORDS + count;
          n += 1
        ) {
          to = putWord(bytes, to, words[n]!);
        }
      }
    });
    this.free.gather();
    const { dataOffset, blocks } = this.#state;
    const held = Math.floor((this.source.size - dataOffset) / strideOf(this.#state));
    this.#counterValue = Math.max(bounds[NEXT]!, Math.min(held, blocks));
    this.#fresh.gather(this.#counterValue);
    return true;
  }

  write(metadata: boolean): Status {
    if (!metadata) return this.commit.stable(this.source);
    // Never behind the map: before it, and no smaller than what is there.
    let status = this.#counterValue > this.#bounds[WRITTEN]! ? this.#writeCounter(this.#counterValue) : 0;
    if (status < 0) return status;
    if (this.#fresh.isOrdered) status = this.commit.stable(this.source);
    if (status < 0) return status;
    status = this.buffer.writeTo(this.source, 'table.write');
    return status < 0 ? status : this.commit.stable(this.source);
  }

  settle(status: Status): void {
    this.#fresh.settle(status === 0);
    this.#map.settle(status === 0);
    this.free.settle(status === 0);
  }

  #writeCounter(value: number): Status {
    putWord(this.#counter, 0, value);
    const at = this.#edit.counterAt as HostOffset;
    const status = this.source.writeAt(this.#counter, 0, 4, at, 'header.write');
    if (status === 0) this.#bounds[WRITTEN] = value;
    return status;
  }

  /**
   * Used numbers become 0 to counter - 1 again, and the file ends with the last of them. In this order: the map names
   * what was free inside, the counter falls to what the map names, the file ends there. Each is stable before the
   * next begins, so it may end anywhere; and it may be called again.
   */
  protected finish(): Status {
    const bounds = this.#bounds;
    const holes = new Set(this.free.all());
    this.free.clear();
    while (bounds[NEXT]! > 0 && holes.delete(bounds[NEXT]! - 1)) bounds[NEXT]! -= 1;
    let status = this.#fillHoles([...holes].sort((a, b) => a - b));
    if (status < 0) return status;
    if (bounds[NEXT]! < bounds[WRITTEN]!) {
      status = this.#writeCounter(bounds[NEXT]!);
      if (status === 0) status = this.commit.stable(this.source);
    }
    const end = blockHost(this.#state, bounds[NEXT]!) - this.#state.blockExtra;
    if (status < 0 || end >= this.source.size) return status;
    this.#fresh.cut(bounds[NEXT]!);
    status = this.source.setSize(end);
    return status < 0 ? status : this.commit.stable(this.source);
  }

  /**
   * Gives unused places to blocks of the disk that read as zeros. Where those are too few, because the parent shows in
   * all others, the last blocks of the file move into the places that are left.
   */
  #fillHoles(holes: readonly number[]): Status {
    const { words } = this.#map;
    const last = this.#edit.hasParent ? ENTRY_ZERO : ENTRY_FREE;
    let block = 0;
    let filled = 0;
    for (; filled < holes.length; filled += 1) {
      while (block < words && !(this.#map.get(block) >= ENTRY_ZERO && this.#map.get(block) <= last))
        block += 1;
      if (block === words) break;
      let status = this.#makeZeros(holes[filled]!, true);
      if (status === 0) status = this.#relink(block, holes[filled]!);
      if (status < 0) return status;
    }
    const status = filled < holes.length ? this.#moveInto(holes.slice(filled)) : 0;
    return status < 0 ? status : this.flush();
  }

  /** The last blocks of the file into `holes`, ascending: then there are none. Their old places stay as they are. */
  #moveInto(holes: readonly number[]): Status {
    const bounds = this.#bounds;
    const { blockSize, blockExtra } = this.#state;
    const end = bounds[NEXT]! - holes.length;
    const targets = holes.filter((hole) => hole < end);
    for (let block = 0; block < this.#map.words && targets.length > 0; block += 1) {
      const physical = this.#map.get(block);
      if (physical < end || physical >= bounds[NEXT]!) continue;
      const target = targets.pop()!;
      const from = blockHost(this.#state, physical) - blockExtra;
      let status = this.#copy(from, blockHost(this.#state, target) - blockExtra, blockSize + blockExtra);
      if (status === 0) status = this.#relink(block, target);
      if (status < 0) return status;
    }
    const status = this.flush();
    if (status === 0) bounds[NEXT] = end;
    return status;
  }

  #copy(from: number, to: number, length: ByteCount): Status {
    const buffer = new Uint8Array(Math.min(length, MIB));
    for (let done = 0; done < length; done += buffer.length) {
      const count = Math.min(buffer.length, length - done);
      const moved = this.source.readAt(buffer, 0, count, (from + done) as HostOffset);
      if (moved < 0) return moved;
      // The file may end within its last block.
      buffer.fill(0, moved, count);
      const status = this.source.writeAt(buffer, 0, count, (to + done) as HostOffset, 'payload.write');
      if (status < 0) return status;
    }
    return 0;
  }

  /** `#link` at the end of a mount, with a commit where the tables want one. */
  #relink(block: number, physical: number): Status {
    this.commit.dirtied();
    const status = this.#link(block, physical, true);
    if (status !== -EAGAIN) return status;
    const flushed = this.flush();
    this.commit.dirtied();
    return flushed < 0 ? flushed : this.#link(block, physical, true);
  }
}

/** A little-endian u32; returns where the next one goes. */
function putWord(bytes: Uint8Array, at: number, value: number): number {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
  return at + 4;
}
