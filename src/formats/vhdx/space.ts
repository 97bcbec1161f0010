/**
 * Where blocks and sector bitmaps go in the file: first what is free inside, as found at open or discarded since, then
 * its end. All calls are made under the image's allocation lock.
 */

import { EAGAIN, EFBIG, ENOSPC, type Status } from '../../base/errno.ts';
import { type ByteCount, type HostOffset, MIB, roundDown } from '../../base/units.ts';
import { type FreeSpace, NONE } from '../../image/free-space.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, MIB_LIMIT, takenUntil } from './bat.ts';
import type { VhdxEdit } from './prepare.ts';

const NEXT = 0;

/** The file grows by an eighth of its size at once, to save calls, and by no more than this. */
const MAX_GROWTH = 64 * MIB;

export class HostSpace {
  readonly #blockSize: ByteCount;
  readonly #taken: Float64Array;
  readonly #edit: VhdxEdit;
  readonly #bounds: Uint32Array<SharedArrayBuffer>;
  readonly #source: BlockSource;
  readonly #free: FreeSpace;

  constructor(bat: BatGeometry, edit: VhdxEdit, source: BlockSource, free: FreeSpace) {
    this.#blockSize = bat.blockSize;
    this.#taken = new Float64Array(bat.taken);
    this.#edit = edit;
    this.#bounds = new Uint32Array(edit.bounds);
    this.#source = source;
    this.#free = free;
  }

  /** The MiB at which there is room for a block, reading as zeros, that nobody uses; or -errno. */
  take(): number {
    const blockSize = this.#blockSize;
    const freed = this.#free.take();
    if (freed !== NONE) {
      const status = this.#makeZeros(freed, blockSize, blockSize);
      if (status < 0) this.#free.giveBack(freed);
      return status < 0 ? status : freed;
    }
    const mib = this.takeAtEnd(blockSize);
    // What was freed but not yet committed comes back.
    return (mib === -ENOSPC || mib === -EFBIG) && this.#free.count > 0 ? -EAGAIN : mib;
  }

  /** The same behind all that was ever given out, for `length` bytes. */
  takeAtEnd(length: ByteCount): number {
    const mibs = length / MIB;
    let mib = this.#bounds[NEXT]!;
    // Regions behind the end of the file; each step takes one of them.
    for (let behind = mib; ; mib = behind) {
      behind = takenUntil(this.#taken, mib, mib + mibs);
      if (behind === mib) break;
    }
    if (mib + mibs > MIB_LIMIT) return -ENOSPC;
    const stale = Math.max(0, this.#edit.fresh - mib) * MIB;
    const status = this.#makeZeros(mib, length, Math.min(stale, length));
    if (status < 0) return status;
    this.#bounds[NEXT] = mib + mibs;
    return mib;
  }

  /** `length` bytes at `mib` are in the file and read as zeros, of which the first `stale` may not yet do. */
  #makeZeros(mib: number, length: ByteCount, stale: ByteCount): Status {
    const start = mib * MIB;
    const { size } = this.#source;
    if (stale > 0 && start < size) {
      const how = this.#edit.fixed ? 'keep' : 'punch';
      const status = this.#source.zero(start as HostOffset, stale, how, 'payload.zero');
      if (status < 0) return status;
    }
    const needed = start + length;
    if (needed <= size) return 0;
    const more = roundDown(Math.min(MAX_GROWTH, size / 8), this.#blockSize);
    const status = more > 0 ? this.#source.setSize(needed + more) : -ENOSPC;
    return status < 0 ? this.#source.setSize(needed) : status;
  }

  /** Takes back what `takeAtEnd` gave out last, before anything was written there. */
  giveBackEnd(mib: number): void {
    this.#bounds[NEXT] = mib;
  }

  /** Gives the host the space of `at` to `end - 1`, which nobody names any more. */
  punch(at: number, end: number): Status {
    if (end <= at) return 0;
    return this.#source.zero(at as HostOffset, end - at, 'punch', 'payload.zero');
  }

  /** Takes away what nobody uses at the end of the file. Returns whether there was something. */
  cut(): boolean {
    // A fixed image keeps its size, and the host's space with it.
    if (this.#edit.fixed) return false;
    const blockMib = this.#blockSize / MIB;
    const holes = new Set(this.#free.all());
    let end = this.#bounds[NEXT]!;
    while (holes.delete(end - blockMib)) end -= blockMib;
    // Where it fails (on a device), some space is wasted and nothing is wrong.
    return end * MIB < this.#source.size && this.#source.setSize(end * MIB) === 0;
  }
}
