import { describe, expect, it } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { guestOffset, type HostOffset, MIB, TIB } from '../../../../src/base/units.ts';
import { vdiDriver } from '../../../../src/formats/vdi/driver.ts';
import { openDisk } from '../../../support/disk.ts';
import { encodeVdi } from '../../../support/encoders/vdi.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { SparseSource } from '../../../support/sparse-source.ts';

/** A sparse source that keeps account of what is read. */
class CountingSource extends SparseSource {
  bytesRead = 0;

  override readAt(target: Uint8Array, start: number, length: number, at: HostOffset): number {
    this.bytesRead += length;
    return super.readAt(target, start, length, at);
  }
}

interface Large {
  readonly old?: boolean;
  readonly blockSize: number;
  readonly blocks: number;
  readonly extra?: number;
  /** [block, physical]; blocks not named are physical block 0, as the map is a hole in the file. */
  readonly entries: readonly (readonly [number, number])[];
}

/** The image, its data right behind its map, and where the data of a physical block are. */
function makeLarge({ old = false, blockSize, blocks, extra = 0, entries }: Large) {
  const source = new CountingSource();
  const version = old ? 2 : 0x10001;
  const { file: header, mapAt } = encodeVdi({ map: [], blockSize, extra, version }, random(1));
  const dataAt = mapAt + 4 * blocks;
  const view = new DataView(header.buffer);
  view.setUint32(old ? 0x16c : 0x180, blocks, true);
  view.setBigUint64(old ? 0x160 : 0x170, BigInt(blocks * blockSize), true);
  if (!old) view.setUint32(0x158, dataAt, true);
  source.put(0, header);
  for (const [block, physical] of entries) {
    const entry = new Uint8Array(4);
    new DataView(entry.buffer).setUint32(0, physical, true);
    source.put(mapAt + 4 * block, entry);
  }
  return { source, host: (physical: number) => dataAt + physical * (blockSize + extra) + extra };
}

// In 1.1 the data's offset is a u32, so that a map has at most about 2^30 entries; in 0.2 nothing bounds it.
describe.each([
  { name: '1.1, 4 MiB blocks', old: false, blockSize: 4 * MIB, blocks: 2 ** 30 - 0x200 / 4 - 1 },
  { name: '0.2, 1 MiB blocks', old: true, blockSize: MIB, blocks: 2 ** 32 - 1 },
])('a disk of about 4 PiB: $name', ({ old, blockSize, blocks }) => {
  const last = blocks - 1;
  const { source, host } = makeLarge({
    old,
    blockSize,
    blocks,
    entries: [
      [0, 5],
      [1, 0xfffffffe],
      [123_456_789, last - 5],
      [123_456_790, blocks === 2 ** 32 - 1 ? last - 1 : blocks],
      [last - 1, 7],
      [last, last - 2],
    ],
  });
  const noise = randomBytes(random(4), 4096);
  source.put(host(5), noise);
  source.put(host(7) + blockSize - 4096, noise);
  source.put(host(last - 5) + 100, noise);
  source.put(host(last - 4) - 1, noise.subarray(0, 1));
  source.bytesRead = 0;
  const { disk, notices, image } = openDisk(vdiDriver, source, {}, 16 * 4120);
  const readAtOpen = source.bytesRead;
  const target = new Uint8Array(4096);

  it('opens by its header alone', () => {
    expect(disk.size).toBe(blocks * blockSize);
    expect(disk.size).toBeGreaterThan(4095 * TIB);
    expect(readAtOpen).toBeLessThan(1024);
    expect(notices).toEqual([]);
  });

  it('reads at both ends and in the middle, a page of the map at a time', () => {
    source.bytesRead = 0;
    expect(disk.read(target, 0, 4096, guestOffset(0))).toBe(4096);
    expect(target).toEqual(noise);
    expect(disk.read(target, 0, 4096, guestOffset((last - 1) * blockSize + blockSize - 4096))).toBe(4096);
    expect(target).toEqual(noise);
    expect(disk.read(target, 0, 4096, guestOffset(123_456_789 * blockSize + 100))).toBe(4096);
    expect(target).toEqual(noise);
    expect(disk.read(target, 0, 1, guestOffset(blockSize + 9))).toBe(1);
    expect(target[0]).toBe(0);
    expect(source.bytesRead).toBeLessThanOrEqual(3 * 4096 + 3 * 4096);
  });

  it('finds damaged entries there too', () => {
    expect(disk.read(target, 0, 1, guestOffset(123_456_790 * blockSize))).toBe(-EIO);
    expect(disk.read(target, 0, 1, guestOffset(last * blockSize))).toBe(-EIO);
    expect(notices).toHaveLength(2);
  });

  it('counts a slice at a time', () => {
    source.bytesRead = 0;
    let bytes = 0;
    const next = image.countAllocated(guestOffset(0), (some) => {
      bytes += some;
    });
    expect(next).toBe(65536 * blockSize);
    expect(bytes).toBe(65535 * blockSize);
    expect(source.bytesRead).toBe(65536 * 4);
  });
});

describe('a hostile header', () => {
  it('cannot claim a map that the file does not have', () => {
    const { source: large } = makeLarge({ blockSize: 512, blocks: 2 ** 30 - 200, entries: [] });
    const source = new SparseSource();
    const head = new Uint8Array(0x200);
    large.readAt(head, 0, head.length, 0 as HostOffset);
    source.put(0, head);
    expect(() => openDisk(vdiDriver, source)).toThrow('entries end at');
  });

  it('may have the most extra bytes', () => {
    const { source, host } = makeLarge({ blockSize: 512, blocks: 4, extra: 0xffffffff, entries: [[1, 3]] });
    const noise = randomBytes(random(4), 512);
    source.put(host(3), noise);
    const { disk } = openDisk(vdiDriver, source);
    const target = new Uint8Array(512);
    expect(disk.read(target, 0, 512, guestOffset(512))).toBe(512);
    expect(target).toEqual(noise);
    expect(disk.read(target, 0, 512, guestOffset(0))).toBe(512);
    expect(target).toEqual(new Uint8Array(512));
  });
});
