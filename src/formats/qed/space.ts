/**
 * Where clusters and L2 tables go in the file: first what is free inside, as found at open or discarded since, then its
 * end, where the file grows in batches. All calls are made under the image's allocation lock.
 */

import { EAGAIN, EFBIG, EINVAL, ENOSPC, type Moved, type Status } from '../../base/errno.ts';
import { type ByteCount, type HostOffset, MIB } from '../../base/units.ts';
import { type FreeSpace, NONE } from '../../image/free-space.ts';
import type { FreshSpace } from '../../image/fresh-space.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { NEXT, type QedEdit, ZEROED_END } from './prepare.ts';
import { LAST_CLUSTER } from './tables.ts';

/** The file grows by this much or a cluster; what a crash leaves of it is a hole behind the last cluster. */
const GROWTH = 8 * MIB;

export class ClusterSpace {
  readonly #clusterSize: ByteCount;
  readonly #bounds: Uint32Array<SharedArrayBuffer>;
  readonly #source: BlockSource;
  readonly #free: FreeSpace;
  readonly #fresh: FreshSpace;
  /** Clusters that the file can have. */
  readonly #maxClusters: number;

  constructor(
    clusterSize: ByteCount,
    edit: QedEdit,
    source: BlockSource,
    free: FreeSpace,
    fresh: FreshSpace,
  ) {
    this.#clusterSize = clusterSize;
    this.#bounds = new Uint32Array(edit.bounds);
    this.#source = source;
    this.#free = free;
    this.#fresh = fresh;
    this.#maxClusters = Math.min(LAST_CLUSTER + 1, Math.floor(Number.MAX_SAFE_INTEGER / clusterSize));
  }

  /** The first cluster that was never given out, nor any behind it. */
  get next(): number {
    return this.#bounds[NEXT]!;
  }

  /** What is never given out before this one reads as zeros, and is in the file. */
  get zeroedEnd(): number {
    return this.#bounds[ZEROED_END]!;
  }

  /** Free clusters into `out`, at most `wanted` of them, ascending. Returns how many. They hold old bytes. */
  takeFreed(out: Uint32Array, wanted: number): number {
    let count = 0;
    while (count < wanted) {
      const place = this.#free.take();
      if (place === NONE) break;
      out[count] = place;
      count += 1;
    }
    if (count > 1) out.subarray(0, count).sort();
    return count;
  }

  /** A cluster of the file that nobody uses, reading as zeros: its number, or -errno. */
  take(): number {
    const freed = this.#free.take();
    if (freed !== NONE) {
      const zeroed = this.makeZeros(freed, freed + 1);
      if (zeroed < 0) this.#free.giveBack(freed);
      return zeroed < 0 ? zeroed : freed;
    }
    const status = this.makeRoom(1);
    if (status < 0) return this.#orLater(status);
    this.#bounds[NEXT]! += 1;
    return this.next - 1;
  }

  /**
   * Room for `wanted` clusters from `next` on or, where those cannot be had at once, for one: so many, reading as zeros.
   * -EAGAIN where the next commit frees some.
   */
  makeSomeRoom(wanted: number): number {
    let count = wanted;
    let status = this.makeRoom(count);
    if (status < 0 && count > 1) {
      count = 1;
      status = this.makeRoom(count);
    }
    return status < 0 ? this.#orLater(status) : count;
  }

  /** What came of `makeRoom`; -EAGAIN where there is no room, but what was discarded comes back with the commit. */
  #orLater(status: Status): Status {
    return (status === -ENOSPC || status === -EFBIG) && this.#free.count > 0 ? -EAGAIN : status;
  }

  /** Makes the `count` clusters from `next` on part of the file, reading as zeros. 0 or -errno. */
  makeRoom(count: number): Status {
    const bounds = this.#bounds;
    const end = bounds[NEXT]! + count;
    if (end <= bounds[ZEROED_END]!) return 0;
    if (end > this.#maxClusters) return -ENOSPC;
    const batch = bounds[NEXT]! + Math.floor(GROWTH / this.#clusterSize);
    let status = -ENOSPC;
    if (batch > end && batch <= this.#maxClusters) status = this.makeZeros(bounds[ZEROED_END]!, batch);
    if (status === 0) {
      bounds[ZEROED_END] = batch;
      return 0;
    }
    status = this.makeZeros(bounds[ZEROED_END]!, end);
    if (status === 0) bounds[ZEROED_END] = end;
    // A block device has the size that it has.
    return status === -EINVAL ? -ENOSPC : status;
  }

  /** The `count` clusters from `next` on, for which there is room, have an owner: an entry in memory names them. */
  gaveOut(count: number): void {
    this.#bounds[NEXT]! += count;
    this.#fresh.namedNew(this.next - 1);
  }

  /** Clusters `first` to `end - 1` are in the file and read as zeros. */
  makeZeros(first: number, end: number): Status {
    const from = first * this.#clusterSize;
    const to = end * this.#clusterSize;
    if (from < this.#source.size) {
      const status = this.#source.zero(from as HostOffset, to - from, 'punch', 'payload.zero');
      if (status < 0) return status;
    }
    return to > this.#source.size ? this.#source.setSize(to) : 0;
  }

  /** Gives the host the space of `count` clusters, which nobody names any more. */
  punch(first: number, count: number): Status {
    if (count === 0) return 0;
    const at = (first * this.#clusterSize) as HostOffset;
    return this.#source.zero(at, count * this.#clusterSize, 'punch', 'payload.zero');
  }

  /**
   * A last cluster that is cut short behind what the disk uses of it becomes whole: other readers want it so. A block
   * device keeps its size.
   */
  completeLast(): Status {
    const end = this.next * this.#clusterSize;
    if (end <= this.#source.size) return 0;
    const extended = this.#source.setSize(end);
    return extended === -EINVAL ? 0 : extended;
  }

  /** The file ends with its last used cluster. Returns the bytes that were taken away, or -errno. */
  cut(): Moved {
    const bounds = this.#bounds;
    const unused = new Set(this.#free.all());
    let end = bounds[NEXT]!;
    while (unused.has(end - 1)) end -= 1;
    const size = end * this.#clusterSize;
    const surplus = this.#source.size - size;
    if (surplus <= 0) return 0;
    this.#fresh.cut(bounds[NEXT]!);
    const status = this.#source.setSize(size);
    // A block device keeps its size.
    if (status === -EINVAL) return 0;
    if (status < 0) return status;
    // Should anybody go on: between the end and NEXT are only clusters that wait in the free ones.
    bounds[ZEROED_END] = bounds[NEXT]!;
    return surplus;
  }
}
