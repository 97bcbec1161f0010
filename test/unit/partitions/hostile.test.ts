/** Damaged tables and signatures: no exception, a bounded amount of reading, and nothing outside of the disk. */

import { describe, expect, it } from 'vitest';
import { contentOf, describeSignature, partitionAttributes } from '../../../src/partitions/content.ts';
import { type GptPart, mbr, putGpt, TestDisk } from '../../support/encoders/partitions.ts';
import { SYNTHETIC } from '../../support/encoders/signatures.ts';
import { between, type Random, random } from '../../support/random.ts';

const SIZE = 8 * 1024 * 1024;
const ROUNDS = 400;
/** For each of what is looked at: head, ends, and what ZFS has at both. */
const MOST_PER_RANGE = 2 * 1024 * 1024;

/** Changes a few bytes of places where structures are. */
function damage(disk: TestDisk, next: Random, places: readonly (readonly [number, number])[]): TestDisk {
  for (let count = between(next, 1, 6); count > 0; count -= 1) {
    const [from, length] = places[between(next, 0, places.length - 1)]!;
    const value = [0, 0xff, 0x80, between(next, 0, 255)][between(next, 0, 3)]!;
    disk.put(from + between(next, 0, length - 1), Buffer.alloc(between(next, 1, 8), value));
  }
  return disk;
}

function look(disk: TestDisk): void {
  const notices: string[] = [];
  const content = contentOf(disk, 512, (text) => notices.push(text));
  for (const partition of content.partitions) {
    expect(partition.start).toBeGreaterThan(0);
    expect(partition.length).toBeGreaterThan(0);
    expect(partition.start + partition.length).toBeLessThanOrEqual(disk.size);
    for (const [, value] of partitionAttributes(partition)) expect(value.length).toBeLessThan(1000);
  }
  const data = content.partitions.filter(({ container }) => !container);
  for (const [index, one] of data.entries()) {
    for (const other of data.slice(index + 1)) {
      expect(one.start >= other.start + other.length || other.start >= one.start + one.length).toBe(true);
    }
  }
  expect(notices.length).toBeLessThan(1000);
  expect(disk.bytesRead).toBeLessThan(MOST_PER_RANGE * (3 + content.partitions.length));
}

describe('damaged bytes', () => {
  const parts: GptPart[] = [1, 2, 3].map((number) => ({
    number,
    first: number * 2048,
    last: number * 2048 + 2047,
    name: `part ${number}`,
  }));

  it('of a GPT', () => {
    const next = random(1);
    for (let round = 0; round < ROUNDS; round += 1) {
      const disk = putGpt(new TestDisk(SIZE), parts, {
        // Half of the time the checksums are right, so that what lies behind them is reached.
        header: (header) => {
          if (round % 2 === 0) header.writeUInt8(between(next, 0, 255), between(next, 24, 87));
        },
      });
      look(
        round % 2 === 0
          ? disk
          : damage(disk, next, [
              [0, 1024],
              [1024, 512],
              [SIZE - 512, 512],
            ]),
      );
    }
  });

  it('of an MBR with a chain', () => {
    const next = random(2);
    const part = (start: number, sectors: number, type = 0x83) => ({ type, start, sectors });
    for (let round = 0; round < ROUNDS; round += 1) {
      const disk = new TestDisk(SIZE)
        .put(0, mbr([part(100, 1000), part(2000, 8000, 5), part(12_000, 10)], 77))
        .put(2000 * 512, mbr([part(1, 10), part(20, 20, 5)]))
        .put(2020 * 512, mbr([part(1, 10), part(50, 20, 5)]))
        .put(2050 * 512, mbr([part(1, 10)]));
      look(
        damage(disk, next, [
          [446, 64],
          [2000 * 512 + 446, 64],
          [2020 * 512 + 446, 64],
        ]),
      );
    }
  });

  for (const { name, size, put } of SYNTHETIC.filter((one) => one.size <= SIZE)) {
    it(`of ${name}`, () => {
      const next = random(size + name.length);
      const sound = Buffer.alloc(size);
      put(sound);
      for (let round = 0; round < 60; round += 1) {
        const disk = new TestDisk(size).put(0, sound);
        look(
          damage(disk, next, [
            [0, 512],
            [512, 1536],
            [4000, 600],
            [32_768, 8192],
            [size - 8192, 8192],
          ]),
        );
      }
    });
  }
});

describe('what cannot be read', () => {
  it('hides only itself', () => {
    const disk = putGpt(new TestDisk(SIZE), [
      { number: 1, first: 2048, last: 4095 },
      { number: 2, first: 4096, last: 6143 },
    ]);
    const superblock = Buffer.alloc(1024);
    superblock.writeUInt32LE(64, 0);
    superblock.writeUInt32LE(64, 4);
    superblock.writeUInt16LE(0xef53, 0x38);
    disk.put(4096 * 512 + 1024, superblock);
    disk.broken.push([2048 * 512, 2049 * 512]);
    const notices: string[] = [];
    const { partitions } = contentOf(disk, 512, (text) => notices.push(text));
    expect(partitions.map(({ number, fileSystem }) => [number, fileSystem?.type])).toEqual([
      [1, undefined],
      [2, 'ext2'],
    ]);
    expect(notices).toEqual([expect.stringMatching(/^partition 1: the disk at 0x100000: .*errno 5/)]);
  });

  it('at the start of the disk leaves it without partitions, and says so', () => {
    const disk = new TestDisk(SIZE);
    disk.broken.push([0, 1]);
    const notices: string[] = [];
    expect(contentOf(disk, 512, (text) => notices.push(text))).toMatchObject({
      table: 'none',
      partitions: [],
    });
    expect(notices).toHaveLength(2);
  });
});

it('a signature is described by what is known of it', () => {
  expect(describeSignature({ type: 'xfs', label: '', uuid: undefined })).toBe('xfs');
  expect(describeSignature({ type: 'ext4', version: '1.0', label: 'a "b"', uuid: 'u' })).toBe(
    'ext4 "a \\"b\\"" u',
  );
  expect(describeSignature({ type: 'crypto_LUKS', version: '2', container: true })).toBe(
    'crypto_LUKS 2 (not looked into)',
  );
});
