/** New QED images: they open, are empty, and have the shape that their size needs. */

import { describe, expect, test } from 'vitest';
import { ImageError } from '../../../../src/base/errors.ts';
import { checkImage } from '../../../../src/formats/qed/check.ts';
import { type NewQed, NOTE, newImage } from '../../../../src/formats/qed/create.ts';
import { qedDriver } from '../../../../src/formats/qed/driver.ts';
import { openDisk } from '../../../support/disk.ts';
import { SparseSource } from '../../../support/sparse-source.ts';

const TIB = 2 ** 40;

function open(request: NewQed) {
  const { head, size } = newImage(request);
  const source = new SparseSource();
  source.put(0, head);
  source.size = size;
  return { ...openDisk(qedDriver, source), source, head };
}

describe('shapes', () => {
  test.each([
    [512, 65536],
    [64 * TIB, 65536],
    [64 * TIB + 512, 131072],
    [512 * TIB, 131072],
    [1024 * TIB, 262144],
    [2 ** 53 - 512, 524288],
  ])('a disk of %i bytes has clusters of %i, four per table', (virtualSize, clusterSize) => {
    const { image, notices, source } = open({ virtualSize });
    expect([image.virtualSize, image.blockSize, image.parent, notices]).toEqual([
      virtualSize,
      clusterSize,
      undefined,
      [],
    ]);
    expect(image.facts.get('table-size')).toBe('4 clusters');
    expect(source.size).toBe(5 * clusterSize);
    expect(checkImage(source)).toMatchObject({ findings: [], allocatedBytes: 0 });
  });

  test.each([100, -512, 2 ** 53, Number.NaN])('a disk of %d bytes there is not', (virtualSize) => {
    expect(() => newImage({ virtualSize })).toThrow(ImageError);
  });
});

describe('the backing file', () => {
  test.each([
    [true, 'raw', '0x5'],
    [false, undefined, '0x1'],
  ])('raw: %s', (raw, format, features) => {
    const { image } = open({ virtualSize: 1024, backing: { name: '../bäse.img', raw } });
    expect(image.parent).toMatchObject({ places: [{ path: '../bäse.img' }], format });
    expect(image.facts.get('features')).toBe(features);
  });

  test('the longest name; one that is longer; none', () => {
    const create = (name: string) => open({ virtualSize: 1024, backing: { name, raw: true } });
    expect(create('n'.repeat(1023)).image.parent?.places[0]?.path).toBe('n'.repeat(1023));
    for (const name of ['n'.repeat(1024), 'ä'.repeat(512), '', 'a\0b']) {
      expect(() => create(name)).toThrow(/backing file name of \d+ bytes: expected 1 to 1023/);
    }
  });
});

test('a note behind the longest name, in sectors of its own', () => {
  const note = new Uint8Array(NOTE.bytes).fill(0xab);
  const { head, image } = open({ virtualSize: 1024, backing: { name: 'n'.repeat(1023), raw: true }, note });
  expect(head.subarray(NOTE.at, NOTE.at + NOTE.bytes)).toEqual(note);
  expect(NOTE.at % 512).toBe(0);
  expect(image.parent?.places[0]?.path).toBe('n'.repeat(1023));
  expect(() => newImage({ virtualSize: 512, note: new Uint8Array(NOTE.bytes + 1) })).toThrow(/there is room/);
});
