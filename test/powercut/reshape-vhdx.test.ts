/** Power cuts while VHDX images are changed as a whole. */

import { describe, expect, test } from 'vitest';
import { formatGuid } from '../../src/base/guid.ts';
import { MIB } from '../../src/base/units.ts';
import { driverOf } from '../../src/formats/registry.ts';
import type { NewParent } from '../../src/image/create.ts';
import type { Image } from '../../src/image/driver.ts';
import { openDisk, parentDisk, readDisk } from '../support/disk.ts';
import { link } from '../support/encoders/vhdx-chains.ts';
import {
  BAT,
  type BlockPlan,
  batEntry,
  buildVhdx,
  expectedDisk,
  fileBytes,
  putBatEntry,
  type VhdxPlan,
} from '../support/encoders/vhdx-image.ts';
import { intoLog, markDirty, putEntries } from '../support/encoders/vhdx-log.ts';
import { MemorySource } from '../support/memory-source.ts';
import { random, randomBytes } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import { leaveOut } from './left-out.ts';
import { cutReshape, finish, RESHAPE_RUNS, type ReshapeCase } from './reshape.ts';

const driver = driverOf('vhdx');
const plan = { seed: 7, runs: RESHAPE_RUNS, prefixes: true };
const next = random(5);
const full = (mib?: number, length = MIB): BlockPlan => ({
  state: 6,
  data: randomBytes(next, length),
  ...(mib === undefined ? {} : { mib }),
});

function sample(name: string, image: VhdxPlan): SampleImage {
  return { name, format: 'vhdx', file: fileBytes(buildVhdx(image)), disk: expectedDisk(image) };
}

/** A table whose region has no room for what it is to become, and blocks right behind it. */
const dynamic = sample('dynamic', {
  size: 3 * MIB + 512,
  blocks: new Map([
    [0, full()],
    [1, { state: 3, mib: 5 }],
    [3, full()],
  ]),
});
const fixed = sample('fixed', {
  size: 2 * MIB + 4096,
  flags: 1,
  blocks: new Map([
    [0, full()],
    [1, full()],
    [2, full(undefined, 4096)],
  ]),
  cutTail: true,
});
const dirty = ((): SampleImage => {
  const image: VhdxPlan = { size: 3 * MIB, blocks: new Map([[2, full()]]) };
  const file = buildVhdx(image);
  const update = intoLog(file, BAT.at * MIB);
  markDirty(file, image);
  putEntries(file, image, [{ sequence: 41, updates: [update] }]);
  return { name: 'dirty', format: 'vhdx', file: fileBytes(file), disk: expectedDisk(image) };
})();

const base = link('base', { size: 6 * MIB, blocks: new Map([0, 1, 2, 3, 4, 5].map((n) => [n, full()])) });
const partial = link(
  'child, last block partially there',
  {
    size: 2 * MIB + 1536,
    blocks: new Map<number, BlockPlan>([
      [1, full()],
      [2, { state: 7, data: randomBytes(next, MIB), present: [[1, 3]] }],
    ]),
  },
  base,
);
const hollow = link('child, last block of the parent', { size: 2 * MIB + 1536 }, base);
const hollowWithBits = link(
  'child, last block of the parent, bits garbage',
  {
    size: 2 * MIB + 1536,
    blocks: new Map<number, BlockPlan>([[0, { state: 7, data: randomBytes(next, MIB), present: [[9, 99]] }]]),
  },
  base,
);

/** The disk with another size: zeros behind its end. */
function resized(disk: Uint8Array, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set(disk.subarray(0, size));
  return bytes;
}

describe('resize', () => {
  const grown = 5 * MIB + 1024;
  const cases: [SampleImage, number][] = [
    [dynamic, grown],
    [dynamic, 3 * MIB + 8192],
    [dynamic, MIB + 512],
    [fixed, grown],
    [fixed, MIB],
    [dirty, grown],
    [partial, grown],
    [partial, MIB + 512],
    [hollow, grown],
    [hollow, MIB],
    [hollowWithBits, grown],
  ];
  test.each(cases.map(([image, size]) => ({ image, size })))('$image.name to $size', ({ image, size }) => {
    const { violation, images } = cutReshape(
      {
        name: image.name,
        driver,
        file: image.file,
        parent: parentDisk(image),
        run: (source, context) => finish(driver.reshape.resize!(source, size, context)),
        disks: [image.disk, resized(image.disk, size)],
      },
      plan,
    );
    expect(violation).toBeUndefined();
    expect(images).toBeGreaterThan(RESHAPE_RUNS);
  });
});

describe('compact', () => {
  const scattered = sample('holes, blocks in reverse order, kept places', {
    size: 8 * MIB,
    blocks: new Map<number, BlockPlan>([
      [0, full(11)],
      [1, full(9)],
      [2, { state: 3, mib: 4 }],
      [3, { state: 5, mib: 8 }],
      [4, full(6)],
      [7, full(5)],
    ]),
  });
  const large = sample('larger blocks, the last one cut', {
    size: 5 * MIB,
    blockSize: 2 * MIB,
    blocks: new Map([
      [0, full(9, 2 * MIB)],
      [2, full(11)],
    ]),
    cutTail: true,
  });
  const behind = sample('the table behind the blocks', {
    size: 3 * MIB,
    bat: { at: 8, length: 1 },
    blocks: new Map([
      [0, full(4)],
      [2, full(6)],
    ]),
  });
  const bits = link(
    'child, sector bitmaps',
    {
      size: 4 * MIB,
      blocks: new Map<number, BlockPlan>([
        [0, full(10)],
        [2, { state: 7, data: randomBytes(next, MIB), present: [[1, 300]], mib: 7 }],
      ]),
      bitmaps: new Map([[0, 9]]),
    },
    base,
  );
  const idle = link(
    'child, a sector bitmap without a use',
    { size: 3 * MIB, blocks: new Map([[0, full(8)]]), bitmaps: new Map([[0, 5]]) },
    base,
  );
  const cases: [SampleImage, number][] = [
    [scattered, 8],
    [large, 8],
    [behind, 6],
    [bits, 7],
    [idle, 5],
    [dirty, 5],
    [dynamic, 6],
  ];
  test.each(cases.map(([image, mibs]) => ({ image, mibs })))('$image.name', ({ image, mibs }) => {
    const { violation, final } = cutReshape(
      {
        name: image.name,
        driver,
        file: image.file,
        parent: parentDisk(image),
        run: (source, context) => finish(driver.reshape.compact!(source, context)),
        disks: [image.disk],
      },
      plan,
    );
    expect(violation).toBeUndefined();
    expect(final.length / MIB).toBe(mibs);
  });
});

describe('parents', () => {
  const bits: BlockPlan = { state: 7, data: randomBytes(next, MIB), present: [[1, 300]] };
  const image: VhdxPlan = {
    size: 4 * MIB,
    blocks: new Map<number, BlockPlan>([
      [0, full(10)],
      [2, { ...bits, mib: 7 }],
      [3, { state: 2 }],
    ]),
    bitmaps: new Map([[0, 9]]),
  };
  const child = link('child', image, base);
  const other = link('other', { size: 3 * MIB, blocks: new Map([[2, full()]]) });
  const otherDisk = parentDisk({ parent: other })!;
  const zeros = parentDisk({ parent: sample('nothing', { size: 4 * MIB }) })!;
  const newParent = (absolute: string): NewParent => ({
    image: openDisk(driver, new MemorySource(other.file)).image,
    relative: 'other.vhdx',
    absolute,
    modified: 0,
  });
  /** The image as a reader sees it over `parent`. */
  const shown = (below?: Uint8Array): Uint8Array => expectedDisk(image, below);
  const isOnOther = (opened: Image): boolean => {
    const [place] = opened.parent?.places ?? [];
    return place?.path.endsWith('other.vhdx') === true;
  };

  test.each([
    ['of another name', child, child.disk, shown(other.disk)],
    ['for an image that stood alone', other, other.disk, other.disk],
  ])('a parent %s', (_, sample, before, after) => {
    const { violation } = cutReshape(
      {
        name: 'rebase',
        driver,
        file: sample.file,
        parent: parentDisk(sample),
        parentOf: (opened) => (isOnOther(opened) ? otherDisk : undefined),
        run: (source, context) =>
          finish(driver.reshape.rebase!(source, newParent(`/vm/${'deep/'.repeat(99)}other.vhdx`), context)),
        disks: [before, after],
      },
      plan,
    );
    expect(violation).toBeUndefined();
  });

  test('no parent any more: what it showed is zeros', () => {
    const { violation, final } = cutReshape(
      {
        name: 'stand alone',
        driver,
        file: child.file,
        parent: parentDisk(child),
        // Whoever has no parent shows zeros.
        parentOf: (opened) => (opened.parent === undefined ? zeros : undefined),
        run: (source, context) => finish(driver.reshape.rebase!(source, undefined, context)),
        disks: [child.disk, shown()],
      },
      plan,
    );
    expect(violation).toBeUndefined();
    const { image: opened, disk } = openDisk(driver, new MemorySource(final));
    expect(opened.parent).toBeUndefined();
    expect(Buffer.compare(readDisk(disk), shown())).toBe(0);
  });

  test('emptied', () => {
    const { violation, final } = cutReshape(
      {
        name: 'empty',
        driver,
        file: child.file,
        parent: parentDisk(child),
        run: (source, context) => finish(driver.reshape.empty!(source, context)),
        disks: [child.disk, base.disk.subarray(0, 4 * MIB)],
      },
      plan,
    );
    expect(violation).toBeUndefined();
    expect(final.length).toBe(4 * MIB);
  });

  test('told of what its parent will be', () => {
    const identity = randomBytes(next, 16);
    const { violation, final } = cutReshape(
      {
        name: 'expect',
        driver,
        file: child.file,
        parent: parentDisk(child),
        run: (source, context) => driver.reshape.expectParent!(source, identity, context),
        disks: [child.disk],
      },
      plan,
    );
    expect(violation).toBeUndefined();
    const opened = openDisk(driver, new MemorySource(final)).image;
    const coming = openDisk(driver, new MemorySource(base.file)).image;
    expect(opened.parent!.compare(coming)).toBeUndefined();
    const written = { ...coming, identity: [{ name: 'data-write-guid', text: formatGuid(identity) }] };
    expect(opened.parent!.compare({ ...written, logicalSectorSize: 512 } as Image)).toBeUndefined();
  });
});

describe('a barrier that is left out', () => {
  const { resize, compact, repair } = driver.reshape;
  const caseOf = (image: SampleImage, run: ReshapeCase['run'], disks: readonly Uint8Array[]): ReshapeCase => {
    return { name: image.name, driver, file: image.file, parent: parentDisk(image), run, disks };
  };
  const sized = (image: SampleImage, size: number) =>
    caseOf(image, (source, context) => finish(resize!(source, size, context)), [
      image.disk,
      resized(image.disk, size),
    ]);
  const backwards = sample('blocks in reverse order, a kept place', {
    size: 3 * MIB,
    blocks: new Map<number, BlockPlan>([
      [0, full(6)],
      [1, full(5)],
      [2, { state: 3, mib: 4 }],
    ]),
  });
  /** Two commits: of the entry with a state of a draft, then of the one that gets a copy. */
  const mended = ((): ReshapeCase => {
    const image: VhdxPlan = { size: 3 * MIB, blocks: new Map([[0, full(4)]]) };
    const file = buildVhdx(image);
    putBatEntry(file, image, 1, batEntry(5, 0));
    putBatEntry(file, image, 2, batEntry(6, 4));
    const disk = expectedDisk(image);
    disk.copyWithin(2 * MIB, 0, MIB);
    const run: ReshapeCase['run'] = (source, context) => finish(repair!(source, 'lossless', context));
    return {
      ...caseOf({ name: 'mended', format: 'vhdx', file: fileBytes(file), disk }, run, [disk]),
      mayHaveErrors: true,
    };
  })();

  /** Two commits: of the region tables, which differ, then of a size with tables in other places. */
  const unequal = ((): SampleImage => {
    const file = dynamic.file.slice();
    file.fill(0, 0x40000, 0x41000);
    return { ...dynamic, name: 'region tables that differ', file };
  })();

  test('is missed by one operation or another', { timeout: 600_000 }, () => {
    const missed = new Map<string, boolean>();
    const compacted = caseOf(backwards, (source, context) => finish(compact!(source, context)), [
      backwards.disk,
    ]);
    const all = [
      sized(dynamic, 5 * MIB),
      sized(unequal, MIB + 512),
      sized(dirty, MIB),
      sized(hollow, 5 * MIB),
      compacted,
      mended,
    ];
    for (const one of all) {
      for (const { between, isMissed } of leaveOut(one, 40))
        missed.set(between, isMissed || missed.get(between) === true);
    }
    const needless = [...missed].flatMap(([between, isMissed]) => (isMissed ? [] : [between]));
    // Stable on return; the second header, which would be told as stale, before the file is cut off; and one commit before
    // the next, which in none of these builds on it.
    expect(needless.sort()).toEqual([
      'header.write, end',
      'header.write, size.set',
      'size.set, end',
      'table.write, log.write',
    ]);
  });
});
