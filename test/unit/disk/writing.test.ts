/** The write loop and the zero loop over an editor that answers by script: what it asks for, and in which order. */

import { describe, expect, test } from 'vitest';
import { EIO, ENOSPC, EROFS } from '../../../src/base/errno.ts';
import { guestOffset } from '../../../src/base/units.ts';
import { Disk } from '../../../src/disk/disk.ts';
import { IoGate } from '../../../src/shared/io-gate.ts';
import { FaultSource } from '../../support/fault-source.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { between, random, randomBytes } from '../../support/random.ts';
import { BLOCK, BLOCKS, Script, SIZE } from './script.ts';

function setUp() {
  const script = new Script();
  const memory = new MemorySource(new Uint8Array(BLOCK * BLOCKS * 20), 'scripted', true);
  const source = new FaultSource(memory);
  const gates = IoGate.seed(2);
  const gate = new IoGate(gates, 0);
  const other = new IoGate(gates, 1);
  const disk = new Disk(SIZE, script, source, { edit: { editor: script, gate } });
  /** Whether an operation is running, as others see it. */
  const isInside = () => !other.isPast(other.close());
  return { script, source, memory, disk, isInside };
}

const bytes = randomBytes(random(5), 2000);
const at = guestOffset;

describe('write', () => {
  test('begins, allocates what is not there, a block at a time, and says that something changed', () => {
    const { script, disk, isInside } = setUp();
    script.map[1] = 50;
    expect(disk.write(bytes, 7, 220, at(90))).toBe(220);
    expect(script.calls).toEqual([
      'begin',
      'allocate 90 +10',
      'allocate 200 +100',
      'allocate 300 +10',
      'changed',
    ]);
    const read = new Uint8Array(220);
    expect(disk.read(read, 0, 220, at(90))).toBe(220);
    expect(Buffer.compare(read, bytes.subarray(7, 227))).toBe(0);
    expect(isInside()).toBe(false);
  });

  test('ends at the end of the disk; behind it there is no room', () => {
    const { script, disk } = setUp();
    expect(disk.write(bytes, 0, 100, at(SIZE - 10))).toBe(10);
    expect([disk.write(bytes, 0, 1, at(SIZE)), disk.write(bytes, 0, 5, at(SIZE + 1000))]).toEqual([
      -ENOSPC,
      -ENOSPC,
    ]);
    expect([disk.write(bytes, 0, 0, at(SIZE)), disk.write(bytes, 0, 0, at(5))]).toEqual([0, 0]);
    expect(script.calls.filter((call) => call === 'begin').length).toBe(1);
  });

  test('allocates again where somebody discards the block before it is written', () => {
    const { script, disk } = setUp();
    let times = 0;
    script.after = () => {
      times += 1;
      if (times < 3) script.map[0] = -2;
    };
    expect(disk.write(bytes, 0, 10, at(0))).toBe(10);
    expect(script.calls.filter((call) => call.startsWith('allocate')).length).toBe(3);
  });

  test('gives the errors of begin, allocate and the source, leaves the gate, and goes on after', () => {
    const { script, source, disk, isInside } = setUp();
    script.begins = [-EIO];
    expect(disk.write(bytes, 0, 10, at(0))).toBe(-EIO);
    expect(script.calls).toEqual(['begin']);
    script.allocates = [0, -ENOSPC];
    expect(disk.write(bytes, 0, 150, at(0))).toBe(-ENOSPC);
    // The first block has its bytes: they have to be flushed.
    expect(script.calls.at(-1)).toBe('changed');
    source.set({ step: 'payload.write', nth: 1, times: 1, errno: EIO, part: 0 });
    expect(disk.write(bytes, 0, 10, at(0))).toBe(-EIO);
    expect(isInside()).toBe(false);
    expect(disk.write(bytes, 0, 150, at(0))).toBe(150);
  });

  test('a defect that throws leaves the gate too', () => {
    const { script, disk, isInside } = setUp();
    script.after = () => {
      throw new Error('a defect');
    };
    expect(() => disk.write(bytes, 0, 10, at(0))).toThrow('a defect');
    expect(isInside()).toBe(false);
  });

  test('is inside the gate while it moves bytes, as reading is', () => {
    const { source, disk, isInside } = setUp();
    const seen: boolean[] = [];
    const { writeAt, readAt } = source;
    source.writeAt = (...args) => {
      seen.push(isInside());
      return writeAt.apply(source, args);
    };
    source.readAt = (...args) => {
      seen.push(isInside());
      return readAt.apply(source, args);
    };
    disk.write(bytes, 0, 10, at(0));
    disk.read(new Uint8Array(10), 0, 10, at(0));
    expect(seen).toEqual([true, true]);
    expect(isInside()).toBe(false);
  });
});

describe('zero', () => {
  test('discards whole units, zeros the rest in place, and allocates nothing', () => {
    const { script, disk } = setUp();
    disk.write(bytes, 0, 500, at(0));
    script.calls.length = 0;
    expect(disk.zero(at(150), 300, 'punch')).toBe(0);
    expect(script.calls).toEqual(['begin', 'discard 200 +200', 'changed']);
    expect(script.map.slice(0, 6)).toEqual([0, 1, -2, -2, 4, -1]);
    const expected = bytes.slice(0, 500).fill(0, 150, 450);
    const read = new Uint8Array(500);
    disk.read(read, 0, 500, at(0));
    expect(Buffer.compare(read, expected)).toBe(0);
  });

  test('takes the end of the disk for the end of a unit', () => {
    const { script, disk } = setUp();
    disk.write(bytes, 0, SIZE, at(0));
    script.calls.length = 0;
    expect(disk.zero(at(800), 10_000, 'punch')).toBe(0);
    expect(script.calls).toEqual(['begin', 'discard 800 +170', 'changed']);
    expect(disk.zero(at(SIZE), 10, 'punch')).toBe(0);
    expect(script.calls.length).toBe(3);
  });

  test('inside one unit, and with keep, discards nothing', () => {
    const { script, source, disk } = setUp();
    disk.write(bytes, 0, 500, at(0));
    script.calls.length = 0;
    const kept: string[] = [];
    const { zero } = source;
    source.zero = (host, length, how, step) => {
      kept.push(`${how} ${step} +${length}`);
      return zero.call(source, host, length, how, step);
    };
    expect([disk.zero(at(110), 80, 'punch'), disk.zero(at(200), 200, 'keep')]).toEqual([0, 0]);
    expect(script.calls).toEqual(['begin', 'changed', 'begin', 'changed']);
    expect(kept).toEqual(['punch payload.zero +80', 'keep payload.zero +100', 'keep payload.zero +100']);
  });

  test('where the format cannot unmap, it punches', () => {
    const { script, disk } = setUp();
    disk.write(bytes, 0, 500, at(0));
    script.unit = 0;
    script.calls.length = 0;
    expect(disk.zero(at(0), 500, 'punch')).toBe(0);
    expect(script.calls).toEqual(['begin', 'changed']);
    const read = new Uint8Array(500).fill(1);
    disk.read(read, 0, 500, at(0));
    expect(read.every((byte) => byte === 0)).toBe(true);
  });

  test('gives the errors of begin and of the source', () => {
    const { script, source, disk, isInside } = setUp();
    disk.write(bytes, 0, 100, at(0));
    script.begins = [-EIO];
    expect(disk.zero(at(0), 10, 'keep')).toBe(-EIO);
    source.set({ step: 'payload.zero', nth: 1, times: 1, errno: ENOSPC, part: 0 });
    expect(disk.zero(at(0), 10, 'keep')).toBe(-ENOSPC);
    expect(isInside()).toBe(false);
  });
});

describe('writing and zeroing', () => {
  test('like an array, at any place and length', () => {
    const { disk } = setUp();
    const model = new Uint8Array(SIZE);
    const next = random(21);
    for (let round = 0; round < 120; round += 1) {
      const from = between(next, 0, SIZE - 1);
      const length = between(next, 0, 350);
      const count = Math.min(length, SIZE - from);
      if (next() < 0.6) {
        const start = between(next, 0, 1000);
        expect(disk.write(bytes, start, length, at(from))).toBe(count);
        model.set(bytes.subarray(start, start + count), from);
      } else {
        expect(disk.zero(at(from), length, next() < 0.7 ? 'punch' : 'keep')).toBe(0);
        model.fill(0, from, from + count);
      }
      const read = new Uint8Array(SIZE);
      expect(disk.read(read, 0, SIZE, at(0))).toBe(SIZE);
      expect(Buffer.compare(read, model)).toBe(0);
    }
  });
});

describe('flush, close and a disk that is only read', () => {
  test('are passed to the editor', () => {
    const { script, disk } = setUp();
    expect([disk.writable, disk.flush(), disk.close(), script.calls]).toEqual([
      true,
      0,
      0,
      ['flush', 'close'],
    ]);
  });

  test('EROFS where it is only read; there is nothing to flush', () => {
    const script = new Script();
    const disk = new Disk(SIZE, script, new MemorySource(new Uint8Array(10), 'read', true));
    expect([disk.writable, disk.write(bytes, 0, 1, at(0)), disk.zero(at(0), 1, 'keep')]).toEqual([
      false,
      -EROFS,
      -EROFS,
    ]);
    expect([disk.flush(), disk.close(), script.calls]).toEqual([0, 0, []]);
  });
});
