/** Writing, as bytes: what each request does to the image file and what is answered, hostile requests included. */

import { constants } from 'node:fs';
import { afterAll, afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { FileSource } from '../../../src/source/file.ts';
import { PastEnd } from '../../../src/transport/kernel/past-end.ts';
import { PAYLOAD_AT, Responder } from '../../../src/transport/kernel/responder.ts';
import { ask, GID, name, type Reply, readIn, request, Trees, UID, u32, u64 } from './support.ts';

const EPERM = -1;
const ENOENT = -2;
const EIO = -5;
const EBADF = -9;
const EACCES = -13;
const EISDIR = -21;
const EINVAL = -22;
const EFBIG = -27;
const ENOSPC = -28;
const EROFS = -30;
const EOPNOTSUPP = -95;

const FORGET = 2;
const GETATTR = 3;
const SETATTR = 4;
const OPEN = 14;
const READ = 15;
const WRITE = 16;
const RELEASE = 18;
const FSYNC = 20;
const ACCESS = 34;
const BATCH_FORGET = 42;
const FALLOCATE = 43;

const ROOT = 1;
/** A writable file of SIZE bytes. */
const FILE = 2;
/** One of the same bytes that is read-only. */
const OTHER = 3;
const SIZE = 20_000;
const CONTENT = Buffer.from(Array.from({ length: SIZE }, (_, at) => 1 + ((at * 7 + (at >> 8)) % 255)));

const O_DSYNC = 0o10000;
const O_SYNC = 0o4010000;
const CACHED = 1;

const trees = new Trees();
afterAll(() => trees.close());

let made = 0;
let responder: Responder;
/** The number of the image file of FILE. */
let image: number;
let flush: MockInstance<FileSource['flush']>;

function start(sync = false): void {
  const files = [
    { name: 'disk.raw', content: CONTENT, writable: true },
    { name: 'other.raw', content: CONTENT },
  ];
  image = made;
  made += files.length;
  responder = new Responder(trees.fileSystem(files, { sync }));
}

beforeEach(() => {
  start();
  flush = vi.spyOn(FileSource.prototype, 'flush');
});
afterEach(() => flush.mockRestore());

const answer = (message: Buffer, to = responder): Reply => {
  const reply = ask(to, message);
  if (reply === undefined) throw new Error('no reply');
  return reply;
};
const failed = (error: number): Reply => ({ error, payload: Buffer.alloc(0) });
const done = failed(0);

interface WriteAsked {
  readonly fh?: number;
  /** What the header says; default: that of the bytes. */
  readonly size?: number;
  readonly writeFlags?: number;
  readonly flags?: number;
}

function writeMessage(at: number | bigint, bytes: Buffer, asked: WriteAsked = {}): Buffer {
  const { fh = FILE, size = bytes.length, writeFlags = 0, flags = 1 } = asked;
  const head = [
    u64(fh), // fh
    u64(at), // offset
    u32(size), // size
    u32(writeFlags), // write_flags
    u64(0), // lock_owner
    u32(flags), // flags
    u32(0), // padding
  ];
  return request(WRITE, fh, Buffer.concat([...head, bytes]));
}

const write = (at: number | bigint, bytes: Buffer, asked: WriteAsked = {}): Reply =>
  answer(writeMessage(at, bytes, asked));

/** The reply to a WRITE of which so many bytes were written. */
const wrote = (count: number): Reply => ({ error: 0, payload: Buffer.concat([u32(count), u32(0)]) });

const filled = (length: number, byte = 0x5a): Buffer => Buffer.alloc(length, byte);

/** CONTENT with `bytes` in it. */
function changed(at: number, bytes: Buffer): Buffer {
  const content = Buffer.from(CONTENT);
  bytes.copy(content, at);
  return content;
}

/** Compares without the pains that `toEqual` takes with each byte. */
function expectImage(content: Buffer, number = image): void {
  expect(trees.image(number).compare(content), 'the image file').toBe(0);
}

describe('OPEN and GETATTR', () => {
  const flags = (value: number): Buffer => Buffer.concat([u32(value), u32(0)]);

  it.each([
    ['for reading', 0, 2],
    ['for writing', 1, 66], // FOPEN_KEEP_CACHE | FOPEN_PARALLEL_DIRECT_WRITES
    ['for both', 2, 66],
  ])('opens a writable file %s', (_, mode, openFlags) => {
    // Bit 31 of the handle: it was opened for writing.
    const handle = mode === 0 ? FILE : FILE + 2 ** 31;
    const payload = Buffer.concat([u64(handle), u32(openFlags), u32(0)]);
    expect(answer(request(OPEN, FILE, flags(mode)))).toEqual({ error: 0, payload });
  });

  it('opens its read-only neighbour for reading only', () => {
    expect(answer(request(OPEN, OTHER, flags(0))).error).toBe(0);
    expect(answer(request(OPEN, OTHER, flags(1)))).toEqual(failed(EROFS));
    expect(answer(request(OPEN, OTHER, flags(2)))).toEqual(failed(EROFS));
    expect(answer(request(OPEN, ROOT, flags(1)))).toEqual(failed(EISDIR));
  });

  it('tells who may write', () => {
    const of = (node: number): number =>
      answer(request(GETATTR, node, Buffer.alloc(16))).payload.readUInt32LE(76);
    expect([of(FILE), of(OTHER), of(ROOT)]).toEqual([0o100644, 0o100444, 0o40555]);
  });

  it('answers access(2)', () => {
    const access = (node: number, mask: number): number =>
      answer(request(ACCESS, node, Buffer.concat([u32(mask), u32(0)]))).error;
    expect([access(FILE, 6), access(FILE, 1), access(OTHER, 2)]).toEqual([0, EACCES, EROFS]);
    expect([access(ROOT, 2), access(ROOT, 5), access(9, 2)]).toEqual([EACCES, 0, ENOENT]);
  });

  it.each([6, 8, 9, 10, 11, 12, 13, 35])('lets nobody change the directory (opcode %i)', (opcode) => {
    expect(answer(request(opcode, ROOT, Buffer.alloc(40)))).toEqual(failed(EPERM));
  });
});

describe('WRITE', () => {
  it.each([
    [0, 1],
    [0, 4096],
    [1, 4095],
    [4095, 4098],
    [SIZE - 1, 1],
    [0, SIZE],
  ])('writes at %i, %i bytes', (at, length) => {
    const bytes = filled(length);
    expect(write(at, bytes)).toEqual(wrote(length));
    expectImage(changed(at, bytes));
    const read = answer(request(READ, FILE, readIn(FILE, 0, SIZE)));
    expect(read.payload.equals(changed(at, bytes))).toBe(true);
    expectImage(CONTENT, image + 1);
  });

  it('writes 1 MiB in one piece, and takes no more', () => {
    const large = 3 << 20;
    const fs = trees.fileSystem([{ name: 'a', content: Buffer.alloc(1), size: large, writable: true }]);
    const number = made;
    made += 1;
    const to = new Responder(fs);
    expect(to.request.length).toBe((1 << 20) + 4096);
    const bytes = filled(1 << 20);
    expect(answer(writeMessage(12_345, bytes), to)).toEqual(wrote(1 << 20));
    expect(
      trees
        .image(number)
        .subarray(12_345, 12_345 + (1 << 20))
        .equals(bytes),
    ).toBe(true);
    expect(trees.image(number)[12_345 + (1 << 20)]).toBe(0);
  });

  it('writes nothing where nothing is asked for', () => {
    expect(write(5, Buffer.alloc(0))).toEqual(wrote(0));
    expect(write(SIZE + 5, Buffer.alloc(0))).toEqual(wrote(0));
    expectImage(CONTENT);
  });

  it('writes only what the request says, whatever follows', () => {
    expect(write(10, filled(100), { size: 30 })).toEqual(wrote(30));
    expectImage(changed(10, filled(30)));
  });

  it.each([101, 4096, 1 << 20, 0x7fffffff, 0xffffffff])('refuses %i bytes of which 100 came', (size) => {
    expect(write(0, filled(100), { size })).toEqual(failed(EINVAL));
    const modest = writeMessage(0, filled(100));
    modest.writeUInt32LE(modest.length - 1, 0);
    expect(answer(modest)).toEqual(failed(EINVAL));
    expectImage(CONTENT);
  });

  it('is short at the end of the disk', () => {
    expect(write(SIZE - 10, filled(100))).toEqual(wrote(10));
    expectImage(changed(SIZE - 10, filled(10)));
  });

  it.each([SIZE, SIZE + 1, 2 ** 32, 2 ** 52, 2n ** 63n, 2n ** 64n - 1n])('has no space at %s', (at) => {
    expect(write(at, filled(100))).toEqual(failed(ENOSPC));
    expect(write(at, filled(100), { writeFlags: CACHED })).toEqual(failed(ENOSPC));
    expectImage(CONTENT);
  });

  it.each([
    ['from the page cache', { writeFlags: CACHED }],
    ['past the page cache', { flags: 1 | constants.O_DIRECT }],
  ])('%s, fails at the end of the disk, with what fits written', (_, asked) => {
    expect(write(SIZE - 10, filled(100), asked)).toEqual(failed(ENOSPC));
    expectImage(changed(SIZE - 10, filled(10)));
  });

  it('refuses a read-only file and a handle that is not open', () => {
    expect(write(0, filled(10), { fh: OTHER })).toEqual(failed(EROFS));
    for (const fh of [0, ROOT, 4, 2 ** 32 + FILE])
      expect(write(0, filled(10), { fh })).toEqual(failed(EBADF));
    expectImage(CONTENT, image + 1);
  });

  it('writes beyond 4 GiB, with the root as the file', () => {
    const at = 2 ** 32 + 2 ** 20;
    const fs = trees.fileSystem([{ name: 'x', content: CONTENT, at, writable: true }], { shape: 'file' });
    made += 1;
    const to = new Responder(fs);
    expect(answer(writeMessage(at + 5, filled(9), { fh: ROOT }), to)).toEqual(wrote(9));
    const read = answer(request(READ, ROOT, readIn(ROOT, at, 20)), to);
    expect(read.payload).toEqual(changed(5, filled(9)).subarray(0, 20));
  });

  it('tells what the image file says', () => {
    const broken = vi.spyOn(FileSource.prototype, 'writeAt').mockReturnValue(EIO);
    expect(write(0, filled(10))).toEqual(failed(EIO));
    broken.mockRestore();
  });
});

describe('what is stable when', () => {
  it.each([
    ['nothing', {}, 0],
    ['O_DSYNC', { flags: 1 | O_DSYNC }, 1],
    ['O_SYNC', { flags: 2 | O_SYNC }, 1],
    // Through which file it was written is not known; fsync follows where it is asked for.
    ['O_DSYNC from the page cache', { flags: 1 | O_DSYNC, writeFlags: CACHED }, 0],
  ])('a write with %s', (_, asked, count) => {
    expect(write(0, filled(10), asked)).toEqual(wrote(10));
    expect(flush).toHaveBeenCalledTimes(count);
  });

  it('every change of a mount with sync', () => {
    start(true);
    expect(write(0, filled(10))).toEqual(wrote(10));
    expect(write(10, filled(10), { writeFlags: CACHED })).toEqual(wrote(10));
    expect(fallocate(3, 0, 4096)).toEqual(done);
    expect(setattr({ valid: 8, size: 100 }).error).toBe(0);
    expect(flush).toHaveBeenCalledTimes(4);
  });

  it('fsync makes it so; close does not', () => {
    const fsync = (fh: number, flags = 0): Reply =>
      answer(request(FSYNC, fh, Buffer.concat([u64(fh), u32(flags), u32(0)])));
    write(0, filled(10));
    expect(answer(request(25, FILE, Buffer.alloc(24)))).toEqual(done);
    expect(flush).toHaveBeenCalledTimes(0);
    expect(fsync(FILE, 1)).toEqual(done);
    expect(flush).toHaveBeenCalledTimes(1);
    // Nobody can have written to it.
    expect(fsync(OTHER)).toEqual(done);
    expect(flush).toHaveBeenCalledTimes(1);
    expect(fsync(99)).toEqual(failed(EBADF));
  });

  it('a flush that fails is told', () => {
    flush.mockReturnValue(EIO);
    expect(write(0, filled(10), { flags: 1 | O_DSYNC })).toEqual(failed(EIO));
    expect(answer(request(FSYNC, FILE, Buffer.concat([u64(FILE), u64(0)])))).toEqual(failed(EIO));
  });
});

const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;

function fallocate(mode: number, at: number | bigint, length: number | bigint, fh = FILE): Reply {
  // fh, offset, length, mode, padding
  return answer(request(FALLOCATE, fh, Buffer.concat([u64(fh), u64(at), u64(length), u32(mode), u32(0)])));
}

describe('FALLOCATE', () => {
  it.each([
    ['a hole', PUNCH_HOLE | KEEP_SIZE, 4096, 8192, 0, [4096, 8192]],
    ['a hole of odd bounds', PUNCH_HOLE | KEEP_SIZE, 100, 7, 0, [100, 7]],
    ['a hole over the end', PUNCH_HOLE | KEEP_SIZE, 19_000, 2 ** 40, 0, [19_000, 1000]],
    ['a hole past the end', PUNCH_HOLE | KEEP_SIZE, SIZE, 4096, 0, [0, 0]],
    ['zeros', ZERO_RANGE, 100, 5000, 0, [100, 5000]],
    ['zeros to the end', ZERO_RANGE, 0, SIZE, 0, [0, SIZE]],
    ['zeros that make it longer', ZERO_RANGE, 19_000, 1001, ENOSPC, [0, 0]],
    ['zeros over the end', ZERO_RANGE | KEEP_SIZE, 19_000, 4096, 0, [19_000, 1000]],
    ['space', 0, 0, SIZE, 0, [0, 0]],
    ['space that makes it longer', 0, 1, SIZE, ENOSPC, [0, 0]],
    ['space past the end', 0, SIZE, 1, ENOSPC, [0, 0]],
    ['space for later', KEEP_SIZE, 0, 2 * SIZE, 0, [0, 0]],
    ['a hole that makes it longer', PUNCH_HOLE, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['a cut in the middle', 8, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['an insertion', 32, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['a copy of its own', 64, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['a hole of zeros', PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['everything', 0xffffffff, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['nothing', PUNCH_HOLE | KEEP_SIZE, 0, 0, EINVAL, [0, 0]],
  ])('makes %s', (_, mode, at, length, error, [from, count]) => {
    expect(fallocate(mode, at, length)).toEqual(failed(error));
    expectImage(changed(from!, Buffer.alloc(count!)));
  });

  it('bears any number', () => {
    for (const at of [2 ** 52, 2n ** 63n, 2n ** 64n - 1n]) {
      for (const length of [1, 2n ** 63n, 2n ** 64n - 1n]) {
        expect(fallocate(PUNCH_HOLE | KEEP_SIZE, at, length)).toEqual(done);
        expect(fallocate(ZERO_RANGE, at, length)).toEqual(failed(ENOSPC));
        expect(fallocate(0, at, length)).toEqual(failed(ENOSPC));
      }
    }
    expect(fallocate(PUNCH_HOLE | KEEP_SIZE, 0, 1, OTHER)).toEqual(failed(EROFS));
    expect(fallocate(PUNCH_HOLE | KEEP_SIZE, 0, 1, 99)).toEqual(failed(EBADF));
    expectImage(CONTENT);
  });
});

interface SetattrAsked {
  readonly valid: number;
  readonly size?: number | bigint;
  readonly atime?: readonly [number, number];
  readonly mtime?: readonly [number, number];
  readonly ctime?: readonly [number, number];
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly node?: number;
}

function setattr(asked: SetattrAsked, to = responder): Reply {
  const { valid, size = 0, node = FILE, mode = 0, uid = 0, gid = 0 } = asked;
  const { atime = [0, 0], mtime = [0, 0], ctime = [0, 0] } = asked;
  const body = [
    u32(valid), // valid
    u32(0), // padding
    u64(0), // fh
    u64(size), // size
    u64(0), // lock_owner
    u64(atime[0]), // atime
    u64(mtime[0]), // mtime
    u64(ctime[0]), // ctime
    u32(atime[1]), // atimensec
    u32(mtime[1]), // mtimensec
    u32(ctime[1]), // ctimensec
    u32(mode), // mode
    u32(0), // unused4
    u32(uid), // uid
    u32(gid), // gid
    u32(0), // unused5
  ];
  return answer(request(SETATTR, node, Buffer.concat(body)), to);
}

const MODE = 1;
const UID_VALID = 2;
const GID_VALID = 4;
const SIZE_VALID = 8;
const ATIME = 16;
const MTIME = 32;
const ATIME_NOW = 128;
const MTIME_NOW = 256;
const CTIME = 1024;

/** Times of a reply with attributes: s and ns of atime, mtime, ctime. */
function timesOf({ payload }: Reply): [number, number][] {
  return [0, 1, 2].map((n) => [
    Number(payload.readBigInt64LE(16 + 24 + n * 8)),
    payload.readUInt32LE(16 + 48 + n * 4),
  ]);
}
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
    expect(responder.notice.subarray(0, responder.noticeLength)).toEqual(notice);
    setattr({ valid: SIZE_VALID, size: SIZE });
    expect(responder.noticeLength).toBe(0);
    setattr({ valid: SIZE_VALID, size: 0 });
    answer(request(GETATTR, FILE, Buffer.alloc(16)));
    expect(responder.noticeLength).toBe(0);
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

describe('past the end, through the page cache', () => {
  const past = (to = responder): Reply => answer(writeMessage(SIZE, filled(10), { writeFlags: CACHED }), to);
  const getattr = (byHandle: boolean, to = responder, handle = FILE + 2 ** 31): number =>
    answer(request(GETATTR, FILE, Buffer.concat([u32(byHandle ? 1 : 0), u32(0), u64(handle)])), to).error;
  const open = (): Reply => answer(request(OPEN, FILE, u64(1)));
  const release = (to = responder): Reply => answer(request(RELEASE, FILE, Buffer.alloc(24)), to);

  it('the next write is refused, once', () => {
    expect(getattr(true)).toBe(0);
    expect(past()).toEqual(failed(ENOSPC));
    expect(getattr(false)).toBe(0);
    // Nobody who only reads is told.
    expect(getattr(true, responder, FILE)).toBe(0);
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
    ['the end of the inode', () => ask(responder, request(FORGET, FILE, u64(1)))],
    [
      'the end of many',
      () =>
        ask(
          responder,
          request(BATCH_FORGET, 0, Buffer.concat([u32(2), u32(0), u64(OTHER), u64(1), u64(FILE), u64(1)])),
        ),
    ],
  ])('nor after %s', (_, settle) => {
    open();
    past();
    settle();
    expect(getattr(true)).toBe(0);
    release();
    expect(responder.outgrown).toBe(0);
  });

  it('the file is to be forgotten when the last one closes it', () => {
    open();
    open();
    past();
    release();
    expect(responder.outgrown).toBe(0);
    release();
    expect(responder.outgrown).toBe(FILE);
    answer(request(GETATTR, FILE, Buffer.alloc(16)));
    expect(responder.outgrown).toBe(0);
  });

  it('whichever thread serves what', () => {
    const seed = trees.seed([{ name: 'a', content: CONTENT, writable: true }]);
    made += 1;
    const shared = PastEnd.seed(FILE);
    const [first, second] = [0, 1].map((thread) => new Responder(trees.attach(seed, thread), shared));
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
      expect(ask(responder, request(BATCH_FORGET, 0, body))).toBeUndefined();
      expect(ask(responder, request(FORGET, Number(node), u64(1)))).toBeUndefined();
      answer(request(RELEASE, Number(node), Buffer.alloc(24)));
    }
    expect(ask(responder, request(BATCH_FORGET, 0, u64(2n ** 32n - 1n)))).toBeUndefined();
  });
});

describe('a writable mount', () => {
  it('leaves the reply buffer alone while it writes', () => {
    responder.reply.fill(0xaa);
    write(0, filled(4096));
    expect(responder.reply.subarray(PAYLOAD_AT + 8).every((byte) => byte === 0xaa)).toBe(true);
  });

  it('takes names as before', () => {
    expect(answer(request(1, ROOT, name('disk.raw'))).error).toBe(0);
  });
});
