/** Disks with parents: what shows where, and that nothing is named before its place is filled. */

import { describe, expect, test } from 'vitest';
import { EIO, ENOSPC, ENXIO, ESTALE } from '../../../src/base/errno.ts';
import { guestOffset as at } from '../../../src/base/units.ts';
import { Disk } from '../../../src/disk/disk.ts';
import { IoGate } from '../../../src/shared/io-gate.ts';
import { FaultSource } from '../../support/fault-source.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { between, random, randomBytes } from '../../support/random.ts';
import { BLOCK, BLOCKS, Script, SIZE } from './script.ts';

const bytes = randomBytes(random(5), 2000);
/** Shorter than the disk above it. */
const PARENT_SIZE = 6 * BLOCK + 50;

function readAll(disk: Disk): Uint8Array {
  const found = new Uint8Array(disk.size);
  expect(disk.read(found, 0, found.length, at(0))).toBe(found.length);
  return found;
}

/** A disk with nothing in it over one with data in blocks 0, 2, 3, 5 and 6; block 1 is a hole, 4 is zero. */
function setUp() {
  const below = new Script();
  below.map.splice(0, 7, 3, -1, 0, 1, -2, 7, 9);
  const parentSource = new FaultSource(new MemorySource(bytes.slice(0, 1000), 'parent'));
  const parent = new Disk(PARENT_SIZE, below, parentSource);
  const script = new Script();
  // Old bytes in every place, where it does not read as zeros.
  const memory = new MemorySource(new Uint8Array(BLOCK * BLOCKS * 40), 'child', true);
  const source = new FaultSource(memory);
  const gate = new IoGate(IoGate.seed(1), 0);
  const disk = new Disk(SIZE, script, source, { edit: { editor: script, gate }, parent });
  const model = new Uint8Array(SIZE);
  model.set(readAll(parent));
  return { below, script, source, memory, parentSource, parent, disk, model };
}

describe('reading', () => {
  test('holes show the parent, zeros behind its end; what is zero does not', () => {
    const { script, disk, model } = setUp();
    expect(readAll(disk)).toEqual(model);
    expect(model.subarray(PARENT_SIZE).every((byte) => byte === 0)).toBe(true);
    script.map[0] = -2;
    expect(readAll(disk)).toEqual(model.fill(0, 0, BLOCK));
  });

  test('a parent that cannot be read fails what it shows, and nothing else', () => {
    const { below, script, disk } = setUp();
    below.locate = () => -EIO;
    script.map[1] = 0;
    expect(disk.read(new Uint8Array(BLOCK), 0, BLOCK, at(BLOCK))).toBe(BLOCK);
    expect(disk.read(new Uint8Array(BLOCK), 0, BLOCK, at(0))).toBe(-EIO);
    // Behind its end nobody asks it.
    expect(disk.read(new Uint8Array(BLOCK), 0, BLOCK, at(7 * BLOCK))).toBe(BLOCK);
  });

  test('a chain of three: the nearest that says anything holds', () => {
    const { parent } = setUp();
    const middle = new Script();
    middle.map[2] = -2;
    middle.map[1] = 0;
    const ones = new Uint8Array(BLOCK).fill(1);
    const two = new Disk(SIZE, middle, new MemorySource(ones), { parent });
    const top = new Script();
    top.map[0] = 0;
    const three = new Disk(SIZE, top, new MemorySource(ones.map(() => 2)), { parent: two });
    const expected = new Uint8Array(SIZE);
    expected.set(readAll(parent));
    expected
      .fill(2, 0, BLOCK)
      .fill(1, BLOCK, 2 * BLOCK)
      .fill(0, 2 * BLOCK, 3 * BLOCK);
    expect(readAll(three)).toEqual(expected);
  });
});

describe('writing where the parent shows', () => {
  test('reserves a block, fills it from both sides, and only then names it', () => {
    const { script, memory, disk, model } = setUp();
    script.zeros = false;
    memory.bytes.fill(0xee);
    model.set(bytes.subarray(0, 10), 240);
    const filled: Uint8Array[] = [];
    script.before = ({ host, length }) => filled.push(memory.bytes.slice(host, host + length));
    expect(disk.write(bytes, 0, 10, at(240))).toBe(10);
    expect(script.calls).toEqual([
      'begin',
      'lock 240',
      'reserve 240 +10',
      'publish 200',
      'unlock 240',
      'changed',
    ]);
    expect(filled).toEqual([model.slice(200, 300)]);
    expect(readAll(disk)).toEqual(model);
  });

  test('goes block by block, and in place where it is done', () => {
    const { script, disk, model } = setUp();
    script.map[3] = 30;
    model.set(bytes.subarray(0, 250), 250);
    expect(disk.write(bytes, 0, 250, at(250))).toBe(250);
    expect(script.calls.filter((call) => /reserve|publish/.test(call))).toEqual([
      'reserve 250 +50',
      'publish 200',
      'reserve 400 +100',
      'publish 400',
    ]);
    script.calls.length = 0;
    expect(disk.write(bytes, 0, 250, at(250))).toBe(250);
    expect(script.calls).toEqual(['begin', 'changed']);
    expect(readAll(disk).subarray(250, 500)).toEqual(model.subarray(250, 500));
  });

  test('zeros of the parent are not written to a place that is zero', () => {
    const { script, source, disk } = setUp();
    const written: number[] = [];
    const { writeAt } = source;
    source.writeAt = (...args) => {
      written.push(args[2]);
      return writeAt.apply(source, args);
    };
    // Block 1 of the parent is a hole, block 2 has data.
    disk.write(bytes, 0, 10, at(140));
    expect(written).toEqual([10]);
    disk.write(bytes, 0, 10, at(240));
    expect(written).toEqual([10, 40, 10, 50]);
    script.zeros = false;
    disk.write(bytes, 0, 10, at(440));
    expect(written.slice(4)).toEqual([40, 10, 50]);
  });

  test('explicit zeros are allocated as in an image without a parent', () => {
    const { script, disk } = setUp();
    script.map[2] = -2;
    expect(disk.write(bytes, 0, 10, at(240))).toBe(10);
    expect(script.calls).toContain('allocate 240 +10');
    expect(script.calls.some((call) => call.startsWith('reserve'))).toBe(false);
  });

  test('writes in place where somebody named the block while it waited for the lock', () => {
    const { script, disk, model } = setUp();
    script.lockBlock = () => {
      script.map[2] = 30;
    };
    expect(disk.write(bytes, 0, 10, at(240))).toBe(10);
    expect(script.calls.some((call) => call.startsWith('reserve'))).toBe(false);
    model.fill(0, 200, 300).set(bytes.subarray(0, 10), 240);
    expect(readAll(disk)).toEqual(model);
  });

  test('looks again where somebody was faster: before the place is reserved, and after', () => {
    const { script, disk, model } = setUp();
    script.reserves = [-ESTALE];
    script.publishes = [-ESTALE];
    expect(disk.write(bytes, 0, 10, at(240))).toBe(10);
    expect(script.calls.filter((call) => call.startsWith('reserve'))).toHaveLength(3);
    model.set(bytes.subarray(0, 10), 240);
    expect(readAll(disk)).toEqual(model);
  });

  test('an error gives the place and the lock back', () => {
    const { below, script, source, disk, model } = setUp();
    const expectFreed = (moved: number, errno: number) => {
      expect(moved).toBe(-errno);
      expect(script.calls.slice(-3)).toEqual(['cancel 200', 'unlock 240', 'changed']);
      expect(script.map[2]).toBe(-1);
    };
    source.set({ step: 'payload.write', nth: 2, times: 1, errno: ENOSPC, part: 3 });
    expectFreed(disk.write(bytes, 0, 10, at(240)), ENOSPC);
    source.lift();
    const { locate } = below;
    below.locate = () => -EIO;
    expectFreed(disk.write(bytes, 0, 10, at(240)), EIO);
    below.locate = locate;
    script.reserves = [-ENOSPC];
    expect(disk.write(bytes, 0, 10, at(240))).toBe(-ENOSPC);
    script.publishes = [-EIO];
    expect(disk.write(bytes, 0, 10, at(240))).toBe(-EIO);
    expect(script.calls.slice(-2)).toEqual(['unlock 240', 'changed']);
    expect(readAll(disk)).toEqual(model);
  });

  test('an image with a parent that is opened without one is an error, not an endless loop', () => {
    const { script, source } = setUp();
    const gate = new IoGate(IoGate.seed(1), 0);
    const disk = new Disk(SIZE, script, source, { edit: { editor: script, gate } });
    script.allocate = () => 0;
    expect(disk.write(bytes, 0, 10, at(240))).toBe(-EIO);
  });

  test('a driver that breaks its promise is an error, not an endless loop', () => {
    const { script, disk } = setUp();
    script.reserve = (from, _length, out) => out.set(from + 1, 10, 0, true, 0);
    expect(disk.write(bytes, 0, 10, at(240))).toBe(-EIO);
    script.reserve = (from, _length, out) => out.set(from, 0, 0, true, 0);
    expect(disk.write(bytes, 0, 10, at(240))).toBe(-EIO);
  });
});

describe('zeroing where the parent shows', () => {
  test('hides what the parent has, and takes no place where it has nothing', () => {
    const { script, disk, model } = setUp();
    // No format that unmaps: all is done in place.
    script.unit = 0;
    expect(disk.zero(at(150), 300, 'punch')).toBe(0);
    // Blocks 2 and 3 have data; 1 is a hole and 4 is zero in the parent.
    expect(script.calls.filter((call) => call.startsWith('reserve'))).toEqual([
      'reserve 200 +100',
      'reserve 300 +100',
    ]);
    model.fill(0, 150, 450);
    expect(readAll(disk)).toEqual(model);
  });

  test('in part of a unit too, with old bytes in the place', () => {
    const { script, memory, disk, model } = setUp();
    script.zeros = false;
    memory.bytes.fill(0xee);
    expect(disk.zero(at(210), 20, 'keep')).toBe(0);
    model.fill(0, 210, 230);
    expect(readAll(disk)).toEqual(model);
  });

  test('whole units are not discarded where neither the image nor the parent has anything', () => {
    const { script, disk, model } = setUp();
    script.map[7] = 30;
    // Of the parent, blocks 1 and 4 are empty, and all behind 6.
    expect(disk.zero(at(100), SIZE - 100, 'punch')).toBe(0);
    expect(script.calls.filter((call) => call.startsWith('discard'))).toEqual([`discard 200 +${SIZE - 200}`]);
    script.calls.length = 0;
    expect(disk.zero(at(100), 100, 'punch')).toBe(0);
    expect(script.calls).toEqual(['begin', 'changed']);
    model.fill(0, 100);
    expect(readAll(disk)).toEqual(model);
  });

  test('whole units are left to the format', () => {
    const { script, disk, model } = setUp();
    expect(disk.zero(at(200), 200, 'punch')).toBe(0);
    expect(script.calls).toEqual(['begin', 'discard 200 +200', 'changed']);
    expect(readAll(disk)).toEqual(model.fill(0, 200, 400));
  });
});

describe('SEEK_DATA and SEEK_HOLE', () => {
  test('see through holes, and end with the parent', () => {
    const { script, disk } = setUp();
    script.map[4] = 35;
    script.map[3] = -2;
    const seek = (from: number, whence: 'data' | 'hole') => disk.seek(at(from), whence);
    expect([seek(0, 'data'), seek(0, 'hole')]).toEqual([0, 100]);
    expect([seek(100, 'data'), seek(250, 'hole')]).toEqual([200, 300]);
    expect([seek(300, 'data'), seek(430, 'hole')]).toEqual([400, PARENT_SIZE]);
    expect([seek(PARENT_SIZE, 'data'), seek(PARENT_SIZE, 'hole')]).toEqual([-ENXIO, PARENT_SIZE]);
    script.map[9] = 36;
    expect(seek(PARENT_SIZE, 'data')).toBe(900);
  });
});

describe('a chain of three', () => {
  test.each([true, false])('like an array; places that read as zeros: %s', (zeros) => {
    const { parent, model } = setUp();
    const middle = new Script();
    middle.map.splice(0, 8, -1, 0, -2, -1, 1, -1, -1, 2);
    const two = new Disk(SIZE, middle, new MemorySource(bytes), { parent });
    for (const [block, place] of middle.map.entries()) {
      if (place >= 0) model.set(bytes.subarray(place * BLOCK, (place + 1) * BLOCK), block * BLOCK);
      if (place === -2) model.fill(0, block * BLOCK, (block + 1) * BLOCK);
    }
    const script = new Script();
    script.zeros = zeros;
    const memory = new MemorySource(new Uint8Array(BLOCK * 2000).fill(zeros ? 0 : 0xee), 'child', true);
    const gate = new IoGate(IoGate.seed(1), 0);
    const disk = new Disk(SIZE, script, memory, { edit: { editor: script, gate }, parent: two });
    // What is allocated reads as zeros, whatever a reserved place may hold.
    script.after = () => memory.bytes.fill(0, (script.next - 1) * BLOCK, script.next * BLOCK);
    const next = random(zeros ? 31 : 32);
    for (let round = 0; round < 150; round += 1) {
      script.unit = next() < 0.5 ? BLOCK : 0;
      const from = between(next, 0, SIZE - 1);
      const length = between(next, 0, 250);
      const count = Math.min(length, SIZE - from);
      if (next() < 0.6) {
        expect(disk.write(bytes, 0, length, at(from))).toBe(count);
        model.set(bytes.subarray(0, count), from);
      } else {
        expect(disk.zero(at(from), length, next() < 0.7 ? 'punch' : 'keep')).toBe(0);
        model.fill(0, from, from + count);
      }
      expect(Buffer.compare(readAll(disk), model)).toBe(0);
    }
  });
});
