/** Requests that take long are told once, and once more when they are over. */

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, it, vi } from 'vitest';
import { SlowRequests } from '../../../src/transport/kernel/slow.ts';
import { makeStatus, WorkerStatus } from '../../../src/transport/kernel/status.ts';
import { waitOf } from '../../../src/transport/kernel/wait.ts';

const LIMIT = 1000;
const [READ, WRITE] = [15, 16];

function watched() {
  const memory = makeStatus(2);
  const workers = [0, 1].map((index) => new WorkerStatus(memory, index));
  const told: string[] = [];
  const slow = new SlowRequests(
    workers.map((status) => ({ status, wait: () => 'waits in pread of /x' })),
    LIMIT,
    (node) => (node === 2 ? 'disk.raw' : '/mnt'),
    (text) => told.push(text),
  );
  return { workers, told, slow };
}

describe('slow requests', () => {
  it('tells of a request that stays, once, and that it is over', () => {
    const { workers, told, slow } = watched();
    workers[1]!.begin(READ, 7, 0, 2);
    for (const now of [0, 400, 900]) slow.look(now);
    expect(told).toEqual([]);
    for (const now of [1000, 1400, 60_000]) slow.look(now);
    expect(told).toEqual(['disk.raw: READ takes longer than 1 s: worker 1 waits in pread of /x']);
    workers[1]!.end();
    for (const now of [61_000, 62_000]) slow.look(now);
    expect(told.slice(1)).toEqual(['disk.raw: READ is over, after 61 s']);
  });

  it('is silent where requests follow one another, also with the same number', () => {
    const { workers, told, slow } = watched();
    for (let now = 0; now < 10_000; now += 500) {
      workers[0]!.begin(READ, 7, 0, 2);
      slow.look(now);
      workers[0]!.end();
    }
    slow.look(20_000);
    slow.look(30_000);
    expect(told).toEqual([]);
  });

  it('tells of one after the other where the worker goes from a slow one to a slow one', () => {
    const { workers, told, slow } = watched();
    workers[0]!.begin(READ, 1, 0, 2);
    slow.look(0);
    slow.look(1000);
    workers[0]!.end();
    workers[0]!.begin(WRITE, 2, 0, 1);
    for (const now of [2000, 3000]) slow.look(now);
    expect(told.slice(1)).toEqual([
      'disk.raw: READ is over, after 2 s',
      '/mnt: WRITE takes longer than 1 s: worker 0 waits in pread of /x',
    ]);
  });
});

describe('what a thread waits for', () => {
  it('is not known of a thread that is not there', () => {
    expect(waitOf(undefined)).toMatch(/not known/);
    expect(waitOf(2 ** 30)).toMatch(/not known/);
  });

  /** A thread that says its number, and then does `what` until `flag` is set. */
  async function thread(what: string): Promise<{ number: number; end: () => Promise<unknown> }> {
    const flag = new Int32Array(new SharedArrayBuffer(4));
    const code = `const { parentPort, workerData: flag } = require('node:worker_threads');
      parentPort.postMessage(require('node:path').basename(require('node:fs').readlinkSync('/proc/thread-self')));
      setTimeout(() => { ${what} }, 0);`;
    const worker = new Worker(code, { eval: true, workerData: flag });
    const [number] = await once(worker, 'message');
    const end = async () => {
      Atomics.store(flag, 0, 1);
      Atomics.notify(flag, 0);
      await worker.terminate();
    };
    return { number: Number(number), end };
  }

  it.each([
    [
      'nothing, of one that runs',
      'while (Atomics.load(flag, 0) === 0);',
      /^is at work, and waits for nothing$/,
    ],
    ['another thread, at a lock', 'Atomics.wait(flag, 0, 0, 20000);', /^waits for another thread/],
  ])('is %s', async (_, what, expected) => {
    const { number, end } = await thread(what);
    try {
      await vi.waitFor(() => expect(waitOf(number)).toMatch(expected), { timeout: 10_000, interval: 50 });
    } finally {
      await end();
    }
  });
});
