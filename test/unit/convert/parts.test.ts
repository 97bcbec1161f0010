import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { GIB, KIB, MIB } from '../../../src/base/units.ts';
import { ResumeRecord } from '../../../src/convert/record.ts';
import { type Chunk, Work } from '../../../src/convert/work.ts';
import { ZERO_UNIT, ZeroFinder } from '../../../src/convert/zeros.ts';
import { between, random } from '../../support/random.ts';

describe('the zero finder', () => {
  test.each([1, 2, 3])('finds what a loop over all bytes finds (seed %i)', (seed) => {
    const next = random(seed);
    const bytes = new Uint8Array(64 * KIB);
    for (let n = 0; n < 8; n += 1) bytes[between(next, 0, bytes.length - 1)] = between(next, 1, 255);
    const finder = new ZeroFinder(bytes);
    const end = bytes.length - between(next, 0, 2 * ZERO_UNIT);
    const isZero = (unit: number): boolean =>
      bytes.subarray(unit, Math.min(unit + ZERO_UNIT, end)).every((byte) => byte === 0);
    const slow = (from: number, wanted: boolean): number => {
      for (let at = from; at < end; at += ZERO_UNIT) if (isZero(at) === wanted) return at;
      return end;
    };
    for (let from = 0; from < end; from += ZERO_UNIT) {
      expect(finder.nextData(from, end)).toBe(slow(from, false));
      expect(finder.nextZeros(from, end)).toBe(slow(from, true));
    }
  });

  test('does not look behind the end', () => {
    const bytes = new Uint8Array(2 * ZERO_UNIT);
    bytes[ZERO_UNIT + 1] = 1;
    expect(new ZeroFinder(bytes).nextData(0, ZERO_UNIT + 1)).toBe(ZERO_UNIT + 1);
  });
});

describe('work', () => {
  test('every byte is claimed once, by whoever comes', () => {
    const seed = Work.seed(3, 41 * MIB + 512, 0);
    const works = [0, 1, 2].map(() => new Work(seed));
    const claimed: Chunk[] = [];
    for (let turn = 0; ; turn += 1) {
      const chunk = works[turn % 3]!.claim(turn % 3);
      if (chunk === undefined) break;
      claimed.push(chunk);
    }
    expect(claimed[0]!.from).toBe(0);
    expect(claimed.at(-1)!.end).toBe(41 * MIB + 512);
    for (const [n, chunk] of claimed.slice(1).entries()) expect(chunk.from).toBe(claimed[n]!.end);
  });

  test('what is done ends where the slowest thread is', () => {
    const work = new Work(Work.seed(2, GIB, 0));
    const slow = work.claim(0)!;
    for (let n = 0; n < 5; n += 1) work.claim(1);
    work.rest(1);
    expect(work.doneUpTo).toBe(slow.from);
    work.rest(0);
    expect(work.doneUpTo).toBe(slow.end + 5 * (slow.end - slow.from));
    expect(work.isDone).toBe(false);
  });

  test('a hole is skipped by all, and never backwards', () => {
    const work = new Work(Work.seed(2, GIB, 0));
    const { end } = work.claim(0)!;
    work.skipTo(512 * MIB + 5);
    work.skipTo(end);
    work.rest(0);
    expect(work.claim(1)!.from).toBe(512 * MIB);
    work.skipTo(Number.POSITIVE_INFINITY);
    work.rest(1);
    expect(work.claim(0)).toBeUndefined();
    expect(work.isDone).toBe(true);
  });

  test('it goes on at the chunk of what was done, and ends at once when stopped', () => {
    const work = new Work(Work.seed(1, GIB, 40 * MIB));
    expect(work.claim(0)!.from).toBe(40 * MIB);
    work.stop();
    work.rest(0);
    expect(work.claim(0)).toBeUndefined();
    expect(work.doneUpTo).toBe(44 * MIB);
  });
});

describe('the record of a partial output', () => {
  function withPartial(use: (folder: string, fd: number) => void): void {
    const folder = mkdtempSync(join(tmpdir(), 'vdisk-record-'));
    const fd = openSync(join(folder, 'disk.img.partial'), 'w+');
    try {
      writeSync(fd, 'some');
      use(folder, fd);
    } finally {
      closeSync(fd);
      rmSync(folder, { recursive: true });
    }
  }

  test('is believed for the same, and for nothing else', () => {
    withPartial((folder, fd) => {
      const target = join(folder, 'disk.img');
      const record = new ResumeRecord(target, { of: 'this' });
      expect(record.find(fd)).toEqual({ useless: 'it has no record' });
      record.write(fd, 12345);
      expect(record.find(fd)).toEqual({ upTo: 12345 });
      const other = new ResumeRecord(target, { of: 'that' });
      expect(other.find(fd)).toEqual({ useless: expect.stringContaining('has changed') });
    });
  });

  test.each([
    ['no JSON', '{'],
    ['null', 'null'],
    ['another version', '{"version":2,"inode":1,"made":{},"done":5}'],
    ['a place that is none', '{"version":1,"inode":1,"made":{},"done":-5}'],
    ['too long', ' '.repeat((1 << 20) + 1)],
  ])('counts for nothing: %s', (_, text) => {
    withPartial((folder, fd) => {
      writeFileSync(join(folder, 'disk.img.partial.json'), text);
      expect(new ResumeRecord(join(folder, 'disk.img'), {}).find(fd)).toEqual({
        useless: 'its record cannot be read',
      });
    });
  });

  test('counts for nothing where the file is another one', () => {
    withPartial((folder, fd) => {
      const record = new ResumeRecord(join(folder, 'disk.img'), {});
      record.write(fd, 5);
      const other = openSync(join(folder, 'other'), 'w+');
      writeSync(other, 'some');
      expect(record.find(other)).toEqual({ useless: expect.stringContaining('another file') });
      closeSync(other);
    });
  });
});
