/** A part of a disk: moved to its place, and never beyond its ends. */

import { beforeEach, describe, expect, it } from 'vitest';
import { guestOffset } from '../../../src/base/units.ts';
import type { Disk } from '../../../src/disk/disk.ts';
import { Window } from '../../../src/disk/window.ts';
import { driverOf } from '../../../src/formats/registry.ts';
import { openDisk, openEditable, readDisk } from '../../support/disk.ts';
import { encodeVdi } from '../../support/encoders/vdi.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { random } from '../../support/random.ts';

const MIB = 1024 * 1024;
const START = MIB + 512;
const SIZE = 2 * MIB;
const ENOSPC = -28;
const ENXIO = -6;
const EROFS = -30;
const at = guestOffset;

let before: Uint8Array;
let disk: Disk;
let window: Window;

/** A disk of four blocks of 1 MiB with other bytes in each; the window begins and ends within a block. */
beforeEach(() => {
  const { file } = encodeVdi({ map: [0, 1, 2, 3], blockSize: MIB }, random(1));
  disk = openEditable(driverOf('vdi'), new MemorySource(file, 'window', true)).disk;
  window = new Window(disk, START, SIZE);
  before = readDisk(disk);
});

/** The disk is as it was but for these bytes of it. */
function expectChanged(from: number, bytes: Uint8Array): void {
  const expected = before.slice();
  expected.set(bytes, from);
  expect(Buffer.compare(readDisk(disk), expected)).toBe(0);
}

describe('a window', () => {
  it('reads its part of the disk, and nothing behind it', () => {
    const target = Buffer.alloc(SIZE + 100, 0xee);
    expect(window.read(target, 0, SIZE + 100, at(0))).toBe(SIZE);
    expect(Buffer.compare(target.subarray(0, SIZE), before.subarray(START, START + SIZE))).toBe(0);
    expect(target.subarray(SIZE).every((byte) => byte === 0xee)).toBe(true);
    expect(window.read(target, 3, 10, at(SIZE - 4))).toBe(4);
    expect(window.read(target, 0, 10, at(SIZE))).toBe(0);
    expect(window.read(target, 0, 10, at(2 ** 50))).toBe(0);
  });

  it('writes its part of the disk, fewer bytes at its end, none behind', () => {
    const bytes = Buffer.alloc(1000, 0xab);
    expect(window.write(bytes, 0, 1000, at(SIZE - 300))).toBe(300);
    expectChanged(START + SIZE - 300, bytes.subarray(0, 300));
    expect(window.write(bytes, 0, 1, at(SIZE))).toBe(ENOSPC);
    expect(window.write(bytes, 0, 0, at(SIZE))).toBe(0);
    expectChanged(START + SIZE - 300, bytes.subarray(0, 300));
  });

  it('shows what is written through the disk, and the other way round', () => {
    const target = Buffer.alloc(5);
    disk.write(Buffer.from('hello'), 0, 5, at(START + 77));
    window.read(target, 0, 5, at(77));
    expect(target.toString()).toBe('hello');
    window.write(Buffer.from('world'), 0, 5, at(78));
    disk.read(target, 0, 5, at(START + 78));
    expect(target.toString()).toBe('world');
  });

  it.each(['punch', 'keep'] as const)('zeroes (%s) only its own part of the blocks at its ends', (how) => {
    expect(window.zero(at(0), 2 ** 40, how)).toBe(0);
    expectChanged(START, new Uint8Array(SIZE));
    expect(window.zero(at(SIZE), 100, how)).toBe(0);
    expectChanged(START, new Uint8Array(SIZE));
  });

  it('finds data and holes within itself', () => {
    expect(window.seek(at(5), 'data')).toBe(5);
    expect(window.seek(at(5), 'hole')).toBe(SIZE);
    disk.zero(at(2 * MIB), MIB, 'punch');
    expect(window.seek(at(5), 'hole')).toBe(MIB - 512);
    expect(window.seek(at(MIB), 'data')).toBe(2 * MIB - 512);
    disk.zero(at(3 * MIB), 512, 'punch');
    disk.zero(at(0), 4 * MIB, 'punch');
    disk.write(Buffer.from('x'), 0, 1, at(START + SIZE));
    // Data begins right behind the window.
    expect(window.seek(at(0), 'data')).toBe(MIB + MIB - 512);
    expect(new Window(disk, START, MIB).seek(at(0), 'data')).toBe(ENXIO);
    expect(window.seek(at(SIZE), 'hole')).toBe(ENXIO);
  });

  it('of a disk that is only read is only read', () => {
    const { file } = encodeVdi({ map: [0, 1, 2, 3], blockSize: MIB }, random(1));
    const closed = new Window(openDisk(driverOf('vdi'), new MemorySource(file)).disk, START, SIZE);
    expect(closed.writable).toBe(false);
    expect(closed.write(Buffer.alloc(1), 0, 1, at(0))).toBe(EROFS);
    expect(closed.zero(at(0), 1, 'punch')).toBe(EROFS);
  });
});
