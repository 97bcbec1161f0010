/** Reading sound QED images: every sample, the model, seeking, counting, and proportions that need sparse files. */

import { describe, expect, test } from 'vitest';
import { ENXIO } from '../../../../src/base/errno.ts';
import { type GuestOffset, guestOffset } from '../../../../src/base/units.ts';
import { qedDriver } from '../../../../src/formats/qed/driver.ts';
import type { Image } from '../../../../src/image/driver.ts';
import { DATA, Extent, HOLE, ZERO } from '../../../../src/image/extent.ts';
import { PagePool } from '../../../../src/shared/page-pool.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openSample, readDisk } from '../../../support/disk.ts';
import {
  type ClusterContent,
  encodeQed,
  type QedDescription,
  qedBytes,
  samples,
} from '../../../support/encoders/qed.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, random, randomBytes } from '../../../support/random.ts';
import { SparseSource } from '../../../support/sparse-source.ts';

const TINY_POOL = 16 * 4120;
const SEED = 20240917;

function sparse(description: QedDescription) {
  const source = new SparseSource();
  const layout = encodeQed(description, (at, bytes) => source.put(at, bytes));
  source.size = layout.size;
  return { source, layout };
}

function count(image: Image): { bytes: number; calls: number } {
  let bytes = 0;
  let calls = 0;
  let from: GuestOffset | undefined = guestOffset(0);
  while (from !== undefined) {
    from = image.countAllocated(from, (more) => {
      bytes += more;
    });
    calls += 1;
  }
  return { bytes, calls };
}

function equal(found: Uint8Array, wanted: Uint8Array): boolean {
  return Buffer.compare(found, wanted) === 0;
}

describe('samples', () => {
  const list = samples(SEED);

  test('have names of their own and small files', () => {
    expect(new Set(list.map(({ name }) => name)).size).toBe(list.length);
    for (const { file } of list) expect(file.length).toBeLessThanOrEqual(3.5 * 1024 * 1024);
  });

  test.each(list)('$name: reads back', (sample) => {
    const { disk } = sample;
    const opened = openSample(sample);
    expect(opened.image.virtualSize).toBe(disk.length);
    expect(equal(readDisk(opened.disk), disk)).toBe(true);
  });

  test.each(list)('$name: random reads through a tiny pool', (sample) => {
    const { file, disk } = sample;
    if (disk.length === 0) return;
    const next = random(SEED + disk.length);
    const opened = openSample(sample, TINY_POOL);
    const target = new Uint8Array(300_000);
    for (let round = 0; round < 300; round += 1) {
      const at = between(next, 0, disk.length - 1);
      const length = between(next, 1, round % 10 === 0 ? target.length : 9000);
      const wanted = disk.subarray(at, at + length);
      expect(opened.disk.read(target, 0, length, guestOffset(at))).toBe(wanted.length);
      expect(equal(target.subarray(0, wanted.length), wanted)).toBe(true);
    }
    expect(opened.notices).toEqual(openDisk(qedDriver, new MemorySource(file)).notices);
  });

  test.each(list)('$name: seeks find all data, and counts it', (sample) => {
    const { disk } = sample;
    const opened = openSample(sample);
    let at = 0;
    let data = 0;
    while (at < disk.length) {
      const start = opened.disk.seek(guestOffset(at), 'data');
      const end = start === -ENXIO ? disk.length : start;
      expect(disk.subarray(at, end).every((byte) => byte === 0)).toBe(true);
      if (start === -ENXIO) break;
      at = opened.disk.seek(guestOffset(start), 'hole');
      expect(at).toBeGreaterThan(start);
      data += at - start;
    }
    // With a parent, what is found is not all its own.
    const { bytes, calls } = count(opened.image);
    expect(calls).toBe(1);
    if (sample.parent === undefined) expect(bytes).toBe(data);
    else expect(bytes).toBeLessThanOrEqual(data);
  });
});

test('random reads over many pages evict and stay right', () => {
  const next = random(SEED);
  const clusters = new Map<number, ClusterContent>();
  for (let round = 0; round < 400; round += 1) {
    const cluster = between(next, 0, 65_535);
    clusters.set(cluster, next() < 0.2 ? 'zero' : randomBytes(next, 64));
  }
  const description = { clusterSize: 4096, tableSize: 2, imageSize: 65_536 * 4096, clusters };
  const { source } = sparse(description);
  const { disk, notices } = openDisk(qedDriver, source, {}, TINY_POOL);
  const places = [...clusters.keys()];
  for (let round = 0; round < 4000; round += 1) {
    const cluster = round % 3 === 0 ? between(next, 0, 65_535) : places[between(next, 0, places.length - 1)]!;
    const wanted = new Uint8Array(100);
    const content = clusters.get(cluster);
    if (content instanceof Uint8Array) wanted.set(content);
    expect(equal(readDisk(disk, cluster * 4096, 100), wanted)).toBe(true);
  }
  expect(notices).toEqual([]);
});

describe('every cluster size and table size', () => {
  const sizes = Array.from({ length: 15 }, (_, n) => 4096 * 2 ** n);
  const pairs = sizes.flatMap((clusterSize) => [1, 2, 4, 8, 16].map((tableSize) => [clusterSize, tableSize]));

  test.each(pairs as [number, number][])('%i, %i', (clusterSize, tableSize) => {
    const entries = (clusterSize * tableSize) / 8;
    const limit = Math.min(entries ** 2 * clusterSize, Number.MAX_SAFE_INTEGER - 511);
    const imageSize = limit - (limit % 512);
    const clusters = Math.ceil(imageSize / clusterSize);
    const next = random(clusterSize + tableSize);
    const marks = [0, 1, entries - 1, entries, Math.floor(clusters / 2), clusters - 1];
    const contents = new Map<number, ClusterContent>();
    for (const cluster of marks) if (cluster < clusters) contents.set(cluster, randomBytes(next, 512));
    if (clusters > 10) contents.set(5, 'zero');
    const { source, layout } = sparse({ clusterSize, tableSize, imageSize, clusters: contents });
    const { image, disk, notices } = openDisk(qedDriver, source, {}, TINY_POOL);
    expect(image.virtualSize).toBe(imageSize);
    for (const [cluster, content] of contents) {
      const at = cluster * clusterSize;
      const wanted = new Uint8Array(Math.min(1024, imageSize - at));
      if (content instanceof Uint8Array) wanted.set(content);
      expect(equal(readDisk(disk, at, wanted.length), wanted)).toBe(true);
    }
    const last = layout.data.get(clusters - 1);
    expect(last).toBeDefined();
    const used = imageSize - (clusters - 1) * clusterSize;
    const tail = Math.min(used, 4096);
    source.put(last! + used - tail, new Uint8Array(tail).fill(0xee));
    source.size = Math.max(source.size, layout.size);
    expect(readDisk(disk, imageSize - tail, tail).every((byte) => byte === 0xee)).toBe(true);
    expect(notices).toEqual([]);
  });
});

describe('extents', () => {
  function locator(source: MemorySource | SparseSource) {
    const report = (text: string) => {
      throw new Error(text);
    };
    const image = qedDriver.open(source, { tables: new TableAllocator(), report, options: new Map() });
    const pool = new PagePool(PagePool.seed(1 << 20));
    const translator = qedDriver.attach(structuredClone(image.share()), source, { pool, report });
    return (at: number, length: number) => {
      const out = new Extent();
      expect(translator.locate(guestOffset(at), length, out)).toBe(0);
      return [out.kind, out.host, out.length];
    };
  }

  test('join neighbours with the same answer, up to what was asked', () => {
    const content = new Uint8Array(4096).fill(1);
    const clusters = new Map<number, ClusterContent>([
      [2, content],
      [3, content],
      [4, content],
      [6, content],
      [5, content],
      [7, 'zero'],
      [8, 'zero'],
    ]);
    const description = { clusterSize: 4096, tableSize: 1, imageSize: 40_960, tables: [0], clusters };
    const locate = locator(new MemorySource(qedBytes(description)));
    expect(locate(0, 1)).toEqual([HOLE, 0, 4096]);
    expect(locate(100, 40_860)).toEqual([HOLE, 0, 8092]);
    expect(locate(8192 + 512, 4096)).toEqual([DATA, 3 * 4096 + 512, 8192 - 512]);
    expect(locate(8192, 32_768)).toEqual([DATA, 3 * 4096, 12_288]);
    expect(locate(5 * 4096, 8192)).toEqual([DATA, 7 * 4096, 4096]);
    expect(locate(6 * 4096, 8192)).toEqual([DATA, 6 * 4096, 4096]);
    expect(locate(7 * 4096, 12_288)).toEqual([ZERO, 0, 8192]);
    expect(locate(9 * 4096, 4096)).toEqual([HOLE, 0, 4096]);
  });

  test('1 MiB of clusters in order is one extent, over a table border too', () => {
    const content = new Uint8Array(0);
    const clusters = new Map<number, ClusterContent>();
    for (let n = 8188; n < 8188 + 32; n += 1) clusters.set(n, content);
    const description = { clusterSize: 65_536, tableSize: 1, imageSize: 2 ** 30, tables: [0, 1], clusters };
    const { source, layout } = sparse(description);
    const at = 8188 * 65_536;
    expect(locator(source)(at + 4096, 2 ** 20)).toEqual([
      DATA,
      layout.data.get(8188)! + 4096,
      17 * 65_536 - 4096,
    ]);
  });

  test('holes join over absent tables, empty tables and the border between them', () => {
    const clusters = new Map<number, ClusterContent>([[512 * 5 + 7, new Uint8Array(1)]]);
    const description = { clusterSize: 4096, tableSize: 1, imageSize: 2 ** 24, tables: [1, 3], clusters };
    const { source } = sparse(description);
    expect(locator(source)(512, 2 ** 24 - 512)).toEqual([HOLE, 0, (512 * 5 + 7) * 4096 - 512]);
  });

  test('clusters above 2^32 in the file are found', () => {
    const description = { clusterSize: 4096, tableSize: 2, imageSize: 16_384 };
    for (const number of [2 ** 32 - 5, 2 ** 32 - 4, 2 ** 32 - 3, 2 ** 32 - 1, 2 ** 32 + 7]) {
      const clusters = new Map<number, ClusterContent>([
        [0, { entry: BigInt(number) * 4096n }],
        [1, { entry: BigInt(number + 1) * 4096n }],
      ]);
      const { source } = sparse({ ...description, clusters });
      source.put(number * 4096, new Uint8Array(4096).fill(7));
      source.put((number + 1) * 4096, new Uint8Array(4096).fill(8));
      const { image, disk } = openDisk(qedDriver, source);
      const bytes = readDisk(disk);
      expect(bytes.subarray(0, 4096).every((byte) => byte === 7)).toBe(true);
      expect(bytes.subarray(4096, 8192).every((byte) => byte === 8)).toBe(true);
      expect(bytes.subarray(8192).every((byte) => byte === 0)).toBe(true);
      expect(count(image).bytes).toBe(8192);
    }
  });

  test('a zero cluster never goes on with data, whatever its number', () => {
    for (const number of [2 ** 32 - 4, 2 ** 32 - 3, 2 ** 32 - 2]) {
      const clusters = new Map<number, ClusterContent>([
        [0, { entry: BigInt(number) * 4096n }],
        [1, 'zero'],
        [2, { entry: BigInt(number + 2) * 4096n }],
      ]);
      const { source } = sparse({ clusterSize: 4096, tableSize: 1, imageSize: 12_288, clusters });
      source.put(number * 4096, new Uint8Array(12_288).fill(7));
      const bytes = readDisk(openDisk(qedDriver, source).disk);
      expect([bytes[0], bytes[4095], bytes[4096], bytes[8191], bytes[8192]]).toEqual([7, 7, 0, 0, 7]);
    }
  });

  test('data and zeros end where the next table is absent, and at the end of the disk', () => {
    for (const [content, kind] of [
      [new Uint8Array(4096), DATA],
      ['zero', ZERO],
    ] as const) {
      const clusters = new Map<number, ClusterContent>([
        [511, content],
        [1024, content],
      ]);
      const description = { clusterSize: 4096, tableSize: 1, imageSize: 1024 * 4096 + 1536, clusters };
      const locate = locator(new MemorySource(qedBytes(description)));
      expect(locate(511 * 4096, 2 ** 22)).toEqual([kind, expect.any(Number), 4096]);
      expect(locate(512 * 4096, 2 ** 22)).toEqual([HOLE, 0, 512 * 4096]);
      expect(locate(1024 * 4096 + 512, 1)).toEqual([kind, expect.any(Number), 1024]);
    }
    const empty = { clusterSize: 4096, tableSize: 1, imageSize: 512 };
    expect(locator(new MemorySource(qedBytes(empty)))(0, 512)).toEqual([HOLE, 0, 512]);
  });

  test('an L2 table above 2^32 clusters is found', () => {
    const table = 2 ** 32 * 4096;
    const { source } = sparse({
      clusterSize: 4096,
      tableSize: 1,
      imageSize: 8192,
      l1: new Map([[0, BigInt(table)]]),
    });
    const data = source.size;
    source.put(data, new Uint8Array(4096).fill(9));
    const entry = new Uint8Array(4096);
    new DataView(entry.buffer).setBigUint64(8, BigInt(data), true);
    source.put(table, entry);
    const bytes = readDisk(openDisk(qedDriver, source).disk);
    expect(bytes.indexOf(9)).toBe(4096);
    expect(bytes.lastIndexOf(9)).toBe(8191);
  });
});

describe('a vast disk', () => {
  test('64 TiB without a table: one pass to count, one answer to seek', () => {
    const { source } = sparse({ clusterSize: 65_536, tableSize: 4, imageSize: 2 ** 46 });
    const { image, disk } = openDisk(qedDriver, source, {}, TINY_POOL);
    expect(count(image)).toEqual({ bytes: 0, calls: 1 });
    expect(disk.seek(guestOffset(12_345), 'data')).toBe(-ENXIO);
    expect(disk.seek(guestOffset(12_345), 'hole')).toBe(12_345);
  });

  test('64 TiB with its last cluster: found, counted', () => {
    const last = 2 ** 30 - 1;
    const clusters = new Map<number, ClusterContent>([[last, new Uint8Array([1])]]);
    const { source } = sparse({ clusterSize: 65_536, tableSize: 4, imageSize: 2 ** 46 - 512, clusters });
    const { image, disk } = openDisk(qedDriver, source, {}, TINY_POOL);
    expect(count(image)).toEqual({ bytes: 65_536 - 512, calls: 1 });
    expect(disk.seek(guestOffset(0), 'data')).toBe(last * 65_536);
  });

  test('counting goes on where a slice ended, inside a table too', () => {
    const clusters = new Map<number, ClusterContent>();
    for (const cluster of [0, 65_535, 65_536, 100_000, 262_143, 262_144, 300_000]) {
      clusters.set(cluster, new Uint8Array([1]));
    }
    const description = { clusterSize: 2 ** 21, tableSize: 1, imageSize: 2 ** 21 * 300_001, clusters };
    const { image } = openDisk(qedDriver, sparse(description).source);
    const { bytes, calls } = count(image);
    expect(bytes).toBe(7 * 2 ** 21);
    expect(calls).toBe(5);
  });

  test('8 PiB minus one sector, with the most entries there can be', () => {
    const imageSize = 2 ** 53 - 512;
    const { source } = sparse({ clusterSize: 2 ** 17, tableSize: 16, imageSize });
    const { image, disk } = openDisk(qedDriver, source, {}, TINY_POOL);
    expect(image.virtualSize).toBe(imageSize);
    expect(disk.seek(guestOffset(0), 'data')).toBe(-ENXIO);
    expect(count(image)).toEqual({ bytes: 0, calls: 4 });
    expect(readDisk(disk, imageSize - 512, 512).every((byte) => byte === 0)).toBe(true);
  });
});
