/** Copying within a file that has holes. */

import { describe, expect, test } from 'vitest';
import type { HostOffset } from '../../../src/base/units.ts';
import { copyBytes, copyPieces } from '../../../src/image/copy.ts';
import { FaultSource } from '../../support/fault-source.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { random, randomBytes } from '../../support/random.ts';
import { RecordingSource } from '../../support/recording-source.ts';

const PAGE = 4096;
const next = random(3);

/** Pages that `isData` does not name are holes, whatever is written to them. */
class HoledSource extends MemorySource {
  readonly #isData: (page: number) => boolean;

  constructor(bytes: Uint8Array, isData: (page: number) => boolean) {
    super(bytes, 'holed', true);
    this.#isData = isData;
  }

  override nextData(at: HostOffset): HostOffset {
    let to: number = at;
    while (to < this.size && !this.#isData(Math.floor(to / PAGE))) to = (Math.floor(to / PAGE) + 1) * PAGE;
    return Math.min(to, this.size) as HostOffset;
  }

  override nextHole(at: HostOffset): HostOffset {
    let to: number = at;
    while (to < this.size && this.#isData(Math.floor(to / PAGE))) to = (Math.floor(to / PAGE) + 1) * PAGE;
    return Math.min(to, this.size) as HostOffset;
  }
}

/** 16 pages: the first 8 as the letters say (d data, h hole), with noise behind them. */
function laidOut(pages: string): { file: Uint8Array; isData: (page: number) => boolean } {
  const file = randomBytes(next, 16 * PAGE);
  for (const [page, what] of [...pages].entries()) {
    if (what === 'h') file.fill(0, page * PAGE, (page + 1) * PAGE);
  }
  return { file, isData: (page) => pages[page] !== 'h' };
}

describe('what is copied', () => {
  test.each(['dddddddd', 'hhhhhhhh', 'dhhddhdh', 'hdhdhdhd'])('%s: holes stay holes', (pages) => {
    const { file, isData } = laidOut(pages);
    const memory = new HoledSource(file, isData);
    const source = new RecordingSource(memory);
    const done = [...copyPieces(source, 0, 8 * PAGE, 8 * PAGE)].reduce((sum, count) => sum + count, 0);
    expect(done).toBe(8 * PAGE);
    expect(Buffer.compare(memory.bytes.subarray(8 * PAGE), file.subarray(0, 8 * PAGE))).toBe(0);
    const written = source.changes.flatMap((change) => (change.kind === 'write' ? [change.length] : []));
    const data = [...pages].filter((what) => what === 'd').length;
    expect(written.reduce((sum, count) => sum + count, 0)).toBe(data * PAGE);
  });

  test('a hole is not made where there is one', () => {
    const { file, isData } = laidOut('hhhhhhhhhhhhhhhh');
    const source = new RecordingSource(new HoledSource(file, isData));
    copyBytes(source, 0, 8 * PAGE, 8 * PAGE);
    expect(source.changes).toEqual([]);
  });

  test('any place, any length, more than a piece', () => {
    const file = randomBytes(next, 6 << 20);
    const source = new MemorySource(file, 'large', true);
    const length = (5 << 19) + 77;
    expect([...copyPieces(source, 99, 3_000_001, length)].length).toBe(3);
    expect(
      Buffer.compare(source.bytes.subarray(3_000_001, 3_000_001 + length), file.subarray(99, 99 + length)),
    ).toBe(0);
  });

  test.each([0, 100, PAGE])('behind the end of the file are zeros: %d bytes of it are there', (there) => {
    const file = randomBytes(next, 4 * PAGE);
    const source = new MemorySource(file, 'short', true);
    copyBytes(source, 4 * PAGE - there, 0, 2 * PAGE);
    const wanted = new Uint8Array(2 * PAGE);
    wanted.set(file.subarray(4 * PAGE - there));
    expect(Buffer.compare(source.bytes.subarray(0, 2 * PAGE), wanted)).toBe(0);
    expect(source.size).toBe(4 * PAGE);
  });

  test('a file system that tells no end of the data comes to an end', () => {
    const file = randomBytes(next, 4 * PAGE);
    const source = new MemorySource(file, 'stuck', true);
    source.nextHole = (at) => at;
    copyBytes(source, 5, 2 * PAGE, PAGE + 9);
    expect(Buffer.compare(source.bytes.subarray(2 * PAGE, 3 * PAGE + 9), file.subarray(5, PAGE + 14))).toBe(
      0,
    );
  });
});

test.each([
  ['payload.write', 'dddddddd', /4096 bytes at 0x8000 cannot be written/],
  ['payload.zero', 'hhhhhhhh', /bytes at 0x8000 cannot be made zeros/],
] as const)('a %s that fails is told', (step, pages, text) => {
  const { file, isData } = laidOut(pages);
  const source = new FaultSource(new HoledSource(file, isData));
  source.set({ step, nth: 1, times: 1, errno: 5, part: 0 });
  expect(() => copyBytes(source, 0, 8 * PAGE, PAGE)).toThrow(text);
});
