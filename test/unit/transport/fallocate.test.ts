/** FALLOCATE: holes, zeros, and what a disk cannot do. */

import { describe, expect, it } from 'vitest';
import {
  CONTENT,
  changed,
  done,
  failed,
  KEEP_SIZE,
  OTHER,
  PUNCH_HOLE,
  SIZE,
  writableMount,
  ZERO_RANGE,
} from './writable-mount.ts';

const EBADF = -9;
const EINVAL = -22;
const ENOSPC = -28;
const EROFS = -30;
const EOPNOTSUPP = -95;

const mount = writableMount();
const { expectImage, fallocate } = mount;

describe('FALLOCATE', () => {
  it.each([
    ['a hole', PUNCH_HOLE | KEEP_SIZE, 4096, 8192, 0, [4096, 8192]],
    ['a hole of odd bounds', PUNCH_HOLE | KEEP_SIZE, 100, 7, 0, [100, 7]],
    ['a hole over the end', PUNCH_HOLE | KEEP_SIZE, 19_000, 2 ** 40, 0, [19_000, 1000]],
    ['a hole past the end', PUNCH_HOLE | KEEP_SIZE, SIZE, 4096, 0, [0, 0]],
    ['zeros', ZERO_RANGE, 100, 5000, 0, [100, 5000]],
    ['zeros to the end', ZERO_RANGE, 0, SIZE, 0, [0, SIZE]],
    ['zeros that make it longer', ZERO_RANGE, 19_000, 1001, ENOSPC, [0, 0]],
    ['zeros over the end', ZERO_RANGE | KEEP_SIZE, 19_000, 4096, 0, [19_000, 1000]],
    ['space', 0, 0, SIZE, 0, [0, 0]],
    ['space that makes it longer', 0, 1, SIZE, ENOSPC, [0, 0]],
    ['space past the end', 0, SIZE, 1, ENOSPC, [0, 0]],
    ['space for later', KEEP_SIZE, 0, 2 * SIZE, 0, [0, 0]],
    ['a hole that makes it longer', PUNCH_HOLE, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['a cut in the middle', 8, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['an insertion', 32, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['a copy of its own', 64, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['a hole of zeros', PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['everything', 0xffffffff, 0, 4096, EOPNOTSUPP, [0, 0]],
    ['nothing', PUNCH_HOLE | KEEP_SIZE, 0, 0, EINVAL, [0, 0]],
  ])('makes %s', (_, mode, at, length, error, [from, count]) => {
    expect(fallocate(mode, at, length)).toEqual(failed(error));
    expectImage(changed(from!, Buffer.alloc(count!)));
  });

  it('bears any number', () => {
    for (const at of [2 ** 52, 2n ** 63n, 2n ** 64n - 1n]) {
      for (const length of [1, 2n ** 63n, 2n ** 64n - 1n]) {
        expect(fallocate(PUNCH_HOLE | KEEP_SIZE, at, length)).toEqual(done);
        expect(fallocate(ZERO_RANGE, at, length)).toEqual(failed(ENOSPC));
        expect(fallocate(0, at, length)).toEqual(failed(ENOSPC));
      }
    }
    expect(fallocate(PUNCH_HOLE | KEEP_SIZE, 0, 1, OTHER)).toEqual(failed(EROFS));
    expect(fallocate(PUNCH_HOLE | KEEP_SIZE, 0, 1, 99)).toEqual(failed(EBADF));
    expectImage(CONTENT);
  });
});
