/** The worker's loop over a pair of sockets in place of the device: a read, a reply, a handler that throws. */

import { closeSync, readSync, writeSync } from 'node:fs';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { haveSyscalls, socketPair } from '../../../src/source/syscalls.ts';
import { serve } from '../../../src/transport/kernel/loop.ts';
import { Responder } from '../../../src/transport/kernel/responder.ts';
import { makeStatus, WorkerStatus } from '../../../src/transport/kernel/status.ts';
import { decodeReply, name, type Reply, readIn, request, Trees, u32, u64 } from './support.ts';

/** What reads of the device give, where a test says it; else they are made. */
let reads: number[] | undefined;
vi.mock('../../../src/source/syscalls.ts', async (original) => {
  const real = await original<typeof import('../../../src/source/syscalls.ts')>();
  const scripted = { addressOf: () => 0, read: () => reads!.shift()! };
  return { ...real, directIo: () => (reads === undefined ? real.directIo() : scripted) };
});

const EIO = -5;
const ENOENT = -2;
const EINTR = -4;
const EAGAIN = -11;
const ENODEV = -19;
const ECONNABORTED = -103;
const LOOKUP = 1;
const FORGET = 2;
const READ = 15;
const WRITE = 16;
const STATFS = 17;
const RELEASE = 18;
const SETATTR = 4;
const ENOSPC = -28;

const trees = new Trees();
afterAll(() => trees.close());

interface Served {
  /** For each request: its reply; undefined where none came. */
  readonly replies: readonly (Reply | undefined)[];
  /** For each notification: how many replies came before it. */
  readonly notices: readonly number[];
  /** Nodes that the kernel is to forget. */
  readonly outgrown: readonly number[];
  /** What was traced. */
  readonly lines: readonly string[];
  readonly problems: readonly unknown[];
  /** Requests that the worker counted. */
  readonly requests: number;
}

/**
 * Serves `messages` one after the other. A hook is called between a request and its reply: it takes the reply
 * before, sends the next request, and stops the loop at an extra one. So the loop never waits for what no one
 * sends, whatever it does wrong.
 */
function serveAll(responder: Responder, messages: readonly Buffer[]): Served {
  const pair = socketPair();
  if (typeof pair === 'number') throw new Error(`socketpair: errno ${-pair}`);
  const [device, kernel] = pair;
  const replies: (Reply | undefined)[] = [];
  const notices: number[] = [];
  const outgrown: number[] = [];
  const lines: string[] = [];
  const problems: unknown[] = [];
  const waiting = [...messages, request(STATFS, 1)];
  const stop = new Error('that was the last one');
  const buffer = Buffer.alloc(1 << 16);
  const status = new WorkerStatus(makeStatus(1), 0);
  const send = (): void => {
    writeSync(kernel, waiting.shift()!);
  };
  try {
    send();
    serve(device, responder, {
      status,
      failed: (problem) => {
        problems.push(problem);
      },
      refresh: () => {},
      outgrown: (node) => {
        outgrown.push(node);
      },
      trace: (line) => {
        // A byte of our own behind the reply: reading never waits, also where there was none.
        writeSync(device, 'x');
        let came = Buffer.from(buffer.subarray(0, readSync(kernel, buffer) - 1));
        while (came.length > 0 && came.readBigUInt64LE(8) === 0n) {
          notices.push(replies.length);
          came = came.subarray(came.readUInt32LE(0));
        }
        if (lines.length > 0) replies.push(came.length === 0 ? undefined : decodeReply(came));
        if (waiting.length === 0) throw stop;
        lines.push(line);
        send();
      },
    });
  } catch (problem) {
    if (problem !== stop) throw problem;
  } finally {
    closeSync(device);
    closeSync(kernel);
  }
  return { replies, notices, outgrown, lines, problems, requests: status.requests };
}

const without = haveSyscalls() ? '' : ' (left out: there is no koffi here)';

describe.skipIf(without !== '')(`the loop of a worker${without}`, () => {
  it('answers request after request', () => {
    const responder = new Responder(
      trees.fileSystem([{ name: 'a.raw', content: Buffer.from('0123456789') }]),
    );
    const served = serveAll(responder, [
      request(READ, 2, readIn(2, 4, 3)),
      request(FORGET, 2, Buffer.alloc(8)),
      request(LOOKUP, 1, name('none')),
      request(READ, 2, readIn(2, 0, 100)),
    ]);
    expect(served.replies).toEqual([
      { error: 0, payload: Buffer.from('456') },
      undefined,
      { error: ENOENT, payload: Buffer.alloc(0) },
      { error: 0, payload: Buffer.from('0123456789') },
    ]);
    expect(served.requests).toBe(4);
    expect(served.problems).toEqual([]);
    expect(served.lines.map((line) => line.replace(/unique=\d+/, 'unique'))).toEqual([
      'READ node=2 unique 80 bytes -> 3 bytes',
      'FORGET node=2 unique 48 bytes -> no reply',
      'LOOKUP node=1 unique 45 bytes -> errno 2',
      'READ node=2 unique 80 bytes -> 10 bytes',
    ]);
  });

  it('answers EIO where a handler throws, tells it, and goes on', () => {
    const fs = trees.fileSystem([{ name: 'a.raw', content: Buffer.from('0123456789') }]);
    const problem = new Error('a defect');
    const lookup = fs.lookup.bind(fs);
    fs.lookup = (parent, text) => {
      if (text === 'bad') throw problem;
      return lookup(parent, text);
    };
    const served = serveAll(new Responder(fs), [
      request(LOOKUP, 1, name('bad')),
      request(LOOKUP, 1, name('none')),
    ]);
    expect(served.replies.map((reply) => reply?.error)).toEqual([EIO, ENOENT]);
    expect(served.problems).toEqual([problem]);
  });

  it('notifies before it replies, and tells which file the kernel is to forget', () => {
    const file = { name: 'a.raw', content: Buffer.alloc(5000, 1), writable: true };
    const cut = Buffer.concat([u32(8), Buffer.alloc(12), u64(100), Buffer.alloc(64)]); // FATTR_SIZE, size
    const past = Buffer.concat([u64(2), u64(9000), u32(4), u32(1), Buffer.alloc(16), Buffer.from('abcd')]);
    const served = serveAll(new Responder(trees.fileSystem([file])), [
      request(STATFS, 1),
      request(SETATTR, 2, cut),
      request(WRITE, 2, past),
      request(RELEASE, 2, Buffer.alloc(24)),
    ]);
    expect(served.replies.map((reply) => reply?.error)).toEqual([0, 0, ENOSPC, 0]);
    expect(served.notices).toEqual([1]);
    expect(served.outgrown).toEqual([2]);
  });

  const hooks = () => ({
    status: new WorkerStatus(makeStatus(1), 0),
    failed: () => {},
    outgrown: () => {},
    refresh: () => {},
    trace: undefined,
  });

  it('ends when it is stopped, with what it is at answered', () => {
    const status = new WorkerStatus(makeStatus(1), 0);
    const responder = new Responder(trees.fileSystem([]));
    const pair = socketPair() as [number, number];
    const stopping = {
      ...hooks(),
      status,
      refresh: () => {
        if (status.isStopped) throw new Error('it went on');
        status.stop();
        writeSync(pair[1], request(STATFS, 1));
      },
      failed: (problem: unknown) => {
        throw problem;
      },
    };
    try {
      writeSync(pair[1], request(STATFS, 1));
      serve(pair[0], responder, stopping);
      const reply = Buffer.alloc(1000);
      expect(decodeReply(reply.subarray(0, readSync(pair[1], reply))).error).toBe(0);
      expect(status.requests).toBe(1);
    } finally {
      for (const descriptor of pair) closeSync(descriptor);
    }
  });

  it('ends with what the device says that is neither a retry nor an end', () => {
    const pair = socketPair();
    if (typeof pair === 'number') throw new Error(`socketpair: errno ${-pair}`);
    for (const descriptor of pair) closeSync(descriptor);
    const responder = new Responder(trees.fileSystem([]));
    expect(() => serve(pair[0], responder, hooks())).toThrow(/errno 9/);
  });

  // ECONNABORTED: it had a request in hand.
  it.each([[[ENODEV]], [[ENOENT, EINTR, EAGAIN, ENODEV]], [[ECONNABORTED]]])(
    'ends where reads give %j',
    (given) => {
      reads = [...given];
      try {
        serve(-1, new Responder(trees.fileSystem([])), hooks());
        expect(reads).toEqual([]);
      } finally {
        reads = undefined;
      }
    },
  );
});
