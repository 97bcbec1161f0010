import { describe, expect, it } from 'vitest';
import { vdiDriver as driver } from '../../../../src/formats/vdi/driver.ts';
import type { RepairScope } from '../../../../src/image/reshape.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { finish } from '../../../powercut/reshape.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import { encodeVdi, FREE, type VdiDescription } from '../../../support/encoders/vdi.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random } from '../../../support/random.ts';

const K = 4096;
const { resize, compact, repair, rebase, empty } = driver.reshape;
const contextOf = () => ({
  tables: new TableAllocator(),
  report: () => {},
  options: new Map<string, string>(),
});

function sourceOf(vdi: VdiDescription, damage: (view: DataView) => void = () => {}): MemorySource {
  const { file } = encodeVdi(vdi, random(2));
  damage(new DataView(file.buffer));
  return new MemorySource(file, 'disk.vdi', true);
}

const entry = (source: MemorySource, block: number) =>
  new DataView(source.bytes.buffer, source.bytes.byteOffset).getUint32(0x200 + 4 * block, true);

/** Runs it, expects it to fail with `text` before anything was changed. */
function expectRefused(source: MemorySource, run: () => Generator<unknown>, text: RegExp): void {
  const before = source.bytes.slice();
  expect(() => finish(run())).toThrow(text);
  expect(source.bytes).toEqual(before);
}

describe('refused, with nothing changed', () => {
  const sound: VdiDescription = { map: [0, FREE, 1], blockSize: K };

  it.each([
    ['no whole sectors', 1000, /expected a multiple of 512/],
    ['nothing', 0, /expected at least 1 byte/],
    ['more than VirtualBox opens', 4096 * 2 ** 40, /at most 4 PiB/],
    ['a map that is too long', 2 ** 40, /its map of 268435456 entries is too long/],
  ])('a size: %s', (_name, size, text) => {
    const source = sourceOf(sound);
    expectRefused(source, () => resize!(source, size, contextOf()), text);
  });

  it('no block can move, and the map has no room', () => {
    const map = Array.from({ length: 128 }, (_, n) => n);
    const source = sourceOf({ map, blockSize: 512, type: 2 });
    expectRefused(source, () => resize!(source, 129 * 512, contextOf()), /has no room before the data/);
  });

  it.each([
    ['a number named twice', (view: DataView) => view.setUint32(0x204, 0, true), /in use by another entry/],
    ['unknown flags', (view: DataView) => view.setUint32(0x50, 8, true), /flags are 0x8/],
  ])('damage: %s', (_name, damage, text) => {
    const source = sourceOf(sound, damage);
    expectRefused(source, () => resize!(source, 20 * K, contextOf()), text);
    expectRefused(source, () => resize!(source, K, contextOf()), text);
    expectRefused(source, () => compact!(source, contextOf()), text);
  });

  it('a map on no sector bound', () => {
    const source = sourceOf({ ...sound, mapOffset: 0x201, dataOffset: 0x400 });
    expectRefused(source, () => compact!(source, contextOf()), /entries lie across sectors/);
  });

  it('a parent of a fixed image, and emptying an image without one', () => {
    const parent = driver.open(sourceOf(sound), contextOf());
    const named = { image: parent, relative: 'p.vdi', absolute: '/p.vdi', modified: 0 };
    const fixed = sourceOf({ map: [0], blockSize: K, type: 2 });
    expectRefused(fixed, () => rebase!(fixed, named, contextOf()), /a fixed VDI cannot have a parent/);
    const alone = sourceOf(sound);
    expectRefused(alone, () => empty!(alone, contextOf()), /no parent/);
  });
});

describe('what is missing may be brought back', () => {
  /** Block 1 names 3, of which the file has nothing; block 2 shares 0 with block 0. Place 2 is leaked, or not there. */
  const damaged = (leaks: number) => {
    const source = sourceOf({ map: [0, FREE, FREE, 1, FREE], blockSize: K, allocated: 4 }, (view) => {
      view.setUint32(0x204, 3, true);
      view.setUint32(0x208, 0, true);
    });
    source.setSize(source.size + leaks * K);
    return source;
  };
  const repaired = (source: MemorySource, scope: RepairScope) =>
    finish(repair!(source, scope, contextOf())).map(({ text }) => text);

  it('a copy takes a place before it', () => {
    const source = damaged(0);
    expect(repaired(source, 'lossless')).toEqual([
      'VDI block map entry 2 at 0x208: physical block 0 was in use by another entry; its copy is physical block 2',
    ]);
    expect([0, 1, 2, 3].map((block) => entry(source, block))).toEqual([0, 3, 2, 1]);
    // The counter still covers what is missing, and the file ends before it.
    expect(driver.open(source, contextOf()).facts.get('blocks-allocated')).toBe('4');
    expect(source.size).toBe(0x400 + 3 * K);
  });

  it('a copy for which the file would have to grow over it has to wait', () => {
    const source = damaged(0);
    new DataView(source.bytes.buffer, source.bytes.byteOffset).setUint32(0x204, 2, true);
    const before = source.bytes.slice();
    expect(repaired(source, 'lossless')).toEqual([]);
    expect(source.bytes).toEqual(before);
    expect(repaired(source, 'all')).toHaveLength(3);
    expect(driver.check!(source, contextOf())).toMatchObject({ errors: 0, leaks: 0, warnings: 0 });
  });

  it('nothing is moved into leaks, nor cut off', () => {
    const source = sourceOf({ map: [3, FREE, 9, FREE], blockSize: K, spareBlocks: 6, diskSize: 4 * K });
    const { size } = source;
    source.setSize(size - 5 * K);
    expect(repaired(source, 'leaks')).toEqual([]);
    expect(repaired(source, 'lossless')).toEqual([]);
    expect(source.size).toBe(size - 5 * K);
  });
});

it('a caller may stop at any step', () => {
  const map = [9, 4, 7, 12, ...Array<number>(10).fill(FREE)];
  const blockSize = 2 << 20;
  const { file, disk } = encodeVdi({ map, blockSize, diskSize: 14 * blockSize }, random(2));
  for (let steps = 0; steps < 6; steps += 1) {
    const source = new MemorySource(file, 'disk.vdi', true);
    const work = compact!(source, contextOf());
    let done = false;
    for (let n = 0; n < steps && !done; n += 1) done = work.next().done === true;
    work.return();
    expect(driver.check!(source, contextOf()).errors).toBe(0);
    expect(Buffer.from(readDisk(openDisk(driver, source).disk)).equals(disk)).toBe(true);
    finish(compact!(source, contextOf()));
    expect(source.size).toBe(0x400 + 4 * blockSize);
  }
});
