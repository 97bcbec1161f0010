/** Power cuts while QED images are changed as a whole. */

import { describe, expect, test } from 'vitest';
import { driverOf } from '../../src/formats/registry.ts';
import type { NewParent } from '../../src/image/create.ts';
import type { Image, OpenContext } from '../../src/image/driver.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { parentDisk } from '../support/disk.ts';
import {
  type ClusterContent,
  encodeQed,
  type QedDescription,
  qedBytes,
  qedDisk,
  samples,
  withBacking,
} from '../support/encoders/qed.ts';
import { FaultSource } from '../support/fault-source.ts';
import { MemorySource } from '../support/memory-source.ts';
import { between, random, randomBytes } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import { cutReshape, finish, judge, RESHAPE_RUNS } from './reshape.ts';

const driver = driverOf('qed');
const reshape = driver.reshape;
const plan = { seed: 7, runs: RESHAPE_RUNS, prefixes: true };
const next = random(11);

const KIB = 1024;

/** Data in `file` order at these guest clusters of 4 KiB. */
const data = (...clusters: number[]): Map<number, ClusterContent> =>
  new Map(clusters.map((cluster) => [cluster, randomBytes(next, 4096)]));

const small = { clusterSize: 4096, tableSize: 2, imageSize: 128 * KIB };

const layouts = new Map<string, QedDescription>([
  ['shuffled', { ...small, clusters: data(9, 3, 20, 1, 31) }],
  ['gaps everywhere', { ...small, headerSize: 2, gap: 3, clusters: data(5, 4, 3, 2, 1, 0) }],
  ['L1 at the end', { ...small, gap: 1, lateL1: true, clusters: data(7, 8, 30) }],
  [
    'three tables, one empty',
    { ...small, imageSize: 6 * 1024 * KIB, tables: [1], gap: 1, clusters: data(0, 1, 1030, 1029, 1024) },
  ],
]);

/** The layout with clusters taken out again, as a guest's discards leave it. */
function holed(description: QedDescription, gone: readonly number[]): QedDescription {
  const { clusterSize, tableSize } = description;
  const { tables } = encodeQed(description, () => {});
  const entries = (clusterSize * tableSize) / 8;
  const zero = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);
  const patches = gone.map((cluster): [number, Uint8Array] => [
    tables.get(Math.floor(cluster / entries))! + (cluster % entries) * 8,
    zero,
  ]);
  const kept = [...description.clusters!].map(([cluster, content]): [number, ClusterContent] => [
    cluster,
    content,
  ]);
  return {
    ...description,
    clusters: new Map(kept),
    patches: new Map([...(description.patches ?? []), ...patches]),
  };
}

interface Tried {
  readonly name: string;
  readonly file: Uint8Array;
  readonly disks: readonly Uint8Array[];
  readonly run: (source: BlockSource, context: OpenContext) => void;
  readonly parent?: SampleImage;
  readonly parentOf?: (image: Image) => ReturnType<typeof parentDisk>;
}

function survives(tried: Tried): Uint8Array {
  const { violation, images, final } = cutReshape({ driver, ...tried, parent: parentDisk(tried) }, plan);
  expect(violation).toBeUndefined();
  expect(images).toBeGreaterThan(RESHAPE_RUNS);
  return final;
}

const CONTEXT: OpenContext = { tables: new TableAllocator(), report: () => {}, options: new Map() };

/** Nothing in the file is unused. */
function isTight(file: Uint8Array): void {
  expect(driver.check!(new MemorySource(file), CONTEXT).leaks).toBe(0);
}

describe('compact', () => {
  const run = (source: BlockSource, context: OpenContext) => finish(reshape.compact!(source, context));

  test.each([...layouts])('%s', (name, description) => {
    const file = new Uint8Array([...qedBytes(description), ...randomBytes(next, 5000)]);
    const final = survives({ name, file, disks: [qedDisk(description)], run });
    isTight(final);
    expect(final.length).toBeLessThanOrEqual(file.length);
  });

  test('data in the way of a table, and clusters taken out', () => {
    // Tables of 4: what is free inside lies in single clusters.
    const description: QedDescription = {
      clusterSize: 4096,
      tableSize: 4,
      imageSize: 12 * 1024 * KIB,
      clusters: data(0, 1, 2, 3, 4, 5, 6, 7, 8, 2050),
    };
    const gone = [0, 2, 4, 6, 8];
    const kept = new Map([...description.clusters!].filter(([cluster]) => !gone.includes(cluster)));
    const disk = qedDisk({ ...description, clusters: kept });
    const final = survives({ name: 'gone', file: qedBytes(holed(description, gone)), disks: [disk], run });
    isTight(final);
    // Header, L1, two L2, five of data.
    expect(final.length).toBe((1 + 3 * 4 + 5) * 4096);
  });

  test('a child', () => {
    const sample = samples(3).find(({ name }) => name === 'child that is smaller')!;
    const tail = new Uint8Array([...sample.file, ...randomBytes(next, 9000)]);
    const final = survives({ ...sample, file: tail, disks: [sample.disk], run });
    isTight(final);
  });
});

describe('resize', () => {
  const resized = (disk: Uint8Array, size: number): Uint8Array => {
    const after = new Uint8Array(size);
    after.set(disk.subarray(0, size));
    return after;
  };
  const to = (size: number, parentSize?: number) => (source: BlockSource, context: OpenContext) =>
    finish(
      reshape.resize!(source, size, { ...context, ...(parentSize === undefined ? {} : { parentSize }) }),
    );

  test.each([...layouts])('%s', (name, description) => {
    const disk = qedDisk(description);
    const larger = disk.length + 5 * 1024 * KIB + 512;
    const file = qedBytes(description);
    const grown = survives({ name, file, disks: [disk, resized(disk, larger)], run: to(larger) });
    expect(grown.length).toBe(file.length);
    const smaller = 17 * 512;
    isTight(compacted(survives({ name, file, disks: [disk, resized(disk, smaller)], run: to(smaller) })));
  });

  test('what somebody left past the end is not seen', () => {
    const description: QedDescription = {
      ...small,
      imageSize: 5 * 512,
      clusters: data(0, 1, 2, 1500),
    };
    const disk = qedDisk(description);
    const larger = 7 * 1024 * KIB;
    survives({
      name: 'stale',
      file: qedBytes(description),
      disks: [disk, resized(disk, larger)],
      run: to(larger),
    });
  });

  test.each([
    ['of unknown size', undefined],
    ['that is longer', 4 * 1024 * KIB],
    ['that ends within', 150 * KIB],
  ])('a child over a parent %s', (name, parentSize) => {
    const noise = randomBytes(next, parentSize ?? 3 * 1024 * KIB);
    const parent: SampleImage = { name: 'base', format: 'raw', file: noise, disk: noise };
    const description = { ...small, imageSize: 100 * KIB, clusters: data(9, 2) };
    const disk = new Uint8Array(description.imageSize);
    disk.set(noise.subarray(0, disk.length));
    for (const [cluster, bytes] of description.clusters) disk.set(bytes as Uint8Array, cluster * 4096);
    const file = qedBytes(withBacking(description, 'base.img', true));
    const larger = 5 * 1024 * KIB;
    survives({ name, parent, file, disks: [disk, resized(disk, larger)], run: to(larger, parentSize) });
  });
});

/** After a shrink what was cut off may have left holes in the middle. */
function compacted(file: Uint8Array): Uint8Array {
  const source = new MemorySource(file, 'shrunk', true);
  finish(reshape.compact!(source, CONTEXT));
  return source.bytes.slice();
}

function childOf(parent: SampleImage, description: QedDescription): { file: Uint8Array; disk: Uint8Array } {
  const disk = new Uint8Array(description.imageSize);
  disk.set(parent.disk.subarray(0, disk.length));
  for (const [cluster, bytes] of description.clusters!) disk.set(bytes as Uint8Array, cluster * 4096);
  return { file: qedBytes(withBacking(description, 'base.img', true)), disk };
}

const noise = randomBytes(next, 90 * KIB);
const base: SampleImage = { name: 'base', format: 'raw', file: noise, disk: noise };
const shown = new Uint8Array(128 * KIB);
shown.set(noise);

describe('empty', () => {
  test.each([...layouts].filter(([, { imageSize }]) => imageSize === small.imageSize))(
    '%s',
    (name, description) => {
      const { file, disk } = childOf(base, description);
      const run = (source: BlockSource, context: OpenContext) => finish(reshape.empty!(source, context));
      const final = survives({ name, parent: base, file, disks: [disk, shown], run });
      isTight(final);
      expect(final.length).toBe(((description.headerSize ?? 1) + 2) * 4096);
    },
  );

  test('stands alone', () => {
    const source = new MemorySource(qedBytes(layouts.get('shuffled')!), 'alone', true);
    const before = source.bytes.slice();
    expect(() => finish(reshape.empty!(source, CONTEXT))).toThrow(/stands alone/);
    expect(source.bytes).toEqual(before);
  });
});

describe('rebase', () => {
  const parentNamed = (relative: string, format = 'raw'): NewParent => ({
    image: { format } as unknown as Image,
    relative,
    absolute: `/vm/${relative}`,
    modified: 0,
  });
  const description: QedDescription = { ...layouts.get('shuffled')! };
  const names = [30, 447, 448, 449, 900, 1023].map((length) => `${'n'.repeat(length - 4)}.img`);
  const { file, disk } = childOf(base, description);
  const other = noise.map((byte) => byte ^ 255);
  const otherBase: SampleImage = { name: 'other', format: 'raw', file: other, disk: other };
  const otherDisk = childOf(otherBase, description).disk;

  test.each(names.map((name) => [name.length, name] as const))(
    'to a name of %d bytes, and back',
    (_, name) => {
      const oldDisk = parentDisk({ parent: base });
      const newDisk = parentDisk({ parent: otherBase });
      const parentOf = (image: Image) => (image.parent!.places[0]!.path === name ? newDisk : oldDisk);
      const tried = { name: 'to', parent: base, disks: [disk, otherDisk], parentOf };
      const rebase = (wanted: string) => (source: BlockSource, context: OpenContext) =>
        finish(reshape.rebase!(source, parentNamed(wanted), context));
      const there = survives({ ...tried, file, run: rebase(name) });
      const back = survives({ ...tried, file: there, run: rebase(`${name.slice(0, -5)}x.img`) });
      const image = driver.open(new MemorySource(back), CONTEXT);
      expect(image.parent!.places[0]!.path).toBe(`${name.slice(0, -5)}x.img`);
      expect(image.parent!.format).toBe('raw');
    },
  );

  test('to an image that is to be probed, with a colon in its name', () => {
    const source = new MemorySource(file, 'child', true);
    finish(reshape.rebase!(source, parentNamed('a:b.vhdx', 'vhdx'), CONTEXT));
    const { parent } = driver.open(source, CONTEXT);
    expect(parent).toMatchObject({ places: [{ path: './a:b.vhdx' }], format: undefined });
  });

  test('to stand alone', () => {
    const own = qedDisk(description);
    const run = (source: BlockSource, context: OpenContext) =>
      finish(reshape.rebase!(source, undefined, context));
    const oldDisk = parentDisk({ parent: base });
    const parentOf = (image: Image) => (image.parent === undefined ? parentDisk({ parent: ZEROS }) : oldDisk);
    const final = survives({ name: 'alone', parent: base, file, disks: [disk, own], run, parentOf });
    expect(driver.open(new MemorySource(final), CONTEXT).parent).toBeUndefined();
  });

  test.each([
    ['too long', 'n'.repeat(1024)],
    ['a NUL in it', 'a\0b'],
  ])('refused: %s', (_, name) => {
    const source = new MemorySource(file, 'child', true);
    expect(() => finish(reshape.rebase!(source, parentNamed(name), CONTEXT))).toThrow(/name of \d+ bytes/);
    expect(source.bytes).toEqual(file);
  });
});

const ZEROS: SampleImage = {
  name: 'zeros',
  format: 'raw',
  file: new Uint8Array(128 * KIB),
  disk: new Uint8Array(128 * KIB),
};

test('a seeded mixture of changes shows the disk that it should', () => {
  for (let seed = 1; seed <= 12; seed += 1) {
    const draw = random(seed);
    const images = samples(seed).filter(({ parent, disk }) => parent === undefined && disk.length > 0);
    const sample = images[between(draw, 0, images.length - 1)]!;
    const source = new MemorySource(sample.file, `${seed}: ${sample.name}`, true);
    let disk = sample.disk;
    for (let step = 0; step < 8; step += 1) {
      if (draw() < 0.4) finish(reshape.compact!(source, CONTEXT));
      else {
        const size = Math.min(512 * between(draw, 1, 4096), 2 * 1024 * KIB);
        const after = new Uint8Array(size);
        after.set(disk.subarray(0, size));
        finish(reshape.resize!(source, size, CONTEXT));
        disk = after;
      }
      const opened = parentDisk({ parent: { ...sample, file: source.bytes.slice(), disk } })!;
      const bytes = new Uint8Array(disk.length);
      expect(opened.size).toBe(disk.length);
      opened.read(bytes, 0, bytes.length, 0 as never);
      expect(Buffer.from(bytes).equals(disk), `${source.label}, step ${step}`).toBe(true);
      expect(driver.check!(source, CONTEXT).errors).toBe(0);
    }
  }
});

describe('a flush that is left out', () => {
  /** The `n`th flush does nothing. `count` says how many there were. */
  function dropping(run: Tried['run'], n: number, count: (flushes: number) => void): Tried['run'] {
    return (source, context) => {
      let flushes = 0;
      const flush = (): number => {
        flushes += 1;
        count(flushes);
        return flushes - 1 === n ? 0 : source.flush();
      };
      const dropped = new Proxy(source, {
        get: (target, key) => {
          if (key === 'flush') return flush;
          const value = Reflect.get(target, key) as unknown;
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
      run(dropped, context);
    };
  }

  function seen(tried: Tried): boolean[] {
    const caught: boolean[] = [];
    let flushes = 1;
    for (let n = 0; n < flushes; n += 1) {
      const run = dropping(tried.run, n, (count) => {
        flushes = Math.max(flushes, count);
      });
      const { violation } = cutReshape({ driver, ...tried, run, parent: parentDisk(tried) }, plan);
      caught.push(violation !== undefined);
    }
    return caught;
  }

  const run = (source: BlockSource, context: OpenContext) => finish(reshape.compact!(source, context));
  const description = layouts.get('shuffled')!;
  const to = (size: number) => (source: BlockSource, context: OpenContext) =>
    finish(reshape.resize!(source, size, context));
  const cut = (disk: Uint8Array, size: number) => {
    const after = new Uint8Array(size);
    after.set(disk.subarray(0, size));
    return after;
  };
  const compacting = (name: string): Tried => {
    const wanted = layouts.get(name)!;
    return { name, file: qedBytes(wanted), disks: [qedDisk(wanted)], run };
  };
  const stale: QedDescription = { ...small, imageSize: 5 * 512, clusters: data(0, 1, 2, 1500) };
  const own = qedDisk(description);
  const child = childOf(base, description);

  // Those that are not seen: before the header, where nothing was changed yet; after the last change; in `empty`, that
  // between the first header and zeros over the old table, whose entries lie in one sector here.
  test.each<readonly [Tried, readonly boolean[]]>([
    [compacting('gaps everywhere'), [true, true, false]],
    [compacting('L1 at the end'), [true, true, true, true, false]],
    [
      {
        name: 'empty',
        parent: base,
        file: child.file,
        disks: [child.disk, shown],
        run: (source, context) => finish(reshape.empty!(source, context)),
      },
      [true, false, false, true, false],
    ],
    [
      { name: 'shrink', file: qedBytes(description), disks: [own, cut(own, 8704)], run: to(8704) },
      [false, true, true, false],
    ],
    [
      {
        name: 'grow',
        file: qedBytes(stale),
        disks: [qedDisk(stale), cut(qedDisk(stale), 7 << 20)],
        run: to(7 << 20),
      },
      [true, false],
    ],
  ])(
    '%#: of its flushes, those that matter',
    (tried, wanted) => {
      expect(seen(tried)).toEqual(wanted);
    },
    60_000,
  );
});

describe('a medium that fails', () => {
  const description = layouts.get('gaps everywhere')!;
  const own = qedDisk(description);
  const larger = new Uint8Array(200 * KIB);
  larger.set(own);
  const { file, disk } = childOf(base, description);

  test.each<readonly [string, Tried]>([
    [
      'compact',
      {
        name: 'compact',
        file: qedBytes(description),
        disks: [own],
        run: (source, context) => finish(reshape.compact!(source, context)),
      },
    ],
    [
      'grow',
      {
        name: 'grow',
        file: qedBytes(description),
        disks: [own, larger],
        run: (source, context) => finish(reshape.resize!(source, larger.length, context)),
      },
    ],
    [
      'shrink',
      {
        name: 'shrink',
        file: qedBytes(description),
        disks: [own, own.slice(0, 8704)],
        run: (source, context) => finish(reshape.resize!(source, 8704, context)),
      },
    ],
    [
      'empty',
      {
        name: 'empty',
        parent: base,
        file,
        disks: [disk, shown],
        run: (source, context) => finish(reshape.empty!(source, context)),
      },
    ],
  ])('%s: at whatever place, it is told, and the image is whole', (_, tried) => {
    let failed = 0;
    for (let nth = 1; ; nth += 1) {
      const memory = new MemorySource(tried.file, tried.name, true);
      const source = new FaultSource(memory);
      source.set({ step: undefined, nth, times: 1, errno: 5, part: 0 });
      let problem: unknown;
      try {
        tried.run(source, CONTEXT);
      } catch (thrown) {
        problem = thrown;
      }
      const wrong = judge(
        { driver, ...tried, parent: parentDisk(tried) },
        new MemorySource(memory.bytes.slice()),
      );
      expect(wrong).toBeUndefined();
      if (source.hits === 0) break;
      expect(problem).toMatchObject({ name: 'ImageError', kind: 'io' });
      failed += 1;
    }
    expect(failed).toBeGreaterThanOrEqual(3);
  });
});
