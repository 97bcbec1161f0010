/** Power cuts while VDI images are changed as a whole. */

import { describe, expect, test } from 'vitest';
import type { Disk } from '../../src/disk/disk.ts';
import { driverOf } from '../../src/formats/registry.ts';
import { openAlone } from '../../src/image/alone.ts';
import type { NewParent } from '../../src/image/create.ts';
import type { Image } from '../../src/image/driver.ts';
import type { Reshaping } from '../../src/image/reshape.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource, WriteStep } from '../../src/source/block-source.ts';
import { openDisk, parentDisk, readDisk } from '../support/disk.ts';
import { encodeVdi, FREE, randomMap, samples, type VdiDescription, ZERO } from '../support/encoders/vdi.ts';
import { MemorySource } from '../support/memory-source.ts';
import { random } from '../support/random.ts';
import { type Change, RecordingSource } from '../support/recording-source.ts';
import type { SampleImage } from '../support/sample.ts';
import type { CutPlan } from './harness.ts';
import { cutReshape, finish, RESHAPE_RUNS } from './reshape.ts';

const driver = driverOf('vdi');
const { resize, compact, empty, rebase, expectParent } = driver.reshape;
const K = 4096;
const plan = { seed: 7, runs: RESHAPE_RUNS, prefixes: true };

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

  test('is made compact', () => {
    expectCompact(cut(image, (source) => compact!(source, context), [disk]));
  });
});

describe.each(LAYOUTS.filter(({ parent }) => parent === undefined))('$name', (image) => {
  const { disk } = image;

  test('grows again with zeros where it was cut off', () => {
    const size = disk.length - 512;
    const source = new MemorySource(image.file, image.name, true);
    finish(resize!(source, size, context));
    finish(resize!(source, disk.length, context));
    const { disk: after } = openDisk(driver, source);
    expect(Buffer.from(readDisk(after)).equals(sized(sized(disk, size), disk.length))).toBe(true);
  });
});

test('where the parent shows in the block with the end of the disk, it does not grow', () => {
  const image = samples(3).find(({ name }) => name === 'child that is smaller')!;
  const source = new MemorySource(image.file, image.name, true);
  expect(() => finish(resize!(source, 28 * 1024, context))).toThrow(
    /entry 3: the disk ends within its block, which only/,
  );
  expect(source.bytes).toEqual(image.file);
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

  test('grows, where its parent shows nothing', () => {
    const size = image.disk.length + 100 * K;
    cut(image, (source) => resize!(source, size, context), [image.disk, sized(image.disk, size)]);
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

type Step = WriteStep | 'end';
const stepOf = (change: Change | undefined): Step =>
  change === undefined
    ? 'end'
    : change.kind === 'flush'
      ? 'flush'
      : change.kind === 'size'
        ? 'size.set'
        : change.step;

/** Indices of the flushes before which the last change is of the step `before`, and after which comes `next`. */
function flushesBetween(changes: readonly Change[], before: Step, next: Step): number[] {
  return changes.flatMap(({ kind }, index) =>
    kind === 'flush' && stepOf(changes[index - 1]) === before && stepOf(changes[index + 1]) === next
      ? [index]
      : [],
  );
}

interface Order {
  readonly name: string;
  readonly image: SampleImage;
  readonly run: (source: BlockSource) => Reshaping;
  readonly disks: readonly Uint8Array[];
  readonly before: Step;
  readonly next: Step;
}

const named = (list: readonly SampleImage[], name: string) => list.find((image) => image.name === name)!;

function growth(image: SampleImage) {
  const size = image.disk.length + 200 * K;
  const disks = [image.disk, sized(image.disk, size)];
  return { image, disks, run: (source: BlockSource) => resize!(source, size, context) };
}

function shrinking(image: SampleImage) {
  const size = Math.ceil(image.disk.length / 1024) * 512;
  const disks = [image.disk, sized(image.disk, size)];
  return { image, disks, run: (source: BlockSource) => resize!(source, size, context) };
}

function compaction(image: SampleImage) {
  return { image, disks: [image.disk], run: (source: BlockSource) => compact!(source, context) };
}

function emptying(image: SampleImage) {
  const disks = [image.disk, base.disk.subarray(0, image.disk.length)];
  return { image, disks, run: (source: BlockSource) => empty!(source, context) };
}

const table = 'table.write';
const header = 'header.write';
const noRoom = named(LAYOUTS, 'no room');
const leaking = named(LAYOUTS, 'no room, leaks');
const ORDERS: readonly Order[] = [
  { name: 'growing: copies before their entries', ...growth(noRoom), before: 'payload.write', next: table },
  {
    name: 'growing: moved blocks before the map that takes their place',
    ...growth(noRoom),
    before: table,
    next: 'payload.zero',
  },
  { name: 'growing: the new map before the header', ...growth(noRoom), before: table, next: header },
  {
    name: 'growing, 0.2: the new map before the header',
    ...growth(named(LAYOUTS, 'version 0.2')),
    before: table,
    next: header,
  },
  {
    name: 'growing a child: entries before the size',
    ...growth(named(CHILDREN, 'room behind the map')),
    before: table,
    next: header,
  },
  {
    name: 'shrinking: the size before what lies behind',
    ...shrinking(named(LAYOUTS, 'no room')),
    before: header,
    next: table,
  },
  {
    name: 'compact: copies before their entries',
    ...compaction(leaking),
    before: 'payload.write',
    next: table,
  },
  { name: 'compact: entries before the counter', ...compaction(leaking), before: table, next: header },
  {
    name: 'empty: the new map before the header',
    ...emptying(named(CHILDREN, 'room before the map')),
    before: table,
    next: header,
  },
  {
    name: 'empty: the first switch before the old map',
    ...emptying(named(CHILDREN, 'no room')),
    before: header,
    next: table,
  },
  {
    name: 'empty: the second map before the header',
    ...emptying(named(CHILDREN, 'no room, 0.2')),
    before: table,
    next: header,
  },
];

describe('an order that is not kept shows', () => {
  test.each(ORDERS)('$name', ({ image, run, disks, before, next }) => {
    const recorder = new RecordingSource(new MemorySource(image.file, image.name, true));
    finish(run(recorder));
    const flushes = flushesBetween(recorder.changes, before, next);
    expect(flushes.length).toBeGreaterThan(0);
    const violations = flushes.map(
      (left) =>
        tried(image, run, disks, { plan: { runs: 600, isBarrier: (index) => index !== left } }).violation,
    );
    expect(violations.filter((violation) => violation === undefined)).toEqual([]);
  });
});
