/** Changing VHDX images as a whole: what the tests of power cuts are too small for, and what is refused. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { GIB, MIB, TIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import type { OpenContext } from '../../../../src/image/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { cutChanges } from '../../../powercut/harness.ts';
import { finish } from '../../../powercut/reshape.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import { link } from '../../../support/encoders/vhdx-chains.ts';
import {
  type BlockPlan,
  buildVhdx,
  expectedDisk,
  fileBytes,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { have } from '../../../support/oracle.ts';
import { between, random, randomBytes } from '../../../support/random.ts';
import { RecordingSource } from '../../../support/recording-source.ts';
import { write } from './write-support.ts';

const next = random(9);
const full = (mib?: number): BlockPlan => ({
  state: 6,
  data: randomBytes(next, MIB),
  ...(mib === undefined ? {} : { mib }),
});
const context = (nextIdentity?: Uint8Array): OpenContext => ({
  tables: new TableAllocator(),
  report: () => {},
  options: new Map(),
  ...(nextIdentity === undefined ? {} : { nextIdentity }),
});
const { resize, compact, repair, rebase, empty, expectParent } = vhdxDriver.reshape;
const plan: VhdxPlan = {
  size: 3 * MIB,
  blocks: new Map([
    [0, full()],
    [2, full()],
  ]),
};
const memoryOf = (image: VhdxPlan): MemorySource =>
  new MemorySource(fileBytes(buildVhdx(image)), 'image', true);
const findings = (source: MemorySource) => vhdxDriver.check!(source, context());
/** The first MiB of the disk. */
const startOf = (source: MemorySource): { size: number; bytes: Uint8Array } => {
  const { disk, image } = openDisk(vhdxDriver, source);
  return { size: image.virtualSize, bytes: readDisk(disk, 0, 3 * MIB) };
};

describe('a table that outgrows its region', () => {
  test('goes behind the blocks, also where the power fails', () => {
    const memory = memoryOf(plan);
    const before = memory.bytes.slice();
    const recorder = new RecordingSource(memory);
    finish(resize!(recorder, 300 * GIB, context()));
    const { changes } = recorder;
    const problem = ({ source }: { source: MemorySource }): string | undefined => {
      try {
        const { size, bytes } = startOf(source);
        const { errors } = findings(source);
        if (errors > 0) return `${errors} errors`;
        if (Buffer.compare(bytes, expectedDisk(plan)) !== 0) return 'the disk is another';
        return size === 3 * MIB || size === 300 * GIB ? undefined : `${size} bytes`;
      } catch (failure) {
        return String(failure);
      }
    };
    expect(problem({ source: memory })).toBeUndefined();
    const cut = { seed: 3, runs: 25, prefixes: true };
    const { violation } = cutChanges('grow', { file: before, changes }, cut, { moveTo: () => {}, problem });
    expect(violation).toBeUndefined();
    expect(startOf(memory).size).toBe(300 * GIB);
    expect(memory.size).toBe(9 * MIB);
    // It can be used to its end.
    const { disk } = openEditable(vhdxDriver, memory);
    write(disk, 300 * GIB - 4096, new Uint8Array(4096).fill(7));
    expect(disk.close()).toBe(0);
    expect(findings(memory).errors).toBe(0);
  });

  test('takes what nobody uses behind it', () => {
    const free: VhdxPlan = { ...plan, firstBlock: 9 };
    const memory = memoryOf(free);
    finish(resize!(memory, 300 * GIB, context()));
    expect(memory.size).toBe(11 * MIB);
    expect(Buffer.compare(startOf(memory).bytes, expectedDisk(free))).toBe(0);
  });

  test('goes back when the disk is small and compacted', () => {
    const memory = memoryOf(plan);
    finish(resize!(memory, 300 * GIB, context()));
    finish(resize!(memory, 3 * MIB, context()));
    finish(compact!(memory, context()));
    const { errors, leaks } = findings(memory);
    expect({ errors, leaks }).toEqual({ errors: 0, leaks: 0 });
    expect(memory.size).toBe(6 * MIB);
    expect(Buffer.compare(startOf(memory).bytes, expectedDisk(plan))).toBe(0);
  });
});

test('a child that grows shows zeros there, whatever the parent has', () => {
  const base = link('base', { size: 8 * MIB, blocks: new Map([0, 5, 6].map((n) => [n, full()])) });
  const { file } = link('child', { size: 2 * MIB }, base);
  const memory = new MemorySource(file, 'child', true);
  finish(resize!(memory, 8 * MIB, context()));
  const below = openDisk(vhdxDriver, new MemorySource(base.file)).disk;
  const { disk } = openDisk(vhdxDriver, memory, {}, 1 << 18, below);
  const wanted = new Uint8Array(8 * MIB);
  wanted.set(base.disk.subarray(0, 2 * MIB));
  expect(Buffer.compare(readDisk(disk), wanted)).toBe(0);
});

describe('identity', () => {
  const idOf = (source: MemorySource): string =>
    openDisk(vhdxDriver, source).image.identity.find(({ name }) => name === 'data-write-guid')!.text;
  const coming = Uint8Array.from({ length: 16 }, (_, n) => n + 1);
  const comingText = '04030201-0605-0807-090a-0b0c0d0e0f10';

  test('the first write takes the one that children were told', () => {
    const memory = memoryOf(plan);
    const driver = {
      ...vhdxDriver,
      open: (source: MemorySource) => {
        const image = vhdxDriver.open(source, context());
        const prepareEdit = () => image.prepareEdit(context(coming));
        return Object.assign(Object.create(image), { prepareEdit, share: () => image.share() });
      },
    } as typeof vhdxDriver;
    const { disk } = openEditable(driver, memory);
    write(disk, 0, new Uint8Array(512));
    expect(disk.close()).toBe(0);
    expect(idOf(memory)).toBe(comingText);
  });

  test('stays where blocks move and leaks go, changes where the disk does', () => {
    const memory = memoryOf({ ...plan, firstBlock: 6 });
    const before = idOf(memory);
    finish(compact!(memory, context()));
    expect(memory.size).toBe(6 * MIB);
    expect(idOf(memory)).toBe(before);
    finish(resize!(memory, 5 * MIB, context(coming)));
    expect(idOf(memory)).toBe(comingText);
  });

  test('a child that knows two keeps the newer', () => {
    const base = link('base', { size: MIB });
    const { file } = link('child', { size: MIB }, base);
    const memory = new MemorySource(file, 'child', true);
    const second = coming.map((byte) => byte + 100);
    expectParent!(memory, coming, context());
    expectParent!(memory, second, context());
    const once = memory.bytes.slice();
    expectParent!(memory, second, context());
    expect(Buffer.compare(memory.bytes, once), 'it knows that already').toBe(0);
    const { facts } = openDisk(vhdxDriver, memory).image;
    expect(facts.get('parent-linkage')).toBe(comingText);
    expect(facts.get('parent-linkage-2')).toBe('68676665-6a69-6c6b-6d6e-6f7071727374');
  });
});

describe('refused, and nothing is changed', () => {
  const fixed: VhdxPlan = { size: MIB, flags: 1, blocks: new Map([[0, full()]]) };
  const bad: VhdxPlan = {
    size: 2 * MIB,
    blocks: new Map([
      [0, full(4)],
      [1, full(4)],
    ]),
  };
  const noLog: VhdxPlan = { ...plan, log: { at: 0, length: 0 } };
  type Run = (source: MemorySource) => void;
  const cases: [string, VhdxPlan, Run, RegExp][] = [
    ['no whole sectors', plan, (source) => finish(resize!(source, 1000, context())), /multiple of 512/],
    ['more than 64 TiB', plan, (source) => finish(resize!(source, 65 * TIB, context())), /at most 64 TiB/],
    ['compact of a fixed image', fixed, (source) => finish(compact!(source, context())), /is a fixed VHDX/],
    [
      'resize of a damaged image',
      bad,
      (source) => finish(resize!(source, MIB, context())),
      /overlaps another/,
    ],
    ['no log', noLog, (source) => finish(resize!(source, MIB, context())), /cannot be changed safely/],
    ['empty without a parent', plan, (source) => finish(empty!(source, context())), /has no parent/],
    [
      'expect without a parent',
      plan,
      (source) => expectParent!(source, new Uint8Array(16), context()),
      /has no parent/,
    ],
  ];
  test.each(cases)('%s', (_, image, run, text) => {
    const memory = memoryOf(image);
    const before = memory.bytes.slice();
    expect(() => run(memory)).toThrow(text);
    expect(Buffer.compare(memory.bytes, before)).toBe(0);
  });

  test('nothing to do', () => {
    const memory = memoryOf(plan);
    const before = memory.bytes.slice();
    finish(compact!(memory, context()));
    finish(resize!(memory, 3 * MIB, context()));
    finish(rebase!(memory, undefined, context()));
    expect(finish(repair!(memory, 'all', context()))).toEqual([]);
    expect(Buffer.compare(memory.bytes, before)).toBe(0);
  });
});

test.each([1, 2, 3])('one after another, at random (seed %i)', (seed) => {
  const dice = random(seed);
  let size = 6 * MIB;
  let model = new Uint8Array(size);
  const memory = memoryOf({ size });
  for (let round = 0; round < 12; round += 1) {
    const { disk } = openEditable(vhdxDriver, memory);
    for (let n = 0; n < 6; n += 1) {
      const at = between(dice, 0, size - 1);
      const bytes = randomBytes(dice, Math.min(between(dice, 1, 70_000), size - at));
      write(disk, at, bytes);
      model.set(bytes, at);
    }
    if (dice() < 0.7) {
      const at = between(dice, 0, size / MIB - 1) * MIB;
      expect(disk.zero(at as never, Math.min(MIB, size - at), 'punch')).toBe(0);
      model.fill(0, at, at + MIB);
    }
    expect(disk.close()).toBe(0);
    if (dice() < 0.5) finish(compact!(memory, context()));
    else {
      size = between(dice, 2048, 18 * 2048) * 512;
      const resized = new Uint8Array(size);
      resized.set(model.subarray(0, size));
      model = resized;
      finish(resize!(memory, size, context()));
    }
    const { errors } = findings(memory);
    expect(errors).toBe(0);
    expect(Buffer.compare(readDisk(openDisk(vhdxDriver, memory).disk), model)).toBe(0);
  }
});

describe.skipIf(!have('qemu-img'))('what QEMU says (skipped where it is not there)', () => {
  const qemu = (...args: string[]): string => execFileSync('qemu-img', args, { stdio: 'pipe' }).toString();
  const cases: [string, (source: MemorySource) => void][] = [
    ['grown', (source) => finish(resize!(source, 9 * MIB, context()))],
    ['grown beyond its region', (source) => finish(resize!(source, 300 * GIB, context()))],
    ['shrunk', (source) => finish(resize!(source, 2 * MIB, context()))],
    ['compacted', (source) => finish(compact!(source, context()))],
    ['repaired', (source) => finish(repair!(source, 'leaks', context()))],
  ];
  test.each(cases)('%s', (_, run) => {
    const folder = mkdtempSync(join(tmpdir(), 'vdisk-reshape-'));
    try {
      const memory = memoryOf({ ...plan, firstBlock: 6 });
      run(memory);
      const path = join(folder, 'disk.vhdx');
      writeFileSync(path, memory.bytes);
      expect(qemu('check', '-f', 'vhdx', path)).toMatch(/No errors/);
      const { image, disk } = openDisk(vhdxDriver, memory);
      expect(JSON.parse(qemu('info', '--output=json', path))['virtual-size']).toBe(image.virtualSize);
      // QEMU reads every byte of a VHDX to compare it.
      if (disk.size > GIB) return;
      const raw = join(folder, 'disk.raw');
      const length = Math.min(disk.size, 9 * MIB);
      writeFileSync(raw, readDisk(disk, 0, length));
      execFileSync('truncate', ['-s', String(disk.size), raw]);
      expect(qemu('compare', '-f', 'vhdx', '-F', 'raw', path, raw)).toMatch(/identical/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
