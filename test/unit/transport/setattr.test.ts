/** SETATTR: cutting, times, and what nobody may change. */

import { describe, expect, it } from 'vitest';
import { GID, type Reply, request, UID, u32, u64 } from './support.ts';
import {
  ATIME,
  ATIME_NOW,
  CACHED,
  CONTENT,
  CTIME,
  changed,
  FILE,
  failed,
  filled,
  GID_VALID,
  MODE,
  MTIME,
  MTIME_NOW,
  OTHER,
  ROOT,
  SIZE,
  SIZE_VALID,
  timesOf,
  UID_VALID,
  writableMount,
} from './writable-mount.ts';

const EPERM = -1;
const ENOENT = -2;
const EISDIR = -21;
const EFBIG = -27;
const EROFS = -30;
const GETATTR = 3;

const mount = writableMount();
const { answer, expectImage, fallocate, setattr, write } = mount;

const sizeOf = ({ payload }: Reply): number => Number(payload.readBigUInt64LE(24));

describe('SETATTR', () => {
  it.each([0, 1, 4096, 12_345, SIZE - 1])('cut to %i, reads as zeros from there on', (size) => {
    const reply = setattr({ valid: SIZE_VALID, size });
    expect([reply.error, sizeOf(reply)]).toEqual([0, SIZE]);
    expectImage(changed(size, Buffer.alloc(SIZE - size)));
  });

  it('makes the kernel drop its pages before it gets the reply to a cut, and only then', () => {
    setattr({ valid: SIZE_VALID, size: 4096 });
    const notice = Buffer.concat([
      u32(16 + 24 + 1), // len
      u32(4), // FUSE_NOTIFY_STORE
      u64(0), // unique
      u64(FILE), // nodeid
      u64(65_536), // offset: the first page behind the end
      u32(1), // size
      u32(0), // padding
      Buffer.from([0]),
    ]);
    expect(mount.responder.notice.subarray(0, mount.responder.noticeLength)).toEqual(notice);
    setattr({ valid: SIZE_VALID, size: SIZE });
    expect(mount.responder.noticeLength).toBe(0);
    setattr({ valid: SIZE_VALID, size: 0 });
    answer(request(GETATTR, FILE, Buffer.alloc(16)));
    expect(mount.responder.noticeLength).toBe(0);
  });

  it.each([SIZE + 1, 2 ** 40, 2n ** 63n, 2n ** 64n - 1n])('does not grow to %s', (size) => {
    expect(setattr({ valid: SIZE_VALID, size })).toEqual(failed(EFBIG));
    expectImage(CONTENT);
  });

  it('changes nothing where it stays as long', () => {
    const reply = setattr({ valid: SIZE_VALID, size: SIZE });
    expect([reply.error, sizeOf(reply)]).toEqual([0, SIZE]);
    expectImage(CONTENT);
  });

  it('keeps times', () => {
    const reply = setattr({
      valid: ATIME | MTIME | CTIME,
      atime: [1_700_000_000, 500_000_000],
      mtime: [-3, 250_000_000],
      ctime: [0, 0],
    });
    const expected = [
      [1_700_000_000, 500_000_000],
      [-3, 250_000_000],
      [0, 0],
    ];
    expect(timesOf(reply)).toEqual(expected);
    expect(timesOf(answer(request(GETATTR, FILE, Buffer.alloc(16))))).toEqual(expected);
  });

  it('takes the time of day', () => {
    const before = Math.floor(Date.now() / 1000);
    const reply = setattr({ valid: ATIME | ATIME_NOW | MTIME | MTIME_NOW });
    for (const [seconds] of timesOf(reply)) {
      expect(seconds).toBeGreaterThanOrEqual(before);
      expect(seconds).toBeLessThanOrEqual(Date.now() / 1000);
    }
  });

  it('writing changes mtime and ctime, but not from the page cache', () => {
    const get = () => timesOf(answer(request(GETATTR, FILE, Buffer.alloc(16))));
    const original = get();
    write(0, filled(10), { writeFlags: CACHED });
    expect(get()).toEqual(original);
    for (const change of [() => write(0, filled(10)), () => fallocate(3, 0, 10)]) {
      setattr({ valid: ATIME | MTIME | CTIME, atime: [1, 0], mtime: [1, 0], ctime: [1, 0] });
      change();
      const [atime, mtime, ctime] = get();
      expect(atime).toEqual([1, 0]);
      expect(mtime![0]).toBeGreaterThan(1_700_000_000);
      expect(ctime).toEqual(mtime);
    }
  });

  it.each([
    ['mode', { valid: MODE, mode: 0o100600 }, EPERM],
    ['the same mode', { valid: MODE, mode: 0o100644 }, 0],
    ['owner', { valid: UID_VALID, uid: UID + 1 }, EPERM],
    ['the same owner', { valid: UID_VALID, uid: UID }, 0],
    ['group', { valid: GID_VALID, gid: GID + 1 }, EPERM],
    ['the same group', { valid: GID_VALID, gid: GID }, 0],
    ['mode, and cuts nothing', { valid: MODE | SIZE_VALID, mode: 0o600 }, EPERM],
    ['nothing', { valid: 0 }, 0],
    ['what is read-only', { valid: SIZE_VALID, node: OTHER }, EROFS],
    ['times of what is read-only', { valid: MTIME, node: OTHER }, EROFS],
    ['times of the directory', { valid: MTIME, node: ROOT }, EPERM],
    ['mode of the directory', { valid: MODE, mode: 0o40777, node: ROOT }, EPERM],
    ['the same mode of the directory', { valid: MODE, mode: 0o40555, node: ROOT }, 0],
    ['size of the directory', { valid: SIZE_VALID, node: ROOT }, EISDIR],
    ['what is not there', { valid: SIZE_VALID, node: 99 }, ENOENT],
  ])('of %s', (_, asked, error) => {
    expect(setattr(asked).error).toBe(error);
    expectImage(CONTENT);
  });

  it('bears any bits', () => {
    expect(setattr({ valid: 0xffffffff, mode: 0o644, uid: UID, gid: GID, size: SIZE }).error).toBe(0);
    expectImage(CONTENT);
  });
});
