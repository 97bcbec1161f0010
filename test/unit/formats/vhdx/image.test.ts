/** VHDX images that are sound: contents, translation, allocation, facts, limits. */

import { describe, expect, test } from 'vitest';
import { ENXIO } from '../../../../src/base/errno.ts';
import { type GuestOffset, guestOffset, MIB, TIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import type { Image } from '../../../../src/image/driver.ts';
import { DATA, Extent, HOLE, ZERO } from '../../../../src/image/extent.ts';
import { PagePool } from '../../../../src/shared/page-pool.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openSample, readDisk } from '../../../support/disk.ts';
import { samples } from '../../../support/encoders/vhdx.ts';
import {
  batEntry,
  buildVhdx,
  entryIndex,
  expectedDisk,
  putBatEntry,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import { between, random, randomBytes } from '../../../support/random.ts';

const TINY_POOL = 16 * 4120;

function allocated(image: Image): number {
  let sum = 0;
  let from: GuestOffset | undefined = guestOffset(0);
  while (from !== undefined) {
    const next: GuestOffset | undefined = image.countAllocated(from, (bytes) => {
      sum += bytes;
    });
    if (next !== undefined && next <= from) throw new Error('no progress');
    from = next;
  }
  return sum;
}

/** A translator of its own, to look at extents. */
function locator(source: Parameters<typeof vhdxDriver.open>[0], poolBytes = 1 << 20) {
  const notices: string[] = [];
  const report = (notice: string) => notices.push(notice);
  const image = vhdxDriver.open(source, { tables: new TableAllocator(), report, options: new Map() });
  const pool = new PagePool(PagePool.seed(poolBytes));
  const translator = vhdxDriver.attach(structuredClone(image.share()), source, { pool, report });
  const extent = new Extent();
  const locate = (at: number, length: number) => {
    const status = translator.locate(guestOffset(at), length, extent);
    return status < 0 ? status : { kind: extent.kind, host: extent.host as number, length: extent.length };
  };
  return { image, locate, notices, pool };
}

const filled = (seed: number, length = MIB) => randomBytes(random(seed), length);

describe('contents', () => {
  test.each(samples(1).map((sample) => [sample.name, sample] as const))('%s', (_name, sample) => {
    const { disk, image } = openSample(sample, TINY_POOL);
    expect(image.virtualSize).toBe(sample.disk.length);
    expect(Buffer.compare(readDisk(disk), sample.disk)).toBe(0);
  });

  test('samples are the same for the same seed and differ for another', () => {
    const [a, b, c] = [samples(5)[0]!, samples(5)[0]!, samples(6)[0]!];
    expect(Buffer.compare(a.file, b.file)).toBe(0);
    expect(Buffer.compare(a.file, c.file)).not.toBe(0);
  });

  test('random reads equal a flat array, with table pages evicted all the time', () => {
    const next = random(77);
    // 1 MiB blocks over 40 TiB: the table has 40960 pages, the pool 16.
    const size = 40 * TIB;
    const blocks = Math.ceil(size / MIB);
    const plan: VhdxPlan = { size, bat: { at: 3, length: 400 } };
    const file = buildVhdx(plan);
    const pattern = filled(78, 2 * MIB);
    const model = new Map<number, Uint8Array>();
    for (let index = 0; index < 150; index += 1) {
      const block = index < 8 ? index * 4096 + 4095 : between(next, 0, blocks - 1);
      if (model.has(block)) continue;
      const mib = 500 + index;
      const data = pattern.subarray(index * 997, index * 997 + MIB);
      putBatEntry(file, plan, block, batEntry(6, mib));
      file.put(mib * MIB, data);
      model.set(block, data);
    }
    const { disk, notices } = openDisk(vhdxDriver, file, {}, TINY_POOL);
    const written = [...model.keys()];
    const target = new Uint8Array(3 * MIB);
    for (let round = 0; round < 400; round += 1) {
      const block =
        round % 4 === 0 ? between(next, 0, blocks - 1) : written[between(next, 0, written.length - 1)]!;
      const at = Math.min(size - 1, Math.max(0, block * MIB + between(next, -70_000, MIB + 70_000)));
      const length = Math.min(size - at, between(next, 1, round % 10 === 0 ? 2 * MIB : 30_000));
      target.fill(0xcc, 0, length);
      expect(disk.read(target, 0, length, guestOffset(at))).toBe(length);
      const wanted = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const number = Math.floor((at + done) / MIB);
        const within = (at + done) % MIB;
        const count = Math.min(length - done, MIB - within);
        const data = model.get(number);
        if (data !== undefined) wanted.set(data.subarray(within, within + count), done);
        done += count;
      }
      expect(Buffer.compare(target.subarray(0, length), wanted), `${length} bytes at ${at}`).toBe(0);
    }
    expect(notices).toEqual([]);
  });
});

describe('extents', () => {
  const data = filled(3);
  const plan: VhdxPlan = {
    size: 12 * MIB - 512,
    blocks: new Map([
      [0, { state: 6, mib: 4, data }],
      [1, { state: 6, mib: 5, data }],
      [2, { state: 6, mib: 6, data }],
      [3, { state: 6, mib: 8, data }],
      [4, { state: 1 }],
      [5, { state: 2 }],
      [6, { state: 3 }],
      [7, { state: 5 }],
      [11, { state: 6, mib: 9, data }],
    ]),
  };

  test('neighbours with one answer are one extent, up to what was asked', () => {
    const { locate } = locator(buildVhdx(plan));
    expect(locate(1000, 12 * MIB)).toEqual({ kind: DATA, host: 4 * MIB + 1000, length: 3 * MIB - 1000 });
    expect(locate(0, 1)).toEqual({ kind: DATA, host: 4 * MIB, length: MIB });
    expect(locate(3 * MIB, 12 * MIB)).toEqual({ kind: DATA, host: 8 * MIB, length: MIB });
    expect(locate(4 * MIB + 7, 12 * MIB)).toEqual({ kind: ZERO, host: 0, length: 4 * MIB - 7 });
    expect(locate(8 * MIB, 12 * MIB)).toEqual({ kind: HOLE, host: 0, length: 3 * MIB });
  });

  test('the last extent ends with the disk', () => {
    const { locate } = locator(buildVhdx(plan));
    expect(locate(11 * MIB, 5 * MIB)).toEqual({ kind: DATA, host: 9 * MIB, length: MIB - 512 });
  });

  test('blocks are merged across the BAT entry of a sector bitmap', () => {
    // 256 MiB blocks, 512-byte sectors: 16 blocks in a chunk.
    const wide: VhdxPlan = {
      size: 40 * 256 * MIB,
      blockSize: 256 * MIB,
      blocks: new Map(Array.from({ length: 40 }, (_, block) => [block, { state: 6 }])),
    };
    expect(entryIndex(wide, 16)).toBe(17);
    const { locate } = locator(buildVhdx(wide));
    expect(locate(0, wide.size)).toEqual({ kind: DATA, host: 4 * MIB, length: wide.size });
    expect(locate(33 * 256 * MIB + 1, 1)).toEqual({
      kind: DATA,
      host: 4 * MIB + 33 * 256 * MIB + 1,
      length: 256 * MIB - 1,
    });
  });

  test('what stands in the entry of a sector bitmap has no effect', () => {
    const wide: VhdxPlan = { size: 20 * 256 * MIB, blockSize: 256 * MIB };
    const file = buildVhdx(wide);
    file.put(3 * MIB + 16 * 8, batEntry(6, 4));
    file.size = 400 * MIB;
    const { image, locate } = locator(file);
    expect(locate(0, wide.size)).toEqual({ kind: HOLE, host: 0, length: wide.size });
    expect(allocated(image)).toBe(0);
  });

  test.each([
    [512, 2, 2048],
    [512, 32, 128],
    [4096, 1, 32768],
    [4096, 256, 128],
  ])('logical sectors of %i, blocks of %i MiB: %i blocks in a chunk', (logical, mib, ratio) => {
    const blockSize = mib * MIB;
    const last = ratio * 2 + 1;
    const chunked: VhdxPlan = { size: (last + 1) * blockSize, blockSize, logical };
    const file = buildVhdx({ ...chunked, bat: { at: 3, length: 1 } });
    for (const [order, block] of [ratio - 1, ratio, last].entries()) {
      const place = 10 + order * 3 * mib;
      // Byte offset of the entry as the specification has it: one entry more for each chunk before.
      const at = 3 * MIB + (block + Math.floor(block / ratio)) * 8;
      file.put(at, batEntry(6, place));
    }
    file.size = (10 + 9 * mib) * MIB;
    const { image, locate } = locator(file);
    expect(locate((ratio - 1) * blockSize, 1)).toMatchObject({ kind: DATA, host: 10 * MIB });
    expect(locate(ratio * blockSize, 1)).toMatchObject({ kind: DATA, host: (10 + 3 * mib) * MIB });
    expect(locate(last * blockSize, 1)).toMatchObject({ kind: DATA, host: (10 + 6 * mib) * MIB });
    expect(locate((ratio + 1) * blockSize, 1)).toMatchObject({ kind: HOLE });
    expect(allocated(image)).toBe(3 * blockSize);
  });

  test('a lookup reaches as far as the words of the table do', () => {
    // 2^29 - 1 MiB is the last offset that a word holds; the file is that large, and sparse.
    const far = 2 ** 29 - 1;
    const file = buildVhdx({ size: MIB, blocks: new Map([[0, { state: 6, mib: far }]]) });
    const { locate } = locator(file);
    expect(locate(0, MIB)).toEqual({ kind: DATA, host: far * MIB, length: MIB });
  });
});

describe('seek and allocation', () => {
  test('SEEK_DATA and SEEK_HOLE follow the block states and the holes of the file', () => {
    const plan: VhdxPlan = {
      size: 6 * MIB,
      blocks: new Map([
        [1, { state: 6, data: filled(4) }],
        [3, { state: 2 }],
        [4, { state: 6, data: filled(5, 8192) }],
      ]),
    };
    const { disk, image } = openDisk(vhdxDriver, buildVhdx(plan));
    expect(disk.seek(guestOffset(0), 'data')).toBe(MIB);
    expect(disk.seek(guestOffset(MIB), 'hole')).toBe(2 * MIB);
    expect(disk.seek(guestOffset(2 * MIB), 'data')).toBe(4 * MIB);
    // The source knows that only 8 KiB of the block are written.
    expect(disk.seek(guestOffset(4 * MIB), 'hole')).toBe(4 * MIB + 8192);
    expect(disk.seek(guestOffset(5 * MIB), 'data')).toBe(-ENXIO);
    expect(allocated(image)).toBe(2 * MIB);
    expect(Buffer.compare(readDisk(disk), expectedDisk(plan))).toBe(0);
  });

  test('allocation is added up in slices, the last block by its used part', () => {
    const blocks = 150_000;
    const plan: VhdxPlan = {
      size: blocks * MIB - 4096,
      bat: { at: 3, length: 2 },
      blocks: new Map(
        [0, 4095, 4096, 65_535, 65_536, 131_056, blocks - 1].map((block) => [block, { state: 6 }]),
      ),
    };
    const { image } = openDisk(vhdxDriver, buildVhdx(plan));
    expect(allocated(image)).toBe(7 * MIB - 4096);
  });
});

describe('what is told about the image', () => {
  const signature = new TextEncoder().encode('vhdxfile');

  test('probe goes by the signature', () => {
    const sample = (head: Uint8Array) => vhdxDriver.probe({ head, tail: head, size: head.length });
    expect(sample(samples(1)[0]!.file.subarray(0, MIB)).match).toBe('signature');
    expect(sample(signature).match).toBe('signature');
    expect(sample(signature.subarray(0, 7)).match).toBe('none');
    expect(sample(new Uint8Array(0)).match).toBe('none');
    expect(sample(new TextEncoder().encode('VHDXFILE and more')).match).toBe('none');
  });

  test('facts', () => {
    const plan: VhdxPlan = {
      size: 5 * MIB,
      creator: 'Microsoft Windows 10.0\n',
      flags: 1,
      blocks: new Map([[0, { state: 6 }]]),
    };
    const { image, notices } = openDisk(vhdxDriver, buildVhdx(plan));
    expect(image).toMatchObject({
      format: 'vhdx',
      variant: 'fixed',
      virtualSize: 5 * MIB,
      logicalSectorSize: 512,
      physicalSectorSize: 4096,
      blockSize: MIB,
    });
    expect(Object.fromEntries(image.facts)).toEqual({
      creator: 'Microsoft Windows 10.0?',
      'log-state': 'clean',
      'log-size': '1 MiB (1048576 bytes)',
      header: '2 (sequence 7)',
      'file-write-guid': 'aaaaaaaa-0000-0000-0000-000000000001',
      'data-write-guid': 'bbbbbbbb-0000-0000-0000-000000000002',
      'virtual-disk-id': 'cccccccc-0000-0000-0000-000000000003',
      blocks: '5',
      'bat-entries': '5',
    });
    expect(notices).toEqual([]);
  });

  test('an empty disk', () => {
    const { disk, image } = openDisk(vhdxDriver, buildVhdx({ size: 0 }));
    expect(image.virtualSize).toBe(0);
    expect(allocated(image)).toBe(0);
    expect(disk.seek(guestOffset(0), 'data')).toBe(-ENXIO);
  });

  test('a fixed image of QEMU: blocks in state ZERO in a file of full length', () => {
    const plan: VhdxPlan = {
      size: 3 * MIB,
      flags: 1,
      blocks: new Map([0, 1, 2].map((block) => [block, { state: 2 }])),
    };
    const file = buildVhdx(plan);
    file.size = 8 * MIB;
    const { disk, image } = openDisk(vhdxDriver, file);
    expect(image.variant).toBe('fixed');
    expect(Buffer.compare(readDisk(disk), new Uint8Array(3 * MIB))).toBe(0);
  });
});

describe('limits', () => {
  const plan: VhdxPlan = {
    size: 64 * TIB,
    log: { at: 1, length: 1 },
    metadata: { at: 2, length: 1 },
    bat: { at: 3, length: 513 },
    blocks: new Map([
      [0, { state: 6, data: filled(1, 4096) }],
      [64 * MIB - 1, { state: 6, data: filled(2, 4096) }],
    ]),
  };

  test('64 TiB with 1 MiB blocks: opening reads a few structures and none of the 512 MiB of BAT', () => {
    const file = buildVhdx(plan);
    let bytes = 0;
    const before = file.readAt.bind(file);
    file.readAt = (target, start, length, at) => {
      bytes += length;
      expect(at + length <= 3 * MIB || at >= 516 * MIB, `read of ${length} at ${at}`).toBe(true);
      return before(target, start, length, at);
    };
    const { image, disk } = openDisk(vhdxDriver, file, {}, TINY_POOL);
    expect(image.facts.get('blocks')).toBe(String(64 * MIB));
    expect(image.facts.get('bat-entries')).toBe(String(64 * MIB + 16383));
    expect(bytes).toBeLessThan(300_000);
    const state = image.share().state as { table: { directory: SharedArrayBuffer } };
    expect(state.table.directory.byteLength).toBeLessThan(300_000);

    file.readAt = before;
    expect(Buffer.compare(readDisk(disk, 64 * TIB - MIB, 4096), filled(2, 4096))).toBe(0);
    expect(Buffer.compare(readDisk(disk, 0, 4096), filled(1, 4096))).toBe(0);
    expect(readDisk(disk, 17 * TIB + 5, 1000).every((byte) => byte === 0)).toBe(true);
  });

  test('64 TiB with 256 MiB blocks and 4096-byte sectors', () => {
    const wide: VhdxPlan = {
      size: 64 * TIB,
      blockSize: 256 * MIB,
      logical: 4096,
      bat: { at: 3, length: 3 },
      blocks: new Map([[64 * 4096 - 1, { state: 6, data: filled(9, 100) }]]),
    };
    const { disk, image } = openDisk(vhdxDriver, buildVhdx(wide));
    expect(image.facts.get('bat-entries')).toBe(String(64 * 4096 + 64 * 32 - 1));
    expect(Buffer.compare(readDisk(disk, 64 * TIB - 256 * MIB, 100), filled(9, 100))).toBe(0);
    expect(disk.seek(guestOffset(0), 'data')).toBe(64 * TIB - 256 * MIB);
  });

  test('a block may be larger than the disk and the file', () => {
    const small: VhdxPlan = {
      size: 4096,
      blockSize: 256 * MIB,
      blocks: new Map([[0, { state: 6 }]]),
      cutTail: true,
    };
    const { disk } = openDisk(vhdxDriver, buildVhdx(small));
    expect(readDisk(disk).length).toBe(4096);
  });

  test('a second translator finds the pages that the first one brought in', () => {
    const file = buildVhdx(plan);
    const { image, pool, locate } = locator(file);
    expect(locate(0, 1)).toMatchObject({ kind: DATA });
    const second = vhdxDriver.attach(image.share(), file, { pool, report: () => {} });
    const misses = pool.counters().misses;
    expect(second.locate(guestOffset(5), 1, new Extent())).toBe(0);
    expect(pool.counters().misses).toBe(misses);
  });
});
