/** Comparing disks: what is the same, where the first difference is, and what is not read for it. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../src/base/errno.ts';
import { hostOffset, MIB, TIB } from '../../../src/base/units.ts';
import { type CompareOptions, compareDisks } from '../../../src/disk/compare.ts';
import { Disk } from '../../../src/disk/disk.ts';
import { DATA, type ExtentKind, HOLE, ZERO } from '../../../src/image/extent.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { between, type Random, random, randomBytes } from '../../support/random.ts';
import { Script } from './script.ts';

interface Run {
  readonly kind: ExtentKind;
  readonly bytes: Uint8Array;
}

interface Made {
  readonly disk: Disk;
  readonly source: MemorySource;
  readonly files: readonly string[];
  /** Places of the file that were read. */
  readonly reads: string[];
}

let made = 0;

/** A disk of these runs, one behind the other in its file as well. */
function diskOf(runs: readonly Run[], parent?: Disk): Made {
  const bytes = Buffer.concat(runs.map((run) => run.bytes));
  const source = new MemorySource(bytes);
  const reads: string[] = [];
  const { readAt } = source;
  source.readAt = (target, start, length, host) => {
    reads.push(`${host}+${length}`);
    return readAt.call(source, target, start, length, host);
  };
  const translator = new Script();
  translator.locate = (at, _length, out) => {
    let end = 0;
    for (const run of runs) {
      end += run.bytes.length;
      if (at < end) return out.set(run.kind, run.kind === DATA ? at : 0, end - at);
    }
    return -EIO;
  };
  made += 1;
  const disk = new Disk(bytes.length, translator, source, { parent });
  return { disk, source, files: [`file ${made}`], reads };
}

const data = (bytes: Uint8Array): Run => ({ kind: DATA, bytes });
const zero = (length: number): Run => ({ kind: ZERO, bytes: new Uint8Array(length) });
const hole = (length: number): Run => ({ kind: HOLE, bytes: new Uint8Array(length) });
const some = randomBytes(random(4), 5 * MIB).map((byte) => byte || 1);

const compare = (one: Made, two: Made, options: Partial<CompareOptions> = {}) =>
  compareDisks([one, two], { strict: false, ...options });

describe('content', () => {
  test('one changed byte is found, wherever it is', () => {
    const same = diskOf([data(some)]);
    expect(compare(same, diskOf([data(some.slice())]))).toEqual({ result: 'same' });
    for (const at of [0, 1, 63, 64, 65, 4095, MIB - 1, MIB, MIB + 77, 3 * MIB + 1, some.length - 1]) {
      const other = some.slice();
      other[at]! ^= 0x80;
      // What follows must not be taken for the first.
      other[some.length - 1]! ^= 1;
      const expected = { result: 'different', what: 'content', at };
      expect(compare(same, diskOf([data(other)]))).toEqual(expected);
      expect(compare(diskOf([data(other)]), same)).toEqual(expected);
    }
  });

  test('zeros are zeros, however they are stored', () => {
    const stored = diskOf([data(some.subarray(0, 1000)), data(new Uint8Array(3000))]);
    for (const run of [zero(3000), hole(3000)]) {
      const other = diskOf([data(some.subarray(0, 1000)), run]);
      expect(compare(stored, other)).toEqual({ result: 'same' });
      expect(compare(other, stored)).toEqual({ result: 'same' });
      const dirty = new Uint8Array(3000);
      dirty[2999] = 1;
      const third = diskOf([data(some.subarray(0, 1000)), data(dirty)]);
      expect(compare(other, third)).toEqual({ result: 'different', what: 'content', at: 3999 });
    }
  });

  test('random disks: as comparing them byte by byte', () => {
    const next = random(12);
    const counts = { same: 0, different: 0 };
    for (let n = 0; n < 300; n += 1) {
      const bytes = sparseBytes(next, between(next, 0, 3000));
      const change = next() < 0.5 ? between(next, 0, bytes.length) : bytes.length;
      const cut = next() < 0.3 ? between(next, 0, bytes.length) : bytes.length;
      const other = bytes.slice(0, cut);
      if (change < cut) other[change]! ^= 1 + between(next, 0, 254);
      const padded = new Uint8Array(bytes.length);
      padded.set(other);
      const at = bytes.findIndex((byte, index) => byte !== padded[index]);
      const found = compare(diskOf(runsOf(next, bytes)), diskOf(runsOf(next, other)));
      expect(found).toEqual(at < 0 ? { result: 'same' } : { result: 'different', what: 'content', at });
      counts[found.result as 'same' | 'different'] += 1;
    }
    expect(Math.min(counts.same, counts.different)).toBeGreaterThan(50);
  });
});

/** Bytes with stretches of zeros in them. */
function sparseBytes(next: Random, length: number): Uint8Array {
  const bytes = randomBytes(next, length);
  for (let n = 0; n < 3 && length > 0; n += 1) {
    const at = between(next, 0, length - 1);
    bytes.fill(0, at, at + between(next, 0, 900));
  }
  return bytes;
}

/** The bytes in runs at random bounds; what is all zeros is of any kind. */
function runsOf(next: Random, bytes: Uint8Array): Run[] {
  const runs: Run[] = [];
  for (let at = 0; at < bytes.length; ) {
    const part = bytes.subarray(at, at + between(next, 1, 700));
    const kind = part.some((byte) => byte !== 0) ? DATA : ([DATA, ZERO, HOLE] as const)[between(next, 0, 2)]!;
    runs.push({ kind, bytes: part });
    at += part.length;
  }
  return runs;
}

describe('sizes', () => {
  test('the smaller goes on with zeros', () => {
    const small = diskOf([data(some.subarray(0, 1000))]);
    const larger = (rest: Run) => diskOf([data(some.subarray(0, 1000)), rest]);
    for (const rest of [hole(9000), zero(9000), data(new Uint8Array(9000))]) {
      expect(compare(small, larger(rest))).toEqual({ result: 'same' });
      expect(compare(larger(rest), small)).toEqual({ result: 'same' });
    }
    const dirty = new Uint8Array(9000);
    dirty[5] = 1;
    const expected = { result: 'different', what: 'content', at: 1005 };
    expect(compare(small, larger(data(dirty)))).toEqual(expected);
    expect(compare(larger(data(dirty)), small)).toEqual(expected);
    expect(compare(diskOf([]), diskOf([hole(5)]))).toEqual({ result: 'same' });
    expect(compare(diskOf([]), diskOf([]))).toEqual({ result: 'same' });
  });
});

describe('strict', () => {
  const strict = { strict: true };

  test('the size counts', () => {
    const two = [diskOf([hole(100)]), diskOf([hole(200)])] as const;
    expect(compare(...two, strict)).toEqual({ result: 'different', what: 'size', at: 100 });
    expect(compare(diskOf([hole(100)]), diskOf([hole(100)]), strict)).toEqual({ result: 'same' });
  });

  test('what is allocated counts; zeros in a hole of the file are as explicit ones', () => {
    const kinds = { hole: hole(500), zero: zero(500), data: data(new Uint8Array(500)) };
    for (const [one, first] of Object.entries(kinds)) {
      for (const [two, second] of Object.entries(kinds)) {
        const disks = [diskOf([hole(50), first]), diskOf([hole(50), second])] as const;
        expect(compare(...disks)).toEqual({ result: 'same' });
        const expected =
          one === two ? { result: 'same' } : { result: 'different', what: 'allocation', at: 50 };
        expect(compare(...disks, strict)).toEqual(expected);
      }
    }
    const sparse = diskOf([data(new Uint8Array(500))]);
    sparse.source.nextData = () => hostOffset(500);
    expect(compare(sparse, diskOf([zero(500)]), strict)).toEqual({ result: 'same' });
    expect(compare(sparse, diskOf([hole(500)]), strict)).toMatchObject({ what: 'allocation', at: 0 });
  });
});

describe('what is not read', () => {
  test('zeros in both; and where one has zeros, only the other', () => {
    const one = diskOf([hole(1000), zero(1000), data(new Uint8Array(500)), hole(50)]);
    const two = diskOf([zero(1000), hole(1000), hole(500), hole(50)]);
    expect(compare(one, two)).toEqual({ result: 'same' });
    expect([one.reads, two.reads]).toEqual([['2000+500'], []]);
  });

  test('one place of one file; another place of it, or the same of another file, is', () => {
    const base = diskOf([data(some.subarray(0, 3000))]);
    const child = (...runs: Run[]) => ({ ...diskOf(runs, base.disk), files: ['a', 'base'] });
    const one = { ...child(hole(3000)), files: ['one', 'base'] };
    const two = { ...child(hole(1000), data(some.subarray(1000, 1500)), hole(1500)), files: ['two', 'base'] };
    expect(compare(one, two)).toEqual({ result: 'same' });
    expect(base.reads).toEqual(['1000+500']);
    expect(two.reads).toEqual(['1000+500']);
    expect(compare(one, { ...two, files: ['two', 'other'] })).toEqual({ result: 'same' });
    expect(base.reads.length).toBeGreaterThan(2);
    // One file at two places of the disks.
    const shifted = (by: number) => ({
      disk: new Disk(
        2000,
        { locate: (at, _length, out) => out.set(DATA, at + by, 2000 - at) },
        new MemorySource(some),
      ),
      files: ['x'],
    });
    const at = some.findIndex((byte, index) => byte !== some[index + 1]);
    const options = { strict: false };
    expect(compareDisks([shifted(0), shifted(1)], options)).toEqual({
      result: 'different',
      what: 'content',
      at,
    });
    expect(compareDisks([shifted(1), shifted(1)], options)).toEqual({ result: 'same' });
  });

  test('zeros in both are passed over in one step, data is looked up once', () => {
    const empty = (kind: ExtentKind) => ({
      disk: new Disk(
        64 * TIB,
        { locate: (at, _length, out) => out.set(kind, 0, 64 * TIB - at) },
        new MemorySource(some),
      ),
      files: [],
    });
    let steps = 0;
    const progress = () => {
      steps += 1;
      if (steps > 10) throw new Error('too many steps');
    };
    expect(compareDisks([empty(HOLE), empty(ZERO)], { strict: false, progress })).toEqual({ result: 'same' });
    expect(steps).toBe(1);
    const one = diskOf([data(some)]);
    let asked = 0;
    one.source.nextHole = () => {
      asked += 1;
      return hostOffset(some.length);
    };
    expect(compare(one, diskOf([data(some.slice())]))).toEqual({ result: 'same' });
    expect(asked).toBe(1);
  });
});

describe('failures', () => {
  test('which of the two, where, and whether its table or its data', () => {
    const good = diskOf([data(some.subarray(0, 3000))]);
    const unread = diskOf([data(some.subarray(0, 1000)), data(some.subarray(1000, 3000))]);
    const { readAt } = unread.source;
    unread.source.readAt = (target, start, length, host) =>
      host >= 1000 ? -EIO : readAt.call(unread.source, target, start, length, host);
    const failed = { result: 'failed', doing: 'read', at: 1000, status: -EIO };
    expect(compare(good, unread)).toEqual({ ...failed, side: 1 });
    expect(compare(unread, good)).toEqual({ ...failed, side: 0 });
    const lost = diskOf([data(some.subarray(0, 1000))]);
    const longer = new Disk(
      3000,
      { locate: (at, _length, out) => (at < 1000 ? out.set(DATA, at, 1000 - at) : -EIO) },
      lost.source,
    );
    expect(compare(good, { ...lost, disk: longer })).toEqual({
      ...failed,
      doing: 'look up',
      side: 1,
    });
  });
});

test('progress goes up to all of the larger disk', () => {
  const told: [number, number][] = [];
  const one = diskOf([data(some), hole(100)]);
  compare(one, diskOf([data(some.slice())]), { progress: (done, total) => told.push([done, total]) });
  expect(told.at(-1)).toEqual([some.length + 100, some.length + 100]);
  expect(told.map(([done]) => done)).toEqual(told.map(([done]) => done).toSorted((a, b) => a - b));
  expect(told.length).toBeGreaterThan(4);
});
