/** Changing VHDs as a whole: limits, what is refused, and what a change leaves in the file. */

import { describe, expect, it } from 'vitest';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { finish } from '../../../powercut/reshape.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import { encodeDynamic, encodeFixed } from '../../../support/encoders/vhd-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { RecordingSource } from '../../../support/recording-source.ts';
import { BLOCK, data, full, medium, spec, u32 } from './write-support.ts';

const { resize, compact, rebase, empty } = vhdDriver.reshape;
const context = () => ({
  tables: new TableAllocator(),
  report: () => {},
  options: new Map<string, string>(),
});
const GIB = 2 ** 30;
const base = openDisk(vhdDriver, new MemorySource(encodeFixed(data))).image;
const parent = { image: base, relative: 'base.vhd', absolute: '/vm/base.vhd', modified: 1_700_000_000 };

describe('VHD, resize', () => {
  it.each([
    [2041 * GIB, /expected at least 1 byte and at most 2040 GiB|at most 1.99 TiB/],
    [BLOCK + 1, /expected a multiple of 512/],
    [0, /expected at least 1 byte/],
  ])('%d bytes: refused, and nothing is changed', (size, text) => {
    for (const file of [encodeDynamic(spec).file, encodeFixed(data)]) {
      const source = medium(file);
      expect(() => finish(resize!(source, size, context()))).toThrow(text);
      expect(source.bytes).toEqual(file);
    }
  });

  it('up to the limit of the format', () => {
    const source = medium(encodeDynamic({ ...spec, size: 2 ** 31, blockSize: 2 ** 21, blocks: full() }).file);
    finish(resize!(source, 2040 * GIB, context()));
    expect(openDisk(vhdDriver, source).image.virtualSize).toBe(2040 * GIB);
    expect(source.size).toBeLessThan(9 * 2 ** 20);
  });

  it('the size is that of every reader: the largest geometry', () => {
    const source = medium(encodeFixed(data, { creator: 'vpc ', geometry: [1, 4, 16] }));
    finish(resize!(source, 3 * BLOCK, context()));
    expect(openDisk(vhdDriver, source).image.facts.get('geometry')).toBe('65535/16/255');
    expect(source.size).toBe(3 * BLOCK + 512);
    expect(
      readDisk(openDisk(vhdDriver, source).disk)
        .subarray(BLOCK)
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  it('a table with nothing behind it grows where it is', () => {
    const source = medium(encodeDynamic({ ...spec, blocks: full() }).file);
    finish(resize!(source, 1000 * BLOCK, context()));
    expect(u32(source.bytes, 512 + 20)).toBe(1536);
    expect(u32(source.bytes, 512 + 28)).toBe(1000);
  });
});

describe('VHD, what is refused', () => {
  it('a fixed image gets no parent, one that stands alone is not emptied', () => {
    const source = medium(encodeFixed(data));
    expect(() => finish(rebase!(source, parent, context()))).toThrow(/fixed VHD, which cannot have a parent/);
    expect(() => finish(empty!(medium(encodeDynamic(spec).file), context()))).toThrow(/is no child/);
  });

  it('a name or path that the format cannot say', () => {
    const { file } = encodeDynamic(spec);
    for (const relative of ['a\\b.vhd', `${'x'.repeat(256)}.vhd`]) {
      const source = medium(file);
      expect(() => finish(rebase!(source, { ...parent, relative }, context()))).toThrow(
        /backslash|UTF-16 units/,
      );
      expect(source.bytes).toEqual(file);
    }
  });

  it('damage: nothing but a repair changes such an image', () => {
    const { file } = encodeDynamic(spec);
    new DataView(file.buffer).setUint32(1536, 2);
    const source = medium(file);
    for (const steps of [
      () => resize!(source, 20 * BLOCK, context()),
      () => compact!(source, context()),
      () => rebase!(source, parent, context()),
    ]) {
      expect(() => finish(steps())).toThrow(/where the image's metadata is/);
    }
    expect(source.bytes).toEqual(file);
  });
});

it('VHD, compact: flushes by batches, not by blocks', () => {
  const blocks = full(...Array.from({ length: 90 }, (_, n) => n));
  const { file, tableAt } = encodeDynamic({
    size: 90 * 1024,
    blockSize: 1024,
    blocks: new Map([...blocks.keys()].map((n) => [n, { data: data.subarray(0, 1024) }])),
  });
  const view = new DataView(file.buffer);
  for (let n = 0; n < 45; n += 1) view.setUint32(tableAt + n * 4, 0xffffffff);
  const recorder = new RecordingSource(medium(file));
  finish(compact!(recorder, context()));
  expect(recorder.changes.filter(({ kind }) => kind === 'flush').length).toBeLessThan(6);
  expect(recorder.size).toBe(2048 + 45 * 1536 + 512);
});

it('VHD, repair of a sound image: nothing', () => {
  for (const file of [encodeFixed(data), encodeDynamic(spec).file]) {
    const source = medium(file);
    expect(finish(vhdDriver.reshape.repair!(source, 'all', context()))).toEqual([]);
    expect(source.bytes).toEqual(file);
  }
});
