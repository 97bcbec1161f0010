import { describe, expect, it } from 'vitest';
import {
  formatSize,
  GIB,
  hex,
  isPowerOfTwo,
  KIB,
  MIB,
  parseSize,
  roundDown,
  roundUp,
  TIB,
} from '../../../src/base/units.ts';

describe('roundUp and roundDown', () => {
  it.each([
    [0, 512, 0, 0],
    [1, 512, 512, 0],
    [511, 512, 512, 0],
    [512, 512, 512, 512],
    [513, 512, 1024, 512],
    [7, 3, 9, 6],
    [5, 1, 5, 5],
    [2 ** 32 + 1, 4096, 2 ** 32 + 4096, 2 ** 32],
    [2 ** 52 + 1, 2 ** 20, 2 ** 52 + 2 ** 20, 2 ** 52],
  ])('%i by %i', (value, step, up, down) => {
    expect(roundUp(value, step)).toBe(up);
    expect(roundDown(value, step)).toBe(down);
  });
});

describe('isPowerOfTwo', () => {
  it('knows all of them', () => {
    for (let power = 0; power <= 52; power += 1) expect(isPowerOfTwo(2 ** power)).toBe(true);
  });

  it.each([0, -1, -2, 3, 5, 6, 1.5, 0.5, 2 ** 31 - 1, 2 ** 32 + 1, 2 ** 53, Number.NaN, Infinity])(
    'is false for %d',
    (value) => {
      expect(isPowerOfTwo(value)).toBe(false);
    },
  );

  it('tells the neighbours of large powers apart', () => {
    for (const power of [20, 28, 31, 32, 40]) {
      expect(isPowerOfTwo(2 ** power - 1)).toBe(false);
      expect(isPowerOfTwo(2 ** power + 1)).toBe(false);
    }
  });
});

describe('hex', () => {
  it('writes places', () => {
    expect(hex(0x20000)).toBe('0x20000');
    expect(hex(0)).toBe('0x0');
    expect(hex(0xffffffffffffffffn)).toBe('0xffffffffffffffff');
  });
});

describe('formatSize', () => {
  it.each([
    [0, '0 bytes'],
    [1023, '1023 bytes'],
    [1024, '1 KiB (1024 bytes)'],
    [1536, '1.5 KiB (1536 bytes)'],
    [11274289152, '10.5 GiB (11274289152 bytes)'],
    [MIB + 1, '1 MiB (1048577 bytes)'],
    [64 * TIB, '64 TiB (70368744177664 bytes)'],
    [5000 * TIB, '4.88 PiB (5497558138880000 bytes)'],
    [2 ** 53 - 1, '8 PiB (9007199254740991 bytes)'],
  ])('%i', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});

describe('parseSize', () => {
  it.each([
    ['0', 0],
    ['4096', 4096],
    ['64M', 64 * MIB],
    ['64m', 64 * MIB],
    ['64 MiB', 64 * MIB],
    ['64MB', 64 * MIB],
    ['1.5GiB', 1.5 * GIB],
    ['1K', KIB],
    ['2T', 2 * TIB],
    ['1P', 1024 * TIB],
    [' 12b ', 12],
    ['0.5K', 512],
  ])('%j is %i', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each(['', 'M', '-1', '1e3', '1,5G', '0x10', '1X', '1.', '.5', '1 2', '8P', '99999999999999999'])(
    '%j is none',
    (text) => {
      expect(parseSize(text)).toBeUndefined();
    },
  );
});
