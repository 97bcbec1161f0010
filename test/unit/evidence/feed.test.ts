/** What goes into a hash: everything once, in order, and holes without being read. */

import { describe, expect, it } from 'vitest';
import { EIO } from '../../../src/base/errno.ts';
import { MIB } from '../../../src/base/units.ts';
import { type Feed, pump } from '../../../src/evidence/feed.ts';
import { BUFFER_BYTES, type PipeInput } from '../../../src/evidence/pipe.ts';

/** Notes what is pushed. */
function fakePipe() {
  const pushed: string[] = [];
  const pipe: PipeInput = {
    bytes: new Uint8Array(new SharedArrayBuffer(2 * BUFFER_BYTES)),
    reserve: () => BUFFER_BYTES,
    pushBytes: (length) => pushed.push(`${length} bytes`),
    pushZeros: (count) => pushed.push(`${count} zeros`),
    end: () => pushed.push('end'),
  };
  return { pipe, pushed };
}

/** A feed of `size` bytes whose data is in these ranges; notes what is read. */
function fakeFeed(size: number, data: readonly (readonly [number, number])[]) {
  const reads: string[] = [];
  const feed: Feed = {
    size,
    nextData: (at) => {
      const range = data.find(([, end]) => end > at);
      return range === undefined ? size : Math.max(at, range[0]);
    },
    read: (_target, start, length, at) => {
      expect(start).toBe(BUFFER_BYTES);
      reads.push(`${length} at ${at}`);
      return length;
    },
  };
  return { feed, reads };
}

describe('pump', () => {
  it('reads data in whole buffers, and holes not at all', () => {
    const { pipe, pushed } = fakePipe();
    const { feed, reads } = fakeFeed(100 * MIB + 5, [
      [MIB, MIB + 1],
      [50 * MIB, 50 * MIB + 2 * BUFFER_BYTES],
    ]);
    pump(feed, pipe);
    expect(reads).toEqual([
      `${BUFFER_BYTES} at ${MIB}`,
      `${BUFFER_BYTES} at ${50 * MIB}`,
      `${BUFFER_BYTES} at ${50 * MIB + BUFFER_BYTES}`,
    ]);
    expect(pushed).toEqual([
      `${MIB} zeros`,
      `${BUFFER_BYTES} bytes`,
      `${49 * MIB - BUFFER_BYTES} zeros`,
      `${BUFFER_BYTES} bytes`,
      `${BUFFER_BYTES} bytes`,
      `${50 * MIB + 5 - 2 * BUFFER_BYTES} zeros`,
      'end',
    ]);
  });

  it('a vast disk without data is one number', () => {
    const { pipe, pushed } = fakePipe();
    pump(fakeFeed(2 ** 46, []).feed, pipe);
    expect(pushed).toEqual([`${2 ** 46} zeros`, 'end']);
  });

  it('ends with the last, shorter buffer', () => {
    const { pipe, pushed } = fakePipe();
    pump(fakeFeed(BUFFER_BYTES + 7, [[0, BUFFER_BYTES + 7]]).feed, pipe);
    expect(pushed).toEqual([`${BUFFER_BYTES} bytes`, '7 bytes', 'end']);
  });

  it.each([
    ['a failed read', { read: () => -EIO }, 'at 0x0: reading 1024 bytes failed with errno 5'],
    ['a failed seek', { nextData: () => -EIO }, 'at 0x0: looking for data failed with errno 5'],
    ['a file cut short', { read: () => 700 }, 'at 0x2bc: it ends here, but had 1024 bytes'],
  ])('says where: %s', (_, broken, said) => {
    const { pipe, pushed } = fakePipe();
    const feed = { ...fakeFeed(1024, [[0, 1024]]).feed, ...broken };
    expect(() => pump(feed, pipe)).toThrow(said);
    expect(pushed).not.toContain('end');
  });
});
