/** New blocks of a dynamic VHD: where they go, in which order they become stable, and what happens where there is no room. */

import { describe, expect, it } from 'vitest';
import { EINVAL, EIO, ENOSPC, type Status } from '../../../../src/base/errno.ts';
import type { HostOffset } from '../../../../src/base/units.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import { encodeDynamic } from '../../../support/encoders/vhd-image.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { describeChange, RecordingSource } from '../../../support/recording-source.ts';
import {
  at,
  BLOCK,
  check,
  data,
  edit,
  full,
  medium,
  one,
  STRIDE,
  same,
  spec,
  steps,
  u32,
} from './write-support.ts';

describe('VHD, dynamic, allocation', () => {
  it('footer at the new end, stable; place zeros; bitmap; payload; flush; table; flush', () => {
    const source = new RecordingSource(medium(encodeDynamic(spec).file));
    const { disk } = edit(source);
    expect(disk.write(one(1), 0, 512, at(3 * BLOCK))).toBe(512);
    const from = source.changes.length;
    expect(disk.write(one(7), 0, 512, at(5 * BLOCK + 1024))).toBe(512);
    expect(disk.flush()).toBe(0);
    const footerAt = 2048 + STRIDE;
    const newEnd = footerAt + STRIDE;
    expect(source.changes.slice(from).map(describeChange)).toEqual([
      `size.set 0x${(footerAt + 512).toString(16)} -> 0x${newEnd.toString(16)}`,
      `footer.write 0x${newEnd.toString(16)} +512`,
      'flush',
      `payload.zero (zero) 0x${footerAt.toString(16)} +512`,
      `bitmap.write 0x${footerAt.toString(16)} +512`,
      `payload.write 0x${(footerAt + 512 + 1024).toString(16)} +512`,
      'flush',
      'table.write 0x600 +512',
      'flush',
    ]);
  });

  it('grows by ever more blocks at once, and by one where the host has room for no more', () => {
    const blocks = 200;
    const inner = medium(encodeDynamic({ size: blocks * BLOCK, blockSize: BLOCK, blocks: full() }).file);
    const source = new RecordingSource(inner);
    const { disk } = edit(source);
    for (let block = 0; block < blocks; block += 1) {
      expect(disk.write(data, 0, BLOCK, at(block * BLOCK))).toBe(BLOCK);
    }
    const grown = steps(source).filter((name) => name === 'footer.write').length - 2;
    expect(grown).toBeLessThan(12);
    expect(disk.close()).toBe(0);
    // Nothing is left over at the end.
    expect(source.size).toBe(2560 + blocks * STRIDE + 512);
    expect(check(inner.bytes)).toMatchObject({ errors: 0, leaks: 0, warnings: 0 });

    const tight = new FaultSource(medium(encodeDynamic({ ...spec, blocks: full(0, 1, 2, 3, 4) }).file));
    tight.limit = tight.size + STRIDE;
    const { disk: other } = edit(tight);
    expect(other.write(data, 0, BLOCK, at(9 * BLOCK))).toBe(BLOCK);
    expect(other.write(data, 0, BLOCK, at(10 * BLOCK))).toBe(-ENOSPC);
    expect(other.close()).toBe(0);
  });

  it('bitmaps are true: ones for the sectors of the block, in either order of bits', () => {
    for (const [blockSize, bits, expected] of [
      [512, 'msb', 0x80],
      [512, 'lsb', 0x01],
      [2048, 'msb', 0xf0],
      [2048, 'lsb', 0x0f],
      [BLOCK, 'msb', 0xff],
    ] as const) {
      const footer = bits === 'lsb' ? { creator: 'tap\0', creatorVersion: 1 } : {};
      const source = medium(
        encodeDynamic({ size: 4 * blockSize, blockSize, blocks: full(), bits, footer }).file,
      );
      const { disk } = edit(source);
      expect(disk.write(one(7), 0, 512, at(blockSize))).toBe(512);
      expect(disk.close()).toBe(0);
      const start = u32(source.bytes, 1536 + 4) * 512;
      expect(source.bytes[start]).toBe(expected);
      const bytes = blockSize / 512 / 8;
      expect(source.bytes.subarray(start, start + Math.floor(bytes)).every((byte) => byte === 0xff)).toBe(
        true,
      );
      expect(source.bytes.subarray(start + Math.ceil(bytes), start + 512).every((byte) => byte === 0)).toBe(
        true,
      );
    }
  });

  it('garbage before the footer does not shine through', () => {
    const { file, footerAt } = encodeDynamic(spec);
    const dirty = new Uint8Array(file.length + 5 * STRIDE);
    dirty.fill(0xee);
    dirty.set(file.subarray(0, footerAt));
    dirty.set(file.subarray(footerAt), dirty.length - 512);
    const source = medium(dirty);
    const { disk } = edit(source);
    const model = readDisk(disk);
    for (const block of [0, 1, 2, 4, 5, 6, 7, 8, 9]) {
      expect(disk.write(one(block + 1), 0, 512, at(block * BLOCK + 512))).toBe(512);
      model.fill(block + 1, block * BLOCK + 512, block * BLOCK + 1024);
    }
    expect(disk.flush()).toBe(0);
    expect(same(readDisk(openDisk(vhdDriver, new MemorySource(source.bytes)).disk), model)).toBe(true);
  });

  it('data of large blocks starts at pages of the host', () => {
    const blockSize = 128 * 1024;
    const source = medium(encodeDynamic({ size: 8 * blockSize, blockSize, blocks: full() }).file);
    const { disk } = edit(source);
    for (let block = 0; block < 8; block += 1)
      expect(disk.write(one(1), 0, 512, at(block * blockSize))).toBe(512);
    expect(disk.close()).toBe(0);
    for (let block = 0; block < 8; block += 1) {
      expect((u32(source.bytes, 1536 + block * 4) * 512 + 512) % 4096).toBe(0);
    }
  });

  it('a failed bitmap, footer or table leaves the image as it was, and writing goes on later', () => {
    for (const step of [
      'footer.write',
      'bitmap.write',
      'table.write',
      'payload.write',
      'payload.zero',
    ] as const) {
      const inner = medium(encodeDynamic(spec).file);
      const source = new FaultSource(inner);
      const { disk } = edit(source);
      expect(disk.write(one(1), 0, 512, at(3 * BLOCK))).toBe(512);
      expect(disk.flush()).toBe(0);
      source.set({ step, nth: 1, times: Number.POSITIVE_INFINITY, errno: ENOSPC, part: 0.5 });
      const status: Status = disk.write(one(7), 0, 512, at(5 * BLOCK));
      expect(status === 512 ? disk.flush() : status, step).toBe(-ENOSPC);
      expect(check(inner.bytes), step).toMatchObject({ errors: 0, warnings: 0 });
      source.lift();
      expect(disk.write(one(8), 0, 512, at(5 * BLOCK)), step).toBe(512);
      expect(disk.close()).toBe(0);
      expect(check(inner.bytes), step).toMatchObject({ errors: 0, warnings: 0 });
      const again = readDisk(openDisk(vhdDriver, new MemorySource(inner.bytes)).disk, 5 * BLOCK, 1024);
      expect(same(again, Buffer.concat([one(8), one(0)])), step).toBe(true);
    }
  });

  it('a failed flush ends writing', () => {
    const source = new FaultSource(medium(encodeDynamic(spec).file));
    const { disk } = edit(source);
    expect(disk.write(one(1), 0, 512, at(3 * BLOCK))).toBe(512);
    source.set({ step: 'flush', nth: 1, times: 1, errno: EIO, part: 0 });
    expect(disk.flush()).toBe(-EIO);
    expect(disk.write(one(1), 0, 512, at(3 * BLOCK))).toBe(-EIO);
  });

  it('a limit of file sizes: an error, a sound image, and room again after a discard', () => {
    const inner = medium(encodeDynamic(spec).file);
    const source = new FaultSource(inner);
    source.limit = source.size;
    const { disk } = edit(source);
    expect(disk.write(one(7), 0, 512, at(0))).toBe(-ENOSPC);
    expect(check(inner.bytes)).toMatchObject({ errors: 0, warnings: 0, leaks: 0 });
    expect(disk.zero(at(3 * BLOCK), BLOCK, 'punch')).toBe(0);
    expect(disk.write(one(7), 0, 512, at(0))).toBe(512);
    expect(disk.close()).toBe(0);
    expect(check(inner.bytes)).toMatchObject({ errors: 0, warnings: 0, leaks: 0, allocatedBytes: BLOCK });
  });

  it('no block starts behind sector 0xfffffffe', () => {
    const blockSize = 2 ** 28;
    const stride = blockSize + 65536;
    const { file } = encodeDynamic({ size: 9000 * blockSize, blockSize, blocks: full() });
    /** What is behind the metadata is not kept: 2 TiB of nothing. */
    class Huge extends MemorySource {
      end = file.length;
      override get size(): number {
        return this.end;
      }
      override readAt(target: Uint8Array, start: number, length: number, place: HostOffset): number {
        return place < 40_000 ? super.readAt(target, start, length, place) : length;
      }
      override writeAt(bytes: Uint8Array, start: number, length: number, place: HostOffset): Status {
        this.end = Math.max(this.end, place + length);
        return place < 40_000 ? super.writeAt(bytes, start, length, place) : 0;
      }
      override zero(): Status {
        return 0;
      }
      override setSize(size: number): Status {
        this.end = size;
        return 0;
      }
    }
    const source = new Huge(file, 'huge', true);
    const { disk } = openEditable(vhdDriver, source);
    let block = 0;
    let status = 0;
    while (block < 9000) {
      status = disk.write(one(7), 0, 512, at(block * blockSize));
      if (status < 0) break;
      block += 1;
    }
    expect(status).toBe(-ENOSPC);
    expect(disk.flush()).toBe(0);
    const last = u32(source.bytes, 1536 + (block - 1) * 4);
    expect(last).toBeLessThanOrEqual(0xfffffffe);
    expect(last + stride / 512).toBeGreaterThan(0xfffffffe);
  });

  it('on a device: what room there is, then no more; its size stays', () => {
    const { file } = encodeDynamic(spec);
    const device = new Uint8Array(file.length + 2 * STRIDE + 1024);
    device.set(file.subarray(0, -512));
    device.set(file.subarray(-512), device.length - 512);
    class Device extends MemorySource {
      override setSize(size: number): Status {
        return size === this.size ? 0 : -EINVAL;
      }
      override writeAt(bytes: Uint8Array, start: number, length: number, place: HostOffset): Status {
        return place + length > this.size ? -ENOSPC : super.writeAt(bytes, start, length, place);
      }
    }
    const source = new Device(device, 'device', true);
    const { disk } = edit(source);
    expect(disk.write(one(1), 0, 512, at(0))).toBe(512);
    expect(disk.write(one(2), 0, 512, at(BLOCK))).toBe(512);
    expect(disk.write(one(3), 0, 512, at(2 * BLOCK))).toBe(-ENOSPC);
    expect(disk.zero(at(0), BLOCK, 'punch')).toBe(0);
    expect(disk.write(one(3), 0, 512, at(2 * BLOCK))).toBe(512);
    expect(disk.close()).toBe(0);
    expect(source.size).toBe(device.length);
    expect(openDisk(vhdDriver, new MemorySource(source.bytes)).notices).toEqual([]);
    expect(check(source.bytes)).toMatchObject({ errors: 0, warnings: 0 });

    // A copy of an image at the start of a larger device has no footer at its end.
    const larger = new Device(device.fill(0, -512), 'device', true);
    const { disk: other } = edit(larger);
    expect(other.write(one(1), 0, 512, at(0))).toBe(512);
    expect(other.close()).toBe(0);
    expect(openDisk(vhdDriver, new MemorySource(larger.bytes)).notices).toEqual([]);
  });
});
