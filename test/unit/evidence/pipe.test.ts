/** The ring between the two threads of a hash: what goes in comes out, and who would overtake the other waits. */

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { BUFFER_BYTES, Pipe } from '../../../src/evidence/pipe.ts';

describe('Pipe', () => {
  beforeEach(() => {
    vi.spyOn(Atomics, 'wait').mockImplementation(() => {
      throw new Error('waits');
    });
  });
  afterEach(() => vi.restoreAllMocks());

  /** The two ends, as two threads have them. */
  function ends() {
    const seed = Pipe.seed();
    return { reader: new Pipe(seed), hasher: new Pipe(seed) };
  }

  function push(reader: Pipe, byte: number, length = 1): void {
    reader.bytes.fill(byte, reader.reserve(), reader.reserve() + length);
    reader.pushBytes(length);
  }

  it('hands on bytes, zeros and the end in their order', () => {
    const { reader, hasher } = ends();
    push(reader, 7, 3);
    reader.pushZeros(2 ** 46);
    reader.end();
    expect(hasher.next()).toBe(3);
    expect([...hasher.buffer(3)]).toEqual([7, 7, 7]);
    hasher.release();
    expect(hasher.next()).toBe(-(2 ** 46));
    hasher.release();
    expect(hasher.next()).toBe(0);
  });

  it('the hasher waits for the reader', () => {
    const { reader, hasher } = ends();
    expect(() => hasher.next()).toThrow('waits');
    push(reader, 1);
    expect(hasher.next()).toBe(1);
    hasher.release();
    expect(() => hasher.next()).toThrow('waits');
  });

  it('the reader waits for the hasher, and overwrites nothing', () => {
    const { reader, hasher } = ends();
    const places = new Set<number>();
    for (let byte = 1; byte <= 4; byte += 1) {
      places.add(reader.reserve());
      push(reader, byte);
    }
    expect(places.size).toBe(4);
    for (const place of places) expect(place + BUFFER_BYTES).toBeLessThanOrEqual(reader.bytes.length);
    expect(() => reader.reserve()).toThrow('waits');
    expect(() => reader.pushZeros(1)).toThrow('waits');
    expect(() => reader.end()).toThrow('waits');
    for (let byte = 1; byte <= 40; byte += 1) {
      expect(hasher.next()).toBe(1);
      expect(hasher.buffer(1)[0]).toBe(byte);
      hasher.release();
      push(reader, byte + 4);
      expect(() => reader.reserve()).toThrow('waits');
    }
  });

  it('says how much is hashed', () => {
    const { reader, hasher } = ends();
    hasher.advance(5);
    hasher.advance(2 ** 40);
    expect(reader.hashed).toBe(2 ** 40 + 5);
  });

  it('a pipe that is cut ends both ends, whether or not they have something to wait for', () => {
    const seed = Pipe.seed();
    const [reader, hasher, third] = [new Pipe(seed), new Pipe(seed), new Pipe(seed)];
    reader.pushZeros(5);
    third.cut();
    expect(() => reader.reserve()).toThrow('interrupted');
    expect(() => hasher.next()).toThrow('interrupted');
  });
});
