/**
 * The half of an editor that is the same for every format with a block map: locks, retries, slices. A format says
 * what allocating and discarding do to its tables, and in which order they become stable.
 */

import { EAGAIN, EIO, ENOSPC, ESTALE, type Status } from '../base/errno.ts';
import type { ByteCount, GuestOffset } from '../base/units.ts';
import type { IoGate } from '../shared/io-gate.ts';
import { Mutex } from '../shared/mutex.ts';
import { PAGE_BYTES } from '../shared/page-pool.ts';
import type { PagedTable } from '../shared/paged-table.ts';
import type { BlockSource } from '../source/block-source.ts';
import { CommitBuffer } from './commit-buffer.ts';
import type { EditContext, EditCounters, Editor } from './driver.ts';
import { FreeSpace } from './free-space.ts';
import { type CommitSteps, GroupCommit } from './group-commit.ts';
import { Reservation } from './reservation.ts';

/** Plain data: shared by all editors of an image. */
export interface TableEditSeed {
  readonly commit: SharedArrayBuffer;
  readonly free: SharedArrayBuffer;
  /** One lock for all blocks with the same number modulo FORK_LOCKS. */
  readonly forks: SharedArrayBuffer;
}

/** `free`: host blocks, in the format's unit, that no table names. */
export function tableEditSeed(free: Iterable<number> = []): TableEditSeed {
  return {
    commit: GroupCommit.seed(),
    free: FreeSpace.seed(free),
    forks: new SharedArrayBuffer(FORK_LOCKS * 4),
  };
}

/** So many blocks of an image can be forked from its parent at once. */
const FORK_LOCKS = 64;
/** Units of a discard that are unmapped in one go, so that nobody waits long for the lock. */
const DISCARD_SLICE = 1024;
/** How long an allocation waits for freed space that another thread may still be touching. */
const MAX_TRIES = 2000;
const TRY_MS = 1;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

export abstract class TableEditor implements Editor, CommitSteps {
  abstract readonly unit: ByteCount;
  abstract readonly blockSize: ByteCount;
  /** All that the image has, of which changes wait in memory. */
  protected abstract readonly tables: readonly PagedTable[];
  protected readonly commit: GroupCommit;
  protected readonly free: FreeSpace;
  protected readonly source: BlockSource;
  protected readonly buffer = new CommitBuffer();
  readonly #gate: IoGate;
  readonly #forks: readonly Mutex[];

  constructor(seed: TableEditSeed, source: BlockSource, context: EditContext) {
    this.commit = new GroupCommit(seed.commit);
    this.free = new FreeSpace(seed.free, context.gate);
    this.source = source;
    this.#gate = context.gate;
    const words = new Int32Array(seed.forks);
    this.#forks = Array.from(words, (_, at) => new Mutex(words, at));
  }

  /** Once per mount, under both locks: identities, and the state that says "written". 0 or -errno. */
  protected abstract first(): Status;

  /**
   * `Editor.allocate` under the allocation lock. It takes from `free` before the file grows, makes the place
   * zeros, then publishes the entry. It allocates what is not DATA at `at`, and as much as it likes of what
   * follows. -EAGAIN: commit and try again.
   */
  protected abstract allocateLocked(at: GuestOffset, length: ByteCount): Status;

  /**
   * `Editor.reserve` under the allocation lock. -EAGAIN: commit and try again. Images that have no parent are never
   * asked.
   */
  protected abstract reserveLocked(at: GuestOffset, length: ByteCount, out: Reservation): Status;

  /**
   * `Editor.publish` under the allocation lock. Payload must be stable before what it changes in the tables.
   * -EAGAIN: commit and try again. -ESTALE, with the place taken back: what the parent showed there is gone.
   */
  protected abstract publishLocked(reservation: Reservation): Status;

  /** `Editor.cancel` under the allocation lock. */
  protected abstract cancelLocked(reservation: Reservation): void;

  /** `Editor.discard` under the allocation lock, of at most DISCARD_SLICE units. -EAGAIN as above: what is done stays. */
  protected abstract discardLocked(at: GuestOffset, length: ByteCount): Status;

  /**
   * At the end, after all was flushed, when no other thread works: whatever the format wants of a clean image.
   * It may change tables and flush again.
   */
  protected abstract finish(): Status;

  abstract gather(): boolean;
  abstract write(metadata: boolean): Status;
  abstract settle(status: Status): void;

  begin(): Status {
    return this.commit.begin(this.#first);
  }

  /**
   * What is in the file may not be stable yet: whoever held the image before may have been killed. Free space was
   * found by the tables as they read now, so they must be stable before any of it is given out.
   */
  readonly #first = (): Status => {
    const status = this.commit.stable(this.source);
    return status < 0 ? status : this.first();
  };

  allocate(at: GuestOffset, length: ByteCount): Status {
    return this.#retry(at, length, this.#allocate);
  }

  readonly #allocate = (at: GuestOffset, length: ByteCount): Status => this.allocateLocked(at, length);
  readonly #discard = (at: GuestOffset, length: ByteCount): Status => this.discardLocked(at, length);

  discard(at: GuestOffset, length: ByteCount): Status {
    const slice = DISCARD_SLICE * this.unit;
    for (let done = 0; done < length; done += slice) {
      const status = this.#retry((at + done) as GuestOffset, Math.min(slice, length - done), this.#discard);
      if (status < 0) return status;
    }
    return 0;
  }

  #forkLock(at: GuestOffset): Mutex {
    return this.#forks[Math.floor(at / this.blockSize) % FORK_LOCKS]!;
  }

  lockBlock(at: GuestOffset): void {
    const lock = this.#forkLock(at);
    if (lock.tryLock()) return;
    // The holder may be waiting for freed space that no operation touches any more: this one does not.
    this.#gate.leave();
    lock.lock();
    this.#gate.enter();
  }

  unlockBlock(at: GuestOffset): void {
    this.#forkLock(at).unlock();
  }

  reserve(at: GuestOffset, length: ByteCount, out: Reservation): Status {
    this.#wanted = out;
    return this.#retry(at, length, this.#reserve);
  }

  #wanted = new Reservation();
  readonly #reserve = (at: GuestOffset, length: ByteCount): Status =>
    this.reserveLocked(at, length, this.#wanted);

  /** Unlike `#retry` it never renews the gate: the place must not be given to others before it is named. */
  publish(reservation: Reservation): Status {
    for (let tries = 0; tries < MAX_TRIES; tries += 1) {
      this.commit.allocation.lock();
      let status: Status;
      try {
        status = this.publishLocked(reservation);
      } finally {
        this.commit.dirtied();
        this.commit.allocation.unlock();
      }
      if (status === -EAGAIN) status = this.flush();
      else if (status === 0 || status === -ESTALE) return status;
      if (status < 0) {
        this.cancel(reservation);
        return status;
      }
    }
    this.cancel(reservation);
    return -ENOSPC;
  }

  cancel(reservation: Reservation): void {
    this.commit.allocation.lock();
    try {
      this.cancelLocked(reservation);
    } finally {
      this.commit.allocation.unlock();
    }
  }

  #retry(at: GuestOffset, length: ByteCount, change: (at: GuestOffset, length: ByteCount) => Status): Status {
    for (let tries = 0; tries < MAX_TRIES; tries += 1) {
      this.commit.allocation.lock();
      let status: Status;
      try {
        status = change(at, length);
      } finally {
        this.commit.dirtied();
        this.commit.allocation.unlock();
      }
      if (status !== -EAGAIN) return status;
      status = this.flush();
      if (status < 0) return status;
      // What was looked up before is looked up again: nobody has to wait for this operation.
      this.#gate.renew();
      if (tries > 0) Atomics.wait(sleeper, 0, 0, TRY_MS);
    }
    return -ENOSPC;
  }

  changed(): void {
    this.commit.changed();
  }

  get isDirty(): boolean {
    return this.commit.isDirty;
  }

  get isWritten(): boolean {
    return this.commit.begun;
  }

  counters(): EditCounters {
    const pages = this.tables.reduce((sum, table) => sum + table.pinnedPages, 0);
    return { ...this.commit.counters(), dirtyBytes: pages * PAGE_BYTES };
  }

  flush(): Status {
    return this.commit.flush(this);
  }

  close(): Status {
    if (!this.commit.begun) return this.commit.failed ? -EIO : 0;
    const status = this.flush();
    return status < 0 ? status : this.finish();
  }
}
