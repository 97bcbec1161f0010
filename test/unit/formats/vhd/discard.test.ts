/** Sectors and blocks of a dynamic VHD that are zeros: bits that are clear, blocks that were discarded. */

import { describe, expect, it } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import { encodeDynamic, type VhdDynamicSpec } from '../../../support/encoders/vhd-image.ts';
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
