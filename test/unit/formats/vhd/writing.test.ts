import { describe, expect, it } from 'vitest';
import { EINVAL, EIO, ENOSPC, type Status } from '../../../../src/base/errno.ts';
import { ImageError } from '../../../../src/base/errors.ts';
import { guestOffset, type HostOffset } from '../../../../src/base/units.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import type { CheckReport } from '../../../../src/image/check.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import {
  encodeDynamic,
  encodeFixed,
  type VhdBlockSpec,
  type VhdDynamicSpec,
} from '../../../support/encoders/vhd-image.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { describeChange, RecordingSource } from '../../../support/recording-source.ts';

const BLOCK = 32 * 1024;
const STRIDE = BLOCK + 512;
const data = randomBytes(random(1), BLOCK);
const full = (...blocks: number[]) => new Map<number, VhdBlockSpec>(blocks.map((block) => [block, { data }]));
const spec: VhdDynamicSpec = { size: 16 * BLOCK, blockSize: BLOCK, blocks: full(3) };

const medium = (file: Uint8Array) => new MemorySource(file, 'medium', true);
const edit = (source: MemorySource | RecordingSource | FaultSource, options = {}) =>
  openEditable(vhdDriver, source, options);
const u32 = (bytes: Uint8Array, at: number) => new DataView(bytes.buffer, bytes.byteOffset).getUint32(at);
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

function check(bytes: Uint8Array): CheckReport {
  return vhdDriver.check!(new MemorySource(bytes), {
    tables: new TableAllocator(),
    report: () => {},
    options: new Map(),
  });
}

/** What was done to the file since `from`, in words without places, but for the flush before the first write. */
function steps(source: RecordingSource, from = 0): string[] {
  const all = source.changes.slice(from).map((change) => describeChange(change).replace(/ .*/, ''));
  return from === 0 && all[0] === 'flush' ? all.slice(1) : all;
}

const at = guestOffset;
const one = (value: number, length = 512) => new Uint8Array(length).fill(value);

describe('VHD, fixed, written', () => {
  it('changes nothing before the first write, then the time and its checksum, once', () => {
    const file = encodeFixed(data);
    const source = new RecordingSource(medium(file));
    const { disk } = edit(source);
    expect(disk.flush()).toBe(0);
    expect(steps(source)).toEqual([]);
    const before = Math.floor(Date.now() / 1000) - 946684800;
    expect(disk.write(one(7), 0, 512, at(1024))).toBe(512);
    expect(disk.write(one(8), 0, 512, at(4096))).toBe(512);
    expect(disk.close()).toBe(0);
    const written = ['footer.write', 'payload.write', 'payload.write', 'flush'];
    expect(steps(source).slice(-4)).toEqual(written);
    const bytes = new Uint8Array(512);
    source.readAt(bytes, 0, 512, BLOCK as HostOffset);
    expect(u32(bytes, 24)).toBeGreaterThanOrEqual(before);
    const old = file.slice(BLOCK);
    for (const n of [24, 25, 26, 27, 64, 65, 66, 67]) old[n] = bytes[n]!;
    expect(same(old, bytes)).toBe(true);
    const again = new Uint8Array(source.size);
    source.readAt(again, 0, again.length, 0 as HostOffset);
    expect(openDisk(vhdDriver, new MemorySource(again)).notices).toEqual([]);
    expect(check(again)).toMatchObject({ errors: 0, leaks: 0, warnings: 0 });
  });

  it('never writes into the footer', () => {
    const source = medium(encodeFixed(data));
    const { disk } = edit(source);
    expect(disk.write(one(9, 1024), 0, 1024, at(BLOCK - 512))).toBe(512);
    expect(disk.write(one(9), 0, 512, at(BLOCK))).toBe(-ENOSPC);
    expect(disk.zero(at(0), 2 * BLOCK, 'punch')).toBe(0);
    expect(disk.close()).toBe(0);
    expect(source.size).toBe(BLOCK + 512);
    expect(openDisk(vhdDriver, new MemorySource(source.bytes)).notices).toEqual([]);
  });

  it('a time that was written in half is taken back', () => {
    const inner = medium(encodeFixed(data));
    const source = new FaultSource(inner);
    const { disk } = edit(source);
    source.set({ step: 'footer.write', nth: 1, times: 1, errno: EIO, part: 0.5 });
    expect(disk.write(one(7), 0, 512, at(0))).toBe(-EIO);
    expect(openDisk(vhdDriver, new MemorySource(inner.bytes)).notices).toEqual([]);
    expect(disk.write(one(7), 0, 512, at(0))).toBe(512);
  });

  it('leaves the time where writing it could tear the only footer', () => {
    // Time and checksum are bytes 24 to 67: here a sector ends between them.
    const file = encodeFixed(data.slice(0, 512 - 40));
    const source = medium(file);
    const { disk } = edit(source);
    expect(disk.write(one(1, 10), 0, 10, at(5))).toBe(10);
    expect(disk.close()).toBe(0);
    expect(same(source.bytes.subarray(472), file.subarray(472))).toBe(true);
  });
});

describe('VHD, dynamic, the first write', () => {
  it('nothing is changed by a mount that nobody writes to', () => {
    for (const tail of ['whole', 'short', 'none'] as const) {
      const source = new RecordingSource(medium(encodeDynamic({ ...spec, tail }).file));
      const { disk } = edit(source);
      readDisk(disk);
      expect(disk.flush()).toBe(0);
      expect(disk.close()).toBe(0);
      expect(steps(source)).toEqual([]);
    }
  });

  it('a time in both footers, without a flush of its own', () => {
    const inner = medium(encodeDynamic(spec).file);
    const source = new RecordingSource(inner);
    const { disk } = edit(source);
    expect(disk.write(one(7), 0, 512, at(3 * BLOCK))).toBe(512);
    expect(steps(source)).toEqual(['footer.write', 'footer.write', 'payload.write']);
    expect(disk.close()).toBe(0);
    const { bytes } = inner;
    expect(same(bytes.subarray(0, 512), bytes.subarray(-512))).toBe(true);
    expect(u32(bytes, 24)).not.toBe(0x1a2b3c4d);
    expect(openDisk(vhdDriver, new MemorySource(bytes)).notices).toEqual([]);
  });

  it.each([
    ['no footer at the end', { tail: 'none' }],
    ['511 bytes at the end', { tail: 'short' }],
    ['no copy at the start', { head: null }],
    ['a copy of another type', { head: { type: 2 } }],
    ['copies that differ', { head: { uuid: new Uint8Array(16) } }],
    ['a footer at the end that leads nowhere', { footer: { type: 0 }, head: { type: 3 } }],
  ] as const)('%s: both are made the same, one after the other', (_name, change) => {
    const inner = medium(encodeDynamic({ ...spec, ...change }).file);
    const source = new RecordingSource(inner);
    const { disk } = edit(source);
    expect(disk.write(one(7), 0, 512, at(3 * BLOCK))).toBe(512);
    expect(steps(source).filter((name) => name !== 'size.set')).toEqual([
      'footer.write',
      'flush',
      'footer.write',
      'flush',
      'payload.write',
    ]);
    expect(disk.close()).toBe(0);
    const { bytes } = inner;
    expect(bytes.length % 512).toBe(0);
    expect(same(bytes.subarray(0, 512), bytes.subarray(-512))).toBe(true);
    const { disk: again, notices } = openDisk(vhdDriver, new MemorySource(bytes));
    expect(notices).toEqual([]);
    expect(same(readDisk(again, 3 * BLOCK + 512, BLOCK - 512), data.subarray(512))).toBe(true);
  });

  it('a footer that is not in one sector moves into one of its own', () => {
    const { file } = encodeDynamic(spec);
    const odd = new Uint8Array(file.length + 100);
    odd.set(file.subarray(0, -512));
    odd.set(file.subarray(-512), odd.length - 512);
    const source = medium(odd);
    const { disk } = edit(source);
    expect(disk.write(one(7), 0, 512, at(3 * BLOCK))).toBe(512);
    expect(disk.flush()).toBe(0);
    expect(source.size).toBe(file.length + 1024);
    expect(openDisk(vhdDriver, new MemorySource(source.bytes)).notices).toEqual([]);
  });
});

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

describe('VHD, dynamic, blocks with clear bits', () => {
  const partial: VhdDynamicSpec = {
    ...spec,
    size: 15 * BLOCK + 4096,
    blocks: new Map([
      [2, { data, sectors: (sector) => sector >= 8 && sector < 16 }],
      [15, { data, sectors: (sector) => sector === 1 }],
    ]),
  };

  it('zeros under clear bits are stable before the bits are set; set sectors need nothing', () => {
    const inner = medium(encodeDynamic(partial).file);
    const source = new RecordingSource(inner);
    const { disk } = edit(source);
    expect(disk.write(one(9), 0, 512, at(2 * BLOCK + 8 * 512))).toBe(512);
    expect(disk.flush()).toBe(0);
    expect(steps(source)).toEqual(['footer.write', 'footer.write', 'payload.write', 'flush']);
    const from = source.changes.length;
    const start = u32(inner.bytes, 1536 + 8) * 512;
    expect(disk.write(one(7), 0, 512, at(2 * BLOCK + 20 * 512))).toBe(512);
    expect(inner.bytes[start + 2]).toBe(0);
    expect(disk.flush()).toBe(0);
    expect(source.changes.slice(from).map(describeChange)).toEqual([
      `payload.zero (zero) 0x${(start + 512).toString(16)} +${8 * 512}`,
      `payload.zero (zero) 0x${(start + 512 + 16 * 512).toString(16)} +${BLOCK - 16 * 512}`,
      `payload.write 0x${(start + 512 + 20 * 512).toString(16)} +512`,
      'flush',
      `bitmap.write 0x${start.toString(16)} +512`,
      'flush',
    ]);
    const model = new Uint8Array(BLOCK);
    model.set(data.subarray(8 * 512, 16 * 512), 8 * 512);
    model.fill(9, 8 * 512, 9 * 512);
    model.fill(7, 20 * 512, 21 * 512);
    const again = openDisk(vhdDriver, new MemorySource(inner.bytes)).disk;
    expect(same(readDisk(again, 2 * BLOCK, BLOCK), model)).toBe(true);
    expect(same(inner.bytes.subarray(start + 512, start + STRIDE), model)).toBe(true);
  });

  it('a bitmap that could not be written is written by the next flush', () => {
    const inner = medium(encodeDynamic(partial).file);
    const source = new FaultSource(inner);
    const { disk } = edit(source);
    expect(disk.write(one(7), 0, 512, at(2 * BLOCK))).toBe(512);
    source.set({ step: 'bitmap.write', nth: 1, times: 1, errno: EIO, part: 0 });
    expect(disk.flush()).toBe(-EIO);
    expect(disk.write(one(8), 0, 512, at(2 * BLOCK + 512))).toBe(512);
    expect(disk.flush()).toBe(0);
    const again = openDisk(vhdDriver, new MemorySource(inner.bytes)).disk;
    expect(same(readDisk(again, 2 * BLOCK, 1024), Buffer.concat([one(7), one(8)]))).toBe(true);
  });

  it('bits behind the end of the disk stay as they are', () => {
    const source = medium(encodeDynamic(partial).file);
    const { disk } = edit(source);
    const start = u32(source.bytes, 1536 + 15 * 4) * 512;
    expect(disk.write(one(7), 0, 512, at(15 * BLOCK + 2048))).toBe(512);
    expect(disk.close()).toBe(0);
    expect([...source.bytes.subarray(start, start + 3)]).toEqual([0xff, 0, 0]);
  });

  it('more of them than can wait', () => {
    const blocks = 1100;
    const some = new Map(
      Array.from({ length: blocks }, (_, n) => [
        n,
        { data: data.subarray(0, 1024), sectors: (s: number) => s === 0 },
      ]),
    );
    const source = medium(encodeDynamic({ size: blocks * 1024, blockSize: 1024, blocks: some }).file);
    const { disk } = edit(source);
    for (let n = 0; n < blocks; n += 1) expect(disk.write(one(7), 0, 512, at(n * 1024 + 512))).toBe(512);
    expect(disk.close()).toBe(0);
    const found = readDisk(openDisk(vhdDriver, new MemorySource(source.bytes)).disk);
    for (let n = 0; n < blocks; n += 1) expect(found[n * 1024 + 512]).toBe(7);
  });
});

describe('VHD, dynamic, discard', () => {
  it('unmaps; gives the place out after the commit, as zeros, before the file grows', () => {
    const inner = medium(encodeDynamic({ ...spec, blocks: full(0, 1, 2) }).file);
    const source = new RecordingSource(inner);
    const { disk } = edit(source);
    const { size } = source;
    const place = u32(inner.bytes, 1536 + 4);
    expect(disk.zero(at(BLOCK), BLOCK, 'punch')).toBe(0);
    expect(u32(inner.bytes, 1536 + 4)).toBe(place);
    expect(disk.write(one(7), 0, 512, at(9 * BLOCK))).toBe(512);
    expect(disk.flush()).toBe(0);
    expect(source.size).toBe(size);
    expect(u32(inner.bytes, 1536 + 4)).toBe(0xffffffff);
    expect(u32(inner.bytes, 1536 + 9 * 4)).toBe(place);
    const found = readDisk(openDisk(vhdDriver, new MemorySource(inner.bytes)).disk);
    expect(found.subarray(BLOCK, 2 * BLOCK).every((byte) => byte === 0)).toBe(true);
    expect(found.subarray(9 * BLOCK + 512, 10 * BLOCK).every((byte) => byte === 0)).toBe(true);
  });

  it('at the end the file ends with its last block, and holes are found by the next mount', () => {
    const source = medium(encodeDynamic({ ...spec, blocks: full(0, 1, 2, 3) }).file);
    const { disk } = edit(source);
    expect(disk.zero(at(0), BLOCK, 'punch')).toBe(0);
    expect(disk.zero(at(2 * BLOCK), 2 * BLOCK, 'punch')).toBe(0);
    expect(disk.close()).toBe(0);
    const end = 2048 + 2 * STRIDE;
    expect(source.size).toBe(end + 512);
    expect(check(source.bytes)).toMatchObject({ errors: 0, warnings: 0, leaks: 1, leakedBytes: STRIDE });
    expect(same(source.bytes.subarray(0, 512), source.bytes.subarray(-512))).toBe(true);

    const { disk: next } = edit(source);
    expect(next.write(data, 0, BLOCK, at(7 * BLOCK))).toBe(BLOCK);
    expect(next.close()).toBe(0);
    expect(source.size).toBe(end + 512);
    expect(check(source.bytes)).toMatchObject({ errors: 0, warnings: 0, leaks: 0 });
  });

  it('cutting off: footer, flush, size', () => {
    const source = new RecordingSource(medium(encodeDynamic({ ...spec, blocks: full(0, 1) }).file));
    const { disk } = edit(source);
    expect(disk.zero(at(BLOCK), BLOCK, 'punch')).toBe(0);
    expect(disk.flush()).toBe(0);
    const from = source.changes.length;
    expect(disk.close()).toBe(0);
    expect(steps(source, from)).toEqual(['footer.write', 'flush', 'size.set', 'flush']);
  });

  it('blocks that a batmap calls full are zeroed in place, and the batmap stays true', () => {
    const batmap = { version: 0x10002, blocks: [0, 1] };
    const footer = { creator: 'tap\0', creatorVersion: 0x10003 };
    const { file } = encodeDynamic({ ...spec, blocks: full(0, 1, 2), footer, batmap });
    const source = medium(file);
    const { disk } = edit(source);
    expect(disk.zero(at(0), 3 * BLOCK, 'punch')).toBe(0);
    expect(disk.write(one(7), 0, 512, at(4 * BLOCK))).toBe(512);
    expect(disk.close()).toBe(0);
    expect(u32(source.bytes, 1536)).toBe(u32(file, 1536));
    expect(u32(source.bytes, 1536 + 8)).toBe(0xffffffff);
    expect(same(source.bytes.subarray(2048, 3072), file.subarray(2048, 3072))).toBe(true);
    expect(check(source.bytes)).toMatchObject({ errors: 0, warnings: 0 });
    const { disk: again } = openDisk(vhdDriver, new MemorySource(source.bytes));
    expect(readDisk(again, 0, 3 * BLOCK).every((byte) => byte === 0)).toBe(true);
  });

  it('with a batmap that cannot be trusted nothing is unmapped', () => {
    const batmap = { version: 0x10002, blocks: [0, 1] };
    const footer = { creator: 'tap\0', creatorVersion: 0x10003 };
    const { file } = encodeDynamic({ ...spec, blocks: full(0, 1, 2), footer, batmap });
    file[2560]! ^= 1;
    const source = medium(file);
    const { disk } = edit(source);
    expect(disk.zero(at(0), 3 * BLOCK, 'punch')).toBe(0);
    expect(disk.close()).toBe(0);
    expect(same(source.bytes.subarray(1536, 2048), file.subarray(1536, 2048))).toBe(true);
    expect(readDisk(disk, 0, 3 * BLOCK).every((byte) => byte === 0)).toBe(true);
  });

  it('a last block that is shorter than the others, or holds more than the disk, stays', () => {
    const short = { data: data.subarray(0, 4096) };
    const cut: VhdDynamicSpec = {
      ...spec,
      size: 15 * BLOCK + 4096,
      blocks: new Map([
        [15, short],
        [1, { data }],
      ]),
    };
    const geometry: VhdDynamicSpec = {
      ...spec,
      blocks: full(1, 15),
      footer: { creator: 'vpc ', geometry: [15, 4, 17] },
    };
    for (const one of [cut, geometry]) {
      const { file } = encodeDynamic(one);
      const source = medium(file);
      const { disk } = edit(source);
      expect(disk.zero(at(0), disk.size, 'punch')).toBe(0);
      expect(disk.write(data, 0, BLOCK, at(0))).toBe(BLOCK);
      expect(disk.close()).toBe(0);
      expect(u32(source.bytes, 1536 + 15 * 4)).toBe(u32(file, 1536 + 15 * 4));
      const found = readDisk(openDisk(vhdDriver, new MemorySource(source.bytes)).disk);
      expect(same(found.subarray(0, BLOCK), data)).toBe(true);
      expect(found.subarray(BLOCK).every((byte) => byte === 0)).toBe(true);
      expect(check(source.bytes)).toMatchObject({ errors: 0 });
    }
  });
});

describe('VHD that is not written', () => {
  const refusal = (file: Uint8Array): ImageError => {
    try {
      edit(medium(file));
    } catch (problem) {
      if (problem instanceof ImageError) return problem;
      throw problem;
    }
    throw new Error('expected a refusal');
  };
  const twice = (change: (view: DataView) => void, of: VhdDynamicSpec = { ...spec, blocks: full(0, 1) }) => {
    const { file } = encodeDynamic(of);
    change(new DataView(file.buffer));
    return file;
  };

  it.each([
    ['suspended, fixed', encodeFixed(data, { savedState: 1 }), /was suspended/],
    ['suspended, dynamic', encodeDynamic({ ...spec, footer: { savedState: 1 } }).file, /was suspended/],
    ['another version', encodeFixed(data, { version: 0x10001 }), /version is 0x10001, expected 0x10000/],
    ['another header version', encodeDynamic({ ...spec, headerVersion: 0x20000 }).file, /version is 0x20000/],
    [
      'a bad checksum of the header',
      twice((view) => view.setUint32(512 + 36, 1)),
      /checksum is 0x1, computed/,
    ],
    [
      'one place twice',
      twice((view) => view.setUint32(1536 + 12, view.getUint32(1536))),
      /0x4 and 0x4 overlap/,
    ],
    ['overlapping blocks', twice((view) => view.setUint32(1536, 5)), /0x5 and 0x45 overlap/],
    ['a block on the metadata', twice((view) => view.setUint32(1536, 1)), /block 0 is at sector 0x1, where/],
    [
      'a block behind the end',
      twice((view) => view.setUint32(1536, 999)),
      /block 0 is at sector 0x3e7, which is not/,
    ],
    [
      'a block that is cut off',
      encodeDynamic({ ...spec, tail: 'none' }).file.subarray(0, -1024),
      /the last block ends at 0x8a00, the file at 0x8600/,
    ],
    ['a table between sectors', encodeDynamic({ ...spec, tableAt: 1540 }).file, /the table is at 0x604/],
    [
      'entries behind the disk that overlap',
      twice((view) => view.setUint32(1536 + 17 * 4, 6), { ...spec, maxEntries: 32, blocks: full(0, 1) }),
      /overlap/,
    ],
  ] as const)('%s', (_name, file, message) => {
    const problem = refusal(file);
    expect(problem.message).toMatch(message);
    expect(problem.hint).toMatch(/-o ro/);
  });

  it('a block that only an entry behind the disk names is not given out', () => {
    const { file } = encodeDynamic({ ...spec, maxEntries: 32, blocks: full(0, 1) });
    const view = new DataView(file.buffer);
    view.setUint32(1536 + 20 * 4, view.getUint32(1536));
    view.setUint32(1536, 0xffffffff);
    const source = medium(file);
    const { disk } = edit(source);
    expect(disk.write(one(7), 0, 512, at(5 * BLOCK))).toBe(512);
    expect(disk.close()).toBe(0);
    const start = u32(file, 1536 + 20 * 4) * 512;
    expect(same(source.bytes.subarray(start, start + STRIDE), file.subarray(start, start + STRIDE))).toBe(
      true,
    );
  });
});
