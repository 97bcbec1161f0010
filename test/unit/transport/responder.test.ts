/** The FUSE protocol as bytes: requests made by hand, replies compared with what <linux/fuse.h> lays down. */

import { afterAll, describe, expect, it } from 'vitest';
import { Responder } from '../../../src/transport/kernel/responder.ts';
import {
  ask,
  GID,
  MOUNTED,
  name,
  type Reply,
  readIn,
  request,
  Trees,
  times,
  UID,
  u32,
  u64,
} from './support.ts';

const ENOENT = -2;
const E2BIG = -7;
const EBADF = -9;
const EACCES = -13;
const ENOTDIR = -20;
const EISDIR = -21;
const EINVAL = -22;
const EROFS = -30;
const ERANGE = -34;
const ENODATA = -61;

const LOOKUP = 1;
const GETATTR = 3;
const SETATTR = 4;
const OPEN = 14;
const READ = 15;
const STATFS = 17;
const GETXATTR = 22;
const LISTXATTR = 23;
const OPENDIR = 27;
const ACCESS = 34;

const ROOT = 1;
const FIRST = 2;
const SECOND = 3;

const CONTENT = Buffer.from(Array.from({ length: 10_000 }, (_, at) => (at * 7 + (at >> 8)) & 0xff));

const trees = new Trees();
afterAll(() => trees.close());

const responder = new Responder(
  trees.fileSystem([
    {
      name: 'disk.raw',
      content: CONTENT,
      attributes: [
        ['user.vdisk.format', 'raw'],
        ['user.vdisk.large', 'x'.repeat(65_536)],
        ['user.vdisk.larger', 'x'.repeat(65_537)],
        ['user.vdisk.source', '/ä'],
      ],
    },
    { name: 'ä.raw', content: CONTENT.subarray(0, 100), times: times(0, -1500, 1.25) },
  ]),
);

const answer = (message: Buffer): Reply => {
  const reply = ask(responder, message);
  if (reply === undefined) throw new Error('no reply');
  return reply;
};
const failed = (error: number): Reply => ({ error, payload: Buffer.alloc(0) });
const got = (payload: Buffer): Reply => ({ error: 0, payload });

/** fuse_attr of the first file. */
const FIRST_ATTR = Buffer.concat([
  u64(FIRST), // ino
  u64(10_000), // size
  u64(2), // blocks: 1000 allocated bytes
  u64(1_700_000_000), // atime
  u64(1_600_000_000), // mtime
  u64(1), // ctime
  u32(250_000_000), // atimensec
  u32(500_000_000), // mtimensec
  u32(0), // ctimensec
  u32(0o100444), // mode
  u32(1), // nlink
  u32(UID), // uid
  u32(GID), // gid
  u32(0), // rdev
  u32(4096), // blksize
  u32(0), // flags
]);

describe('LOOKUP', () => {
  it('gives the node and its attributes, byte for byte', () => {
    const message = Buffer.from(
      [
        '31000000 01000000', // len 49, opcode 1
        '8877665544332211', // unique
        '0100000000000000', // nodeid 1
        'e8030000 e8030000', // uid, gid
        '92100000 0000 0000', // pid, total_extlen, padding
        '6469736b2e72617700', // "disk.raw"
      ]
        .join('')
        .replaceAll(' ', ''),
      'hex',
    );
    const expected = Buffer.concat([
      u64(FIRST), // nodeid
      u64(0), // generation
      u64(1), // entry_valid
      u64(1), // attr_valid
      u32(0), // entry_valid_nsec
      u32(0), // attr_valid_nsec
      FIRST_ATTR,
    ]);
    responder.request.bytes.fill(0xee);
    message.copy(responder.request.bytes);
    const size = responder.answer(message.length);
    const reply = responder.reply.bytes.subarray(4080, 4080 + size);
    const header = Buffer.from('90000000 00000000 8877665544332211'.replaceAll(' ', ''), 'hex');
    expect(reply).toEqual(Buffer.concat([header, expected]));
  });

  it('finds a name by its UTF-8 bytes', () => {
    const found = answer(request(LOOKUP, ROOT, Buffer.from('ä.raw\0', 'utf8')));
    expect(found.payload.readBigUInt64LE(0)).toBe(3n);
  });

  it.each([
    ['a name that is not there', request(LOOKUP, ROOT, name('other')), ENOENT],
    ['an empty name', request(LOOKUP, ROOT, name('')), ENOENT],
    ['a name of bytes that are no UTF-8', request(LOOKUP, ROOT, name('\xff\xfe')), ENOENT],
    ['the beginning of a name', request(LOOKUP, ROOT, name('disk')), ENOENT],
    ['a parent that is a file', request(LOOKUP, FIRST, name('disk.raw')), ENOTDIR],
    ['a parent that is not there', request(LOOKUP, 99, name('disk.raw')), ENOTDIR],
    ['a name without a NUL', request(LOOKUP, ROOT, Buffer.from('disk.raw')), EINVAL],
  ])('refuses %s', (_, message, error) => {
    expect(answer(message)).toEqual(failed(error));
  });

  it('does not see a NUL beyond the end of the request', () => {
    const message = request(LOOKUP, ROOT, Buffer.from('disk.raw'));
    responder.request.bytes.fill(0);
    message.copy(responder.request.bytes);
    expect(responder.answer(message.length)).toBe(16);
    expect(responder.reply.status).toBe(EINVAL);
  });
});

describe('GETATTR', () => {
  const body = Buffer.alloc(16); // getattr_flags, dummy, fh

  it('gives the attributes of a file', () => {
    const expected = Buffer.concat([u64(1), u32(0), u32(0), FIRST_ATTR]); // attr_valid, its ns, dummy, attr
    expect(answer(request(GETATTR, FIRST, body))).toEqual(got(expected));
  });

  it('gives the attributes of the root', () => {
    const { error, payload } = answer(request(GETATTR, ROOT, body));
    expect(error).toBe(0);
    expect(payload.readBigUInt64LE(16)).toBe(1n); // ino
    expect(payload.readBigUInt64LE(24)).toBe(0n); // size
    expect(payload.readBigUInt64LE(48)).toBe(BigInt(MOUNTED / 1000)); // mtime
    expect(payload.readUInt32LE(76)).toBe(0o40555); // mode
    expect(payload.readUInt32LE(80)).toBe(2); // nlink
  });

  it('gives times before 1970 and fractions of a millisecond', () => {
    const { payload } = answer(request(GETATTR, SECOND, body));
    expect(payload.readBigInt64LE(48)).toBe(-2n); // mtime: 1.5 s before 1970
    expect(payload.readUInt32LE(68)).toBe(500_000_000); // mtimensec
    expect(payload.readUInt32LE(72)).toBe(1_250_000); // ctimensec
  });

  it('refuses a node that is not there', () => {
    for (const node of [0, 4, 2 ** 32 + 2, Number.MAX_SAFE_INTEGER]) {
      expect(answer(request(GETATTR, node, body))).toEqual(failed(ENOENT));
    }
  });
});

describe('SETATTR', () => {
  it('is refused: nothing is written', () => {
    const body = Buffer.alloc(88);
    expect(answer(request(SETATTR, FIRST, body))).toEqual(failed(EROFS));
    expect(answer(request(SETATTR, ROOT, body))).toEqual(failed(EROFS));
    expect(answer(request(SETATTR, 99, body))).toEqual(failed(ENOENT));
  });
});

describe('OPEN and OPENDIR', () => {
  const flags = (value: number): Buffer => Buffer.concat([u32(value), u32(0)]); // flags, open_flags

  it('opens a file for reading, its pages kept', () => {
    const expected = Buffer.concat([u64(FIRST), u32(2), u32(0)]); // fh, FOPEN_KEEP_CACHE, padding
    expect(answer(request(OPEN, FIRST, flags(0)))).toEqual(got(expected));
    expect(answer(request(OPEN, FIRST, flags(0x48000)))).toEqual(got(expected)); // O_DIRECT | O_LARGEFILE
  });

  it.each([
    ['a file for writing', FIRST, 1, EROFS],
    ['a file for reading and writing', FIRST, 2, EROFS],
    ['a directory', ROOT, 0, EISDIR],
    ['a node that is not there', 99, 0, ENOENT],
  ])('refuses to open %s', (_, node, mode, error) => {
    expect(answer(request(OPEN, node, flags(mode)))).toEqual(failed(error));
  });

  it('opens the root as a directory, its listing kept', () => {
    const expected = Buffer.concat([u64(0), u32(10), u32(0)]); // fh, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR
    expect(answer(request(OPENDIR, ROOT, flags(0)))).toEqual(got(expected));
  });

  it('opens nothing else as a directory', () => {
    expect(answer(request(OPENDIR, FIRST, flags(0)))).toEqual(failed(ENOTDIR));
    expect(answer(request(OPENDIR, 99, flags(0)))).toEqual(failed(ENOENT));
  });
});

describe('READ', () => {
  const read = (at: number | bigint, size: number, fh = FIRST): Reply =>
    answer(request(READ, FIRST, readIn(fh, at, size)));

  it.each([
    [0, 4096],
    [0, 10_000],
    [1, 1],
    [4095, 4098],
    [9_999, 1],
    [10_000, 0],
    [0, 0],
  ])('reads from %i, %i bytes', (at, size) => {
    expect(read(at, size)).toEqual(got(CONTENT.subarray(at, at + size)));
  });

  it('is short at the end and empty past it', () => {
    expect(read(9_000, 4096)).toEqual(got(CONTENT.subarray(9_000)));
    for (const at of [10_000, 10_001, 2 ** 32, 2 ** 52, 2n ** 63n, 2n ** 64n - 1n]) {
      expect(read(at, 4096)).toEqual(got(Buffer.alloc(0)));
    }
  });

  it('reads no more than a request may ask for', () => {
    const large = new Responder(trees.fileSystem([{ name: 'a', content: Buffer.alloc(1), size: 3 << 20 }]));
    for (const size of [2 << 20, 0xffffffff]) {
      expect(ask(large, request(READ, FIRST, readIn(FIRST, 0, size)))?.payload.length).toBe(1 << 20);
    }
  });

  it('refuses a handle that is not open', () => {
    for (const fh of [0, 1, 4, 2 ** 32 + 2]) expect(read(0, 100, fh)).toEqual(failed(EBADF));
  });
});

describe('beyond 4 GiB', () => {
  const at = 2 ** 32 + 2 ** 20;
  const far = new Responder(trees.fileSystem([{ name: 'far.raw', content: CONTENT, at, size: 2 ** 33 + 1 }]));

  it('reads with all 64 bits of the offset', () => {
    expect(ask(far, request(READ, FIRST, readIn(FIRST, at + 5, 100)))).toEqual(got(CONTENT.subarray(5, 105)));
    expect(ask(far, request(READ, FIRST, readIn(FIRST, 2 ** 20 + 5, 100)))).toEqual(got(Buffer.alloc(100)));
    expect(ask(far, request(READ, FIRST, readIn(FIRST, 2 ** 33, 100)))).toEqual(got(Buffer.alloc(1)));
  });

  it('tells the size with all 64 bits', () => {
    const reply = ask(far, request(GETATTR, FIRST, Buffer.alloc(16)));
    expect(reply?.payload.readBigUInt64LE(24)).toBe(2n ** 33n + 1n);
  });

  it('reads with the root as the file', () => {
    const alone = new Responder(trees.fileSystem([{ name: 'x', content: CONTENT, at }], { shape: 'file' }));
    expect(ask(alone, request(READ, ROOT, readIn(ROOT, at, 9)))).toEqual(got(CONTENT.subarray(0, 9)));
    expect(ask(alone, request(GETATTR, ROOT, Buffer.alloc(16)))?.payload.readUInt32LE(76)).toBe(0o100444);
    expect(ask(alone, request(OPENDIR, ROOT, Buffer.alloc(8)))).toEqual(failed(ENOTDIR));
    expect(ask(alone, request(LOOKUP, ROOT, name('x')))).toEqual(failed(ENOTDIR));
  });
});

describe('STATFS', () => {
  it('adds up the disks, nothing free', () => {
    const expected = Buffer.concat([
      u64(3), // blocks: 10100 bytes
      u64(0), // bfree
      u64(0), // bavail
      u64(2), // files
      u64(0), // ffree
      u32(4096), // bsize
      u32(255), // namelen
      u32(4096), // frsize
      Buffer.alloc(28), // padding, spare
    ]);
    expect(answer(request(STATFS, ROOT))).toEqual(got(expected));
  });
});

describe('ACCESS', () => {
  it.each([
    ['reading a file', FIRST, 4, 0],
    ['its existence', FIRST, 0, 0],
    ['writing a file', FIRST, 2, EROFS],
    ['running a file', FIRST, 1, EACCES],
    ['searching the root', ROOT, 5, 0],
    ['writing the root', ROOT, 2, EROFS],
    ['a node that is not there', 99, 4, ENOENT],
  ])('answers for %s', (_, node, mask, error) => {
    const body = Buffer.concat([u32(mask), u32(0)]); // mask, padding
    expect(answer(request(ACCESS, node, body))).toEqual(failed(error));
  });
});

describe('GETXATTR and LISTXATTR', () => {
  const get = (attribute: string, room: number, node = FIRST): Reply =>
    answer(request(GETXATTR, node, Buffer.concat([u32(room), u32(0), name(attribute)]))); // size, padding, name
  const list = (room: number, node = FIRST): Reply =>
    answer(request(LISTXATTR, node, Buffer.concat([u32(room), u32(0)])));
  /** fuse_getxattr_out */
  const sized = (size: number): Reply => got(Buffer.concat([u32(size), u32(0)]));

  it('gives a value where it fits', () => {
    expect(get('user.vdisk.format', 3)).toEqual(got(Buffer.from('raw')));
    expect(get('user.vdisk.format', 65_536)).toEqual(got(Buffer.from('raw')));
    expect(get('user.vdisk.source', 100)).toEqual(got(Buffer.from('/ä', 'utf8')));
  });

  it('gives the size where no room is offered', () => {
    expect(get('user.vdisk.format', 0)).toEqual(sized(3));
    expect(get('user.vdisk.source', 0)).toEqual(sized(3));
    expect(get('user.vdisk.large', 0)).toEqual(sized(65_536));
  });

  it('refuses a value that does not fit', () => {
    expect(get('user.vdisk.format', 2)).toEqual(failed(ERANGE));
    expect(get('user.vdisk.large', 65_535)).toEqual(failed(ERANGE));
    expect(get('user.vdisk.larger', 0)).toEqual(failed(E2BIG));
    expect(get('user.vdisk.larger', 100_000)).toEqual(failed(E2BIG));
  });

  it('says what is not there', () => {
    expect(get('user.vdisk.other', 100)).toEqual(failed(ENODATA));
    expect(get('user.vdisk.format', 100, ROOT)).toEqual(failed(ENODATA));
    expect(get('', 100)).toEqual(failed(ENODATA));
  });

  it('refuses a name without a NUL', () => {
    const body = Buffer.concat([u32(100), u32(0), Buffer.from('user.vdisk.format')]);
    expect(answer(request(GETXATTR, FIRST, body))).toEqual(failed(EINVAL));
  });

  it('lists the names, each with its NUL', () => {
    const names = 'user.vdisk.format\0user.vdisk.large\0user.vdisk.larger\0user.vdisk.source\0';
    expect(list(names.length)).toEqual(got(Buffer.from(names)));
    expect(list(0)).toEqual(sized(names.length));
    expect(list(names.length - 1)).toEqual(failed(ERANGE));
    expect(list(100, ROOT)).toEqual(got(Buffer.alloc(0)));
    expect(list(0, ROOT)).toEqual(sized(0));
  });
});
