/** New images of every format: they open, are clean and empty, can be written, and know their parents. */

import { describe, expect, test } from 'vitest';
import { GIB, guestOffset, KIB, MIB, TIB } from '../../../src/base/units.ts';
import { driverOf } from '../../../src/formats/registry.ts';
import type { FormatId } from '../../../src/image/driver.ts';
import { TableAllocator } from '../../../src/shared/paged-table.ts';
import type { BlockSource } from '../../../src/source/block-source.ts';
import { openDisk, openEditable, readDisk } from '../../support/disk.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { asParent, planBytes, planOf, planSource } from '../../support/plan.ts';
import { random, randomBytes } from '../../support/random.ts';

function checkClean(format: FormatId, source: BlockSource): void {
  const context = { tables: new TableAllocator(), report: () => {}, options: new Map() };
  const report = driverOf(format).check?.(source, context);
  if (report !== undefined) expect(report.findings).toEqual([]);
}

function open(format: FormatId, size: number, ...options: string[]) {
  const source = planSource(planOf(format, size, options));
  const opened = openDisk(driverOf(format), source);
  expect(opened.notices).toEqual([]);
  checkClean(format, source);
  return { ...opened, source };
}

const KINDS: readonly (readonly [FormatId, string])[] = [
  ['vhd', 'subformat=dynamic'],
  ['vhd', 'block-size=512K'],
  ['vhd', 'subformat=fixed'],
  ['vhdx', 'subformat=dynamic'],
  ['vhdx', 'block-size=1M,logical-sector-size=4096,log-size=3M'],
  ['vhdx', 'subformat=fixed,physical-sector-size=512'],
  ['vdi', 'subformat=dynamic'],
  ['vdi', 'block-size=128K'],
  ['vdi', 'subformat=fixed'],
  ['qed', 'cluster-size=4K,table-size=2'],
  ['qed', 'table-size=16'],
  ['raw', 'preallocation=off'],
];

test.each(KINDS)('%s, %s: opens without a word, is empty and clean, and is written', (format, options) => {
  const size = 5 * MIB + 4096;
  const plan = planOf(format, size, [options]);
  const source = new MemorySource(planBytes(plan), 'new', true);
  const { image, disk, notices } = openEditable(driverOf(format), source);
  expect([image.format, image.virtualSize, image.parent, notices]).toEqual([format, size, undefined, []]);
  expect(readDisk(disk).every((byte) => byte === 0)).toBe(true);
  const model = new Uint8Array(size);
  for (const at of [0, MIB - 100, 3 * MIB + 17, size - 5000]) {
    const bytes = randomBytes(random(at + 1), 5000);
    expect(disk.write(bytes, 0, bytes.length, guestOffset(at))).toBe(bytes.length);
    model.set(bytes, at);
  }
  expect(disk.close()).toBe(0);
  const again = openDisk(driverOf(format), source);
  expect(Buffer.compare(readDisk(again.disk), model)).toBe(0);
  checkClean(format, source);
  // Where all data has its place, it stays there.
  const fixed = image.variant === 'fixed' || format === 'raw';
  expect(plan.data !== undefined).toBe(fixed);
  if (fixed) {
    expect(source.size).toBe(plan.size);
    expect(plan.data!.length).toBeGreaterThanOrEqual(size);
    expect(Buffer.compare(source.bytes.subarray(plan.data!.at, plan.data!.at + size), model)).toBe(0);
  }
});

describe('limits', () => {
  test.each([
    ['vhd', 512, ''],
    ['vhd', 2040 * GIB, ''],
    ['vhd', 2040 * GIB, 'subformat=fixed'],
    ['vhd', 2040 * GIB, 'block-size=512K'],
    ['vhdx', 512, ''],
    ['vhdx', 64 * TIB, ''],
    ['vhdx', 64 * TIB, 'block-size=1M'],
    ['vhdx', 64 * TIB, 'block-size=256M,logical-sector-size=4096'],
    ['vhdx', 64 * TIB, 'subformat=fixed,block-size=256M'],
    ['vdi', 512, ''],
    ['vdi', 2 * TIB, ''],
    ['vdi', 4 * 1024 * TIB - 3 * MIB - 512, 'block-size=128M'],
    ['qed', 512, ''],
    ['qed', 64 * TIB, ''],
    ['qed', 2 ** 53 - 512, ''],
    ['raw', 1, ''],
  ] as const)('%s of %i bytes (%s)', (format, size, options) => {
    const { image, disk } = open(format, size, ...(options === '' ? [] : [options]));
    expect(image.virtualSize).toBe(size);
    const tail = Math.min(size, 4096);
    expect(readDisk(disk, size - tail, tail)).toEqual(new Uint8Array(tail));
  });

  test.each([
    ['vhd', 0, '', /at least 1 byte and at most 1.99 TiB/],
    ['vhd', 2040 * GIB + 512, '', /at most 1.99 TiB/],
    ['vhd', 1000, '', /expected a multiple of 512/],
    ['vhd', MIB, 'block-size=256K', /block-size=262144: expected a power of two from 524288 to 2097152/],
    ['vhd', MIB, 'block-size=4M', /block-size=4194304/],
    ['vhd', MIB, 'subformat=fixed,block-size=1M', /a fixed VHD has no blocks/],
    ['vhd', MIB + 512, 'azure', /expected a multiple of 1048576/],
    ['vhd', MIB, 'azure,subformat=dynamic', /Azure takes fixed images only/],
    ['vhdx', 64 * TIB + 512, '', /at most 64 TiB/],
    ['vhdx', 512, 'logical-sector-size=4096', /expected a multiple of 4096/],
    ['vhdx', MIB, 'block-size=512K', /from 1048576 to 268435456/],
    ['vhdx', MIB, 'block-size=512M', /from 1048576 to 268435456/],
    ['vhdx', MIB, 'block-size=3M', /expected a power of two/],
    ['vhdx', MIB, 'log-size=0', /log-size=0: expected a multiple of 1048576/],
    ['vhdx', MIB, 'log-size=1.5M', /expected a multiple of 1048576/],
    ['vhdx', MIB, 'log-size=4G', /from 1048576 to 4293918720/],
    ['vdi', 4 * 1024 * TIB, 'block-size=128M', /at most 4096 TiB|at most 4 PiB/],
    ['vdi', 1024 * TIB, '', /its map of 1073741824 entries does not fit below 4 GiB/],
    ['vdi', MIB, 'block-size=64K', /from 131072 to 134217728/],
    ['vdi', MIB + 1, '', /expected a multiple of 512/],
    ['qed', 2 ** 53, '', /a QED disk of/],
    ['qed', 512, 'cluster-size=2K', /from 4096 to 67108864/],
    ['qed', 16 * GIB + 512, 'cluster-size=4K', /map at most 17179869184/],
    ['qed', 512, 'cluster-size=4M', /map 2\^64 bytes or more/],
    ['qed', 512, 'table-size=1', /expected one of 2, 4, 8, 16/],
    ['raw', 0, '', /at least 1 byte/],
  ] as const)('no %s of %i bytes (%s)', (format, size, options, message) => {
    expect(() => planOf(format, size, options === '' ? [] : [options])).toThrow(
      expect.objectContaining({ kind: 'usage', message: expect.stringMatching(message) }),
    );
  });
});

test.each([
  ['vhd', 'unique-id', 'unique-id'],
  ['vhdx', 'disk-id', 'virtual-disk-id'],
  ['vdi', 'uuid', 'uuid-create'],
] as const)('%s: a given %s is what the image is known by', (format, option, mark) => {
  const uuid = '00112233-4455-6677-8899-aabbccddeeff';
  const { image } = open(format, MIB, `${option}=${uuid}`);
  expect(image.identity.find(({ name }) => name === mark)?.text).toBe(uuid);
  for (const wrong of [`${option}=7`, option, `${option}=00000000-0000-0000-0000-000000000000`]) {
    expect(() => planOf(format, MIB, [wrong])).toThrow('expected a UUID');
  }
});

describe('shapes', () => {
  test('VHD: the size is what all readers take, whoever they believe', () => {
    for (const kind of ['dynamic', 'fixed']) {
      const { image } = open('vhd', 10 * MIB, `subformat=${kind}`);
      expect([image.facts.get('geometry'), image.facts.get('size-rule')]).toEqual([
        '65535/16/255',
        'current size (largest geometry)',
      ]);
    }
  });

  test('VHD for Azure', () => {
    const plan = planOf('vhd', 3 * MIB, ['azure']);
    expect(plan.size).toBe(3 * MIB + 512);
    expect(open('vhd', 3 * MIB, 'azure').image.variant).toBe('fixed');
  });

  test('VHDX: block sizes, sectors, log', () => {
    const shape = (...options: string[]) => {
      const { image } = open('vhdx', GIB, ...options);
      const { blockSize, logicalSectorSize, physicalSectorSize, facts, variant } = image;
      return [variant, blockSize, logicalSectorSize, physicalSectorSize, facts.get('log-size')];
    };
    expect(shape()).toEqual(['dynamic', 32 * MIB, 512, 4096, '1 MiB (1048576 bytes)']);
    expect(shape('subformat=fixed')).toEqual(['fixed', 2 * MIB, 512, 4096, '1 MiB (1048576 bytes)']);
    expect(shape('log-size=5M,block-size=1M,physical-sector-size=512')).toEqual([
      'dynamic',
      MIB,
      512,
      512,
      '5 MiB (5242880 bytes)',
    ]);
  });

  test('VHDX: the entries of bitmaps stay empty in a fixed image of more than a chunk', () => {
    const size = 9 * GIB;
    const { image, source } = open('vhdx', size, 'subformat=fixed,block-size=32M');
    // 288 blocks, and after each 128 an entry for a bitmap.
    expect(image.facts.get('bat-entries')).toBe('290');
    const entries = new Uint8Array(290 * 8);
    source.readAt(entries, 0, entries.length, (3 * MIB) as never);
    const view = new DataView(entries.buffer);
    expect([128, 257].map((n) => view.getBigUint64(n * 8, true))).toEqual([0n, 0n]);
    expect([0, 127, 129, 289].map((n) => view.getBigUint64(n * 8, true))).toEqual(
      [0, 127, 128, 287].map((block) => BigInt(4 * MIB + block * 32 * MIB) | 6n),
    );
  });

  test('VDI: map and data on bounds of a MiB, and what is allocated', () => {
    const shape = (kind: string) => {
      const { facts } = open('vdi', 5 * MIB + 512, `subformat=${kind}`).image;
      return ['image-type', 'blocks', 'blocks-allocated', 'map-offset', 'data-offset', 'header-size'].map(
        (name) => facts.get(name),
      );
    };
    expect(shape('dynamic')).toEqual(['1 (dynamic)', '6', '0', '0x100000', '0x200000', '0x190']);
    expect(shape('fixed')).toEqual(['2 (fixed)', '6', '6', '0x100000', '0x200000', '0x190']);
  });

  test('VHDX: both headers and both tables are there', () => {
    const bytes = planBytes(planOf('vhdx', MIB));
    for (const [from, to, length] of [
      [0x10000, 0x20000, 4096],
      [0x30000, 0x40000, 65536],
    ] as const) {
      for (const at of [from, to]) {
        const damaged = bytes.slice();
        damaged.fill(0, at, at + length);
        const { image, notices } = openDisk(driverOf('vhdx'), new MemorySource(damaged));
        expect([image.virtualSize, notices.length]).toEqual([MIB, 1]);
      }
    }
  });

  test('VHD: both footers are there', () => {
    const bytes = planBytes(planOf('vhd', MIB));
    for (const at of [0, bytes.length - 512]) {
      const damaged = bytes.slice();
      damaged.fill(0, at, at + 512);
      const { image, notices } = openDisk(driverOf('vhd'), new MemorySource(damaged));
      expect([image.virtualSize, notices.length]).toEqual([MIB, 1]);
    }
  });

  test('QED: larger clusters for larger disks, also with tables of another size', () => {
    expect(open('qed', 64 * TIB).image.blockSize).toBe(64 * KIB);
    expect(open('qed', 64 * TIB + 512).image.blockSize).toBe(128 * KIB);
    expect(open('qed', 64 * TIB, 'table-size=2').image.blockSize).toBe(128 * KIB);
  });
});

describe('children', () => {
  const child = (format: FormatId, of: FormatId, ...options: string[]) => {
    const parent = open(of, 6 * MIB).image;
    const described = asParent(parent, '../base/päths.img');
    const source = planSource(planOf(format, parent.virtualSize, options, described));
    const { image, notices } = openDisk(driverOf(format), source);
    expect(notices).toEqual([]);
    checkClean(format, source);
    return { parent, link: image.parent!, image };
  };

  test('VHD: identity, time, name, and the places that Windows wants', () => {
    const { parent, link, image } = child('vhd', 'vhd');
    expect([image.variant, image.blockSize, link.compare(parent)]).toEqual([
      'differencing',
      2 * MIB,
      undefined,
    ]);
    expect(link.places).toEqual([
      { path: '.\\..\\base\\päths.img', style: 'windows', origin: 'locator W2ru' },
      { path: '/vm/../base/päths.img', style: 'posix', origin: 'locator W2ku' },
      { path: 'päths.img', style: 'windows', origin: 'name in the header' },
    ]);
    expect(image.facts.get('parent-time-stamp')).toBe('2023-11-14T21:56:40.000Z');
    expect(link.compare(open('vhd', MIB).image)).toMatchObject({ severity: 'other' });
  });

  test('VHD: blocks as those of the parent; a raw parent has no identity', () => {
    const parent = open('vhd', 4 * MIB, 'block-size=512K').image;
    const blockSize = (...options: string[]) =>
      openDisk(driverOf('vhd'), planSource(planOf('vhd', 4 * MIB, options, asParent(parent)))).image
        .blockSize;
    expect([blockSize(), blockSize('block-size=1M')]).toEqual([512 * KIB, MIB]);
    const { link, parent: raw } = child('vhd', 'raw');
    expect([link.format, link.identity, link.compare(raw)]).toEqual(['raw', undefined, undefined]);
  });

  test('VHDX: identity, path, and the metadata that belongs to the disk', () => {
    const { parent, link, image } = child('vhdx', 'vhdx');
    expect([image.variant, image.blockSize, link.compare(parent)]).toEqual([
      'differencing',
      2 * MIB,
      undefined,
    ]);
    expect(link.places).toEqual([
      { path: '..\\base\\päths.img', style: 'windows', origin: 'relative_path' },
      { path: '\\vm\\..\\base\\päths.img', style: 'windows', origin: 'absolute_win32_path' },
    ]);
    expect(image.facts.get('virtual-disk-id')).toBe(parent.facts.get('virtual-disk-id'));
    expect(image.facts.get('data-write-guid')).not.toBe(parent.facts.get('data-write-guid'));
    expect(link.compare(open('vhdx', MIB).image)).toMatchObject({ severity: 'other' });
  });

  test('VHDX: sectors are those of the parent', () => {
    const parent = open('vhdx', 8 * MIB, 'logical-sector-size=4096').image;
    const make = (...options: string[]) => planOf('vhdx', 8 * MIB, options, asParent(parent));
    expect(openDisk(driverOf('vhdx'), planSource(make())).image.logicalSectorSize).toBe(4096);
    expect(() => make('logical-sector-size=512')).toThrow("a child has its parent's, which is 4096");
  });

  test('VHDX: room for the bitmaps of a chunk that is not whole', () => {
    const parent = open('vhdx', 5 * GIB).image;
    const source = planSource(planOf('vhdx', 5 * GIB, [], asParent(parent)));
    const { image, notices } = openDisk(driverOf('vhdx'), source);
    expect([image.facts.get('bat-entries'), notices]).toEqual([`${2 * 2049}`, []]);
  });

  test('VHDX: where the entries of the last chunk take a MiB more than those of the disk', () => {
    // 31 chunks and a block: the disk's entries end below 1 MiB, those of 32 whole chunks above.
    const size = (31 * 4096 + 1) * MIB;
    const parent = open('vhdx', size).image;
    const plan = planOf('vhdx', size, ['block-size=1M'], asParent(parent));
    const { image, notices } = openDisk(driverOf('vhdx'), planSource(plan));
    expect([image.facts.get('bat-entries'), plan.size, notices]).toEqual([`${32 * 4097}`, 5 * MIB, []]);
  });

  test('VDI: create and modify UUID; of a VHD the same bytes', () => {
    const { parent, link, image } = child('vdi', 'vdi');
    expect([image.variant, link.compare(parent)]).toEqual(['differencing', undefined]);
    expect(image.facts.get('parent-uuid-create')).toBe(parent.facts.get('uuid-create'));
    expect(image.facts.get('parent-uuid-modify')).toBe(parent.facts.get('uuid-modify'));
    expect(link.compare(open('vdi', MIB).image)).toMatchObject({ severity: 'other' });
    const onVhd = child('vdi', 'vhd');
    expect(onVhd.link.compare(onVhd.parent)).toBeUndefined();
    expect(onVhd.link.compare(open('vhd', MIB).image)).toMatchObject({ severity: 'other' });
  });

  test('QED: a name, and whether the parent is raw', () => {
    expect(child('qed', 'vhd').link).toMatchObject({
      places: [{ path: '../base/päths.img' }],
      format: undefined,
    });
    expect(child('qed', 'raw').link.format).toBe('raw');
    const colon = asParent(open('raw', MIB).image, 'a:b');
    const source = planSource(planOf('qed', MIB, [], colon));
    expect(openDisk(driverOf('qed'), source).image.parent?.places[0]?.path).toBe('./a:b');
  });

  test.each(['vhd', 'vhdx', 'vdi'] as const)('no fixed %s has a parent', (format) => {
    const parent = asParent(open(format, MIB).image);
    expect(() => planOf(format, MIB, ['subformat=fixed'], parent)).toThrow(
      /a fixed \w+ cannot have a parent/,
    );
  });

  test('names that the format cannot record', () => {
    for (const format of ['vhd', 'vhdx'] as const) {
      const parent = open(format, MIB).image;
      expect(() => planOf(format, MIB, [], asParent(parent, 'a\\b'))).toThrow('backslash');
    }
    const long = asParent(open('vhd', MIB).image, 'n'.repeat(256));
    expect(() => planOf('vhd', MIB, [], long)).toThrow('has 256 UTF-16 units: a VHD records at most 255');
    const qed = asParent(open('raw', MIB).image, `${'d/'.repeat(600)}x`);
    expect(() => planOf('qed', MIB, [], qed)).toThrow('expected 1 to 1023');
  });

  test('no child knows a parent without an identity', () => {
    const image = { ...open('vhd', MIB).image, format: 'vhd' as const, identity: [] };
    expect(() => planOf('vhd', MIB, [], asParent(image as never))).toThrow(/has no unique id/);
  });
});
