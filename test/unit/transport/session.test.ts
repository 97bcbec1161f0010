/** The main thread's side of the kernel transport, over a socket pair and workers that only pretend. */

import { EventEmitter } from 'node:events';
import { closeSync, openSync, readSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Members } from '../../../src/fuse/members.ts';
import type { FileSeed } from '../../../src/fuse/tree.ts';
import { haveSyscalls, socketPair } from '../../../src/source/syscalls.ts';
import { kernelTransport } from '../../../src/transport/kernel/session.ts';
import { WorkerStatus } from '../../../src/transport/kernel/status.ts';
import type { WorkerInput } from '../../../src/transport/kernel/worker.ts';
import type { Mount, MountRequest } from '../../../src/transport/transport.ts';

class PretendedWorker extends EventEmitter {
  input: WorkerInput | undefined;

  postMessage(input: WorkerInput): void {
    this.input = input;
    this.emit('message', { kind: 'serving' });
  }

  async terminate(): Promise<void> {
    state.terminated.push(this);
  }
}

const state = vi.hoisted(() => ({
  device: -1,
  unmounts: [] as string[],
  /** What unmount gives. */
  status: 0,
  /** The mount is there still. */
  left: false,
  workers: [] as unknown[],
  terminated: [] as unknown[],
}));

vi.mock('../../../src/transport/kernel/mounter.ts', () => ({
  mountDevice: () => ({
    device: state.device,
    unmount: (how: string) => {
      state.unmounts.push(how);
      return state.status;
    },
    clear: () => {
      const was = state.left;
      state.left = false;
      return was;
    },
  }),
}));
vi.mock('../../../src/transport/kernel/handshake.ts', () => ({ shakeHands: () => ({ minor: 38 }) }));
vi.mock('../../../src/transport/kernel/workers.ts', () => ({
  takeWorker: () => {
    const worker = new PretendedWorker();
    state.workers.push(worker);
    return worker;
  },
  dismissSpares: () => {},
}));

describe.skipIf(!haveSyscalls())('session (needs koffi: a socket pair stands for the device)', () => {
  let kernel = -1;
  let errors: string[] = [];
  let mount: Mount;
  const worker = (index: number): PretendedWorker => state.workers[index] as PretendedWorker;

  beforeEach(() => begin(false));

  async function begin(writable: boolean): Promise<void> {
    const pair = socketPair();
    if (typeof pair === 'number') throw new Error(`socketpair: errno ${-pair}`);
    [kernel, state.device] = pair;
    state.unmounts = [];
    state.status = 0;
    state.left = false;
    state.workers = [];
    state.terminated = [];
    errors = [];
    const silent = (): void => {};
    const request = {
      mountpoint: '/nowhere/at/all',
      threads: 1,
      tree: {
        shape: 'directory',
        files: [{ name: 'a.raw', writable }],
        windows: [],
        sync: false,
        members: Members.seed(1, 3),
      },
      trace: false,
      log: { debug: silent, warn: silent, error: (text: string) => errors.push(text) },
    } as unknown as MountRequest;
    mount = await kernelTransport.mount(request);
  }

  afterEach(() => closeSync(kernel));

  it('answers EIO for a worker that died in a request, says so, and starts another', () => {
    const { input } = worker(0);
    new WorkerStatus(input!.status, 0).begin(15, 0x11223344, 0x55667788, 2);
    worker(0).emit('error', new Error('out of memory'));
    worker(0).emit('exit', 1);
    const reply = Buffer.alloc(64);
    expect(readSync(kernel, reply)).toBe(16);
    expect(reply.readUInt32LE(0)).toBe(16); // len
    expect(reply.readInt32LE(4)).toBe(-5); // error
    expect(reply.readUInt32LE(8)).toBe(0x11223344); // unique
    expect(reply.readUInt32LE(12)).toBe(0x55667788);
    expect(errors).toEqual([expect.stringContaining('out of memory')]);
    expect(state.workers).toHaveLength(2);
    expect(worker(1).input).toEqual(input);
    expect(new WorkerStatus(input!.status, 0).unanswered()).toBeUndefined();
    expect(state.unmounts).toEqual([]);
  });

  it('ends a writable mount for a worker that died in a request: it may have held locks', async () => {
    closeSync(kernel);
    closeSync(state.device);
    await begin(true);
    new WorkerStatus(worker(0).input!.status, 0).begin(16, 1, 0, 2);
    worker(0).emit('error', new Error('out of memory'));
    worker(0).emit('exit', 1);
    expect(state.workers).toHaveLength(1);
    expect(state.unmounts).toEqual(['force']);
    expect(await mount.ended).toMatchObject({ how: 'failed', abandoned: true });
  });

  it('is abandoned when asked to, with workers that wait for a lock for ever', async () => {
    closeSync(kernel);
    closeSync(state.device);
    await begin(true);
    mount.abandon('the keeper died');
    expect(state.unmounts).toEqual(['force']);
    worker(0).emit('exit', 1);
    expect(state.workers).toHaveLength(1);
    expect(await mount.ended).toEqual({ how: 'failed', reason: 'the keeper died', abandoned: true });
  });

  it('replaces a worker of a writable mount that died between two requests', async () => {
    closeSync(kernel);
    closeSync(state.device);
    await begin(true);
    worker(0).emit('exit', 1);
    expect(state.workers).toHaveLength(2);
    expect(state.unmounts).toEqual([]);
  });

  it('ends the mount when workers die again and again', async () => {
    for (let death = 0; death <= 16; death += 1) worker(death).emit('exit', 1);
    expect(state.workers).toHaveLength(17);
    expect(state.unmounts).toEqual(['force']);
    expect(await mount.ended).toMatchObject({ how: 'failed' });
  });

  it('has the name of a file forgotten by a thread of its own, and ends when that has ended', async () => {
    worker(0).emit('message', { kind: 'outgrown', node: 2 });
    expect(state.workers).toHaveLength(2);
    const { notice } = worker(1).input as unknown as { notice: Uint8Array };
    const expected = Buffer.from(
      [
        '26000000 03000000', // len 38, FUSE_NOTIFY_INVAL_ENTRY
        '0000000000000000', // unique
        '0100000000000000', // parent
        '05000000 00000000', // namelen, flags
        '612e72617700', // "a.raw"
      ]
        .join('')
        .replaceAll(' ', ''),
      'hex',
    );
    expect(Buffer.from(notice)).toEqual(expected);
    let ended = false;
    void mount.ended.then(() => {
      ended = true;
    });
    worker(0).emit('message', { kind: 'ended' });
    worker(0).emit('exit', 0);
    await new Promise((resolve) => setImmediate(resolve));
    expect(ended).toBe(false);
    worker(1).emit('exit', 0);
    expect(await mount.ended).toEqual({ how: 'unmounted' });
    expect(errors).toEqual([]);
  });

  it('sends notifications through one thread, which ends with the mount', async () => {
    const told: string[] = [];
    void mount.live!.forgetName('a.raw', 2).then(() => told.push('name'));
    void mount.live!.forgetPages(2).then(() => told.push('pages'));
    expect(state.workers).toHaveLength(2);
    const { notice } = worker(1).input as unknown as { notice: Uint8Array };
    expect(Buffer.from(notice).toString('hex')).toBe(
      [
        '28000000' + '02000000', // len 40, FUSE_NOTIFY_INVAL_INODE
        '0000000000000000', // unique
        '0200000000000000', // node
        '0000000000000000' + '0000000000000000', // from 0 to the end
      ].join(''),
    );
    worker(1).emit('message', { kind: 'notified' });
    await new Promise((resolve) => setImmediate(resolve));
    expect(told).toEqual(['name']);
    worker(0).emit('message', { kind: 'ended' });
    worker(0).emit('exit', 0);
    expect(state.terminated).toEqual([]);
    worker(1).emit('message', { kind: 'notified' });
    expect(state.terminated).toEqual([worker(1)]);
    worker(1).emit('exit', 0);
    expect(await mount.ended).toEqual({ how: 'unmounted' });
    await new Promise((resolve) => setImmediate(resolve));
    expect(told).toEqual(['name', 'pages']);
  });

  it('tells a worker that is started later nothing of who joined and left again', async () => {
    const file = { name: 'b.raw' } as FileSeed;
    const part = { name: 'b.p1', start: 0, size: 1, attributes: [] };
    const windows = [{ slot: 2, node: 4, part }];
    await mount.live!.change({ kind: 'join', slot: 1, node: 3, number: 1, file, windows });
    await mount.live!.change({ kind: 'leave', slots: [0] });
    await mount.live!.change({ kind: 'leave', slots: [1, 2] });
    worker(0).emit('exit', 1);
    expect(worker(1).input!.changes).toEqual([{ kind: 'leave', slots: [0] }]);
  });

  it('waits until each worker follows a change, but for those that cannot be woken', async () => {
    const status = new WorkerStatus(worker(0).input!.status, 0);
    const change = (): { passed: boolean } => {
      const state = { passed: false };
      void mount.live!.change({ kind: 'leave', slots: [0] }).then(() => {
        state.passed = true;
      });
      return state;
    };
    const soon = () => new Promise((resolve) => setTimeout(resolve, 20));
    const idle = change();
    await soon();
    expect(idle.passed).toBe(true);
    status.begin(15, 1, 0, 2);
    const busy = change();
    await soon();
    expect(busy.passed).toBe(false);
    status.end();
    status.begin(15, 2, 0, 2);
    await soon();
    expect(busy.passed).toBe(false);
    status.follow(2);
    await soon();
    expect(busy.passed).toBe(true);
    // Who is started later is told all that has changed.
    worker(0).emit('exit', 1);
    expect(worker(1).input!.generation).toBe(2);
    expect(worker(1).input!.changes).toEqual([
      { kind: 'leave', slots: [0] },
      { kind: 'leave', slots: [0] },
    ]);
  });

  it('ends with its last worker, and does not replace one that ended as it should', async () => {
    worker(0).emit('message', { kind: 'ended' });
    worker(0).emit('exit', 0);
    expect(await mount.ended).toEqual({ how: 'unmounted' });
    expect(state.workers).toHaveLength(1);
    expect(errors).toEqual([]);
  });

  const end = (): Promise<unknown> => {
    worker(0).emit('message', { kind: 'ended' });
    worker(0).emit('exit', 0);
    return mount.ended;
  };

  it('says that the connection was cut where its mount is left, and takes that away', async () => {
    state.left = true;
    expect(await end()).toEqual({ how: 'aborted' });
    expect(state.left).toBe(false);
  });

  it('takes nothing away where the kernel has the file system no more: it may be that of another', async () => {
    state.left = true;
    closeSync(kernel);
    kernel = openSync('/dev/null', 'r');
    expect(await end()).toEqual({ how: 'unmounted' });
    expect(state.left).toBe(true);
  });

  it('says that it cut the connection itself', async () => {
    expect(mount.unmount('force')).toBe(0);
    expect(await end()).toEqual({ how: 'aborted' });
  });

  it('says that it was unmounted where it wanted to cut what was gone', async () => {
    state.status = -22;
    expect(mount.unmount('force')).toBe(-22);
    expect(await end()).toEqual({ how: 'unmounted' });
  });
});
