/** Opening for writing and WRITE, as bytes: what goes to the image file, and what is answered, hostile requests included. */

import { constants } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { FileSource } from '../../../src/source/file.ts';
import { PAYLOAD_AT } from '../../../src/transport/kernel/reply.ts';
import { Responder } from '../../../src/transport/kernel/responder.ts';
import { name, readIn, request, u32, u64 } from './support.ts';
import {
  CACHED,
  CONTENT,
  changed,
  FILE,
  failed,
  filled,
  OTHER,
  ROOT,
  SIZE,
  writableMount,
  writeMessage,
  wrote,
} from './writable-mount.ts';

const EPERM = -1;
const ENOENT = -2;
const EIO = -5;
const EBADF = -9;
const EACCES = -13;
const EISDIR = -21;
const EINVAL = -22;
const ENOSPC = -28;
const EROFS = -30;
const GETATTR = 3;
const OPEN = 14;
const READ = 15;
const ACCESS = 34;

const mount = writableMount();
const { answer, expectImage, write } = mount;

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
    expectImage(CONTENT, OTHER);
  });

  it('writes 1 MiB in one piece, and takes no more', () => {
    const large = 3 << 20;
    const fs = mount.trees.fileSystem([{ name: 'a', content: Buffer.alloc(1), size: large, writable: true }]);
    const number = mount.trees.imageCount - 1;
    const to = new Responder(fs);
    expect(to.request.bytes.length).toBe((1 << 20) + 4096);
    const bytes = filled(1 << 20);
    expect(answer(writeMessage(12_345, bytes), to)).toEqual(wrote(1 << 20));
    expect(
      mount.trees
        .image(number)
        .subarray(12_345, 12_345 + (1 << 20))
        .equals(bytes),
    ).toBe(true);
    expect(mount.trees.image(number)[12_345 + (1 << 20)]).toBe(0);
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
    expectImage(CONTENT, OTHER);
  });

  it('writes beyond 4 GiB, with the root as the file', () => {
    const at = 2 ** 32 + 2 ** 20;
    const fs = mount.trees.fileSystem([{ name: 'x', content: CONTENT, at, writable: true }], {
      shape: 'file',
    });
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

describe('a writable mount', () => {
  it('leaves the reply buffer alone while it writes', () => {
    mount.responder.reply.bytes.fill(0xaa);
    write(0, filled(4096));
    expect(mount.responder.reply.bytes.subarray(PAYLOAD_AT + 8).every((byte) => byte === 0xaa)).toBe(true);
  });

  it('takes names as before', () => {
    expect(answer(request(1, ROOT, name('disk.raw'))).error).toBe(0);
  });
});
