/** What `-o` takes, and the pieces of which new files are made. */

import { describe, expect, test } from 'vitest';
import {
  bytesAt,
  type CreateOption,
  CreateOptions,
  checkDiskSize,
  checkPower,
  filledAt,
  tableAt,
  windowsPath,
} from '../../../src/image/create.ts';

const SPECS: readonly CreateOption[] = [
  { name: 'kind', values: ['thin', 'thick'], doc: '' },
  { name: 'cloud', values: ['on', 'off'], doc: '' },
  { name: 'unit', values: 'size', doc: '' },
];
const parse = (...texts: string[]) => CreateOptions.parse('raw', SPECS, texts);

describe('options', () => {
  test('words, sizes, and one that is on by its name alone', () => {
    const options = parse('kind=thick,cloud', 'unit=1.5M');
    expect([options.word('kind'), options.word('cloud'), options.size('unit')]).toEqual([
      'thick',
      'on',
      1.5 * 2 ** 20,
    ]);
    expect([parse().word('kind'), parse().size('unit'), parse('cloud=off').word('cloud')]).toEqual([
      undefined,
      undefined,
      'off',
    ]);
  });

  test.each([
    [['colour=red'], '-o colour=red: RAW has no such option'],
    [['kind=thin,'], '-o : RAW has no such option'],
    [['kind=thin', 'kind=thin'], '-o kind=thin: kind was given before'],
    [['kind'], '-o kind: expected one of thin, thick'],
    [['kind=on'], '-o kind=on: expected one of thin, thick'],
    [['cloud=yes'], '-o cloud=yes: expected one of on, off'],
    [['unit'], '-o unit: expected a size, like 64K or 1M'],
    [['unit=-1'], '-o unit=-1: expected a size, like 64K or 1M'],
  ])('%j: %s', (texts, message) => {
    expect(() => parse(...texts)).toThrow(expect.objectContaining({ kind: 'usage', message }));
  });
});

test('sizes of disks', () => {
  for (const size of [512, 1024]) checkDiskSize('X', size, 512, 1024);
  for (const size of [0, -512, 1536, 2 ** 53, Number.NaN]) {
    expect(() => checkDiskSize('X', size, 512, 1024)).toThrow('at most 1 KiB (1024 bytes)');
  }
  expect(() => checkDiskSize('X', 513, 512, 1024)).toThrow(
    expect.objectContaining({ kind: 'usage', hint: 'The next larger one is 1024.' }),
  );
});

test('powers of two', () => {
  for (const value of [4, 8, 16]) checkPower('n', value, 4, 16);
  for (const value of [0, 2, 12, 32]) expect(() => checkPower('n', value, 4, 16)).toThrow('from 4 to 16');
});

test('pieces are the same in parts as in one', () => {
  const pieces = [
    bytesAt(
      7,
      Uint8Array.from({ length: 40 }, (_, n) => n),
    ),
    filledAt(7, 40, 0xff),
    tableAt(7, 10, 4, (view, offset, index) => view.setUint32(offset, index * 3)),
    tableAt(7, 5, 8, (view, offset, index) => view.setBigUint64(offset, BigInt(index) << 40n)),
  ];
  for (const piece of pieces) {
    expect([piece.at, piece.length]).toEqual([7, 40]);
    const whole = new Uint8Array(40);
    piece.fill(whole, 0);
    const parts = new Uint8Array(40);
    for (const [from, end] of [
      [0, 16],
      [16, 24],
      [24, 40],
    ] as const)
      piece.fill(parts.subarray(from, end), from);
    expect(parts).toEqual(whole);
    expect(whole.some((byte) => byte !== 0)).toBe(true);
  }
});

test('paths in the words of Windows', () => {
  expect(windowsPath('../a/b c.vhd')).toBe('..\\a\\b c.vhd');
  expect(() => windowsPath('a\\b')).toThrow('backslash');
});
