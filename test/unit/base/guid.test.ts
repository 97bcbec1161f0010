import { describe, expect, it } from 'vitest';
import { equalBytes, formatGuid, formatUuid, isZero, parseGuid } from '../../../src/base/guid.ts';
import { random, randomBytes } from '../../support/random.ts';

const TEXT = '2dc27766-f623-4200-9d64-115e9bfd4a08';
const MICROSOFT = '6677c22d23f600429d64115e9bfd4a08';
const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex, 'hex'));

describe('guid', () => {
  it('is the BAT region of VHDX in both directions', () => {
    expect(parseGuid(TEXT)).toEqual(bytesOf(MICROSOFT));
    expect(formatGuid(bytesOf(MICROSOFT))).toBe(TEXT);
  });

  it('survives the round trip', () => {
    const next = random(3);
    for (let round = 0; round < 100; round += 1) {
      const bytes = randomBytes(next, 16);
      expect(parseGuid(formatGuid(bytes))).toEqual(bytes);
    }
  });

  it('is read in braces and capitals', () => {
    expect(parseGuid(`{${TEXT.toUpperCase()}}`)).toEqual(bytesOf(MICROSOFT));
  });

  it.each(['', TEXT.slice(1), `${TEXT}0`, TEXT.replace('2', 'g'), TEXT.replaceAll('-', ''), ` ${TEXT}`])(
    'is not %j',
    (text) => {
      expect(parseGuid(text)).toBeUndefined();
    },
  );

  it('is in network order for VHD', () => {
    expect(formatUuid(bytesOf(TEXT.replaceAll('-', '')))).toBe(TEXT);
  });
});

describe('bytes', () => {
  it('isZero', () => {
    expect(isZero(new Uint8Array(16))).toBe(true);
    expect(isZero(Uint8Array.of(0, 0, 1))).toBe(false);
  });

  it('equalBytes', () => {
    expect(equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 2))).toBe(true);
    expect(equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 3))).toBe(false);
    expect(equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 2, 3))).toBe(false);
  });
});
