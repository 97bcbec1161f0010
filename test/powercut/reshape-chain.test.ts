/**
 * Power cuts while a chain is changed: keeping a child's disk for another parent, rebasing it, and merging it into its
 * parent, where the power fails in both files at once. At every instant the child shows the same disk.
 */

import { describe, expect, it } from 'vitest';
import { ImageError } from '../../src/base/errors.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { driverOf } from '../../src/formats/registry.ts';
import type { FormatDriver, FormatId } from '../../src/image/driver.ts';
import { EditedDisk, type Member } from '../../src/reshape/disk.ts';
import { keepDisk } from '../../src/reshape/keep.ts';
import { byReference, mergeSteps, type Telling } from '../../src/reshape/merge.ts';
import { rebaseSteps } from '../../src/reshape/rebase.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { readDisk } from '../support/disk.ts';
import { context, makeImage, newParent, paint, paintedImage, shown, strokes } from '../support/made.ts';
import { MemorySource } from '../support/memory-source.ts';
import { random, randomBytes } from '../support/random.ts';
import { RecordedPair } from './pair.ts';
import { cutReshape, finish } from './reshape.ts';

const MIB = 1 << 20;
const SIZE = 3 * MIB;
const FORMATS = ['vhd', 'vhdx', 'vdi', 'qed'] as const satisfies readonly FormatId[];
const seeds = [1, 2];

interface Family {
  readonly driver: FormatDriver;
  /** Parent, another parent, child of the first. */
  readonly base: MemorySource;
  readonly other: MemorySource;
  readonly child: MemorySource;
  readonly disk: Uint8Array;
  readonly baseDisk: Disk;
  readonly otherDisk: Disk;
}

/** The other parent differs from the first here and there. */
function family(format: FormatId, seed: number): Family {
  const next = random(seed);
  const driver = driverOf(format);
  const base = paintedImage(format, SIZE, next, 6);
  const baseDisk = shown(driver, base);
  const other = new MemorySource(makeImage(driver, SIZE - MIB / 2), 'other', true);
  const old = readDisk(baseDisk);
  const target = new EditedDisk({ driver, source: other, context: context() }, undefined);
  for (let at = 0; at < target.size; at += MIB / 4) {
    const kind = next();
    if (kind < 0.3) target.write(old, at, MIB / 4, at);
    else if (kind < 0.6) target.write(randomBytes(next, 5000), 0, 5000, at + 3 * 4096);
  }
  target.close();
  const child = paintedImage(format, SIZE, next, 5, { driver, source: base, disk: baseDisk, name: 'base' });
  const disk = readDisk(shown(driver, child, baseDisk));
  return { driver, base, other, child, disk, baseDisk, otherDisk: shown(driver, other) };
}

const compared = (disk: Disk, name: string) => ({ disk, files: [name] });
const member = (driver: FormatDriver, source: BlockSource): Member => ({
  driver,
  source,
  context: context(),
});

describe.each(FORMATS)('%s', (format) => {
  it.each(seeds.slice(1))('keeping the disk of a child for another parent (%i)', (seed) => {
    const { driver, child, disk, baseDisk, otherDisk } = family(format, seed);
    let copied = 0;
    const { violation, images, final } = cutReshape(
      {
        name: 'keep',
        driver,
        file: child.bytes.slice(),
        parent: baseDisk,
        disks: [disk],
        run: (source) => {
          const steps = keepDisk(
            member(driver, source),
            compared(baseDisk, 'base'),
            compared(otherDisk, 'other'),
          );
          copied = finish(steps);
        },
      },
      { seed, runs: 40, prefixes: true },
    );
    expect(violation).toBeUndefined();
    expect(copied).toBeGreaterThan(0);
    expect(images).toBeGreaterThan(50);
    // The same file shows the same disk over the other parent.
    const after = readDisk(shown(driver, new MemorySource(final), otherDisk));
    expect(Buffer.compare(after, disk)).toBe(0);
  });

  it('keeping the disk of an image that gets a parent, or loses it', () => {
    const { driver, child, disk, baseDisk, base } = family(format, 9);
    const alone = new MemorySource(child.bytes, 'alone', true);
    finish(keepDisk(member(driver, alone), compared(baseDisk, 'base'), undefined));
    const size = disk.length;
    const zeros = new MemorySource(new Uint8Array(size));
    expect(Buffer.compare(readDisk(shown(driver, alone, shown(driverOf('raw'), zeros))), disk)).toBe(0);
    // Zeros that were nothing before are explicit now: a parent does not show.
    const lone = new MemorySource(base.bytes, 'lone', true);
    const before = readDisk(shown(driver, lone));
    finish(keepDisk(member(driver, lone), undefined, compared(shown(driver, child, baseDisk), 'child')));
    expect(Buffer.compare(readDisk(shown(driver, lone)), before)).toBe(0);
  });

  it('merging twice what was cut off shows the same disk', () => {
    const { driver, base, child, disk } = family(format, 4);
    const merge = (): void => {
      finish(
        mergeSteps({
          child: member(driver, child),
          parent: member(driver, base),
          below: undefined,
          tell: silent,
          grow: true,
          keep: true,
        }),
      );
    };
    const steps = mergeSteps({
      child: member(driver, child),
      parent: member(driver, base),
      below: undefined,
      tell: silent,
      grow: true,
      keep: true,
    });
    for (let n = 0; n < 4; n += 1) steps.next();
    steps.return(undefined as never);
    expect(Buffer.compare(readDisk(shown(driver, child, shown(driver, base))), disk)).toBe(0);
    merge();
    expect(Buffer.compare(readDisk(shown(driver, base)), disk)).toBe(0);
  });

  const { rebase, empty } = driverOf(format).reshape;
  const missing = rebase === undefined || empty === undefined ? 'the format cannot rebase and empty' : false;
  const title = (text: string): string => (missing === false ? text : `${text} (skipped: ${missing})`);

  it.each(seeds)(title('rebase (%i)'), { skip: missing !== false }, (seed) => {
    const { driver, other, child, disk, baseDisk, otherDisk } = family(format, seed);
    const parent = newParent(driver, other, 'other');
    const { violation, final } = cutReshape(
      {
        name: 'rebase',
        driver,
        file: child.bytes.slice(),
        parent: baseDisk,
        parentOf: (image) =>
          // By a mark, or where nothing is recorded, by the name.
          image.parent?.identity === undefined
            ? image.parent?.places.some(({ path }) => path.includes('other'))
              ? otherDisk
              : undefined
            : image.parent.compare(parent.image) === undefined
              ? otherDisk
              : undefined,
        disks: [disk],
        run: (source) => {
          const change = { old: compared(baseDisk, 'base'), next: compared(otherDisk, 'other') };
          finish(rebaseSteps(member(driver, source), change, parent));
        },
      },
      { seed, runs: 40, prefixes: true },
    );
    expect(violation).toBeUndefined();
    expect(Buffer.compare(readDisk(shown(driver, new MemorySource(final), otherDisk)), disk)).toBe(0);
  });

  it.each(seeds.slice(1))(title('to stand alone (%i)'), { skip: missing !== false }, (seed) => {
    const { driver, child, disk, baseDisk } = family(format, seed);
    const { violation, final } = cutReshape(
      {
        name: 'rebase',
        driver,
        file: child.bytes.slice(),
        parentOf: (image) => (image.parent === undefined ? undefined : baseDisk),
        disks: [disk],
        run: (source) => {
          const change = { old: compared(baseDisk, 'base'), next: undefined };
          finish(rebaseSteps(member(driver, source), change, undefined));
        },
      },
      { seed, runs: 40, prefixes: true },
    );
    expect(violation).toBeUndefined();
    expect(Buffer.compare(readDisk(shown(driver, new MemorySource(final))), disk)).toBe(0);
  });

  it.each(seeds)(title('commit (%i)'), { skip: missing !== false }, (seed) => {
    const { driver, base, child, disk } = family(format, seed);
    const pair = new RecordedPair([child, base]);
    const [top, bottom] = pair.sources;
    const describeBase = (image: ReturnType<FormatDriver['open']>) => ({
      ...newParent(driver, base),
      image,
    });
    finish(commitOf(driver, top, bottom, describeBase));
    const { images, violation } = pair.cut(seed, 60, (files) => judgePair(driver, files, disk));
    expect(violation).toBeUndefined();
    expect(images).toBeGreaterThan(50);
    const [, merged] = [child, base];
    expect(Buffer.compare(readDisk(shown(driver, merged)), disk)).toBe(0);
    expect(driver.open(child, context()).parent?.compare(driver.open(base, context()))).toBeUndefined();
  });

  it(title('commit into a parent that is smaller'), { skip: missing !== false }, () => {
    const next = random(77);
    const driver = driverOf(format);
    const base = paintedImage(format, SIZE - MIB, next, 4);
    const child = new MemorySource(makeImage(driver, SIZE, newParent(driver, base)), 'child', true);
    paint(driver, child, shown(driver, base), next, [
      ...strokes(next, SIZE, 4),
      { at: SIZE - 8192, length: 8192, kind: 'bytes' },
    ]);
    const disk = readDisk(shown(driver, child, shown(driver, base)));
    const pair = new RecordedPair([child, base]);
    const [top, bottom] = pair.sources;
    finish(commitOf(driver, top, bottom, (image) => ({ ...newParent(driver, base), image })));
    expect(pair.cut(5, 40, (files) => judgePair(driver, files, disk)).violation).toBeUndefined();
    expect(Buffer.compare(readDisk(shown(driver, base)), disk)).toBe(0);
  });
});

/** The child knows its parent by nothing that changes. */
const silent: Telling = {
  // biome-ignore lint/correctness/useYield: nothing is to be done
  *before() {
    return new Uint8Array(16).fill(0x77);
  },
  *after() {},
};

function commitOf(
  driver: FormatDriver,
  top: BlockSource,
  bottom: BlockSource,
  describeBase: Parameters<typeof byReference>[1],
) {
  const child = member(driver, top);
  const tell = byReference(child, describeBase);
  return mergeSteps({
    child,
    parent: member(driver, bottom),
    below: undefined,
    tell,
    grow: true,
    keep: false,
  });
}

/** What is wrong with what a power cut left of a child and its parent, or undefined. */
function judgePair(
  driver: FormatDriver,
  [child, base]: readonly MemorySource[],
  disk: Uint8Array,
): string | undefined {
  try {
    for (const file of [child!, base!]) {
      const found = driver.check?.(file, context());
      if (found !== undefined && found.errors > 0) {
        return `${file === child ? 'child' : 'parent'}: ${found.findings.find(({ severity }) => severity === 'error')?.text}`;
      }
    }
    const bottom = driver.open(base!, context());
    const mismatch = driver.open(child!, context()).parent?.compare(bottom);
    // Where a format has room for one identity alone, the child is told before the parent has it.
    if (mismatch !== undefined && mismatch.severity !== 'changed') {
      return `the parent is ${mismatch.severity}: wanted ${mismatch.wanted}, found ${mismatch.found}`;
    }
    const got = readDisk(shown(driver, child!, shown(driver, base!)));
    if (Buffer.compare(got, disk) === 0) return undefined;
    return `the disk differs at ${got.findIndex((byte, at) => byte !== disk[at])}`;
  } catch (problem) {
    return problem instanceof ImageError ? problem.message : String(problem);
  }
}
