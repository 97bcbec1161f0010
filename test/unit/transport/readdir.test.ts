/** READDIR and READDIRPLUS as bytes: cookies, sizes that hold little, entries that do not fit. */

import { afterAll, describe, expect, it } from 'vitest';
import { Responder } from '../../../src/transport/kernel/responder.ts';
import { ask, readIn, request, Trees, u32, u64 } from './support.ts';

const READDIR = 28;
const READDIRPLUS = 44;
const NAMES = ['a.raw', 'a name of 23 bytes.raw!', 'ä', 'x'.repeat(255)];

const trees = new Trees();
afterAll(() => trees.close());
const responder = new Responder(
  trees.fileSystem(NAMES.map((name, index) => ({ name, content: Buffer.alloc(index + 1) }))),
);

interface Entry {
  readonly name: string;
  readonly node: number;
  readonly cookie: number;
  readonly type: number;
  /** st_size in the fuse_entry_out before it; READDIRPLUS only, undefined where there is no node in it. */
  readonly size?: number | undefined;
}

/** The entries in a payload. Fails where they do not fill it exactly. */
function decode(payload: Buffer, plus: boolean): Entry[] {
  const entries: Entry[] = [];
  let at = 0;
  while (at < payload.length) {
    const dirent = at + (plus ? 128 : 0);
    const length = payload.readUInt32LE(dirent + 16);
    const entry = {
      node: Number(payload.readBigUInt64LE(dirent)),
      cookie: Number(payload.readBigUInt64LE(dirent + 8)),
      type: payload.readUInt32LE(dirent + 20),
      name: payload.toString('utf8', dirent + 24, dirent + 24 + length),
    };
    const inNode = plus ? Number(payload.readBigUInt64LE(at)) : 0;
    const size = inNode === 0 ? undefined : Number(payload.readBigUInt64LE(at + 40 + 8));
    if (inNode !== 0) expect(inNode).toBe(entry.node);
    entries.push(plus ? { ...entry, size } : entry);
    const end = dirent + 24 + length;
    at = end + ((8 - (length % 8)) % 8);
    expect(payload.subarray(end, at).every((byte) => byte === 0)).toBe(true);
  }
  expect(at).toBe(payload.length);
  return entries;
}

function list(cookie: number, size: number, plus = false): Entry[] {
  // What was in the buffer must not show through in padding or unused fields.
  responder.reply.bytes.fill(0xaa);
  const reply = ask(responder, request(plus ? READDIRPLUS : READDIR, 1, readIn(0, cookie, size)))!;
  expect(reply.error).toBe(0);
  expect(reply.payload.length).toBeLessThanOrEqual(size);
  return decode(reply.payload, plus);
}

/** Everything, in steps of `size` bytes. Fails where it does not come to an end. */
function listInSteps(size: number, plus = false): Entry[] {
  const found: Entry[] = [];
  for (let steps = 0; steps < 100; steps += 1) {
    const step = list(found.at(-1)?.cookie ?? 0, size, plus);
    if (step.length === 0) return found;
    found.push(...step);
  }
  throw new Error('the listing does not end');
}

const ALL: Entry[] = [
  { name: '.', node: 1, cookie: 1, type: 4 },
  { name: '..', node: 1, cookie: 2, type: 4 },
  ...NAMES.map((name, index) => ({ name, node: index + 2, cookie: index + 3, type: 8 })),
];
const ALL_PLUS = ALL.map((entry) => ({ ...entry, size: entry.type === 4 ? undefined : entry.node - 1 }));

describe('READDIR', () => {
  it('lays an entry out as fuse_dirent', () => {
    const reply = ask(responder, request(READDIR, 1, readIn(0, 3, 72)))!;
    const expected = Buffer.concat([
      u64(3), // ino
      u64(4), // off: the next cookie
      u32(23), // namelen
      u32(8), // type: DT_REG
      Buffer.from('a name of 23 bytes.raw!\0'), // padded to 8
    ]);
    expect(reply.payload.subarray(0, 48)).toEqual(expected);
  });

  it('lists everything', () => {
    expect(list(0, 4096)).toEqual(ALL);
    expect(list(0, 1 << 20)).toEqual(ALL);
    expect(list(0, 0xffffffff)).toEqual(ALL);
  });

  it.each(ALL.map((entry) => entry.cookie))('goes on from cookie %i', (cookie) => {
    expect(list(cookie, 4096)).toEqual(ALL.slice(cookie));
  });

  it('is at its end past the last cookie', () => {
    for (const cookie of [6, 7, 1000, 2 ** 32, 2 ** 40]) expect(list(cookie, 4096)).toEqual([]);
  });

  it('gives whole entries only', () => {
    expect(list(0, 0)).toEqual([]);
    expect(list(0, 31)).toEqual([]);
    expect(list(0, 32)).toEqual(ALL.slice(0, 1));
    expect(list(0, 63)).toEqual(ALL.slice(0, 1));
    expect(list(0, 64)).toEqual(ALL.slice(0, 2));
    // 24 + 255 bytes, padded to 280.
    expect(list(5, 279)).toEqual([]);
    expect(list(5, 280)).toEqual(ALL.slice(5));
  });

  it.each([280, 300, 512])('comes to its end in steps of %i bytes', (size) => {
    expect(listInSteps(size)).toEqual(ALL);
  });
});

describe('READDIRPLUS', () => {
  it('adds the attributes of the files', () => {
    expect(list(0, 4096, true)).toEqual(ALL_PLUS);
  });

  it('gives whole entries only', () => {
    expect(list(0, 159, true)).toEqual([]);
    expect(list(0, 160, true)).toEqual(ALL_PLUS.slice(0, 1));
    expect(list(2, 160, true)).toEqual(ALL_PLUS.slice(2, 3));
    expect(list(2, 335, true)).toEqual(ALL_PLUS.slice(2, 3));
    expect(list(2, 336, true)).toEqual(ALL_PLUS.slice(2, 4));
  });

  it('comes to its end in small steps', () => {
    expect(listInSteps(408, true)).toEqual(ALL_PLUS);
  });
});
