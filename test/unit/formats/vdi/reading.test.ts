import { describe, expect, it } from 'vitest';
import { ENXIO } from '../../../../src/base/errno.ts';
import { guestOffset } from '../../../../src/base/units.ts';
import { vdiDriver } from '../../../../src/formats/vdi/driver.ts';
import type { ProbeSample } from '../../../../src/image/driver.ts';
import { DATA, Extent, type ExtentKind, HOLE, ZERO as ZEROS } from '../../../../src/image/extent.ts';
import { PagePool } from '../../../../src/shared/page-pool.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openSample, readDisk } from '../../../support/disk.ts';
import {
  encodeVdi,
  FREE,
  randomMap,
  samples,
  type VdiDescription,
  ZERO,
} from '../../../support/encoders/vdi.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, random } from '../../../support/random.ts';

/** Sixteen pages of 4 KiB with what the pool keeps about them: the least that a pool has. */
const TINY_POOL = 16 * 4120;

const imageOf = (vdi: VdiDescription, seed = 1) => encodeVdi(vdi, random(seed));

/** The extents of a disk as [kind, length], up to the first damage; asked for to the end of the disk each time. */
function extentsOf(file: Uint8Array, ask = Number.MAX_SAFE_INTEGER): ([ExtentKind, number] | 'damaged')[] {
  const source = new MemorySource(file);
  const context = { report: () => {}, options: new Map(), tables: new TableAllocator() };
  const image = vdiDriver.open(source, context);
  const pool = new PagePool(PagePool.seed(1 << 20));
  const translator = vdiDriver.attach(image.share(), source, { pool, report: () => {} });
  const list: ([ExtentKind, number] | 'damaged')[] = [];
  const out = new Extent();
  for (let at = 0; at < image.virtualSize; at += out.length) {
    const length = Math.min(ask, image.virtualSize - at);
    if (translator.locate(guestOffset(at), length, out) < 0) return [...list, 'damaged'];
    expect(out.length).toBeGreaterThan(0);
    list.push([out.kind, out.length]);
  }
  return list;
}

describe('every sample', () => {
  for (const sample of [...samples(1), ...samples(77).slice(-8)]) {
    it(`reads back: ${sample.name}`, () => {
      const { disk, image } = openSample(sample);
      expect(disk.size).toBe(sample.disk.length);
      expect(image.virtualSize).toBe(sample.disk.length);
      expect(Buffer.compare(readDisk(disk), sample.disk)).toBe(0);
    });

    it(`reads like a byte array, in any order, with few pages: ${sample.name}`, () => {
      const { disk } = openSample(sample, TINY_POOL);
      const next = random(5);
      const target = new Uint8Array(80_000);
      for (let round = 0; round < 100; round += 1) {
        const at = between(next, 0, disk.size - 1);
        const length = between(next, 1, next() < 0.5 ? 2000 : target.length);
        const wanted = sample.disk.subarray(at, at + length);
        target.fill(0xdd);
        expect(disk.read(target, 0, length, guestOffset(at))).toBe(wanted.length);
        if (Buffer.compare(target.subarray(0, wanted.length), wanted) !== 0) {
          expect.fail(`${length} bytes at ${at} differ`);
        }
      }
    });
  }

  it('has a name of its own', () => {
    const names = samples(1).map((sample) => sample.name);
    expect(new Set(names).size).toBe(names.length);
  });
});

describe('a map larger than the page pool', () => {
  it('reads right while pages come and go', () => {
    const next = random(9);
    const blocks = 40 * 1024;
    const { file, disk: model } = imageOf({
      map: randomMap(next, blocks, 0.1),
      blockSize: 512,
      mapOffset: 0x20b,
    });
    const { disk } = openDisk(vdiDriver, new MemorySource(file), {}, TINY_POOL);
    expect(Buffer.compare(readDisk(disk), model)).toBe(0);
    const target = new Uint8Array(3000);
    for (let round = 0; round < 4000; round += 1) {
      const at = between(next, 0, model.length - 1);
      const moved = disk.read(target, 0, target.length, guestOffset(at));
      const wanted = model.subarray(at, at + target.length);
      if (moved !== wanted.length || Buffer.compare(target.subarray(0, moved), wanted) !== 0) {
        expect.fail(`at ${at}`);
      }
    }
  });
});

describe('extents', () => {
  it('joins neighbours with the same answer and keeps holes and zeros apart', () => {
    const map = [FREE, FREE, ZERO, ZERO, ZERO, FREE, 0, 1, 2, 4, 3];
    const k = 4096;
    expect(extentsOf(imageOf({ map, blockSize: k }).file)).toEqual([
      [HOLE, 2 * k],
      [ZEROS, 3 * k],
      [HOLE, k],
      [DATA, 3 * k],
      [DATA, k],
      [DATA, k],
    ]);
  });

  it('keeps blocks with extra bytes between them apart', () => {
    const { file } = imageOf({ map: [0, 1, FREE, FREE], blockSize: 4096, extra: 1 });
    expect(extentsOf(file)).toEqual([
      [DATA, 4096],
      [DATA, 4096],
      [HOLE, 8192],
    ]);
  });

  it('ends the last one with the disk', () => {
    const { file } = imageOf({ map: [FREE, 0], blockSize: 4096, diskSize: 4096 + 1024 });
    expect(extentsOf(file)).toEqual([
      [HOLE, 4096],
      [DATA, 1024],
    ]);
    const other = imageOf({ map: [0, ZERO], blockSize: 4096, diskSize: 4096 + 1024 });
    expect(extentsOf(other.file)).toEqual([
      [DATA, 4096],
      [ZEROS, 1024],
    ]);
  });

  it('looks no further than asked', () => {
    const { file } = imageOf({ map: [0, 1, 2, 3], blockSize: 4096 });
    expect(extentsOf(file, 5000)).toEqual([
      [DATA, 8192],
      [DATA, 8192],
    ]);
  });

  it('joins nothing that is not in the file', () => {
    const { file } = imageOf({ map: [FREE, 0, 1], blockSize: 4096 });
    expect(extentsOf(file.subarray(0, file.length - 1000))).toEqual([
      [HOLE, 4096],
      [DATA, 8192 - 1000],
      'damaged',
    ]);
  });

  it('joins no block number beyond the image', () => {
    const { file, mapAt } = imageOf({ map: [0, 1, FREE], blockSize: 4096 });
    // The file has a third and fourth physical block, the map three entries; the last one says 3.
    const longer = new Uint8Array(file.length + 2 * 4096);
    longer.set(file);
    const view = new DataView(longer.buffer);
    view.setUint32(mapAt + 4, 2, true);
    view.setUint32(mapAt + 8, 3, true);
    expect(extentsOf(longer)).toEqual([[DATA, 4096], [DATA, 4096], 'damaged']);
  });

  it('joins across pages of the map', () => {
    const map = Array.from({ length: 3000 }, (_, n) => n);
    expect(extentsOf(imageOf({ map, blockSize: 512 }).file)).toEqual([[DATA, 3000 * 512]]);
  });
});

describe('seek', () => {
  const k = 4096;
  const map = [FREE, 1, 0, ZERO, FREE, 2, FREE];
  const { disk } = openDisk(vdiDriver, new MemorySource(imageOf({ map, blockSize: k }).file));

  it.each([
    [0, 'data', k],
    [k + 5, 'data', k + 5],
    [3 * k, 'data', 5 * k],
    [6 * k, 'data', -ENXIO],
    [7 * k, 'data', -ENXIO],
    [0, 'hole', 0],
    [k, 'hole', 3 * k],
    [4 * k + 1, 'hole', 4 * k + 1],
    [5 * k, 'hole', 6 * k],
    [7 * k, 'hole', -ENXIO],
  ] as const)('from %i to the next %s is %i', (at, whence, answer) => {
    expect(disk.seek(guestOffset(at), whence)).toBe(answer);
  });
});

describe('countAllocated', () => {
  function count(vdi: VdiDescription) {
    const { image } = openDisk(vdiDriver, new MemorySource(imageOf(vdi).file));
    let bytes = 0;
    let slices = 0;
    for (
      let from: ReturnType<typeof guestOffset> | undefined = guestOffset(0);
      from !== undefined;
      slices += 1
    ) {
      from = image.countAllocated(from, (some) => {
        bytes += some;
      });
    }
    return { bytes, slices };
  }

  it('adds up the blocks with data, as far as the disk reaches', () => {
    const map = [0, FREE, ZERO, 2, 1];
    expect(count({ map, blockSize: 4096, diskSize: 4 * 4096 + 512 })).toEqual({ bytes: 8704, slices: 1 });
  });

  it('works in slices of 64 Ki entries', () => {
    const map = Array<number>(70_000).fill(FREE);
    map[3] = 0;
    map[65_535] = 1;
    map[65_536] = 2;
    map[69_999] = 3;
    expect(count({ map, blockSize: 512 })).toEqual({ bytes: 2048, slices: 2 });
  });
});

describe('probe', () => {
  const sampleOf = (file: Uint8Array): ProbeSample => ({
    head: file.subarray(0, 1 << 20),
    tail: file.subarray(-1024),
    size: file.length,
  });

  it('knows every sample', () => {
    for (const { file, name } of samples(3)) {
      expect(vdiDriver.probe(sampleOf(file)).match, name).toBe('signature');
    }
  });

  it.each([
    [{ type: 1 }, 'dynamic'],
    [{ type: 2 }, 'fixed'],
    [{ type: 3 }, 'undo'],
    [{ type: 4 }, 'differencing'],
    [{ type: 9 }, 'unknown type'],
    [{ type: 2, version: 2 }, 'fixed'],
  ])('%j is %s', (some, variant) => {
    const { file } = imageOf({ map: [FREE], blockSize: 512, ...some });
    expect(vdiDriver.probe(sampleOf(file))).toEqual({ match: 'signature', variant });
  });

  it('goes by the signature alone, however short the file', () => {
    const { file } = imageOf({ map: [FREE], blockSize: 512 });
    expect(vdiDriver.probe(sampleOf(file.subarray(0, 0x48)))).toEqual({
      match: 'signature',
      variant: 'unknown type',
    });
    for (const length of [0, 1, 0x40, 0x47]) {
      expect(vdiDriver.probe(sampleOf(file.subarray(0, length))).match).toBe('none');
    }
    const other = file.slice();
    other[0x43] = 0xbf;
    expect(vdiDriver.probe(sampleOf(other)).match).toBe('none');
  });
});

describe('facts', () => {
  it('says what an examiner wants to know', () => {
    const { file } = imageOf({
      map: [0, FREE],
      blockSize: 65536,
      diskSize: 2 * 65536 - 7,
      headerSize: 0x190,
      comment: new TextEncoder().encode('Größe\n\u001b[31mred'),
      lchs: [1024, 255, 63, 512],
    });
    const { image, notices } = openDisk(vdiDriver, new MemorySource(file));
    expect(image.variant).toBe('dynamic');
    expect(image.blockSize).toBe(65536);
    expect(Object.fromEntries(image.facts)).toEqual({
      creator: 'Oracle VM VirtualBox Disk Image',
      'format-version': '1.1',
      'header-size': '0x190',
      'image-type': '1 (dynamic)',
      flags: '0x0',
      comment: 'Größe [31mred',
      'uuid-create': '13121110-1514-1716-1819-1a1b1c1d1e1f',
      'uuid-modify': '1c1d1e1f-1a1b-1819-1716-151413121110',
      'recorded-size': '131065',
      'size-rule': 'rounded down to 512',
      'block-extra': '0',
      blocks: '2',
      'blocks-allocated': '1',
      'map-offset': '0x200',
      'data-offset': '0x400',
      'logical-geometry': '1024/255/63',
    });
    expect(notices).toEqual([
      'VDI header at 0x170: disk size is 131065 bytes, not a multiple of 512; ' +
        'the last 505 bytes were visible to no guest and are left out',
    ]);
  });
});
