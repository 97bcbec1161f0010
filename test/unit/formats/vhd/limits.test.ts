import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../../../src/base/units.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import type { Image } from '../../../../src/image/driver.ts';
import { Extent, HOLE } from '../../../../src/image/extent.ts';
import { PagePool } from '../../../../src/shared/page-pool.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import {
  bitmapBytesOf,
  encodeDynamic,
  encodeFixed,
  type VhdBlockSpec,
  vhdFooter,
} from '../../../support/encoders/vhd-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { SparseSource } from '../../../support/sparse-source.ts';

const MIB = 1 << 20;
const GIB = 1 << 30;

interface LargeImage {
  readonly source: SparseSource;
  /** Host offset of the data of the last block. */
  readonly dataAt: number;
}

/** A disk of `size` bytes whose table is all holes but for the last block, put at `blockAt`. */
function large(
  size: number,
  blockSize: number,
  blockAt: number,
  bitmap: Uint8Array,
  data: Uint8Array,
): LargeImage {
  const entries = Math.ceil(size / blockSize);
  const source = new SparseSource();
  const footer = vhdFooter(size, 512n, 3);
  source.put(0, footer);
  const small = encodeDynamic({ size: blockSize, blockSize, blocks: new Map() });
  const header = small.file.slice(512, 1536);
  new DataView(header.buffer).setUint32(28, entries);
  header.fill(0, 36, 40);
  new DataView(header.buffer).setUint32(36, ~header.reduce((sum, byte) => sum + byte, 0) >>> 0);
  source.put(512, header);
  const last = 1536 + entries * 4 - 4;
  // Only the last 64 KiB of the table say "not allocated"; the rest is zeros, which nobody reads here.
  const holes = new Uint8Array(Math.min(65536, entries * 4)).fill(0xff);
  source.put(last + 4 - holes.length, holes);
  const entry = new Uint8Array(4);
  new DataView(entry.buffer).setUint32(0, blockAt / 512);
  source.put(last, entry);
  source.put(blockAt, bitmap);
  const dataAt = blockAt + bitmapBytesOf(blockSize);
  source.put(dataAt, data);
  source.put(dataAt + blockSize, footer);
  return { source, dataAt };
}

describe('VHD at its limits', () => {
  const data = randomBytes(random(3), 3 * 512);

  it.each([
    ['2040 GiB, blocks of 2 MiB', 2040 * GIB, 2 * MIB, 0xfff00000 * 512],
    ['2040 GiB, blocks of 512 bytes', 2040 * GIB, 512, 32 * GIB],
    ['2040 GiB, blocks of 256 MiB', 2040 * GIB, 256 * MIB, GIB],
    ['60 TiB, blocks of 16 KiB', 60 * 1024 * GIB, 16 * 1024, 64 * GIB],
  ])('%s: opens at once and reads its last block', (_name, size, blockSize, blockAt) => {
    const bitmap = new Uint8Array(bitmapBytesOf(blockSize));
    const sectors = Math.min(blockSize / 512, 3);
    bitmap[0] = (0xff00 >> sectors) & 0xff;
    const { source } = large(size, blockSize, blockAt, bitmap, data.subarray(0, sectors * 512));
    const { image, disk, notices } = openDisk(vhdDriver, source, {}, 16 * 4120);
    expect(notices).toEqual([]);
    expect(image.virtualSize).toBe(size);
    const expected = new Uint8Array(Math.min(blockSize, 4096));
    expected.set(data.subarray(0, sectors * 512));
    expect(readDisk(disk, size - blockSize, expected.length)).toEqual(expected);
    // Before it there is a hole up to this block.
    const before = size - blockSize - 2 * blockSize;
    expect(disk.seek(guestOffset(before), 'data')).toBe(size - blockSize);
  });

  it('refuses more blocks than a table can have words', () => {
    const bitmap = new Uint8Array(512);
    const { source } = large(65 * 1024 * GIB, 32 * 1024, 64 * GIB, bitmap, data);
    expect(() => openDisk(vhdDriver, source)).toThrow(/larger than supported/);
  });

  it('reads nothing in proportion to the table at open', () => {
    const { source } = large(2040 * GIB, 512, 32 * GIB, new Uint8Array(512), data);
    let moved = 0;
    const read = source.readAt.bind(source);
    source.readAt = (target, start, length, at) => {
      moved += length;
      return read(target, start, length, at);
    };
    openDisk(vhdDriver, source);
    expect(moved).toBeLessThan(8192);
  });

  it('an entry with the highest sector number is refused by place, not wrapped', () => {
    const { source } = large(4 * MIB, 2 * MIB, 0xfffffffe * 512, new Uint8Array(512).fill(255), data);
    const { disk } = openDisk(vhdDriver, source);
    expect(readDisk(disk, 2 * MIB, 1536)).toEqual(data);
  });
});

describe('VHD extents', () => {
  function translator(file: Uint8Array, options: Record<string, string> = {}) {
    const tables = new TableAllocator();
    const reads: number[] = [];
    const source = new MemorySource(file);
    const read = source.readAt.bind(source);
    source.readAt = (target, start, length, at) => {
      reads.push(at);
      return read(target, start, length, at);
    };
    const image = vhdDriver.open(source, {
      tables,
      report: () => {},
      options: new Map(Object.entries(options)),
    });
    const pool = new PagePool(PagePool.seed(16 * 4120));
    return {
      image,
      translate: vhdDriver.attach(image.share(), source, { pool, report: () => {} }),
      reads,
      pool,
    };
  }

  const BLOCK = 32 * 1024;
  const data = randomBytes(random(4), BLOCK);
  /** Blocks: hole, hole, first half clear, full, all clear, hole, single sectors. */
  const { file, places } = encodeDynamic({
    size: 7 * BLOCK,
    blockSize: BLOCK,
    blocks: new Map<number, VhdBlockSpec>([
      [2, { data, sectors: (sector) => sector >= 32 }],
      [3, { data }],
      [4, { data, sectors: () => false }],
      [6, { data, sectors: (sector) => sector === 33 }],
    ]),
  });

  it.each([
    ['holes of the table run into clear bits', 0, 7 * BLOCK, HOLE, 2 * BLOCK + 32 * 512],
    ['no further than asked, by blocks', 0, 1, HOLE, BLOCK],
    ['clear bits run into holes and clear bits', 4 * BLOCK + 5, 7 * BLOCK, HOLE, 2 * BLOCK + 33 * 512 - 5],
    ['data runs to the end of the block', 2 * BLOCK + 32 * 512 + 100, BLOCK, 2, 32 * 512 - 100],
    ['a single sector', 6 * BLOCK + 33 * 512 + 511, BLOCK, 2, 1],
    ['clear bits at the end of the disk', 6 * BLOCK + 34 * 512, BLOCK, HOLE, 30 * 512],
    ['bits no further than asked', 2 * BLOCK, 1024, HOLE, 1024],
  ])('%s', (_name, at, length, kind, expected) => {
    const { translate } = translator(file);
    const out = new Extent();
    expect(translate.locate(guestOffset(at), length, out)).toBe(0);
    expect({ kind: out.kind, length: out.length }).toEqual({ kind, length: expected });
    const block = Math.floor(at / BLOCK);
    expect(out.host).toBe(kind === HOLE ? 0 : places.get(block)! + 512 + (at % BLOCK));
  });

  it('does not look up the bitmap of a block that is known to be full', () => {
    const { translate, pool } = translator(file);
    const out = new Extent();
    translate.locate(guestOffset(3 * BLOCK), 1, out);
    expect(out.length).toBe(512);
    const { misses } = pool.counters();
    translate.locate(guestOffset(3 * BLOCK), 1, out);
    expect(out.length).toBe(BLOCK);
    expect(pool.counters().misses).toBe(misses);
  });

  it('reads no bitmap where the batmap says that the block is full, or where they are ignored', () => {
    const blocks = new Map([[1, { data }]]);
    const tapdisk = { footer: { creator: 'tap\0' }, batmap: { blocks: [1], version: 0x10002 } };
    const image = encodeDynamic({ size: 2 * BLOCK, blockSize: BLOCK, blocks, ...tapdisk });
    for (const [bytes, options] of [
      [image.file, {}],
      [encodeDynamic({ size: 2 * BLOCK, blockSize: BLOCK, blocks }).file, { 'vhd-bitmap': 'ignore' }],
    ] as const) {
      const { translate, reads } = translator(bytes, options);
      reads.length = 0;
      const out = new Extent();
      expect(translate.locate(guestOffset(BLOCK), 1, out)).toBe(0);
      expect(out.length).toBe(BLOCK);
      expect(reads).toHaveLength(1);
    }
  });

  it.each([0x10001, 0x10002])('checks a batmap of version %i by the sum of its version', (version) => {
    const blocks = new Map([0, 1, 2].map((block) => [block, { data }]));
    const tapdisk = { footer: { creator: 'tap\0' }, batmap: { blocks: [0, 1, 2], version } };
    const image = encodeDynamic({ size: 3 * BLOCK, blockSize: BLOCK, blocks, ...tapdisk });
    expect(translator(image.file).image.facts.get('batmap')).toBe('used');
  });

  function counted(image: Image): { total: number; slices: number } {
    let total = 0;
    let slices = 0;
    for (let at: number | undefined = 0; at !== undefined; slices += 1) {
      at = image.countAllocated(guestOffset(at), (bytes) => {
        total += bytes;
      });
    }
    return { total, slices };
  }

  it('counts what is allocated', () => {
    expect(counted(translator(file).image)).toEqual({ total: 4 * BLOCK, slices: 1 });
    expect(counted(translator(encodeFixed(data)).image).total).toBe(BLOCK);
    const blocks = new Map([0, 65535, 65536, 99999].map((block) => [block, { data: data.subarray(0, 512) }]));
    const many = encodeDynamic({ size: 100000 * 512 - 100, blockSize: 512, blocks });
    expect(counted(translator(many.file).image)).toEqual({ total: 4 * 512 - 100, slices: 2 });
  });
});

describe('VHD probe and size', () => {
  const probe = (file: Uint8Array) =>
    vhdDriver.probe({ head: file.subarray(0, MIB), tail: file.subarray(-1024), size: file.length });
  const data = randomBytes(random(5), 8192);
  const dynamic = encodeDynamic({ size: 65536, blockSize: 65536, blocks: new Map() }).file;

  it('knows the variants', () => {
    expect(probe(encodeFixed(data))).toEqual({ match: 'signature', variant: 'fixed' });
    expect(probe(encodeFixed(data, {}, true))).toEqual({ match: 'signature', variant: 'fixed' });
    expect(probe(dynamic)).toEqual({ match: 'signature', variant: 'dynamic' });
    expect(probe(dynamic.slice(0, -512))).toEqual({ match: 'signature', variant: 'dynamic' });
    expect(probe(encodeFixed(data, { cookie: 'v_poison' }))).toEqual({
      match: 'signature',
      variant: 'poisoned',
    });
    const nested = new Uint8Array(8192);
    nested.set(dynamic);
    expect(probe(encodeFixed(nested))).toEqual({ match: 'signature', variant: 'fixed' });
  });

  it('claims nothing else', () => {
    const headFixed = new Uint8Array(8192);
    headFixed.set(vhdFooter(512, 0n, 2));
    const badSum = encodeFixed(data).fill(1, 8192 + 300, 8192 + 301);
    for (const file of [
      new Uint8Array(0),
      new Uint8Array(511),
      data,
      headFixed,
      badSum,
      dynamic.slice(0, 510),
    ]) {
      expect(probe(file)).toEqual({ match: 'none' });
    }
  });

  it.each([
    ['vpc ', 'geometry (creator)', 1020 * 4 * 17 * 512],
    ['qemu', 'geometry (creator)', 1020 * 4 * 17 * 512],
    ['qem2', 'current size', 36 * MIB],
    ['win ', 'current size', 36 * MIB],
    ['d2v\0', 'current size', 36 * MIB],
    ['tap\0', 'current size', 36 * MIB],
    ['CTXS', 'current size', 36 * MIB],
    ['wa\0\0', 'current size', 36 * MIB],
    ['vbox', 'current size', 36 * MIB],
    ['vs  ', 'current size', 36 * MIB],
    ['????', 'current size', 36 * MIB],
  ])('takes the size of an image by %j from: %s', (creator, rule, size) => {
    const footer = { creator, geometry: [1020, 4, 17] as const };
    const { file } = encodeDynamic({ size: 36 * MIB, blockSize: 2 * MIB, blocks: new Map(), footer });
    const { image } = openDisk(vhdDriver, new MemorySource(file));
    expect(image.virtualSize).toBe(size);
    expect(image.facts.get('size-rule')).toBe(rule);
  });

  it('yields to the largest geometry, even where chs is asked for', () => {
    const footer = { creator: 'vpc ' };
    const { file } = encodeDynamic({ size: 36 * MIB, blockSize: 2 * MIB, blocks: new Map(), footer });
    const { image } = openDisk(vhdDriver, new MemorySource(file), { 'vhd-size': 'chs' });
    expect(image.virtualSize).toBe(36 * MIB);
  });

  it('shows an examiner what the footer says', () => {
    const { image } = openDisk(vhdDriver, new MemorySource(encodeFixed(data, { hidden: 'summed' })));
    expect(image.variant).toBe('fixed');
    expect(Object.fromEntries(image.facts)).toEqual({
      footer: 'at the end',
      'disk-type': '2 (fixed)',
      version: '1.0',
      creator: '"win "',
      'creator-version': '10.0',
      'creator-system': '"Wi2k"',
      created: '2013-11-29T11:51:41.000Z',
      uuid: '00112233-4455-6677-8899-aabbccddeeff',
      'original-size': '8192',
      'current-size': '8192',
      geometry: '65535/16/255',
      'geometry-size': '136899993600',
      'size-rule': 'current size (largest geometry)',
      hidden: '1',
    });
  });
});
