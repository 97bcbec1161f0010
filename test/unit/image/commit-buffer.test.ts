/** Pieces of metadata: neighbours become one write, all bytes arrive, an error ends it. */

import { describe, expect, it } from 'vitest';
import { EIO } from '../../../src/base/errno.ts';
import { CommitBuffer } from '../../../src/image/commit-buffer.ts';
import { FaultSource } from '../../support/fault-source.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { between, random, randomBytes } from '../../support/random.ts';

function put(buffer: CommitBuffer, at: number, bytes: Uint8Array): void {
  const start = buffer.add(at, bytes.length);
  buffer.bytes.set(bytes, start);
}

function pieces(buffer: CommitBuffer): [number, number][] {
  const found: [number, number][] = [];
  buffer.forEach((at, _start, length) => {
    found.push([at, length]);
  });
  return found;
}

describe('a commit buffer', () => {
  it('joins what follows one another, and nothing else', () => {
    const buffer = new CommitBuffer();
    for (const at of [512, 1024, 4096, 3584, 1536]) buffer.add(at, 512);
    expect(pieces(buffer)).toEqual([
      [512, 1024],
      [4096, 512],
      [3584, 512],
      [1536, 512],
    ]);
    expect(buffer.pieces).toBe(4);
    buffer.clear();
    expect([buffer.pieces, pieces(buffer)]).toEqual([0, []]);
    buffer.add(2048, 512);
    expect(pieces(buffer)).toEqual([[2048, 512]]);
  });

  it('writes what was put in, however much, over and over', () => {
    const next = random(3);
    const buffer = new CommitBuffer();
    const size = 4 << 20;
    for (const count of [1, 50, 500, 3]) {
      buffer.clear();
      const model = new Uint8Array(size);
      const source = new MemorySource(model, 'target', true);
      for (let n = 0; n < count; n += 1) {
        const bytes = randomBytes(next, between(next, 1, 9000));
        const at = between(next, 0, size - bytes.length);
        put(buffer, at, bytes);
        model.set(bytes, at);
      }
      expect(buffer.writeTo(source, 'table.write')).toBe(0);
      expect(Buffer.compare(source.bytes, model)).toBe(0);
    }
  });

  it('two of them do not mix where one is done before the other begins', () => {
    const source = new MemorySource(new Uint8Array(100), 'target', true);
    for (const value of [1, 2]) {
      const buffer = new CommitBuffer();
      put(buffer, value * 10, Uint8Array.of(value, value));
      expect(buffer.writeTo(source, 'table.write')).toBe(0);
    }
    expect([source.bytes[10], source.bytes[20], source.bytes[21]]).toEqual([1, 2, 2]);
  });

  it('gives the first error, and says what it writes for', () => {
    const source = new FaultSource(new MemorySource(new Uint8Array(100), 'target', true));
    const buffer = new CommitBuffer();
    for (const at of [0, 20, 40]) put(buffer, at, Uint8Array.of(9));
    source.set({ step: 'bitmap.write', nth: 2, times: 1, errno: EIO, part: 0 });
    expect(buffer.writeTo(source, 'bitmap.write')).toBe(-EIO);
    expect(source.counts.get('bitmap.write')).toBe(2);
    expect(buffer.writeTo(source, 'bitmap.write')).toBe(0);
  });
});
