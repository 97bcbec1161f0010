/** Waking a thread that waits in a read. */

import { once } from 'node:events';
import { closeSync, writeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { haveSyscalls, socketPair } from '../../../src/source/syscalls.ts';
import { wake } from '../../../src/transport/kernel/wake.ts';
import { builtThread } from '../../support/threads.ts';

const script = builtThread('test/unit/transport/threads/waiter.ts');

describe.skipIf(!haveSyscalls())('waking a thread (needs koffi)', () => {
  it('ends its read with EINTR, as often as it is done', async () => {
    const pair = socketPair();
    if (typeof pair === 'number') throw new Error(`socketpair: errno ${-pair}`);
    const [ours, theirs] = pair;
    const count = new Int32Array(new SharedArrayBuffer(4));
    const worker = new Worker(script(), { workerData: { descriptor: theirs, count } });
    const [thread] = (await once(worker, 'message')) as [number];
    const ended = once(worker, 'exit');
    try {
      for (let round = 1; round <= 3; round += 1) {
        // A signal that comes before the read is for nothing.
        while (Atomics.load(count, 0) < round) {
          expect(wake(thread)).toBe(true);
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      }
    } finally {
      writeSync(ours, 'x');
      await ended;
      closeSync(ours);
      closeSync(theirs);
    }
  });

  it('says where it cannot be done', () => {
    expect(wake(undefined)).toBe(false);
    expect(wake(2 ** 30)).toBe(false);
  });
});
