/** Seeded work on a disk beside a model of it: a plain byte array that every operation is also done on. */

import { expect } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { between, type Random, randomBytes } from '../support/random.ts';

const SECTOR = 512;

/** A place and a length: often aligned to sectors, pages or blocks, sometimes to nothing; often small. */
export function someRange(next: Random, size: number, blockSize: number): { at: number; length: number } {
  const grain = [1, SECTOR, SECTOR, 4096, 4096, blockSize][between(next, 0, 5)] || SECTOR;
  const at = Math.min(size - 1, between(next, 0, Math.ceil(size / grain) - 1) * grain);
  const most = [grain, 4 * SECTOR, 64 * 1024, 2 * blockSize, 3 * blockSize][between(next, 0, 4)] || grain;
  const length = Math.max(1, Math.ceil(between(next, 1, Math.max(1, most)) / grain) * grain);
  return { at, length: Math.min(length, size - at) };
}

export type Operation = 'write' | 'punch' | 'keep' | 'read' | 'flush';

/** One random operation on both; checks what is read. Returns what was done, for messages. */
export function step(disk: Disk, model: Uint8Array, next: Random, blockSize: number): Operation {
  const chance = next();
  const { at, length } = someRange(next, disk.size, blockSize);
  if (chance < 0.45) {
    const bytes = randomBytes(next, length);
    expect(disk.write(bytes, 0, length, guestOffset(at))).toBe(length);
    model.set(bytes, at);
    return 'write';
  }
  if (chance < 0.7) {
    const how = chance < 0.62 ? 'punch' : 'keep';
    expect(disk.zero(guestOffset(at), length, how)).toBe(0);
    model.fill(0, at, at + length);
    return how;
  }
  if (chance < 0.9) {
    const bytes = new Uint8Array(length);
    expect(disk.read(bytes, 0, length, guestOffset(at))).toBe(length);
    expect(Buffer.compare(bytes, model.subarray(at, at + length))).toBe(0);
    return 'read';
  }
  expect(disk.flush()).toBe(0);
  return 'flush';
}
