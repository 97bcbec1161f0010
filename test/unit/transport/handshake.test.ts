/** FUSE_INIT as bytes: which kernels are spoken with, and what is agreed. */

import { afterAll, describe, expect, it } from 'vitest';
import {
  answerInit as answer,
  type InitVerdict,
  type MountUse,
  useOf,
} from '../../../src/transport/kernel/handshake.ts';
import { decodeReply, request, type TreeOptions, Trees, u32 } from './support.ts';

const READ_ONLY: MountUse = { writable: false, cached: false, direct: false };
const answerInit = (request: Buffer, use: MountUse = READ_ONLY): InitVerdict => answer(request, use);

const INIT = 26;
const EPROTO = -71;

const ASYNC_READ = 1 << 0;
const POSIX_LOCKS = 1 << 1;
const BIG_WRITES = 1 << 5;
const DO_READDIRPLUS = 1 << 13;
const READDIRPLUS_AUTO = 1 << 14;
const ASYNC_DIO = 1 << 15;
const WRITEBACK_CACHE = 1 << 16;
const PARALLEL_DIROPS = 1 << 18;
const MAX_PAGES = 1 << 22;
const EXPLICIT_INVAL_DATA = 1 << 25;
const HANDLE_KILLPRIV_V2 = 1 << 28;
const INIT_EXT = 1 << 30;
/** In the second word. */
const DIRECT_IO_ALLOW_MMAP = 1 << 4;
const USED = [
  ASYNC_READ,
  DO_READDIRPLUS,
  READDIRPLUS_AUTO,
  ASYNC_DIO,
  PARALLEL_DIROPS,
  MAX_PAGES,
  EXPLICIT_INVAL_DATA,
].reduce((all, flag) => all | flag);

/** An INIT request: fuse_init_in of 16 bytes, or of 64 from 7.36 on. */
function init(
  major: number,
  minor: number,
  flags: number,
  bodyBytes = minor >= 36 ? 64 : 16,
  flags2 = 0x7fffffff,
): Buffer {
  const body = Buffer.concat([
    u32(major), // major
    u32(minor), // minor
    u32(131_072), // max_readahead
    u32(flags), // flags
    u32(flags2), // flags2
    Buffer.alloc(44, 0xee), // unused
  ]);
  return request(INIT, 0, body.subarray(0, bodyBytes));
}

interface Agreed {
  readonly major: number;
  readonly minor: number;
  readonly maxReadahead: number;
  readonly flags: number;
  readonly maxWrite: number;
  readonly flags2: number;
}

/** The fuse_init_out of an answer. Checks the parts that are always the same. */
function agreed({ reply }: InitVerdict): Agreed {
  const { error, payload } = decodeReply(reply);
  expect(error).toBe(0);
  expect(payload.length).toBe(64);
  expect(payload.readUInt16LE(16), 'max_background').toBe(64);
  expect(payload.readUInt16LE(18), 'congestion_threshold').toBe(48);
  expect(payload.readUInt32LE(24), 'time_gran').toBe(1);
  expect(payload.readUInt16LE(28), 'max_pages').toBe(256);
  expect(
    [payload.subarray(30, 32), payload.subarray(36)].flatMap((part) => [...part]).every((byte) => byte === 0),
    'the rest',
  ).toBe(true);
  return {
    major: payload.readUInt32LE(0),
    minor: payload.readUInt32LE(4),
    maxReadahead: payload.readUInt32LE(8),
    flags: payload.readUInt32LE(12) | 0,
    maxWrite: payload.readUInt32LE(20),
    flags2: payload.readUInt32LE(32),
  };
}

describe('answerInit', () => {
  it.each([
    [31, 31],
    [32, 32],
    [36, 36],
    [38, 38],
    [39, 38],
    [45, 38],
    [4000, 38],
  ])('agrees with a kernel that speaks 7.%i on 7.%i', (kernel, minor) => {
    const answer = answerInit(init(7, kernel, -1));
    expect(answer).toMatchObject({ verdict: 'agreed', minor });
    expect(agreed(answer)).toEqual({
      major: 7,
      minor,
      maxReadahead: 131_072,
      flags: USED,
      maxWrite: 4096,
      flags2: 0,
    });
  });

  it.each([
    ['keeps writes in the page cache', true, USED | BIG_WRITES | HANDLE_KILLPRIV_V2 | WRITEBACK_CACHE],
    ['keeps none there', false, USED | BIG_WRITES | HANDLE_KILLPRIV_V2],
  ])('for a writable mount takes 1 MiB at once, and %s', (_, cached, flags) => {
    const use = { writable: true, cached, direct: false };
    expect(agreed(answerInit(init(7, 38, -1), use))).toMatchObject({ flags, maxWrite: 1 << 20 });
    expect(agreed(answerInit(init(7, 38, ASYNC_READ), use)).flags).toBe(ASYNC_READ);
  });

  it('lets files be mapped that go past the page cache, where the kernel can', () => {
    const use = { writable: true, cached: false, direct: true };
    const flags = USED | BIG_WRITES | HANDLE_KILLPRIV_V2;
    const all = agreed(answerInit(init(7, 38, -1), use));
    expect(all).toMatchObject({ flags: flags | INIT_EXT, flags2: DIRECT_IO_ALLOW_MMAP });
    expect(agreed(answerInit(init(7, 38, ~INIT_EXT), use))).toMatchObject({ flags, flags2: 0 });
    expect(agreed(answerInit(init(7, 38, -1, 64, ~DIRECT_IO_ALLOW_MMAP), use))).toMatchObject({
      flags,
      flags2: 0,
    });
    // Of a kernel that is older than the field.
    expect(agreed(answerInit(init(7, 35, -1), use))).toMatchObject({ flags, flags2: 0 });
  });

  it.each([
    ['nothing', 0, 0],
    ['what we do not use', POSIX_LOCKS | WRITEBACK_CACHE, 0],
    ['a part', ASYNC_READ | POSIX_LOCKS | MAX_PAGES, ASYNC_READ | MAX_PAGES],
    ['everything', -1, USED],
  ])('uses only what is offered, where that is %s', (_, offered, flags) => {
    expect(agreed(answerInit(init(7, 38, offered))).flags).toBe(flags);
  });

  it.each([
    [8, 0],
    [8, 45],
    [0xffffffff, 0],
  ])('asks a kernel that speaks %i.%i to ask again in our version', (major, minor) => {
    const answer = answerInit(init(major, minor, -1));
    expect(answer.verdict).toBe('again');
    // "the kernel will check the major version": it then sends a second INIT.
    expect(agreed(answer)).toMatchObject({ major: 7, minor: 38, flags: 0 });
  });

  it.each([
    [7, 30],
    [7, 0],
    [6, 99],
    [0, 31],
  ])('refuses a kernel that speaks %i.%i, and says what is needed', (major, minor) => {
    const answer = answerInit(init(major, minor, -1, 16));
    expect(answer.verdict).toBe('refused');
    if (answer.verdict !== 'refused') return;
    expect(answer.reason).toContain(`${major}.${minor}`);
    expect(answer.reason).toContain('7.31');
    expect(decodeReply(answer.reply)).toEqual({ error: EPROTO, payload: Buffer.alloc(0) });
  });

  it('refuses a body that is cut short', () => {
    for (let length = 0; length < 16; length += 1) {
      const answer = answerInit(init(7, 38, -1, length));
      expect(answer.verdict, `${length} bytes`).toBe('refused');
      if (answer.verdict === 'refused') expect(answer.reason).toContain(`${length} bytes`);
      expect(decodeReply(answer.reply).error).toBe(EPROTO);
    }
  });

  it('takes a body of any length from 16 bytes on', () => {
    for (const length of [16, 17, 20, 63, 64]) {
      expect(answerInit(init(7, 38, -1, length)).verdict, `${length} bytes`).toBe('agreed');
    }
    const longer = request(INIT, 0, Buffer.concat([init(7, 45, -1).subarray(40), Buffer.alloc(64, 0xee)]));
    expect(agreed(answerInit(longer)).flags).toBe(USED);
  });
});

describe('useOf', () => {
  const trees = new Trees();
  afterAll(() => trees.close());
  const use = (size: number, writable: boolean, options: TreeOptions): MountUse =>
    useOf(trees.seed([{ name: 'a', content: Buffer.alloc(0), size, writable }], options));

  it.each([
    ['a read-only file', 4096, false, {}, false],
    ['a writable one', 4096, true, {}, true],
    ['with sync', 4096, true, { sync: true }, false],
    ['as the root', 4096, true, { shape: 'file' }, true],
    ['as the root, of an odd size', 4095, true, { shape: 'file' }, true],
    // Its last page has one byte, which the kernel would not read again.
    ['as the root, of a page and a byte', 4097, true, { shape: 'file' }, false],
    ['as the root, of no bytes', 0, true, { shape: 'file' }, false],
  ] as const)('lets writes wait in the page cache or not: %s', (_, size, writable, options, cached) => {
    expect(use(size, writable, options)).toEqual({ writable, cached, direct: false });
  });

  it.each([true, false])(
    'keeps nothing in the page cache where files share a disk (writable: %s)',
    (writable) => {
      const windows = [{ name: 'a.p1', of: 0, start: 512, size: 512, attributes: [] }];
      expect(use(4096, writable, { windows })).toEqual({ writable, cached: false, direct: writable });
      // Files that join may.
      const { cached, direct } = use(4096, writable, { partitions: true });
      expect([cached, direct]).toEqual([false, writable]);
    },
  );
});
