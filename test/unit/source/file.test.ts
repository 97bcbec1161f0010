/** Files as sources: reads and holes against a model, and what openFile says of what it cannot open. */

import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { EBADF, EINVAL, ENOSPC } from '../../../src/base/errno.ts';
import { ImageError } from '../../../src/base/errors.ts';
import { type HostOffset, hostOffset } from '../../../src/base/units.ts';
import { attachSource, type FileSource, openFile } from '../../../src/source/file.ts';
import { haveSyscalls } from '../../../src/source/syscalls.ts';
import { between, random, randomBytes } from '../../support/random.ts';

const UNIT = 65_536;
const UNITS = 24;
/** Not a whole number of units, nor of sectors. */
const SIZE = UNITS * UNIT + 1234;

let folder = '';
let path = '';
const model = new Uint8Array(SIZE);
const written: boolean[] = [];
let source: FileSource;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-file-'));
  path = join(folder, 'sparse.img');
  const next = random(42);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, SIZE);
  for (let unit = 0; unit < UNITS; unit += 1) {
    written.push(unit !== 0 && unit !== 5 && (unit === 1 || unit === 4 || next() < 0.5));
    if (written[unit] !== true) continue;
    const bytes = randomBytes(next, UNIT);
    model.set(bytes, unit * UNIT);
    writeSync(fd, bytes, 0, UNIT, unit * UNIT);
  }
  closeSync(fd);
  source = openFile(path);
});
afterAll(() => {
  source.close();
  rmSync(folder, { recursive: true, force: true });
});

describe('reading', () => {
  test('says its path, its size and what it takes', () => {
    expect([source.label, source.size]).toEqual([path, SIZE]);
    const blocks = Number(execFileSync('stat', ['-c', '%b', path], { encoding: 'ascii' }));
    expect(source.allocated).toBe(blocks * 512);
    expect(source.allocated).toBeLessThan(SIZE);
  });

  test('any range, also over the end', () => {
    const next = random(7);
    for (let round = 0; round < 500; round += 1) {
      const at = between(next, 0, SIZE + 1000);
      const length = between(next, 0, 150_000);
      const start = between(next, 0, 100);
      const target = Buffer.alloc(start + length + 50, 0xcc);
      const wanted = Buffer.alloc(target.length, 0xcc);
      const piece = model.subarray(at, at + length);
      wanted.set(piece, start);
      expect(source.readAt(target, start, length, hostOffset(at))).toBe(piece.length);
      expect(target.equals(wanted)).toBe(true);
    }
  });

  test('another thread attaches to a clone of what is shared', () => {
    const other = attachSource(structuredClone(source.share()));
    expect([other.label, other.size, other.allocated]).toEqual([source.label, SIZE, source.allocated]);
    const target = new Uint8Array(100);
    expect(other.readAt(target, 0, 100, hostOffset(UNIT))).toBe(100);
    expect(target).toEqual(model.subarray(UNIT, UNIT + 100));
  });

  test('-errno where the descriptor is gone', () => {
    const size = new SharedArrayBuffer(8);
    const gone = attachSource({
      kind: 'file',
      fd: 1_000_000,
      label: 'gone',
      writable: false,
      device: false,
      size,
    });
    expect(gone.readAt(new Uint8Array(10), 0, 10, hostOffset(0))).toBe(-EBADF);
  });

  test('a file that became shorter gives what is left', () => {
    const shorter = join(folder, 'shorter.img');
    writeFileSync(shorter, model.subarray(UNIT, UNIT + 1000));
    const opened = openFile(shorter);
    truncateSync(shorter, 300);
    const target = new Uint8Array(1000);
    expect(opened.size).toBe(1000);
    expect(opened.readAt(target, 0, 1000, hostOffset(0))).toBe(300);
    opened.close();
  });

  test('through a symbolic link; an empty file', () => {
    const link = join(folder, 'link.img');
    symlinkSync(path, link);
    const linked = openFile(link);
    expect([linked.label, linked.size]).toEqual([link, SIZE]);
    linked.close();
    writeFileSync(join(folder, 'empty.img'), '');
    const empty = openFile(join(folder, 'empty.img'));
    expect([empty.size, empty.allocated]).toEqual([0, 0]);
    expect(empty.readAt(new Uint8Array(1), 0, 1, hostOffset(0))).toBe(0);
    expect([empty.nextData(hostOffset(0)), empty.nextHole(hostOffset(0))]).toEqual([0, 0]);
    empty.close();
  });
});

describe.skipIf(!haveSyscalls())('holes (needs koffi)', () => {
  /** The first offset from `at` on in a unit that is (not) written; the tail past the last unit is not. */
  function expected(at: number, data: boolean): number {
    for (let unit = Math.floor(at / UNIT); unit < UNITS; unit += 1) {
      if (written[unit] === data) return Math.max(at, unit * UNIT);
    }
    return data ? SIZE : Math.min(SIZE, Math.max(at, UNITS * UNIT));
  }

  test('are those that were never written', () => {
    const next = random(3);
    const places = [0, 1, UNIT - 1, UNIT, SIZE - 1];
    for (let round = 0; round < 300; round += 1) places.push(between(next, 0, SIZE - 1));
    for (let unit = 0; unit < UNITS; unit += 1) places.push(unit * UNIT);
    for (const at of places) {
      expect([at, source.nextData(at as HostOffset)]).toEqual([at, expected(at, true)]);
      expect([at, source.nextHole(at as HostOffset)]).toEqual([at, expected(at, false)]);
    }
  });

  test('at and past the end: the size', () => {
    for (const at of [SIZE, SIZE + 1, 2 ** 52]) {
      expect([source.nextData(hostOffset(at)), source.nextHole(hostOffset(at))]).toEqual([SIZE, SIZE]);
    }
  });

  test('above 4 GiB', () => {
    const large = join(folder, 'large.img');
    const fd = openSync(large, 'w');
    const at = 2 ** 40 + UNIT;
    ftruncateSync(fd, 2 ** 41);
    writeSync(fd, new Uint8Array(UNIT).fill(1), 0, UNIT, at);
    closeSync(fd);
    const opened = openFile(large);
    expect(opened.nextData(hostOffset(0))).toBe(at);
    expect(opened.nextData(hostOffset(at + 5))).toBe(at + 5);
    expect(opened.nextHole(hostOffset(at))).toBe(at + UNIT);
    expect(opened.nextData(hostOffset(at + UNIT))).toBe(2 ** 41);
    opened.close();
  });
});

describe('writing', () => {
  const syscalls = haveSyscalls();
  let target: FileSource;
  let name = '';
  let count = 0;
  beforeEach(() => {
    count += 1;
    name = join(folder, `written-${count}.img`);
    writeFileSync(name, model.subarray(UNIT, 3 * UNIT));
    target = openFile(name, 'write');
  });
  afterEach(() => target.close());
  const size = () => statSync(name).size;

  test('any range like an array, growing behind the end, through both ways of moving bytes', () => {
    for (const source of [target, attachSource(target.share())]) {
      const next = random(11);
      let expected = readFileSync(name);
      for (let round = 0; round < 300; round += 1) {
        const bytes = randomBytes(next, between(next, 1, next() < 0.5 ? 700 : 20_000));
        const start = between(next, 0, bytes.length - 1);
        const length = between(next, 0, bytes.length - start);
        const at = between(next, 0, expected.length + (next() < 0.1 ? 3000 : 0));
        expect(source.writeAt(bytes, start, length, hostOffset(at), 'payload.write')).toBe(0);
        if (length > 0 && at + length > expected.length) {
          expected = Buffer.concat([expected, Buffer.alloc(at + length - expected.length)]);
        }
        expected.set(bytes.subarray(start, start + length), at);
        expect(source.size).toBe(expected.length);
      }
      expect(Buffer.compare(readFileSync(name), expected)).toBe(0);
    }
  });

  test('sizes: every thread sees them; a smaller one forgets what was behind', () => {
    const other = attachSource(target.share());
    expect(target.setSize(5 * UNIT)).toBe(0);
    expect([other.size, size()]).toEqual([5 * UNIT, 5 * UNIT]);
    expect(other.setSize(1000)).toBe(0);
    expect([target.size, size()]).toEqual([1000, 1000]);
    expect(target.setSize(2000)).toBe(0);
    const bytes = new Uint8Array(2000);
    expect(other.readAt(bytes, 0, 2000, hostOffset(0))).toBe(2000);
    expect(bytes.subarray(1000).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(0, 1000)).toEqual(model.subarray(UNIT, UNIT + 1000));
  });

  test.each(['punch', 'keep'] as const)('zeros (%s) inside the file only', (how) => {
    const expected = readFileSync(name);
    const next = random(12);
    for (let round = 0; round < 60; round += 1) {
      const at = between(next, 0, 2 * UNIT + 500);
      const length = between(next, 0, 30_000);
      expect(target.zero(hostOffset(at), length, how, 'payload.zero')).toBe(0);
      expected.fill(0, Math.min(at, expected.length), Math.min(at + length, expected.length));
      if (round % 3 === 0) {
        const bytes = randomBytes(next, 5000);
        const to = between(next, 0, 2 * UNIT - 5000);
        target.writeAt(bytes, 0, 5000, hostOffset(to), 'payload.write');
        expected.set(bytes, to);
      }
    }
    expect(Buffer.compare(readFileSync(name), expected)).toBe(0);
    expect([target.size, size()]).toEqual([2 * UNIT, 2 * UNIT]);
  });

  test.skipIf(!syscalls)('punching gives space back, keeping does not (needs koffi)', () => {
    target.flush();
    const before = target.allocated;
    expect(target.zero(hostOffset(0), UNIT, 'keep', 'payload.zero')).toBe(0);
    expect(target.allocated).toBe(before);
    expect(target.zero(hostOffset(0), UNIT, 'punch', 'payload.zero')).toBe(0);
    expect(target.allocated).toBe(before - UNIT);
    expect(target.nextData(hostOffset(0))).toBe(UNIT);
  });

  test('flush; a source opened for reading refuses the rest', () => {
    expect(target.flush()).toBe(0);
    expect([target.writable, source.writable]).toEqual([true, false]);
    const before = readFileSync(path);
    expect(source.writeAt(new Uint8Array(1), 0, 1, hostOffset(0), 'payload.write')).toBe(-EBADF);
    expect(source.zero(hostOffset(0), 1, 'punch', 'payload.zero')).toBe(-EBADF);
    expect(source.setSize(1)).toBe(-EBADF);
    expect(Buffer.compare(readFileSync(path), before)).toBe(0);
  });

  test('-errno from the host, without an exception', () => {
    const gone = attachSource({ ...target.share(), fd: 1_000_000 });
    const bytes = new Uint8Array(5000);
    for (const length of [10, 5000]) {
      expect(gone.writeAt(bytes.subarray(0, length), 0, length, hostOffset(0), 'payload.write')).toBe(-EBADF);
    }
    expect([gone.setSize(1), gone.flush(), gone.zero(hostOffset(0), 1, 'punch', 'payload.zero')]).toEqual([
      -EBADF,
      -EBADF,
      syscalls ? -EBADF : expect.any(Number),
    ]);
    // What did not happen changed no size.
    expect(target.size).toBe(2 * UNIT);
  });

  test.skipIf(!existsSync('/dev/full'))('a full medium is ENOSPC (needs /dev/full)', () => {
    const fd = openSync('/dev/full', 'w');
    try {
      const full = attachSource({ ...target.share(), fd });
      const bytes = new Uint8Array(5000);
      expect(full.writeAt(bytes, 0, 5000, hostOffset(0), 'payload.write')).toBe(-ENOSPC);
      expect(full.writeAt(bytes.subarray(0, 10), 0, 10, hostOffset(0), 'payload.write')).toBe(-ENOSPC);
    } finally {
      closeSync(fd);
    }
  });

  test('a block device keeps its size', () => {
    const device = attachSource({ ...target.share(), device: true });
    expect([device.setSize(2 * UNIT), device.setSize(UNIT), device.setSize(3 * UNIT)]).toEqual([
      0,
      -EINVAL,
      -EINVAL,
    ]);
    expect(size()).toBe(2 * UNIT);
  });
});

describe('openFile refuses', () => {
  function refusal(of: string): ImageError {
    try {
      openFile(of).close();
    } catch (problem) {
      if (problem instanceof ImageError) return problem;
      throw problem;
    }
    throw new Error('it was opened');
  }

  test('what does not exist', () => {
    const missing = join(folder, 'missing.img');
    expect(refusal(missing)).toMatchObject({ kind: 'usage', message: `${missing}: no such file` });
    expect(refusal(join(path, 'inside'))).toMatchObject({
      kind: 'usage',
      message: expect.stringMatching(/a part of the path is not a directory/),
    });
  });

  test('a directory, with a hint', () => {
    const directory = join(folder, 'directory');
    mkdirSync(directory);
    expect(refusal(directory)).toMatchObject({
      kind: 'usage',
      message: `${directory}: is a directory, not a disk image`,
      hint: expect.any(String),
    });
  });

  test('a fifo, without waiting for a writer; a character device', () => {
    const fifo = join(folder, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const text = 'is neither a regular file nor a block device';
    expect(refusal(fifo)).toMatchObject({ kind: 'usage', message: `${fifo}: ${text}` });
    expect(refusal('/dev/null')).toMatchObject({ kind: 'usage', message: `/dev/null: ${text}` });
  });

  test('without leaving a descriptor behind', () => {
    const directory = join(folder, 'counted');
    mkdirSync(directory);
    const count = () =>
      spawnSync('ls', [`/proc/${process.pid}/fd`], { encoding: 'ascii' }).stdout.split('\n').length;
    const before = count();
    for (let round = 0; round < 20; round += 1) refusal(directory);
    expect(count()).toBeLessThan(before + 10);
  });

  test.skipIf(process.getuid?.() === 0)('what may not be read (not as root, who may read all)', () => {
    const locked = join(folder, 'locked.img');
    writeFileSync(locked, 'x');
    chmodSync(locked, 0);
    expect(refusal(locked)).toMatchObject({
      kind: 'denied',
      message: `${locked}: permission denied`,
      hint: expect.any(String),
    });
  });

  test('a chain of links without an end', () => {
    const loop = join(folder, 'loop');
    symlinkSync(loop, loop);
    expect(refusal(loop)).toMatchObject({ kind: 'io', message: expect.stringContaining(loop) });
  });
});
