import { describe, expect, it } from 'vitest';
import { crc32c } from '../../../src/base/crc32c.ts';
import { between, random, randomBytes } from '../../support/random.ts';

/** One bit at a time, straight from the definition. */
function plain(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

describe('crc32c', () => {
  // RFC 3720, B.4, and the check value of the CRC catalogues.
  it.each([
    ['nothing', new Uint8Array(), 0],
    ['123456789', new TextEncoder().encode('123456789'), 0xe3069283],
    ['32 zeros', new Uint8Array(32), 0x8a9136aa],
    ['32 bytes of ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ['0 to 31', Uint8Array.from({ length: 32 }, (_, n) => n), 0x46dd794e],
    ['31 to 0', Uint8Array.from({ length: 32 }, (_, n) => 31 - n), 0x113fdb5c],
  ])('of %s', (_name, bytes, crc) => {
    expect(crc32c(bytes)).toBe(crc);
  });

  it('is that of the definition, at every length and alignment', () => {
    const noise = randomBytes(random(1), 80);
    for (let from = 0; from < 8; from += 1) {
      for (let to = from; to <= 80; to += 1) {
        const part = noise.subarray(from, to);
        expect(crc32c(part)).toBe(plain(part));
      }
    }
  });

  it('can be continued', () => {
    const next = random(2);
    const noise = randomBytes(next, 1000);
    for (let round = 0; round < 50; round += 1) {
      const at = between(next, 0, noise.length);
      expect(crc32c(noise.subarray(at), crc32c(noise.subarray(0, at)))).toBe(crc32c(noise));
    }
  });
});
