/**
 * A thread that changes its own word and flushes, over and over. The medium is shared memory: a flush takes the
 * words as they are when it begins, and they are stable when it ends, some time later. Posts how often something
 * acknowledged was not stable.
 */

import { parentPort, workerData } from 'node:worker_threads';
import type { Status } from '../../../../src/base/errno.ts';
import { type CommitSteps, GroupCommit } from '../../../../src/image/group-commit.ts';

const { commit, memory, number, threads, rounds, slow } = workerData as {
  commit: SharedArrayBuffer;
  /** Words: of each thread what it wrote, in memory what is metadata, what is stable of both; flushes; inside. */
  memory: SharedArrayBuffer;
  number: number;
  threads: number;
  rounds: number;
  /** Milliseconds that a flush of the medium takes. */
  slow: number;
};
const words = new Int32Array(memory);
const payload = 0;
const metadata = threads;
const stablePayload = 2 * threads;
const stableMetadata = 3 * threads;
const counts = 4 * threads;
const group = new GroupCommit(commit);
const sleeper = new Int32Array(new SharedArrayBuffer(4));
let wrong = 0;

const copy = new Int32Array(threads);
let gathered = false;
const steps: CommitSteps = {
  gather(): boolean {
    for (let n = 0; n < threads; n += 1) copy[n] = Atomics.load(words, metadata + n);
    if (gathered) wrong += 1;
    gathered = true;
    return true;
  },
  write(): Status {
    // One commit at a time.
    if (Atomics.add(words, counts + 1, 1) !== 0) wrong += 1;
    const taken = Array.from({ length: threads }, (_, n) => Atomics.load(words, payload + n));
    Atomics.wait(sleeper, 0, 0, slow);
    for (let n = 0; n < threads; n += 1) {
      Atomics.store(words, stablePayload + n, taken[n]!);
      Atomics.store(words, stableMetadata + n, copy[n]!);
    }
    Atomics.add(words, counts, 1);
    Atomics.sub(words, counts + 1, 1);
    return 0;
  },
  settle(): void {
    gathered = false;
  },
};

for (let round = 1; round <= rounds; round += 1) {
  Atomics.store(words, payload + number, round);
  if (round % 2 === 0) {
    group.allocation.lock();
    Atomics.store(words, metadata + number, round);
    group.dirtied();
    group.allocation.unlock();
  } else group.changed();
  const wanted = Atomics.load(words, metadata + number);
  if (group.flush(steps) !== 0) wrong += 1;
  if (Atomics.load(words, stablePayload + number) < round) wrong += 1;
  if (Atomics.load(words, stableMetadata + number) < wanted) wrong += 1;
}
parentPort!.postMessage(wrong);
