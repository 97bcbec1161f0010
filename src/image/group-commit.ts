/**
 * The write-coalescing mutex of an image. Two locks, taken in this order:
 *
 *   commit       held while changes are made stable, which takes as long as the medium takes;
 *   allocation   held while tables and the bounds of the file are changed in memory: microseconds.
 *
 * So while one thread writes metadata out, the changes of the others pile up in shared memory, and the next
 * holder writes all of them at once. A flush that arrives while a commit is running waits for the next one; of
 * all that wait, the first runs it and the others find it done: one fdatasync for all.
 *
 * Writing to blocks that exist takes neither lock.
 */

import { EIO, type Status } from '../base/errno.ts';
import { Mutex } from '../shared/mutex.ts';
import type { BlockSource } from '../source/block-source.ts';

const COMMIT_LOCK = 0;
const ALLOCATION_LOCK = 1;
const STARTED = 2;
const FINISHED = 3;
const STATUS = 4;
const CHANGED = 5;
const BEGUN = 6;
const FAILED = 7;
const FLUSHES = 8;
const SHARED = 9;
const FLUSHED = 10;
const DIRTY = 11;
const WORDS = 16;
/** A flush that waits for a commit looks again after this long, should the wake-up be lost. */
const STEP_MS = 10;

/** What a format does when its image is made stable. One object per thread; the calls never overlap. */
export interface CommitSteps {
  /**
   * Copies the changed metadata into memory of this thread. Holds both locks: no I/O. Returns whether there is
   * metadata to write.
   */
  gather(): boolean;
  /**
   * Makes stable, in the order that the format needs, what `gather` found and all payload written before. Holds
   * the commit lock only. Without metadata it is one flush. Returns 0 or -errno; then all of it is to be
   * gathered again.
   */
  write(metadata: boolean): Status;
  /** After a `gather` that found metadata: what `write` said. Holds both locks. */
  settle(status: Status): void;
}

export class GroupCommit {
  /** Held while tables and the bounds of the file change in memory. */
  readonly allocation: Mutex;
  readonly #commit: Mutex;
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
    this.#commit = new Mutex(this.#words, COMMIT_LOCK);
    this.allocation = new Mutex(this.#words, ALLOCATION_LOCK);
  }

  static seed(): SharedArrayBuffer {
    return new SharedArrayBuffer(WORDS * 4);
  }

  /**
   * Before any change: runs `first` once per mount, under both locks: the image's identity changes, and its state
   * says that it is written. Returns 0 or -errno; a `first` that failed is run again by the next change.
   */
  begin(first: () => Status): Status {
    if (Atomics.load(this.#words, FAILED) !== 0) return -EIO;
    if (Atomics.load(this.#words, BEGUN) === 1) return 0;
    return this.#begin(first);
  }

  #begin(first: () => Status): Status {
    this.#commit.lock();
    this.allocation.lock();
    try {
      if (Atomics.load(this.#words, BEGUN) === 1) return 0;
      const status = first();
      if (status === 0) Atomics.store(this.#words, BEGUN, 1);
      return status;
    } finally {
      this.allocation.unlock();
      this.#unlock();
    }
  }

  /** Gives the commit lock back and wakes the flushes that wait. */
  #unlock(): void {
    this.#commit.unlock();
    Atomics.notify(this.#words, FINISHED);
  }

  /** Whether the image was written to since it was opened. */
  get begun(): boolean {
    return Atomics.load(this.#words, BEGUN) === 1;
  }

  /** After a change, and before it is acknowledged: there is something for the next flush to do. */
  changed(): void {
    if (Atomics.load(this.#words, CHANGED) === 0) Atomics.store(this.#words, CHANGED, 1);
  }

  /** The same, where metadata was changed: it waits in memory only. */
  dirtied(): void {
    Atomics.store(this.#words, DIRTY, 1);
    Atomics.store(this.#words, CHANGED, 1);
  }

  /** Whether metadata was changed since the last commit began. */
  get isDirty(): boolean {
    return Atomics.load(this.#words, DIRTY) !== 0;
  }

  /** Flushes asked for, those that found themselves done by another's commit, and commits. */
  counters(): { flushes: number; shared: number; commits: number } {
    return {
      flushes: Atomics.load(this.#words, FLUSHES),
      shared: Atomics.load(this.#words, SHARED),
      commits: Atomics.load(this.#words, FINISHED),
    };
  }

  /** Makes all stable that was acknowledged before the call. Returns 0 or -errno. */
  flush(steps: CommitSteps): Status {
    const words = this.#words;
    const seen = Atomics.load(words, STARTED);
    Atomics.add(words, FLUSHES, 1);
    for (;;) {
      // A commit that began after the call has all that the caller wants, whoever ran it. So a thread that takes the
      // lock again and again does not keep the others waiting: its next commit is theirs too.
      const finished = Atomics.load(words, FINISHED);
      if (((finished - seen) | 0) > 0) {
        Atomics.add(words, SHARED, 1);
        return Atomics.load(words, STATUS);
      }
      if (this.#commit.tryLock()) break;
      Atomics.wait(words, FINISHED, finished, STEP_MS);
    }
    try {
      // Another one may have ended between the look and the lock.
      if (((Atomics.load(words, FINISHED) - seen) | 0) > 0) {
        Atomics.add(words, SHARED, 1);
        return Atomics.load(words, STATUS);
      }
      if (Atomics.load(words, FAILED) !== 0) return -EIO;
      // The first flush of a mount goes to the medium in any case: what can be read may have been written, and not
      // flushed, by somebody who held the image before.
      if (Atomics.load(words, CHANGED) === 0 && Atomics.load(words, FLUSHED) === 1) return 0;
      return this.#run(steps);
    } finally {
      this.#unlock();
    }
  }

  #run(steps: CommitSteps): Status {
    const words = this.#words;
    const number = Atomics.add(words, STARTED, 1) + 1;
    Atomics.store(words, CHANGED, 0);
    Atomics.store(words, DIRTY, 0);
    let status: Status = -EIO;
    let metadata = false;
    try {
      this.allocation.lock();
      try {
        metadata = steps.gather();
      } finally {
        this.allocation.unlock();
      }
      status = steps.write(metadata);
      return status;
    } finally {
      if (metadata) {
        this.allocation.lock();
        try {
          steps.settle(status);
        } finally {
          this.allocation.unlock();
        }
      }
      if (status < 0) this.dirtied();
      else Atomics.store(words, FLUSHED, 1);
      Atomics.store(words, STATUS, status);
      Atomics.store(words, FINISHED, number);
    }
  }

  /**
   * Flushes the source for a commit. After a failed fdatasync the host may have dropped what it could not write
   * and call the next one a success: so the image is never written again. Reading goes on.
   */
  stable(source: BlockSource): Status {
    const status = source.flush();
    if (status < 0) Atomics.store(this.#words, FAILED, 1);
    return status;
  }

  /** Whether a flush failed, so that writing has ended. */
  get failed(): boolean {
    return Atomics.load(this.#words, FAILED) !== 0;
  }
}
