/** What happens when the keeper thread dies, or ends as it should: a thread is played by an emitter. */

import { EventEmitter } from 'node:events';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { Keeper } from '../../../src/daemon/keeper.ts';
import type { Log } from '../../../src/daemon/log.ts';
import type { TreeSeed } from '../../../src/fuse/tree.ts';

class FakeWorker extends EventEmitter {
  static last: FakeWorker;
  readonly sent: unknown[] = [];

  constructor() {
    super();
    FakeWorker.last = this;
  }

  postMessage(message: unknown): void {
    this.sent.push(message);
  }

  async terminate(): Promise<void> {
    this.emit('exit', 1);
  }
}

vi.mock('node:worker_threads', () => ({
  get Worker() {
    return FakeWorker;
  },
}));

describe('the keeper', () => {
  let died: string[];
  let errors: string[];
  let keeper: Keeper;

  beforeEach(() => {
    died = [];
    errors = [];
    const log = { warn: () => {}, error: (text: string) => errors.push(text) } as unknown as Log;
    const tree = { files: [{ layers: [{ source: { label: 'a.vhdx' } }] }] } as unknown as TreeSeed;
    keeper = new Keeper(tree, 2, log, (reason) => died.push(reason));
  });

  it('that dies while the mount serves is told of, with why', () => {
    FakeWorker.last.emit('error', new Error('out of memory'));
    FakeWorker.last.emit('exit', 1);
    expect(died).toEqual([expect.stringContaining('out of memory')]);
  });

  it('that ends when it was told to is not', async () => {
    const closing = keeper.close();
    FakeWorker.last.emit('message', { kind: 'closed', failures: [] });
    FakeWorker.last.emit('exit', 0);
    expect([await closing, died, errors]).toEqual([true, [], []]);
  });

  it('that could not leave an image clean names it', async () => {
    const closing = keeper.close();
    FakeWorker.last.emit('message', { kind: 'closed', failures: [{ file: 0, errno: 28 }] });
    FakeWorker.last.emit('exit', 0);
    expect(await closing).toBe(false);
    expect(errors).toEqual([expect.stringMatching(/a\.vhdx.*28/)]);
  });

  it('that dies while it leaves the images clean fails the end of the mount', async () => {
    const closing = keeper.close();
    FakeWorker.last.emit('error', new Error('out of memory'));
    FakeWorker.last.emit('exit', 1);
    expect([await closing, died]).toEqual([false, []]);
    expect(errors).toEqual([expect.stringContaining('out of memory')]);
  });

  it('that is abandoned says nothing', async () => {
    await keeper.abandon();
    expect([died, errors]).toEqual([[], []]);
  });
});
