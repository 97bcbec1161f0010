/** The read loop and the seeks over a translator that answers by script. */

import { describe, expect, test } from 'vitest';
import { EIO, ENXIO, type Status } from '../../../src/base/errno.ts';
import { type GuestOffset, guestOffset, type HostOffset } from '../../../src/base/units.ts';
import { Disk } from '../../../src/disk/disk.ts';
import type { Translator } from '../../../src/image/driver.ts';
import { DATA, type Extent, type ExtentKind, HOLE, ZERO } from '../../../src/image/extent.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { between, random, randomBytes } from '../../support/random.ts';
import { SparseSource } from '../../support/sparse-source.ts';

interface Run {
  readonly length: number;
  readonly kind: ExtentKind;
  readonly host?: number;
  /** Given in place of an extent. */
  readonly status?: Status;
}

/** Runs that follow each other from guest offset 0; extents reach to the end of their run. */
class Script implements Translator {
  readonly size: number;
  /** What was asked: offset and length. */
  readonly asked: [number, number][] = [];
  readonly #runs: readonly Run[];

  constructor(runs: readonly Run[]) {
    this.#runs = runs;
    this.size = runs.reduce((sum, run) => sum + run.length, 0);
  }

  locate(at: GuestOffset, length: number, out: Extent): Status {
    this.asked.push([at, length]);
    if (length < 1 || at >= this.size) throw new Error(`asked for ${length} bytes at ${at} of ${this.size}`);
    let base = 0;
    for (const run of this.#runs) {
      const within = at - base;
      if (within < run.length) {
        if (run.status !== undefined) return run.status;
        return out.set(run.kind, run.kind === DATA ? (run.host ?? 0) + within : 0, run.length - within);
      }
      base += run.length;
    }
    throw new Error('unreachable');
  }
}

const bytes = randomBytes(random(1), 1000);
const RUNS: readonly Run[] = [
  { length: 100, kind: DATA, host: 500 },
  { length: 50, kind: HOLE },
  { length: 50, kind: ZERO },
  { length: 200, kind: DATA, host: 0 },
  { length: 100, kind: DATA, host: 700 },
];
const WANTED = new Uint8Array(500);
WANTED.set(bytes.subarray(500, 600), 0);
WANTED.set(bytes.subarray(0, 200), 200);
WANTED.set(bytes.subarray(700, 800), 400);

describe('read', () => {
  const make = (runs = RUNS) => {
    const script = new Script(runs);
    return { script, disk: new Disk(script.size, script, new MemorySource(bytes)) };
  };

  test('joins extents, at any offset and length, and touches nothing else', () => {
    const { disk } = make();
    const next = random(2);
    for (let round = 0; round < 2000; round += 1) {
      const at = between(next, 0, 499);
      const length = between(next, 0, 600);
      const start = between(next, 0, 20);
      const target = new Uint8Array(650).fill(0xcc);
      const expected = new Uint8Array(650).fill(0xcc);
      const wanted = WANTED.subarray(at, at + length);
      expected.set(wanted, start);
      expect(disk.read(target, start, length, guestOffset(at))).toBe(wanted.length);
      expect(Buffer.compare(target, expected)).toBe(0);
    }
  });

  test('is short at the end of the disk only, and nothing past it', () => {
    const { disk, script } = make();
    const target = new Uint8Array(100);
    expect(disk.read(target, 0, 100, guestOffset(460))).toBe(40);
    expect(disk.read(target, 0, 0, guestOffset(10))).toBe(0);
    const before = script.asked.length;
    expect(disk.read(target, 0, 100, guestOffset(500))).toBe(0);
    expect(disk.read(target, 0, 100, guestOffset(10_000))).toBe(0);
    expect(script.asked.length).toBe(before);
  });

  test('asks for what is left, clipped to the disk', () => {
    const { disk, script } = make();
    disk.read(new Uint8Array(1000), 0, 1000, guestOffset(120));
    expect(script.asked).toEqual([
      [120, 380],
      [150, 350],
      [200, 300],
      [400, 100],
    ]);
  });

  test("passes a translator's errno, also after some bytes", () => {
    const { disk } = make([{ length: 10, kind: DATA }, { length: 10, kind: HOLE, status: -116 }, ...RUNS]);
    const target = new Uint8Array(100);
    expect(disk.read(target, 0, 10, guestOffset(0))).toBe(10);
    expect(disk.read(target, 0, 11, guestOffset(0))).toBe(-116);
    expect(disk.read(target, 0, 10, guestOffset(15))).toBe(-116);
    expect(disk.read(target, 0, 50, guestOffset(20))).toBe(50);
  });

  test("passes the source's errno", () => {
    const source = new MemorySource(bytes);
    source.readAt = () => -6;
    const script = new Script(RUNS);
    const disk = new Disk(script.size, script, source);
    expect(disk.read(new Uint8Array(10), 0, 10, guestOffset(0))).toBe(-6);
    expect(disk.read(new Uint8Array(10), 0, 10, guestOffset(120))).toBe(10);
  });

  test('a source shorter than its extent is EIO', () => {
    const { disk } = make([{ length: 100, kind: DATA, host: 950 }]);
    expect(disk.read(new Uint8Array(100), 0, 50, guestOffset(0))).toBe(50);
    expect(disk.read(new Uint8Array(100), 0, 51, guestOffset(0))).toBe(-EIO);
    expect(disk.read(new Uint8Array(100), 0, 10, guestOffset(60))).toBe(-EIO);
  });
});

describe('seek', () => {
  const PAGE = 4096;

  /** The answers for every offset given, as [data, hole]. */
  function seeks(disk: Disk, offsets: readonly number[]) {
    return offsets.map((at) => [disk.seek(guestOffset(at), 'data'), disk.seek(guestOffset(at), 'hole')]);
  }

  test('holes and zeros are holes, neighbours join', () => {
    const script = new Script(RUNS);
    const disk = new Disk(script.size, script, new MemorySource(bytes));
    expect(seeks(disk, [0, 99, 100, 149, 150, 199, 200, 399, 400, 499])).toEqual([
      [0, 100],
      [99, 100],
      [200, 100],
      [200, 149],
      [200, 150],
      [200, 199],
      [200, 500],
      [399, 500],
      [400, 500],
      [499, 500],
    ]);
  });

  test('no data behind a trailing hole; ENXIO from the end of the disk on', () => {
    const script = new Script([
      { length: 10, kind: DATA },
      { length: 10, kind: ZERO },
    ]);
    const disk = new Disk(script.size, script, new MemorySource(bytes));
    expect(seeks(disk, [9, 10, 19, 20, 21])).toEqual([
      [9, 10],
      [-ENXIO, 10],
      [-ENXIO, 19],
      [-ENXIO, -ENXIO],
      [-ENXIO, -ENXIO],
    ]);
  });

  test('a disk of no bytes', () => {
    const disk = new Disk(0, new Script([]), new MemorySource(bytes));
    expect(seeks(disk, [0])).toEqual([[-ENXIO, -ENXIO]]);
  });

  test('holes of the source show inside data', () => {
    const source = new SparseSource();
    source.put(2 * PAGE, new Uint8Array(2 * PAGE));
    source.put(8 * PAGE, new Uint8Array(2 * PAGE));
    const script = new Script([
      { length: 5 * PAGE, kind: DATA, host: PAGE },
      { length: PAGE, kind: HOLE },
      { length: 3 * PAGE, kind: DATA, host: 5 * PAGE },
      { length: 2 * PAGE, kind: DATA, host: 8 * PAGE },
    ]);
    const disk = new Disk(script.size, script, source);
    const p = (pages: number) => pages * PAGE;
    expect(seeks(disk, [0, 1, p(1), p(2) + 5, p(3), p(4), p(5), p(6), p(8), p(9), p(11) - 1])).toEqual([
      [p(1), 0],
      [p(1), 1],
      [p(1), p(3)],
      [p(2) + 5, p(3)],
      [p(9), p(3)],
      [p(9), p(4)],
      [p(9), p(5)],
      [p(9), p(6)],
      [p(9), p(8)],
      [p(9), p(11)],
      [p(11) - 1, p(11)],
    ]);
  });

  test('data of the source behind an extent is not data of the extent', () => {
    const source = new SparseSource();
    source.put(4 * PAGE, new Uint8Array(PAGE));
    const script = new Script([
      { length: 2 * PAGE, kind: DATA, host: 2 * PAGE },
      { length: PAGE, kind: HOLE },
    ]);
    const disk = new Disk(script.size, script, source);
    expect(seeks(disk, [0])).toEqual([[-ENXIO, 0]]);
  });

  test('agrees with a byte map of random runs and source holes', () => {
    const next = random(9);
    for (let round = 0; round < 50; round += 1) {
      const source = new SparseSource();
      const present: boolean[] = [];
      for (let page = 0; page < 32; page += 1) {
        present.push(next() < 0.5);
        if (present[page] === true) source.put(page * PAGE, new Uint8Array(PAGE));
      }
      source.size = 32 * PAGE;
      const map: boolean[] = [];
      const runs: Run[] = [];
      for (let n = 0; n < 12; n += 1) {
        const pages = between(next, 1, 5);
        const kind = ([HOLE, ZERO, DATA, DATA] as const)[between(next, 0, 3)]!;
        const first = between(next, 0, 31 - pages);
        runs.push({ length: pages * PAGE, kind, host: first * PAGE });
        for (let page = 0; page < pages; page += 1) map.push(kind === DATA && present[first + page] === true);
      }
      const script = new Script(runs);
      const disk = new Disk(script.size, script, source);
      const find = (page: number, wanted: boolean) => {
        const found = map.indexOf(wanted, page);
        return found < 0 ? undefined : found * PAGE;
      };
      for (let page = 0; page < map.length; page += 1) {
        expect(disk.seek(guestOffset(page * PAGE), 'data')).toBe(find(page, true) ?? -ENXIO);
        expect(disk.seek(guestOffset(page * PAGE), 'hole')).toBe(find(page, false) ?? script.size);
      }
    }
  });

  test("passes a translator's errno", () => {
    const script = new Script([
      { length: 10, kind: DATA },
      { length: 10, kind: HOLE },
      { length: 10, kind: HOLE, status: -EIO },
    ]);
    const disk = new Disk(script.size, script, new MemorySource(bytes));
    expect(seeks(disk, [0, 10, 20])).toEqual([
      [0, 10],
      [-EIO, 10],
      [-EIO, -EIO],
    ]);
  });

  test('a source that ends inside an extent: a hole from there on, as the source says', () => {
    const source = new MemorySource(bytes);
    const script = new Script([{ length: 100, kind: DATA, host: 950 }]);
    const disk = new Disk(script.size, script, source);
    expect(source.nextHole(960 as HostOffset)).toBe(1000);
    expect(disk.seek(guestOffset(0), 'hole')).toBe(50);
  });
});
