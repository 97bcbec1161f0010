/** Power cuts while VDI images are changed as a whole. */

import { describe, expect, test } from 'vitest';
import type { Disk } from '../../src/disk/disk.ts';
import { driverOf } from '../../src/formats/registry.ts';
import { openAlone } from '../../src/image/alone.ts';
import type { NewParent } from '../../src/image/create.ts';
import type { Image } from '../../src/image/driver.ts';
import type { Reshaping } from '../../src/image/reshape.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { openDisk, parentDisk, readDisk } from '../support/disk.ts';
import { encodeVdi, FREE, randomMap, samples, type VdiDescription, ZERO } from '../support/encoders/vdi.ts';
import { MemorySource } from '../support/memory-source.ts';
import { random } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import type { CutPlan } from './harness.ts';
import { cutReshape, finish } from './reshape.ts';

const driver = driverOf('vdi');
const { resize, compact, empty, rebase, expectParent } = driver.reshape;
const K = 4096;
const plan = { seed: 7, runs: 250, prefixes: true };

const next = random(21);
const sample = (name: string, vdi: VdiDescription): SampleImage => ({
  name,
  format: 'vdi',
  ...encodeVdi(vdi, next),
});
const tight = { mapOffset: 0x200, dataOffset: 0x400 };

/** Room for the map: before the data, between header and map, none (with places for the blocks that move, or leaks). */
const LAYOUTS: readonly SampleImage[] = [
  sample('room behind the map', { map: [1, FREE, 0, ZERO], blockSize: K }),
  sample('room before the map', { map: [1, FREE, 0], blockSize: K, mapOffset: 0x2000, dataOffset: 0x2100 }),
  sample('no room', { map: [2, ...Array<number>(125).fill(FREE), 0, 1], blockSize: K, ...tight }),
  sample('no room, leaks', {
    map: [9, 3, ...Array<number>(126).fill(FREE)],
    blockSize: K,
    ...tight,
    allocated: 12,
  }),
  sample('no room, nothing allocated', { map: Array<number>(128).fill(FREE), blockSize: K, ...tight }),
  sample('no room, tiny blocks', { map: randomMap(next, 128, 0.6), blockSize: 512, ...tight }),
  sample('no room, extra bytes', { map: randomMap(next, 128, 0.2), blockSize: K, extra: 100, ...tight }),
  sample('version 0.2', { map: [FREE, 1, FREE, 0, ZERO], blockSize: K, version: 2 }),
  sample('version 0.2, map in many sectors', { map: randomMap(next, 300, 0.1), blockSize: K, version: 2 }),
  sample('the disk ends within its last block', { map: [0, 2, 1], blockSize: K, diskSize: 2 * K + 512 }),
  sample('fixed', { map: [0, 1, 2, 3], blockSize: K, type: 2, diskSize: 3 * K + 1024 }),
  sample('entries behind the end', { map: [1, 0, 4, 3, 2], blockSize: K, diskSize: 2 * K }),
  ...samples(3).filter(({ name, disk }) => disk.length <= 1 << 20 && /^random|chain|fixed/.test(name)),
];

const sized = (disk: Uint8Array, size: number): Uint8Array => {
  const other = new Uint8Array(size);
  other.set(disk.subarray(0, size));
  return other;
};

interface Extra {
  readonly parentOf?: (image: Image) => Disk | undefined;
  readonly plan?: Partial<CutPlan>;
}

function tried(
  image: SampleImage,
  run: (source: BlockSource) => Reshaping,
  disks: readonly Uint8Array[],
  { parentOf, plan: other }: Extra = {},
) {
  return cutReshape(
    {
      name: image.name,
      driver,
      file: image.file,
      parent: parentDisk(image),
      run: (source) => finish(run(source)),
      disks,
      ...(parentOf === undefined ? {} : { parentOf }),
    },
    { ...plan, ...other },
  );
}

/** Returns the file at the end, whose disk is the last of `disks`. */
function cut(...args: Parameters<typeof tried>): Uint8Array {
  const { violation, final } = tried(...args);
  expect(violation).toBeUndefined();
  const [{ parent }, , disks] = args;
  const beneath = args[3]?.parentOf?.(openedImage(final)) ?? parentDisk({ parent });
  const { disk } = openDisk(driver, new MemorySource(final), {}, 1 << 18, beneath);
  expect(Buffer.from(readDisk(disk)).equals(disks.at(-1)!), 'the disk at the end').toBe(true);
  return final;
}

const openedImage = (file: Uint8Array): Image => openDisk(driver, new MemorySource(file)).image;
const checked = (file: Uint8Array) => driver.check!(new MemorySource(file), contextOf());

const contextOf = () => ({
  tables: new TableAllocator(),
  report: () => {},
  options: new Map<string, string>(),
});
const context = contextOf();

/** What its entries name, and no more. */
function expectCompact(file: Uint8Array): void {
  expect(checked(file)).toMatchObject({ errors: 0, leaks: 0 });
  const { facts } = openedImage(file);
  const stride = openedImage(file).blockSize + Number(facts.get('block-extra'));
  const end = Number(facts.get('data-offset')) + Number(facts.get('blocks-allocated')) * stride;
  expect(file.length).toBeLessThanOrEqual(end);
}

describe.each(LAYOUTS)('$name', (image) => {
  const { disk } = image;

  test.each([
    ['a sector', disk.length + 512],
    ['much', disk.length + 200 * K],
  ])('grows by %s', (_name, size) => {
    const final = cut(image, (source) => resize!(source, size, context), [disk, sized(disk, size)]);
    expect(checked(final).errors).toBe(0);
  });

  test.each([
    ['a sector', disk.length - 512],
    ['half', Math.ceil(disk.length / 1024) * 512],
  ])('shrinks by %s', (_name, size) => {
    const final = cut(image, (source) => resize!(source, size, context), [disk, sized(disk, size)]);
    expectCompact(final);
  });

  test('grows again with zeros where it was cut off', () => {
    const size = disk.length - 512;
    const source = new MemorySource(image.file, image.name, true);
    finish(resize!(source, size, context));
    finish(resize!(source, disk.length, context));
    const { disk: after } = openDisk(driver, source, {}, 1 << 18, parentDisk(image));
    expect(Buffer.from(readDisk(after)).equals(sized(sized(disk, size), disk.length))).toBe(true);
  });

  test('is made compact', () => {
    expectCompact(cut(image, (source) => compact!(source, context), [disk]));
  });
});

const random4 = random(4);
const base = sample('base', {
  map: randomMap(random4, 300, 0.9),
  blockSize: K,
  create: new Uint8Array(16).fill(0xba),
});
const child = (name: string, vdi: VdiDescription): SampleImage => {
  const made = sample(name, { ...vdi, type: 4, linkage: new Uint8Array(16).fill(0xba) });
  vdi.map.forEach((entry, block) => {
    const at = block * vdi.blockSize;
    if (entry === FREE)
      made.disk.set(base.disk.subarray(at, Math.min(made.disk.length, at + vdi.blockSize)), at);
  });
  return { ...made, parent: base };
};

const CHILDREN: readonly SampleImage[] = [
  child('a map in one sector', { map: [0, FREE, ZERO, 1], blockSize: K }),
  child('room before the map', {
    map: randomMap(next, 290),
    blockSize: K,
    mapOffset: 0x2000,
    dataOffset: 0x2600,
  }),
  child('room behind the map', { map: randomMap(next, 290), blockSize: K, dataOffset: 0x2600 }),
  child('no room', { map: randomMap(next, 290), blockSize: K }),
  child('no room, 0.2', { map: randomMap(next, 290), blockSize: K, version: 2 }),
];

describe.each(CHILDREN)('a child: $name', (image) => {
  const shown = base.disk.subarray(0, image.disk.length);
  const without = encodedAlone(image);

  test('is emptied', () => {
    const final = cut(image, (source) => empty!(source, context), [image.disk, shown]);
    expectCompact(final);
    expect(checked(final).allocatedBytes).toBe(0);
  });

  test('stands alone, and is a child again', () => {
    const parentOf = ({ parent }: Image) => (parent === undefined ? nothing : parentDisk(image));
    const alone = cut(image, (source) => rebase!(source, undefined, context), [image.disk, without], {
      parentOf,
    });
    expect(openedImage(alone)).toMatchObject({ parent: undefined, variant: 'dynamic' });
    const parent: NewParent = {
      image: openedImage(base.file),
      relative: 'base.vdi',
      absolute: '/vm/base.vdi',
      modified: 0,
    };
    const again = cut(
      { ...image, file: alone },
      (source) => rebase!(source, parent, context),
      [without, image.disk],
      {
        parentOf,
      },
    );
    const { parent: link } = openedImage(again);
    expect(link!.compare(openedImage(base.file))).toBeUndefined();
  });
});

/** Reads as zeros, whatever is asked for. */
const nothing = openDisk(driver, new MemorySource(encodeVdi({ map: [FREE], blockSize: K }, next).file)).disk;

function encodedAlone(image: SampleImage): Uint8Array {
  return readDisk(openDisk(driver, new MemorySource(image.file)).disk);
}

test('a child hears of the next state of its parent', () => {
  const parentModify = new Uint8Array(16).fill(0x33);
  const { file, disk } = encodeVdi(
    { map: [0], blockSize: K, type: 4, linkage: parentModify, parentModify },
    next,
  );
  const identity = Uint8Array.from({ length: 16 }, (_, n) => n + 1);
  function* run(source: BlockSource): Reshaping {
    expectParent!(source, identity, context);
    yield* [];
  }
  const final = cut({ name: 'child', format: 'vdi', file, disk }, run, [disk]);
  const parent = new MemorySource(
    encodeVdi({ map: [0], blockSize: K, create: parentModify }, next).file,
    'p',
    true,
  );
  const { editor } = openAlone(driver, parent, { ...context, nextIdentity: identity });
  expect(openedImage(final).parent!.compare(openedImage(parent.bytes))).toMatchObject({
    severity: 'changed',
  });
  expect(editor.begin()).toBe(0);
  expect(openedImage(final).parent!.compare(openedImage(parent.bytes))).toBeUndefined();
});
