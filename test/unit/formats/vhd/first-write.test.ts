/** What the first write to a VHD changes beside its payload, and what keeps one from being written. */

import { describe, expect, it } from 'vitest';
import { EIO, ENOSPC } from '../../../../src/base/errno.ts';
import { ImageError } from '../../../../src/base/errors.ts';
import type { HostOffset } from '../../../../src/base/units.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import { encodeDynamic, encodeFixed, type VhdDynamicSpec } from '../../../support/encoders/vhd-image.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { RecordingSource } from '../../../support/recording-source.ts';
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
