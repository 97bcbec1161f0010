import { describe, expect, it } from 'vitest';
import {
  ascii,
  bytes,
  type Decoded,
  safeNumber,
  struct,
  u8,
  u16,
  u32,
  u64,
} from '../../../src/layout/struct.ts';

const fields = {
  tag: ascii(4, 'Four letters'),
  small: u8('A byte'),
  medium: u16('Two bytes'),
  large: u32('Four bytes'),
  huge: u64('Eight bytes'),
  rest: bytes(3, 'Reserved'),
};
const little = struct('Little', { size: 22, endian: 'little', spec: 'Book 1' }, fields);
const big = struct('Big', { size: 22, endian: 'big', spec: 'Book 2' }, fields);

const value: Decoded<typeof little> = {
  tag: 'ab\0\0',
  small: 0xf1,
  medium: 0xf2f3,
  large: 0xf4f5f6f7,
  huge: 0xf8f9fafbfcfdfeffn,
  rest: Uint8Array.of(1, 2, 3),
};
const LITTLE = '61620000 f1 f3f2 f7f6f5f4 fffefdfcfbfaf9f8 010203'.replaceAll(' ', '');
const BIG = '61620000 f1 f2f3 f4f5f6f7 f8f9fafbfcfdfeff 010203'.replaceAll(' ', '');

describe.each([
  ['little', little, LITTLE],
  ['big', big, BIG],
] as const)('a %s-endian structure', (_endian, layout, image) => {
  it('encodes every kind of field', () => {
    const target = new Uint8Array(22).fill(0xee);
    layout.encode(value, target);
    expect(Buffer.from(target).toString('hex')).toBe(image);
  });

  it('decodes every kind of field', () => {
    expect(layout.decode(Buffer.from(image, 'hex'))).toEqual(value);
  });

  it('works at a base, inside an array that is itself a part', () => {
    const whole = new Uint8Array(64).fill(0xee);
    const part = whole.subarray(7, 57);
    layout.encode(value, part, 11);
    expect(layout.decode(part, 11)).toEqual(value);
    expect(Buffer.from(whole.subarray(18, 40)).toString('hex')).toBe(image);
    expect(whole.filter((byte) => byte === 0xee)).toHaveLength(64 - 22);
  });

  it('has the offset of each field', () => {
    expect(layout.at).toEqual({ tag: 0, small: 4, medium: 5, large: 7, huge: 11, rest: 19 });
    expect(layout.size).toBe(22);
  });
});

describe('a structure', () => {
  it('must have the declared size', () => {
    expect(() =>
      struct('Short', { size: 4, endian: 'big', spec: '' }, { one: u8(''), two: u16('') }),
    ).toThrow('Short: the fields are 3 bytes, declared are 4');
  });

  it('refuses bytes that are too few', () => {
    expect(() => little.decode(new Uint8Array(21))).toThrow(RangeError);
    expect(() => little.decode(new Uint8Array(30), 9)).toThrow(RangeError);
    expect(() => little.encode(value, new Uint8Array(21))).toThrow(RangeError);
  });

  it('gives copies of bytes', () => {
    const from = Buffer.from(LITTLE, 'hex');
    const decoded = little.decode(from);
    from.fill(0);
    expect(decoded.rest).toEqual(Uint8Array.of(1, 2, 3));
  });

  it('pads or cuts bytes and text to their fields', () => {
    const target = new Uint8Array(22).fill(0xee);
    little.encode({ ...value, tag: 'x', rest: Uint8Array.of(9) }, target);
    expect(little.decode(target)).toMatchObject({ tag: 'x\0\0\0', rest: Uint8Array.of(9, 0, 0) });
    little.encode({ ...value, tag: 'abcdef', rest: Uint8Array.of(1, 2, 3, 4) }, target);
    expect(little.decode(target)).toMatchObject({ tag: 'abcd', rest: Uint8Array.of(1, 2, 3) });
  });

  it('reads text as Latin-1', () => {
    const one = struct('One', { size: 2, endian: 'big', spec: '' }, { text: ascii(2, '') });
    const decoded = one.decode(Uint8Array.of(0xe4, 0xff));
    expect(decoded.text).toBe('\u00e4\u00ff');
    const target = new Uint8Array(2);
    one.encode(decoded, target);
    expect(target).toEqual(Uint8Array.of(0xe4, 0xff));
  });

  it('describes itself', () => {
    expect(little.describe()).toBe(
      '### Little\n\n22 bytes, little-endian. Source: Book 1\n\n' +
        '| offset | size | field | type | meaning |\n|---|---|---|---|---|\n' +
        '| 0 | 4 | tag | char[4] | Four letters |\n' +
        '| 4 | 1 | small | u8 | A byte |\n' +
        '| 5 | 2 | medium | u16 | Two bytes |\n' +
        '| 7 | 4 | large | u32 | Four bytes |\n' +
        '| 11 | 8 | huge | u64 | Eight bytes |\n' +
        '| 19 | 3 | rest | u8[3] | Reserved |\n',
    );
  });
});

describe('safeNumber', () => {
  it.each([
    [0n, 0],
    [1n, 1],
    [2n ** 53n - 1n, 2 ** 53 - 1],
    [2n ** 53n, undefined],
    [2n ** 64n - 1n, undefined],
    [-1n, undefined],
  ])('%s is %s', (from, to) => {
    expect(safeNumber(from)).toBe(to);
  });
});
