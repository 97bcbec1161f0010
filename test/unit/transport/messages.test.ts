/** What holds for every request: which are answered, with how much, and what becomes of malformed ones. */

import { afterAll, describe, expect, it } from 'vitest';
import { MAX_REQUEST } from '../../../src/fuse/abi.ts';
import { PAYLOAD_AT, REPLY_AT } from '../../../src/transport/kernel/reply.ts';
import { OPCODES, Responder } from '../../../src/transport/kernel/responder.ts';
import { ask, decodeReply, name, readIn, request, Trees, u32, u64 } from './support.ts';

const EIO = -5;
const ENXIO = -6;
const EBADF = -9;
const EINVAL = -22;
const EROFS = -30;
const ENOSYS = -38;

const READ = 15;
const LSEEK = 46;

const trees = new Trees();
afterAll(() => trees.close());
const responder = new Responder(
  trees.fileSystem([{ name: 'a.raw', content: Buffer.from('0123456789'), attributes: [['user.a', 'b']] }]),
);
const FILE = 2;

interface Whole {
  readonly opcode: number;
  readonly what: string;
  readonly node: number;
  readonly body: Buffer;
  /** Bytes of the shortest body that is looked at, where that is less than all of `body`. */
  readonly needs?: number;
  /** The reply's error, or 'none' where no reply is wanted. */
  readonly error: number | 'none';
  /** Bytes of the reply's payload. */
  readonly payload?: number;
}

const REQUESTS: readonly Whole[] = [
  { opcode: 1, what: 'LOOKUP', node: 1, body: name('a.raw'), needs: 1, error: 0, payload: 128 },
  { opcode: 2, what: 'FORGET', node: 2, body: u64(1), error: 'none' }, // nlookup
  { opcode: 3, what: 'GETATTR', node: 2, body: Buffer.alloc(16), error: 0, payload: 104 },
  { opcode: 4, what: 'SETATTR', node: 2, body: Buffer.alloc(88), error: EROFS },
  { opcode: 6, what: 'SYMLINK', node: 1, body: name('a\0b'), needs: 2, error: EROFS },
  { opcode: 8, what: 'MKNOD', node: 1, body: Buffer.alloc(18), needs: 17, error: EROFS },
  { opcode: 9, what: 'MKDIR', node: 1, body: Buffer.alloc(10), needs: 9, error: EROFS },
  { opcode: 10, what: 'UNLINK', node: 1, body: name('a.raw'), needs: 1, error: EROFS },
  { opcode: 11, what: 'RMDIR', node: 1, body: name('a.raw'), needs: 1, error: EROFS },
  {
    opcode: 12,
    what: 'RENAME',
    node: 1,
    body: Buffer.concat([u64(1), name('a.raw\0b')]),
    needs: 10,
    error: EROFS,
  },
  { opcode: 13, what: 'LINK', node: 1, body: Buffer.concat([u64(2), name('b')]), needs: 9, error: EROFS },
  { opcode: 14, what: 'OPEN', node: 2, body: Buffer.alloc(8), error: 0, payload: 16 },
  { opcode: 15, what: 'READ', node: 2, body: readIn(2, 0, 4096), error: 0, payload: 10 },
  // A write_in for fh 2, offset 0, size 4; the payload.
  {
    opcode: 16,
    what: 'WRITE',
    node: 2,
    body: Buffer.concat([u64(2), u64(0), u64(4), Buffer.alloc(16), Buffer.from('abcd')]),
    error: EROFS,
  },
  { opcode: 17, what: 'STATFS', node: 1, body: Buffer.alloc(0), error: 0, payload: 80 },
  { opcode: 18, what: 'RELEASE', node: 2, body: Buffer.alloc(24), error: 0, payload: 0 },
  // fh, fsync_flags, padding
  { opcode: 20, what: 'FSYNC', node: 2, body: Buffer.concat([u64(2), u64(1)]), error: 0, payload: 0 },
  // size, padding, name
  {
    opcode: 22,
    what: 'GETXATTR',
    node: 2,
    body: Buffer.concat([u64(9), name('user.a')]),
    needs: 9,
    error: 0,
    payload: 1,
  },
  { opcode: 23, what: 'LISTXATTR', node: 2, body: u64(9), error: 0, payload: 7 },
  { opcode: 25, what: 'FLUSH', node: 2, body: Buffer.alloc(24), error: 0, payload: 0 },
  { opcode: 27, what: 'OPENDIR', node: 1, body: Buffer.alloc(8), error: 0, payload: 16 },
  { opcode: 28, what: 'READDIR', node: 1, body: readIn(0, 0, 4096), error: 0, payload: 96 },
  { opcode: 29, what: 'RELEASEDIR', node: 1, body: Buffer.alloc(24), error: 0, payload: 0 },
  { opcode: 30, what: 'FSYNCDIR', node: 1, body: Buffer.alloc(16), error: 0, payload: 0 },
  { opcode: 34, what: 'ACCESS', node: 2, body: Buffer.concat([u32(4), u32(0)]), error: 0, payload: 0 },
  { opcode: 35, what: 'CREATE', node: 1, body: Buffer.alloc(18), needs: 17, error: EROFS },
  { opcode: 36, what: 'INTERRUPT', node: 0, body: u64(77), error: ENOSYS },
  { opcode: 38, what: 'DESTROY', node: 0, body: Buffer.alloc(0), error: 0, payload: 0 },
  {
    opcode: 42,
    what: 'BATCH_FORGET',
    node: 0,
    body: Buffer.concat([u32(1), u32(0), u64(2), u64(1)]),
    error: 'none',
  },
  // fh, offset, length, mode, padding
  {
    opcode: 43,
    what: 'FALLOCATE',
    node: 2,
    body: Buffer.concat([u64(2), u64(0), u64(4), u64(3)]),
    error: EROFS,
  },
  { opcode: 44, what: 'READDIRPLUS', node: 1, body: readIn(0, 0, 4096), error: 0, payload: 3 * 128 + 96 },
  {
    opcode: 46,
    what: 'LSEEK',
    node: 2,
    body: Buffer.concat([u64(2), u64(0), u32(3), u32(0)]), // fh, offset, SEEK_DATA
    error: 0,
    payload: 8,
  },
];

describe('every request', () => {
  it('is in the table of this test', () => {
    expect(REQUESTS.map(({ opcode }) => opcode)).toEqual([...OPCODES.keys()].sort((a, b) => a - b));
    for (const { opcode, what } of REQUESTS) expect(OPCODES.get(opcode)?.name).toBe(what);
  });

  it.each(REQUESTS)('$what is answered', ({ opcode, node, body, error, payload }) => {
    const reply = ask(responder, request(opcode, node, body));
    if (error === 'none') expect(reply).toBeUndefined();
    else expect([reply?.error, reply?.payload.length]).toEqual([error, payload ?? 0]);
  });

  // A FORGET has no reply that could say so.
  const answered = REQUESTS.filter(({ error, body }) => error !== 'none' && body.length > 0);

  it.each(answered)('$what that is cut short is refused', ({ opcode, node, body, needs = body.length }) => {
    for (let length = 0; length < needs; length += 1) {
      const honest = request(opcode, node, body.subarray(0, length));
      expect(ask(responder, honest)?.error, `${length} bytes`).toBe(EINVAL);
      // The header tells of more than came.
      const boasting = request(opcode, node, body.subarray(0, length), 40 + body.length);
      expect(ask(responder, boasting)?.error, `${length} bytes of ${body.length}`).toBe(EINVAL);
      // More came than the header tells of.
      const modest = request(opcode, node, body, 40 + length);
      expect(ask(responder, modest)?.error, `${length} bytes by its header`).toBe(EINVAL);
    }
  });

  it.each(REQUESTS)(
    '$what with more than it needs is answered all the same',
    ({ opcode, node, body, error }) => {
      const reply = ask(responder, request(opcode, node, Buffer.concat([body, Buffer.alloc(24)])));
      expect(reply?.error).toBe(error === 'none' ? undefined : error);
    },
  );

  it('is not answered where not even its header came', () => {
    const whole = request(17, 1);
    for (let length = 0; length < 40; length += 1) {
      expect(ask(responder, whole.subarray(0, length)), `${length} bytes`).toBeUndefined();
    }
    expect(ask(responder, whole)?.error).toBe(0);
  });

  it('is refused where its header tells of less than a header', () => {
    for (const len of [0, 1, 39]) {
      expect(ask(responder, request(3, 1, Buffer.alloc(16), len))?.error).toBe(EINVAL);
    }
  });

  it('is refused with ENOSYS where nobody knows it', () => {
    const known = new Set(REQUESTS.map(({ opcode }) => opcode));
    const others = Array.from({ length: 70 }, (_, opcode) => opcode).filter((opcode) => !known.has(opcode));
    for (const opcode of [...others, 4096, 0x80000000, 0xffffffff]) {
      expect(ask(responder, request(opcode, 1, Buffer.alloc(100)))?.error, `opcode ${opcode}`).toBe(ENOSYS);
    }
  });
});

describe('a reply', () => {
  it('writes nothing outside of itself', () => {
    responder.reply.bytes.fill(0xaa);
    const reply = ask(responder, request(READ, FILE, readIn(FILE, 3, 5)));
    expect(reply?.payload.toString()).toBe('34567');
    expect(responder.reply.bytes.subarray(0, REPLY_AT).every((byte) => byte === 0xaa)).toBe(true);
    expect(responder.reply.bytes.subarray(PAYLOAD_AT + 5).every((byte) => byte === 0xaa)).toBe(true);
  });

  it('has room for the largest read', () => {
    expect(responder.reply.bytes.length).toBe(PAYLOAD_AT + MAX_REQUEST);
  });

  it('is EIO for a request whose handler threw', () => {
    expect(ask(responder, request(READ, FILE, readIn(FILE, 0, 5)))?.error).toBe(0);
    const size = responder.answerFailure();
    expect(decodeReply(responder.reply.bytes.subarray(REPLY_AT, REPLY_AT + size)).error).toBe(EIO);
    expect(responder.reply.status).toBe(EIO);
  });
});

describe('LSEEK', () => {
  const DATA = 3;
  const HOLE = 4;
  // Data from 4 GiB + 1 MiB on, 64 KiB of it.
  const at = 2 ** 32 + 2 ** 20;
  const sparse = new Responder(
    trees.fileSystem([{ name: 'far.raw', content: Buffer.alloc(65_536, 1), at, size: 2 ** 33 }]),
  );
  const seek = (offset: number | bigint, whence: number, fh = FILE): number => {
    const body = Buffer.concat([u64(fh), u64(offset), u32(whence), u32(0)]);
    const reply = ask(sparse, request(LSEEK, FILE, body))!;
    return reply.error < 0 ? reply.error : Number(reply.payload.readBigUInt64LE(0));
  };

  it('finds data and holes beyond 4 GiB', () => {
    expect(seek(0, DATA)).toBe(at);
    expect(seek(at + 7, DATA)).toBe(at + 7);
    expect(seek(0, HOLE)).toBe(0);
    expect(seek(at, HOLE)).toBe(at + 65_536);
    expect(seek(2 ** 33 - 1, HOLE)).toBe(2 ** 33 - 1);
  });

  it('refuses what is not there', () => {
    expect(seek(at + 65_536, DATA)).toBe(ENXIO);
    expect(seek(2 ** 33, DATA)).toBe(ENXIO);
    expect(seek(2 ** 33, HOLE)).toBe(ENXIO);
    expect(seek(2n ** 63n, HOLE)).toBe(ENXIO);
    for (const whence of [0, 1, 2, 5, 0xffffffff]) expect(seek(0, whence)).toBe(EINVAL);
    expect(seek(0, DATA, 9)).toBe(EBADF);
  });
});
