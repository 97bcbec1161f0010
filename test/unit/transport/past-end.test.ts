/** Writes behind the end that the kernel's page cache has already taken. */

import { describe, expect, it, vi } from 'vitest';
import { FileSource } from '../../../src/source/file.ts';
import { PastEnd } from '../../../src/transport/kernel/past-end.ts';
import { Responder } from '../../../src/transport/kernel/responder.ts';
import { ask, type Reply, request, u32, u64 } from './support.ts';
import {
  CACHED,
  CONTENT,
  FILE,
  failed,
  filled,
  MTIME,
  OTHER,
  SIZE,
  SIZE_VALID,
  timesOf,
  writableMount,
  writeMessage,
} from './writable-mount.ts';

const ENOSPC = -28;
const FORGET = 2;
const GETATTR = 3;
const OPEN = 14;
const RELEASE = 18;
const BATCH_FORGET = 42;

const mount = writableMount();
const { answer, setattr, write } = mount;

describe('past the end, through the page cache', () => {
  const past = (to = mount.responder): Reply =>
    answer(writeMessage(SIZE, filled(10), { writeFlags: CACHED }), to);
  const getattr = (byHandle: boolean, to = mount.responder, handle = FILE + 2 ** 31): number =>
    answer(request(GETATTR, FILE, Buffer.concat([u32(byHandle ? 1 : 0), u32(0), u64(handle)])), to).error;
  const open = (): Reply => answer(request(OPEN, FILE, u64(1)));
  const release = (to = mount.responder): Reply => answer(request(RELEASE, FILE, Buffer.alloc(24)), to);

  it('the next write is refused, once', () => {
    expect(getattr(true)).toBe(0);
    expect(past()).toEqual(failed(ENOSPC));
    expect(getattr(false)).toBe(0);
    // Nobody who only reads is told.
    expect(getattr(true, mount.responder, FILE)).toBe(0);
    expect(getattr(true)).toBe(ENOSPC);
    expect(getattr(true)).toBe(0);
  });

  it('not where the host has no space', () => {
    const full = vi.spyOn(FileSource.prototype, 'writeAt').mockReturnValue(ENOSPC);
    expect(write(0, filled(10), { writeFlags: CACHED })).toEqual(failed(ENOSPC));
    full.mockRestore();
    expect(getattr(true)).toBe(0);
  });

  it('nor where it went past the page cache', () => {
    expect(write(SIZE, filled(10))).toEqual(failed(ENOSPC));
    expect(getattr(true)).toBe(0);
  });

  it('nor long after', () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    try {
      past();
      vi.advanceTimersByTime(10_000);
      expect(getattr(true)).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  it.each([
    ['a truncation', () => setattr({ valid: SIZE_VALID, size: SIZE })],
    ['the end of the inode', () => ask(mount.responder, request(FORGET, FILE, u64(1)))],
    [
      'the end of many',
      () =>
        ask(
          mount.responder,
          request(BATCH_FORGET, 0, Buffer.concat([u32(2), u32(0), u64(OTHER), u64(1), u64(FILE), u64(1)])),
        ),
    ],
  ])('nor after %s', (_, settle) => {
    open();
    past();
    settle();
    expect(getattr(true)).toBe(0);
    release();
    expect(mount.responder.outgrown).toBe(0);
  });

  it('the file is to be forgotten when the last one closes it', () => {
    open();
    open();
    past();
    release();
    expect(mount.responder.outgrown).toBe(0);
    release();
    expect(mount.responder.outgrown).toBe(FILE);
    answer(request(GETATTR, FILE, Buffer.alloc(16)));
    expect(mount.responder.outgrown).toBe(0);
  });

  it('whichever thread serves what', () => {
    const seed = mount.trees.seed([{ name: 'a', content: CONTENT, writable: true }]);
    const shared = PastEnd.seed(FILE);
    const [first, second] = [0, 1].map((thread) => new Responder(mount.trees.attach(seed, thread), shared));
    past(first);
    expect(getattr(true, second)).toBe(ENOSPC);
    expect(getattr(true, first)).toBe(0);
    release(second);
    expect(second!.outgrown).toBe(FILE);
    setattr({ valid: MTIME, mtime: [77, 0] }, first);
    const reply = answer(request(GETATTR, FILE, Buffer.alloc(16)), second);
    expect(timesOf(reply)[1]).toEqual([77, 0]);
  });

  it('bears nodes that there are not', () => {
    for (const node of [0, 99, 2 ** 32, 2n ** 63n, 2n ** 64n - 1n]) {
      const body = Buffer.concat([u32(0xffffffff), u32(0), u64(node), u64(1)]);
      expect(ask(mount.responder, request(BATCH_FORGET, 0, body))).toBeUndefined();
      expect(ask(mount.responder, request(FORGET, Number(node), u64(1)))).toBeUndefined();
      answer(request(RELEASE, Number(node), Buffer.alloc(24)));
    }
    expect(ask(mount.responder, request(BATCH_FORGET, 0, u64(2n ** 32n - 1n)))).toBeUndefined();
  });
});
