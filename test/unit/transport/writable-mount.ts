/** A writable mount for the tests of what changes an image: made anew before each test. */

import { afterAll, beforeEach, expect } from 'vitest';
import { Responder } from '../../../src/transport/kernel/responder.ts';
import { ask, type Reply, request, Trees, u32, u64 } from './support.ts';

export const ROOT = 1;
/** A writable file of SIZE bytes. */
export const FILE = 2;
/** One of the same bytes that is read-only. */
export const OTHER = 3;
export const SIZE = 20_000;
export const CONTENT = Buffer.from(Array.from({ length: SIZE }, (_, at) => 1 + ((at * 7 + (at >> 8)) % 255)));

const SETATTR = 4;
const WRITE = 16;
const FALLOCATE = 43;

/** In write_flags: the kernel writes its page cache back. */
export const CACHED = 1;

export const failed = (error: number): Reply => ({ error, payload: Buffer.alloc(0) });
export const done = failed(0);

export interface WriteAsked {
  readonly fh?: number;
  /** What the header says; default: that of the bytes. */
  readonly size?: number;
  readonly writeFlags?: number;
  readonly flags?: number;
}

export function writeMessage(at: number | bigint, bytes: Buffer, asked: WriteAsked = {}): Buffer {
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

/** The reply to a WRITE of which so many bytes were written. */
export const wrote = (count: number): Reply => ({ error: 0, payload: Buffer.concat([u32(count), u32(0)]) });

export const filled = (length: number, byte = 0x5a): Buffer => Buffer.alloc(length, byte);

/** CONTENT with `bytes` in it. */
export function changed(at: number, bytes: Buffer): Buffer {
  const content = Buffer.from(CONTENT);
  bytes.copy(content, at);
  return content;
}

/** Bits of the mode of fallocate(2). */
export const KEEP_SIZE = 1;
export const PUNCH_HOLE = 2;
export const ZERO_RANGE = 16;

/** Bits of `valid` of a SETATTR. */
export const MODE = 1;
export const UID_VALID = 2;
export const GID_VALID = 4;
export const SIZE_VALID = 8;
export const ATIME = 16;
export const MTIME = 32;
export const ATIME_NOW = 128;
export const MTIME_NOW = 256;
export const CTIME = 1024;

export interface SetattrAsked {
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

function setattrMessage(asked: SetattrAsked): Buffer {
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
  return request(SETATTR, node, Buffer.concat(body));
}

/** Times of a reply with attributes: s and ns of atime, mtime, ctime. */
export function timesOf({ payload }: Reply): [number, number][] {
  return [0, 1, 2].map((n) => [
    Number(payload.readBigInt64LE(16 + 24 + n * 8)),
    payload.readUInt32LE(16 + 48 + n * 4),
  ]);
}

export class WritableMount {
  readonly trees = new Trees();
  #responder: Responder | undefined;
  /** The number of the image file of FILE; that of OTHER follows. */
  #image = 0;

  /** Mounts FILE and OTHER, from now on; `sync` as in `-o sync`. */
  start(sync = false): void {
    this.#image = this.trees.imageCount;
    const files = [
      { name: 'disk.raw', content: CONTENT, writable: true },
      { name: 'other.raw', content: CONTENT },
    ];
    this.#responder = new Responder(this.trees.fileSystem(files, { sync }));
  }

  get responder(): Responder {
    return this.#responder!;
  }

  /** The reply to `message`; fails where there is none. */
  readonly answer = (message: Buffer, to = this.responder): Reply => {
    const reply = ask(to, message);
    if (reply === undefined) throw new Error('no reply');
    return reply;
  };

  readonly write = (at: number | bigint, bytes: Buffer, asked: WriteAsked = {}): Reply =>
    this.answer(writeMessage(at, bytes, asked));

  readonly fallocate = (mode: number, at: number | bigint, length: number | bigint, fh = FILE): Reply => {
    // fh, offset, length, mode, padding
    const body = Buffer.concat([u64(fh), u64(at), u64(length), u32(mode), u32(0)]);
    return this.answer(request(FALLOCATE, fh, body));
  };

  readonly setattr = (asked: SetattrAsked, to = this.responder): Reply =>
    this.answer(setattrMessage(asked), to);

  /** Compares the image file of FILE or of OTHER, without the pains that `toEqual` takes with each byte. */
  readonly expectImage = (content: Buffer, of: typeof FILE | typeof OTHER = FILE): void => {
    const image = this.trees.image(this.#image + of - FILE);
    expect(image.compare(content), 'the image file').toBe(0);
  };
}

/** One for each test of the file that calls this. */
export function writableMount(): WritableMount {
  const mount = new WritableMount();
  beforeEach(() => mount.start());
  afterAll(() => mount.trees.close());
  return mount;
}
