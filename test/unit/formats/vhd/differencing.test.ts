import { describe, expect, it } from 'vitest';
import { EIO, ENOSPC } from '../../../../src/base/errno.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import type { BlockSource } from '../../../../src/source/block-source.ts';
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
import { at, BLOCK, check, medium, one, STRIDE, same, u32 } from './write-support.ts';

const SIZE = 16 * BLOCK;
/** What the parent shows: no byte of it is zero. */
const beneath = randomBytes(random(1), SIZE);
const data = randomBytes(random(2), BLOCK);
const ID = new Uint8Array(16).fill(3);
const spec: VhdDynamicSpec = {
  size: SIZE,
  blockSize: BLOCK,
  blocks: new Map<number, VhdBlockSpec>([[3, { data, sectors: (sector) => sector < 4 }]]),
  parent: { uuid: ID, name: 'base.vhd', locators: [] },
};
const TABLE = 1536;

const parent = () => openDisk(vhdDriver, new MemorySource(encodeFixed(beneath, { uuid: ID }))).disk;
const edit = (source: BlockSource) => openEditable(vhdDriver, source, {}, 1 << 20, parent());
const again = (bytes: Uint8Array) =>
  readDisk(openDisk(vhdDriver, new MemorySource(bytes), {}, 1 << 20, parent()).disk);
const bitmapOf = (bytes: Uint8Array, block: number, length = 8) => {
  const start = u32(bytes, TABLE + block * 4) * 512;
  return [...bytes.subarray(start, start + length)];
};

/** What `spec` reads as. */
function content(): Uint8Array {
  const model = beneath.slice();
  model.set(data.subarray(0, 4 * 512), 3 * BLOCK);
  return model;
}

describe('VHD, differencing, written', () => {
  it('nothing is changed by a mount that nobody writes to', () => {
    const source = new RecordingSource(medium(encodeDynamic(spec).file));
    const { disk } = edit(source);
    expect(same(readDisk(disk), content())).toBe(true);
    expect(disk.close()).toBe(0);
    expect(source.changes.filter(({ kind }) => kind !== 'flush')).toEqual([]);
  });

  it('a new block: place zeros, payload, flush; bits and table, flush; only what was written is set', () => {
    const inner = medium(encodeDynamic(spec).file);
    const source = new RecordingSource(inner);
    const { disk, pool } = edit(source);
    expect(disk.write(one(1), 0, 512, at(3 * BLOCK))).toBe(512);
    expect(disk.flush()).toBe(0);
    const from = source.changes.length;
    expect(disk.write(one(7, 1024), 0, 1024, at(5 * BLOCK + 1024))).toBe(1024);
    const footerAt = 2048 + STRIDE;
    const newEnd = footerAt + STRIDE;
    const hex = (place: number) => `0x${place.toString(16)}`;
    expect(disk.flush()).toBe(0);
    expect(source.changes.slice(from).map(describeChange)).toEqual([
      `size.set ${hex(footerAt + 512)} -> ${hex(newEnd)}`,
      `footer.write ${hex(newEnd)} +512`,
      'flush',
      `payload.zero (zero) ${hex(footerAt)} +512`,
      `payload.write ${hex(footerAt + 512 + 1024)} +1024`,
      'flush',
      `bitmap.write ${hex(footerAt)} +512`,
      'table.write 0x600 +512',
      'flush',
    ]);
    expect(pool.counters().pinned).toBe(0);
    expect(bitmapOf(inner.bytes, 5)).toEqual([0x30, 0, 0, 0, 0, 0, 0, 0]);
    const model = content();
    model.fill(1, 3 * BLOCK, 3 * BLOCK + 512);
    model.fill(7, 5 * BLOCK + 1024, 5 * BLOCK + 2048);
    expect(same(readDisk(disk), model)).toBe(true);
    expect(same(again(inner.bytes), model)).toBe(true);
    expect(check(inner.bytes)).toMatchObject({ errors: 0, warnings: 0, leaks: 0 });
  });

  it('a block that is there: payload, flush, bits, flush; set sectors need nothing', () => {
    const inner = medium(encodeDynamic(spec).file);
    const source = new RecordingSource(inner);
    const { disk } = edit(source);
    expect(disk.write(one(9), 0, 512, at(3 * BLOCK + 512))).toBe(512);
    expect(disk.flush()).toBe(0);
    const before = source.changes.length;
    const start = u32(inner.bytes, TABLE + 12) * 512;
    // Set and clear sectors in one write, and three sectors at the end.
    expect(disk.write(one(8, 3 * 512), 0, 3 * 512, at(3 * BLOCK + 3 * 512))).toBe(3 * 512);
    expect(disk.write(one(7, 3 * 512), 0, 3 * 512, at(4 * BLOCK - 3 * 512))).toBe(3 * 512);
    expect(disk.flush()).toBe(0);
    const words = source.changes.slice(before).map((change) => describeChange(change).split(' ')[0]);
    const payload = ['payload.write', 'payload.write', 'payload.write'];
    expect(words).toEqual([...payload, 'flush', 'bitmap.write', 'flush']);
    expect([...inner.bytes.subarray(start, start + 8)]).toEqual([0xfc, 0, 0, 0, 0, 0, 0, 0x07]);
    const model = content();
    model.fill(9, 3 * BLOCK + 512, 3 * BLOCK + 1024);
    model.fill(8, 3 * BLOCK + 3 * 512, 3 * BLOCK + 6 * 512);
    model.fill(7, 4 * BLOCK - 3 * 512, 4 * BLOCK);
    expect(same(again(inner.bytes), model)).toBe(true);
  });

  it('less than a sector: the rest of it is copied from the parent, no more', () => {
    const source = medium(encodeDynamic(spec).file);
    const { disk } = edit(source);
    const model = content();
    const bytes = one(7, 1000);
    expect(disk.write(bytes, 0, 1000, at(7 * BLOCK + 300))).toBe(1000);
    model.set(bytes, 7 * BLOCK + 300);
    expect(disk.write(bytes, 0, 1, at(8 * BLOCK - 1))).toBe(1);
    model[8 * BLOCK - 1] = 7;
    expect(same(readDisk(disk), model)).toBe(true);
    expect(disk.close()).toBe(0);
    expect(bitmapOf(source.bytes, 7)).toEqual([0xe0, 0, 0, 0, 0, 0, 0, 1]);
    expect(same(again(source.bytes), model)).toBe(true);
  });

  it('a disk that ends in a sector: what lies behind it stays', () => {
    const size = SIZE - BLOCK + 700;
    const blocks = new Map<number, VhdBlockSpec>([[15, { data, sectors: () => false }]]);
    const source = medium(encodeDynamic({ ...spec, size, blocks }).file);
    const { disk } = edit(source);
    expect(disk.write(one(7, 10), 0, 10, at(size - 10))).toBe(10);
    expect(disk.close()).toBe(0);
    const model = beneath.slice(0, size);
    model.fill(7, size - 10);
    expect(bitmapOf(source.bytes, 15, 1)).toEqual([0x40]);
    expect(same(again(source.bytes), model)).toBe(true);
    const dataAt = u32(source.bytes, TABLE + 15 * 4) * 512 + 512;
    expect(same(source.bytes.subarray(dataAt + 700, dataAt + BLOCK), data.subarray(700))).toBe(true);
  });

  it('zeros and discards hide the parent, and unmap nothing', () => {
    for (const how of ['punch', 'keep'] as const) {
      const source = medium(encodeDynamic(spec).file);
      const { disk } = edit(source);
      const entry = u32(source.bytes, TABLE + 12);
      expect(disk.zero(at(2 * BLOCK + 100), 3 * BLOCK, how)).toBe(0);
      expect(disk.zero(at(9 * BLOCK), BLOCK, how)).toBe(0);
      const model = content();
      model.fill(0, 2 * BLOCK + 100, 5 * BLOCK + 100);
      model.fill(0, 9 * BLOCK, 10 * BLOCK);
      expect(same(readDisk(disk), model)).toBe(true);
      expect(disk.close()).toBe(0);
      expect(u32(source.bytes, TABLE + 12)).toBe(entry);
      expect(bitmapOf(source.bytes, 9)).toEqual(Array(8).fill(0xff));
      expect(same(again(source.bytes), model)).toBe(true);
    }
  });

  it('a block without a set bit shows the parent, on the disk and after a kill', () => {
    const inner = medium(encodeDynamic(spec).file);
    const source = new FaultSource(inner);
    const { disk } = edit(source);
    expect(disk.write(one(1), 0, 512, at(0))).toBe(512);
    source.set({ step: 'payload.write', nth: 1, times: 1, errno: ENOSPC, part: 0 });
    expect(disk.write(one(7, 2048), 0, 2048, at(5 * BLOCK))).toBe(-ENOSPC);
    const model = content();
    model.fill(1, 0, 512);
    expect(same(readDisk(disk), model)).toBe(true);
    expect(disk.flush()).toBe(0);
    expect(bitmapOf(inner.bytes, 5)).toEqual(Array(8).fill(0));
    expect(same(again(inner.bytes), model)).toBe(true);
    expect(disk.write(one(7), 0, 512, at(5 * BLOCK))).toBe(512);
    expect(disk.close()).toBe(0);
    model.fill(7, 5 * BLOCK, 5 * BLOCK + 512);
    expect(same(again(inner.bytes), model)).toBe(true);
  });

  it('bitmaps that could not be written are written by the next flush', () => {
    const inner = medium(encodeDynamic(spec).file);
    const source = new FaultSource(inner);
    const { disk } = edit(source);
    expect(disk.write(one(7), 0, 512, at(3 * BLOCK + 5000))).toBe(512);
    source.set({ step: 'bitmap.write', nth: 1, times: 1, errno: EIO, part: 0 });
    expect(disk.flush()).toBe(-EIO);
    expect(disk.write(one(8), 0, 512, at(8 * BLOCK))).toBe(512);
    expect(disk.flush()).toBe(0);
    const model = content();
    model.fill(7, 3 * BLOCK + 5000, 3 * BLOCK + 5512);
    model.fill(8, 8 * BLOCK, 8 * BLOCK + 512);
    expect(same(again(inner.bytes), model)).toBe(true);
  });

  it('of a bitmap of several sectors only those are written that changed', () => {
    const blockSize = 8 << 20;
    const source = new RecordingSource(
      medium(encodeDynamic({ ...spec, size: blockSize, blockSize, blocks: new Map() }).file),
    );
    const { disk } = edit(source);
    expect(disk.write(one(1), 0, 512, at(0))).toBe(512);
    expect(disk.flush()).toBe(0);
    const from = source.changes.length;
    expect(disk.write(one(2), 0, 512, at((2 << 20) + 512))).toBe(512);
    expect(disk.write(one(2), 0, 512, at(6 << 20))).toBe(512);
    expect(disk.flush()).toBe(0);
    const bytes = new Uint8Array(2048);
    const start = 2048;
    source.readAt(bytes, 0, 2048, start as never);
    expect([0, 512, 1024, 1536].map((n) => bytes[n])).toEqual([0x80, 0x40, 0, 0x80]);
    const written = source.changes.slice(from).map(describeChange);
    expect(written.filter((text) => text.startsWith('bitmap'))).toEqual([
      'bitmap.write 0xa00 +512',
      'bitmap.write 0xe00 +512',
    ]);
  });

  it('more changed bitmaps than can wait', () => {
    const blocks = 1100;
    const source = medium(
      encodeDynamic({ ...spec, size: blocks * 1024, blockSize: 1024, blocks: new Map() }).file,
    );
    const { disk } = edit(source);
    for (let n = 0; n < blocks; n += 1) expect(disk.write(one(7), 0, 512, at(n * 1024))).toBe(512);
    expect(disk.counters().commits).toBeGreaterThan(0);
    expect(disk.close()).toBe(0);
    const found = again(source.bytes);
    for (let n = 0; n < blocks; n += 1) {
      expect(found[n * 1024]).toBe(7);
      expect(found[n * 1024 + 512]).toBe(beneath[n * 1024 + 512] ?? 0);
    }
  });

  it('when all sectors are set, the bitmap is looked at no more', () => {
    const { file } = encodeDynamic({ ...spec, size: SIZE - BLOCK + 20 * 512, blocks: new Map() });
    const source = medium(file);
    const { disk, image } = edit(source);
    for (const sectors of [64, 20]) {
      const from = sectors === 64 ? 0 : SIZE - BLOCK;
      for (let n = 0; n < sectors; n += 1) expect(disk.write(one(7), 0, 512, at(from + n * 512))).toBe(512);
    }
    const full = new Uint8Array((image.share().state as { full: SharedArrayBuffer }).full);
    expect([full[0], full[1], full[15]]).toEqual([1, 0, 1]);
    expect(disk.write(one(7, BLOCK), 0, BLOCK, at(BLOCK))).toBe(BLOCK);
    expect(full[1]).toBe(1);
  });
});

describe('VHD, differencing, what is not touched', () => {
  const wide = new Uint8Array(Buffer.from('.\\base.vhd', 'utf16le'));
  const located = {
    ...spec.parent!,
    locators: [{ code: 'W2ru', data: wide, space: 2 * STRIDE - ((2 * STRIDE) % 512) }],
  };

  it('the space of locators is not given out', () => {
    const { file } = encodeDynamic({ ...spec, parent: located, blocks: new Map() });
    const source = medium(file);
    const { disk } = edit(source);
    for (let block = 0; block < 16; block += 1)
      expect(disk.write(data, 0, BLOCK, at(block * BLOCK))).toBe(BLOCK);
    expect(disk.close()).toBe(0);
    expect(same(source.bytes.subarray(2048, 2048 + wide.length), wide)).toBe(true);
    expect(openDisk(vhdDriver, new MemorySource(source.bytes)).image.parent!.places).toHaveLength(2);
    expect(check(source.bytes)).toMatchObject({ errors: 0, warnings: 0, leaks: 0 });
  });

  const refusal = (file: Uint8Array): unknown => {
    try {
      return edit(medium(file));
    } catch (problem) {
      return problem;
    }
  };

  it('a locator in a block: an error, and nothing is written', () => {
    const place = encodeDynamic(spec).places.get(3)!;
    const file = encodeDynamic({
      ...spec,
      parent: {
        ...spec.parent!,
        locators: [{ code: 'W2ru', data: wide, offset: BigInt(place + 512 + 512) }],
      },
    }).file;
    const text = /locator W2ru: its data at 0x\w+ is in the block at sector/;
    expect(refusal(file)).toMatchObject({ kind: 'corrupt', message: expect.stringMatching(text) });
    expect(check(file).findings.map((finding) => finding.text)).toContainEqual(expect.stringMatching(text));
    expect(check(file).errors).toBe(1);
  });

  const footer = { creator: 'tap\0', creatorVersion: 0x10003 };

  it('a batmap stays as it is, and true', () => {
    const batmap = { version: 0x10002, blocks: [1] };
    const blocks = new Map<number, VhdBlockSpec>([[1, { data }]]);
    const { file } = encodeDynamic({ ...spec, footer, batmap, blocks });
    const source = medium(file);
    const { disk } = edit(source);
    expect(disk.zero(at(0), 3 * BLOCK, 'punch')).toBe(0);
    expect(disk.write(one(7), 0, 512, at(6 * BLOCK))).toBe(512);
    expect(disk.close()).toBe(0);
    expect(same(source.bytes.subarray(2048, 3072), file.subarray(2048, 3072))).toBe(true);
    expect(check(source.bytes)).toMatchObject({ errors: 0, warnings: 0 });
    const model = beneath
      .slice()
      .fill(0, 0, 3 * BLOCK)
      .fill(7, 6 * BLOCK, 6 * BLOCK + 512);
    expect(same(again(source.bytes), model)).toBe(true);
  });

  it('a batmap that calls a block full which is not there: read, not written', () => {
    const { file } = encodeDynamic({ ...spec, footer, batmap: { version: 0x10002, blocks: [2] } });
    expect(same(again(file), content())).toBe(true);
    const text = 'VHD block 2: the batmap calls it full, it is not allocated';
    expect(refusal(file)).toMatchObject({ kind: 'corrupt', message: text });
  });

  it('data under clear bits is nothing to speak of', () => {
    expect(check(encodeDynamic(spec).file)).toMatchObject({ findings: [], allocatedBytes: BLOCK });
  });
});
