/** Windows of a file as files beside it: through the protocol, as bytes. */

import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { FileSystem } from '../../../src/fuse/filesystem.ts';
import type { TreeSeed } from '../../../src/fuse/tree.ts';
import { Responder } from '../../../src/transport/kernel/responder.ts';
import { ask, name, readIn, request, Trees, u32, u64 } from './support.ts';

const [LOOKUP, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, GETXATTR, READDIR] = [
  1, 3, 4, 14, 15, 16, 17, 22, 28,
];
const ROOT = 1;
/** Nodes: two files, then the windows, both of the second. */
const [ALONE, WHOLE, FIRST, SECOND] = [2, 3, 4, 5];
const ENOSPC = -28;
const EFBIG = -27;
const DIRECT_IO = 1 << 0;
const KEEP_CACHE = 1 << 1;
const PARALLEL = 1 << 6;
const SIZE = 64 * 1024;

const trees = new Trees();
afterAll(() => trees.close());

function seed(writable: boolean): TreeSeed {
  const content = Buffer.from(Array.from({ length: SIZE }, (_, at) => (at >> 8) + 1));
  const windows = [
    { name: 'disk.p1', of: 1, start: 4096, size: 8192, attributes: [['user.vdisk.number', '1']] },
    { name: 'disk.p2', of: 1, start: 16384, size: 1000, attributes: [] },
  ] as const;
  return trees.seed(
    [
      { name: 'alone.raw', content: Buffer.alloc(512), writable },
      { name: 'disk.raw', content, writable },
    ],
    { windows },
  );
}

let tree: TreeSeed;
let responder: Responder;
beforeEach(() => {
  tree = seed(true);
  responder = new Responder(trees.attach(tree));
});

const read = (node: number, at: number, length: number): Buffer =>
  ask(responder, request(READ, node, readIn(node, at, length)))!.payload;

function write(node: number, at: number, bytes: Buffer): number {
  const body = Buffer.concat([u64(node), u64(at), u32(bytes.length), u32(0), u64(0), u32(0), u32(0), bytes]);
  const { error, payload } = ask(responder, request(WRITE, node, body))!;
  return error === 0 ? payload.readUInt32LE(0) : error;
}

function truncate(node: number, size: number): number {
  const body = Buffer.alloc(88);
  body.writeUInt32LE(8, 0);
  body.writeBigUInt64LE(BigInt(size), 16);
  return ask(responder, request(SETATTR, node, body))!.error;
}

/** fuse_attr: size, blocks, and the modification time in s. */
function attributes(node: number) {
  const { payload } = ask(responder, request(GETATTR, node, Buffer.alloc(16)))!;
  const u64At = (at: number): number => Number(payload.readBigUInt64LE(16 + at));
  return { ino: u64At(0), size: u64At(8), blocks: u64At(16), mtime: u64At(32) };
}

describe('windows of a file', () => {
  it('are found and listed behind the files', () => {
    const found = ask(responder, request(LOOKUP, ROOT, name('disk.p2')))!.payload;
    expect(Number(found.readBigUInt64LE(0))).toBe(SECOND);
    const listing = ask(responder, request(READDIR, ROOT, readIn(0, 0, 4096)))!.payload.toString('latin1');
    for (const text of ['alone.raw', 'disk.raw', 'disk.p1', 'disk.p2']) expect(listing).toContain(text);
  });

  it('read and write their part of it, in both directions', () => {
    expect(read(FIRST, 100, 3)).toEqual(read(WHOLE, 4196, 3));
    expect(write(FIRST, 100, Buffer.from('one'))).toBe(3);
    expect(read(WHOLE, 4196, 3).toString()).toBe('one');
    expect(write(WHOLE, 16384 + 5, Buffer.from('two'))).toBe(3);
    expect(read(SECOND, 5, 3).toString()).toBe('two');
    expect(read(FIRST, 8190, 100)).toHaveLength(2);
  });

  it('have no room behind their end', () => {
    const behind = read(WHOLE, 17384, 100);
    expect(write(SECOND, 990, Buffer.alloc(50, 0xaa))).toBe(10);
    expect(write(SECOND, 1000, Buffer.alloc(50, 0xaa))).toBe(ENOSPC);
    expect(truncate(SECOND, 1001)).toBe(EFBIG);
    expect(read(WHOLE, 17384, 100)).toEqual(behind);
  });

  it('cut short read as zeros from there to their end, and the disk behind them as before', () => {
    const behind = read(WHOLE, 12288, 100);
    expect(truncate(FIRST, 50)).toBe(0);
    expect(attributes(FIRST).size).toBe(8192);
    expect(read(FIRST, 50, 8192).every((byte) => byte === 0)).toBe(true);
    expect(read(FIRST, 49, 1)[0]).not.toBe(0);
    expect(read(WHOLE, 12288, 100)).toEqual(behind);
  });

  it('have sizes and attributes of their own, and the times of the disk', () => {
    // 1000 bytes are allocated of each file.
    expect(attributes(FIRST)).toMatchObject({ ino: FIRST, size: 8192, blocks: 2 });
    new Float64Array(tree.allocated)[1] = SIZE;
    expect([attributes(FIRST).blocks, attributes(SECOND).blocks, attributes(WHOLE).blocks]).toEqual([
      16, 2, 128,
    ]);
    write(FIRST, 0, Buffer.from('x'));
    const { mtime } = attributes(FIRST);
    expect(mtime).toBeGreaterThan(Date.now() / 1000 - 60);
    expect([attributes(WHOLE).mtime, attributes(SECOND).mtime]).toEqual([mtime, mtime]);
    expect(attributes(ALONE).mtime).not.toBe(mtime);
    const value = (node: number) =>
      ask(responder, request(GETXATTR, node, Buffer.concat([u32(100), u32(0), name('user.vdisk.number')])))!;
    expect(value(FIRST).payload.toString()).toBe('1');
    expect(value(WHOLE).error).not.toBe(0);
  });

  it('are counted for themselves, but their bytes only once', () => {
    const { payload } = ask(responder, request(STATFS, ROOT))!;
    expect(Number(payload.readBigUInt64LE(0))).toBe(Math.ceil((SIZE + 512) / 4096));
    expect(Number(payload.readBigUInt64LE(24))).toBe(4);
    read(FIRST, 0, 10);
    const stats = (node: number) => JSON.parse(responder.fs.attribute(node, 'user.vdisk.stats')!);
    expect([stats(FIRST).reads, stats(WHOLE).reads]).toEqual([1, 0]);
  });
});

describe('files that share a disk', () => {
  const flags = (asked: Responder, node: number, mode: number): number =>
    ask(asked, request(OPEN, node, Buffer.concat([u32(mode), u32(0)])))!.payload.readUInt32LE(8);

  it('are opened past the page cache, all of them, for reading too', () => {
    for (const node of [WHOLE, FIRST, SECOND]) {
      expect(flags(responder, node, 0)).toBe(DIRECT_IO);
      expect(flags(responder, node, 2)).toBe(DIRECT_IO | PARALLEL);
    }
    expect(flags(responder, ALONE, 0)).toBe(KEEP_CACHE);
    expect(flags(responder, ALONE, 2)).toBe(KEEP_CACHE | PARALLEL);
  });

  it('keep their page cache where nobody writes', () => {
    const closed = new Responder(new FileSystem(seed(false), () => {}, 0));
    for (const node of [ALONE, WHOLE, FIRST]) expect(flags(closed, node, 0)).toBe(KEEP_CACHE);
  });
});
