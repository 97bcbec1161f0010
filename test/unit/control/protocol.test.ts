/** Lines out of bytes, however they come. */

import { describe, expect, it } from 'vitest';
import { LineReader } from '../../../src/control/protocol.ts';
import { between, random } from '../../support/random.ts';

describe('a line reader', () => {
  it('gives the same lines however the bytes are cut', () => {
    const text = ['', 'a', '{"do":"state"}', 'é€𝄞'.repeat(50), 'x'.repeat(900), ''].join('\n');
    const bytes = Buffer.from(`${text}\n`);
    const next = random(7);
    for (let round = 0; round < 200; round += 1) {
      const reader = new LineReader(1000);
      const lines: string[] = [];
      for (let at = 0; at < bytes.length; ) {
        const end = at + between(next, 1, 60);
        lines.push(...(reader.push(bytes.subarray(at, end)) ?? []));
        at = end;
      }
      expect(lines.join('\n')).toBe(text);
      expect(reader.overrun).toBe(false);
    }
  });

  it.each([1, 7, 1000])('ends at a line that is too long, %i bytes at a time', (step) => {
    const reader = new LineReader(10);
    const bytes = Buffer.from(`${'a'.repeat(10)}\n${'b'.repeat(11)}\nc\n`);
    const lines: string[] = [];
    for (let at = 0; at < bytes.length; at += step)
      lines.push(...(reader.push(bytes.subarray(at, at + step)) ?? []));
    expect(lines).toEqual(['a'.repeat(10)]);
    expect(reader.overrun).toBe(true);
    expect(reader.push(Buffer.from('d\n'))).toBeUndefined();
  });
});
