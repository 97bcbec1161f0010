/** Which requests make what was written stable. */

import { afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { FileSource } from '../../../src/source/file.ts';
import { type Reply, request, u32, u64 } from './support.ts';
import { CACHED, done, FILE, failed, filled, OTHER, writableMount, wrote } from './writable-mount.ts';

const EIO = -5;
const EBADF = -9;
const FSYNC = 20;
const O_DSYNC = 0o10000;
const O_SYNC = 0o4010000;

const mount = writableMount();
const { answer, fallocate, setattr, write } = mount;

let flush: MockInstance<FileSource['flush']>;

beforeEach(() => {
  flush = vi.spyOn(FileSource.prototype, 'flush');
});
afterEach(() => flush.mockRestore());

describe('what is stable when', () => {
  it.each([
    ['nothing', {}, 0],
    ['O_DSYNC', { flags: 1 | O_DSYNC }, 1],
    ['O_SYNC', { flags: 2 | O_SYNC }, 1],
    // Through which file it was written is not known; fsync follows where it is asked for.
    ['O_DSYNC from the page cache', { flags: 1 | O_DSYNC, writeFlags: CACHED }, 0],
  ])('a write with %s', (_, asked, count) => {
    expect(write(0, filled(10), asked)).toEqual(wrote(10));
    expect(flush).toHaveBeenCalledTimes(count);
  });

  it('every change of a mount with sync', () => {
    mount.start(true);
    expect(write(0, filled(10))).toEqual(wrote(10));
    expect(write(10, filled(10), { writeFlags: CACHED })).toEqual(wrote(10));
    expect(fallocate(3, 0, 4096)).toEqual(done);
    expect(setattr({ valid: 8, size: 100 }).error).toBe(0);
    expect(flush).toHaveBeenCalledTimes(4);
  });

  it('fsync makes it so; close does not', () => {
    const fsync = (fh: number, flags = 0): Reply =>
      answer(request(FSYNC, fh, Buffer.concat([u64(fh), u32(flags), u32(0)])));
    write(0, filled(10));
    expect(answer(request(25, FILE, Buffer.alloc(24)))).toEqual(done);
    expect(flush).toHaveBeenCalledTimes(0);
    expect(fsync(FILE, 1)).toEqual(done);
    expect(flush).toHaveBeenCalledTimes(1);
    // Nobody can have written to it.
    expect(fsync(OTHER)).toEqual(done);
    expect(flush).toHaveBeenCalledTimes(1);
    expect(fsync(99)).toEqual(failed(EBADF));
  });

  it('a flush that fails is told', () => {
    flush.mockReturnValue(EIO);
    expect(write(0, filled(10), { flags: 1 | O_DSYNC })).toEqual(failed(EIO));
    expect(answer(request(FSYNC, FILE, Buffer.concat([u64(FILE), u64(0)])))).toEqual(failed(EIO));
  });
});
