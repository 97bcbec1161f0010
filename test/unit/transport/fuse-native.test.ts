/** The adapter to fuse-native without a mount: every handler calls back exactly once, whatever happens. */

import { afterAll, describe, expect, it, vi } from 'vitest';
import type { FileSystem } from '../../../src/fuse/filesystem.ts';
import { FileSource } from '../../../src/source/file.ts';
import { handlersOf, mountOptions } from '../../../src/transport/fuse-native/adapter.ts';
import {
  type Done,
  describeLoadFailure,
  type NativeHandlers,
  type NativeStat,
} from '../../../src/transport/fuse-native/binding.ts';
import type { MountRequest } from '../../../src/transport/transport.ts';
import { GID, TIMES_MS, Trees, times, UID } from './support.ts';

const EPERM = -1;
const ENOENT = -2;
const EIO = -5;
const EBADF = -9;
const EACCES = -13;
const ENOTDIR = -20;
const EISDIR = -21;
const EFBIG = -27;
const ENOSPC = -28;
const EROFS = -30;
const ERANGE = -34;
const ENODATA = -61;

const CONTENT = Buffer.from(Array.from({ length: 5000 }, (_, at) => at & 0xff));

const trees = new Trees();
afterAll(() => trees.close());

const problems: string[] = [];
const log = { debug: () => {}, warn: () => {}, error: (text: string) => problems.push(text) };
const adapt = (fs: FileSystem): NativeHandlers => handlersOf(fs, log);

const handlers = adapt(
  trees.fileSystem([
    {
      name: 'disk.raw',
      content: CONTENT,
      attributes: [
        ['user.vdisk.format', 'raw'],
        ['user.vdisk.source', '/ä'],
      ],
    },
    { name: 'ä.raw', content: Buffer.alloc(1), at: 2 ** 33, times: times(-5, 1.75, 0) },
  ]),
);

/** What a handler called back with. Fails where it did so more or less than once. */
function once(call: (done: (...results: unknown[]) => void) => void): unknown[] {
  const calls: unknown[][] = [];
  call((...results) => calls.push(results));
  expect(calls, 'calls of the callback').toHaveLength(1);
  return calls[0]!;
}

describe('handlersOf', () => {
  it('gives the attributes of the root and of files', () => {
    const file = {
      mode: 0o100444,
      uid: UID,
      gid: GID,
      size: 5000,
      nlink: 1,
      ino: 2,
      blksize: 4096,
      blocks: 2,
      ...TIMES_MS,
    };
    expect(once((done) => handlers.getattr('/disk.raw', done))).toEqual([0, file]);
    expect(once((done) => handlers.fgetattr('/disk.raw', 2, done))).toEqual([0, file]);
    expect(once((done) => handlers.getattr('/', done))).toMatchObject([
      0,
      { mode: 0o40555, nlink: 2, ino: 1 },
    ]);
  });

  it('gives only times that the package can carry: whole milliseconds from 1970 on', () => {
    const [, stat] = once((done) => handlers.getattr('/ä.raw', done));
    expect(stat).toMatchObject({ size: 2 ** 33 + 1, atime: 0, mtime: 1, ctime: 0 });
  });

  it('lists the root with types and numbers', () => {
    const [status, names, stats] = once((done) => handlers.readdir('/', done));
    expect([status, names]).toEqual([0, ['.', '..', 'disk.raw', 'ä.raw']]);
    expect(stats).toMatchObject([
      { mode: 0o40555, ino: 1 },
      { mode: 0o40555, ino: 1 },
      { mode: 0o100000, ino: 2 },
      { mode: 0o100000, ino: 3 },
    ]);
  });

  it('opens for reading and reads into the buffer it is given', () => {
    expect(once((done) => handlers.open('/disk.raw', 0x8000, done))).toEqual([0, 2]);
    const target = Buffer.alloc(300, 0xaa);
    expect(once((done) => handlers.read('/disk.raw', 2, target, 200, 4096, done))).toEqual([200]);
    expect(target).toEqual(Buffer.concat([CONTENT.subarray(4096, 4296), Buffer.alloc(100, 0xaa)]));
    expect(once((done) => handlers.read('/disk.raw', 2, target, 300, 4900, done))).toEqual([100]);
    expect(once((done) => handlers.read('/disk.raw', 2, target, 300, 5000, done))).toEqual([0]);
    expect(once((done) => handlers.read('/disk.raw', 9, target, 300, 0, done))).toEqual([EBADF]);
  });

  it('answers what changes nothing with 0', () => {
    expect(once((done) => handlers.opendir('/', 0, done))).toEqual([0]);
    expect(once((done) => handlers.releasedir('/', 0, done))).toEqual([0]);
    expect(once((done) => handlers.fsyncdir('/', 0, 0, done))).toEqual([0]);
    expect(once((done) => handlers.flush('/disk.raw', 2, done))).toEqual([0]);
    expect(once((done) => handlers.fsync('/disk.raw', 0, 2, done))).toEqual([0]);
    expect(once((done) => handlers.release('/disk.raw', 2, done))).toEqual([0]);
    expect(once((done) => handlers.access('/disk.raw', 4, done))).toEqual([0]);
  });

  it.each<[string, (done: (...results: unknown[]) => void) => void, number]>([
    ['attributes of nothing', (done) => handlers.getattr('/none', done), ENOENT],
    ['attributes below a file', (done) => handlers.getattr('/disk.raw/x', done), ENOENT],
    ['opening for writing', (done) => handlers.open('/disk.raw', 1, done), EROFS],
    ['opening the root', (done) => handlers.open('/', 0, done), EISDIR],
    ['opening nothing', (done) => handlers.open('/none', 0, done), ENOENT],
    ['listing a file', (done) => handlers.readdir('/disk.raw', done), ENOTDIR],
    ['listing nothing', (done) => handlers.readdir('/none', done), ENOENT],
    ['opening a file as a directory', (done) => handlers.opendir('/disk.raw', 0, done), ENOTDIR],
    ['writing', (done) => handlers.access('/disk.raw', 2, done), EROFS],
    ['running', (done) => handlers.access('/disk.raw', 1, done), EACCES],
    [
      'an unknown attribute',
      (done) => handlers.getxattr('/disk.raw', 'user.x', Buffer.alloc(9), done),
      ENODATA,
    ],
    [
      'an attribute of nothing',
      (done) => handlers.getxattr('/none', 'user.x', Buffer.alloc(9), done),
      ENOENT,
    ],
  ])('refuses %s', (_, call, error) => {
    expect(once(call)).toEqual([error]);
  });

  it('gives extended attributes, never more than there is room for', () => {
    const get = (room: number): unknown[] => {
      const target = Buffer.alloc(room);
      const [outcome] = once((done) => handlers.getxattr('/disk.raw', 'user.vdisk.source', target, done));
      return [outcome, target.toString()];
    };
    expect(get(0)).toEqual([3, '']);
    expect(get(2)).toEqual([ERANGE, '\0\0']);
    expect(get(3)).toEqual([3, '/ä']);
    expect(get(5)).toEqual([3, '/ä\0\0']);
    const names = 'user.vdisk.format\0user.vdisk.source\0';
    const list = (room: number): unknown[] => {
      const target = Buffer.alloc(room);
      return [...once((done) => handlers.listxattr('/disk.raw', target, done)), target.toString()];
    };
    expect(list(0)).toEqual([names.length, '']);
    expect(list(names.length - 1)).toEqual([ERANGE, '\0'.repeat(names.length - 1)]);
    expect(list(names.length)).toEqual([names.length, names]);
    expect(once((done) => handlers.listxattr('/', Buffer.alloc(9), done))).toEqual([0]);
  });

  it('gives the size of the file system in 32 bits', () => {
    const statfs = (size: number): unknown => {
      const fs = trees.fileSystem([{ name: 'a', content: Buffer.alloc(0) }]);
      fs.size = () => ({ bytes: size, files: 1 });
      return once((done) => adapt(fs).statfs('/', done))[1];
    };
    expect(statfs(10_000)).toEqual({ bsize: 4096, frsize: 4096, blocks: 3, files: 1, namemax: 255 });
    expect(statfs(64 * 2 ** 40)).toMatchObject({ bsize: 32_768, frsize: 32_768, blocks: 2 ** 31 });
    expect(statfs(16 * 2 ** 40 - 4096)).toMatchObject({ bsize: 4096, blocks: 0xffffffff });
  });

  it('is the file itself where the mountpoint is one', () => {
    const alone = adapt(trees.fileSystem([{ name: 'a.raw', content: CONTENT }], { shape: 'file' }));
    expect(once((done) => alone.getattr('/', done))).toMatchObject([0, { mode: 0o100444, size: 5000 }]);
    expect(once((done) => alone.open('/', 0, done))).toEqual([0, 1]);
    const target = Buffer.alloc(10);
    expect(once((done) => alone.read('/', 1, target, 10, 100, done))).toEqual([10]);
    expect(target).toEqual(CONTENT.subarray(100, 110));
    expect(once((done) => alone.readdir('/', done))).toEqual([ENOTDIR]);
  });

  it('answers EIO and logs where the file system throws', () => {
    const broken = new Proxy({} as FileSystem, {
      get: () => () => {
        throw new Error('a defect');
      },
    });
    const failing = adapt(broken);
    const calls: ((done: (...results: unknown[]) => void) => void)[] = [
      (done) => failing.getattr('/', done),
      (done) => failing.fgetattr('/a', 1, done),
      (done) => failing.access('/', 0, done),
      (done) => failing.opendir('/', 0, done),
      (done) => failing.readdir('/', done),
      (done) => failing.open('/a', 0, done),
      (done) => failing.read('/a', 1, Buffer.alloc(1), 1, 0, done),
      (done) => failing.getxattr('/a', 'b', Buffer.alloc(1), done),
      (done) => failing.listxattr('/a', Buffer.alloc(1), done),
      (done) => failing.statfs('/', done),
    ];
    for (const call of calls) {
      problems.length = 0;
      expect(once(call)).toEqual([EIO]);
      expect(problems).toHaveLength(1);
      expect(problems[0]).toContain('a defect');
    }
  });
});

describe('writing', () => {
  const seed = trees.seed([
    { name: 'disk.raw', content: CONTENT, writable: true },
    { name: 'other.raw', content: CONTENT },
  ]);
  const writing = adapt(trees.attach(seed));
  const flush = vi.spyOn(FileSource.prototype, 'flush');
  afterAll(() => flush.mockRestore());
  const status = (call: (done: (...results: unknown[]) => void) => void): unknown => once(call)[0];
  const open = (flags: number): number => once((done) => writing.open('/disk.raw', flags, done))[1] as number;
  const read = (at: number, length: number): Buffer => {
    const target = Buffer.alloc(length);
    const moved = status((done) => writing.read('/disk.raw', open(0), target, length, at, done));
    return target.subarray(0, moved as number);
  };
  const sizes = (): unknown =>
    once((done) => writing.getattr('/disk.raw', done)).map((stat) => (stat as NativeStat).size ?? stat);

  it('writes, as far as the disk goes', () => {
    const handle = open(2);
    const bytes = Buffer.from('hello');
    const write = (at: number, fd = handle): unknown =>
      status((done) => writing.write('/disk.raw', fd, bytes, 5, at, done));
    expect(write(10)).toBe(5);
    expect(read(9, 7)).toEqual(Buffer.from([9, ...bytes, 15]));
    expect([write(4998), write(5000), write(2 ** 52)]).toEqual([2, ENOSPC, ENOSPC]);
    expect([write(0, 3), write(0, 99)]).toEqual([EROFS, EBADF]);
    expect(status((done) => writing.open('/other.raw', 1, done))).toBe(EROFS);
  });

  it.each([
    ['nothing', 0, 0],
    ['O_DSYNC', 0o10000, 1],
    ['O_SYNC', 0o4010000, 1],
  ])('keeps what was written with %s', (_, flags, count) => {
    const handle = open(2 | flags);
    flush.mockClear();
    expect(status((done) => writing.write('/disk.raw', handle, Buffer.alloc(1), 1, 0, done))).toBe(1);
    expect(flush).toHaveBeenCalledTimes(count);
    const target = Buffer.alloc(1);
    expect(status((done) => writing.read('/disk.raw', handle, target, 1, 0, done))).toBe(1);
    expect(status((done) => writing.fsync('/disk.raw', 0, handle, done))).toBe(0);
    expect(flush.mock.calls.length).toBeGreaterThan(0);
  });

  it.each([
    ['truncate', (size: number, done: Done) => writing.truncate('/disk.raw', size, done)],
    ['ftruncate', (size: number, done: Done) => writing.ftruncate('/disk.raw', 2, size, done)],
  ])('%s tells the size asked for once, then that of the disk', (_, truncate) => {
    status((done) => writing.write('/disk.raw', 2, Buffer.alloc(50, 7), 50, 100, done));
    expect(status((done) => truncate(120, done))).toBe(0);
    expect(sizes()).toEqual([0, 120]);
    expect(sizes()).toEqual([0, 5000]);
    expect(read(118, 4)).toEqual(Buffer.from([7, 7, 0, 0]));
    expect(status((done) => truncate(5001, done))).toBe(EFBIG);
    expect(sizes()).toEqual([0, 5000]);
  });

  it('keeps times, and neither owner nor mode', () => {
    expect(status((done) => writing.utimens('/disk.raw', 5000, 7250, done))).toBe(0);
    expect(once((done) => writing.getattr('/disk.raw', done))[1]).toMatchObject({ atime: 5000, mtime: 7250 });
    expect(status((done) => writing.utimens('/other.raw', 0, 0, done))).toBe(EROFS);
    expect(status((done) => writing.chmod('/disk.raw', 0o100644, done))).toBe(0);
    expect(status((done) => writing.chmod('/disk.raw', 0o100600, done))).toBe(EPERM);
    expect(status((done) => writing.chown('/disk.raw', UID, 0xffffffff, done))).toBe(0);
    expect(status((done) => writing.chown('/disk.raw', 0xffffffff, GID + 1, done))).toBe(EPERM);
  });

  it('creates and removes nothing', () => {
    const calls: ((done: (...results: unknown[]) => void) => void)[] = [
      (done) => writing.mknod('/new', 0o100644, 0, done),
      (done) => writing.mkdir('/new', 0o755, done),
      (done) => writing.unlink('/disk.raw', done),
      (done) => writing.rmdir('/disk.raw', done),
      (done) => writing.symlink('/x', '/new', done),
      (done) => writing.link('/disk.raw', '/new', done),
      (done) => writing.rename('/disk.raw', '/new', done),
    ];
    for (const call of calls) expect(status(call)).toBe(EPERM);
  });
});

describe('mountOptions', () => {
  const request: MountRequest = {
    mountpoint: '/m',
    tree: trees.seed([]),
    fsname: '/a/disk.vhd',
    allowOther: false,
    noexec: false,
    threads: 1,
    trace: false,
    log,
  };
  const words = (change: Partial<MountRequest>): string[] =>
    mountOptions({ ...request, ...change }).split(/(?<!\\),/);

  it('is read-only and leaves permissions to the kernel', () => {
    expect(words({})).toEqual(expect.arrayContaining(['ro', 'default_permissions', 'subtype=vdisk-mount']));
    for (const word of ['allow_other', 'noexec', 'debug']) expect(words({})).not.toContain(word);
  });

  it('is writable where a file is', () => {
    const tree = trees.seed([{ name: 'a', content: CONTENT, writable: true }], { sync: true });
    const asked = words({ tree });
    expect(asked).toEqual(expect.arrayContaining(['rw', 'sync', 'attr_timeout=0', 'default_permissions']));
    expect(asked).not.toContain('ro');
    for (const word of ['rw', 'sync']) expect(words({})).not.toContain(word);
  });

  it('goes past the page cache where files share a disk that is written to', () => {
    const windows = [{ name: 'a.p1', of: 0, start: 0, size: 512, attributes: [] }];
    for (const writable of [true, false]) {
      const tree = trees.seed([{ name: 'a', content: CONTENT, writable }], { windows });
      expect(words({ tree }).includes('direct_io')).toBe(writable);
      expect(words({ tree }).includes('kernel_cache')).toBe(!writable);
    }
  });

  it('passes on what was asked for', () => {
    const asked = words({ allowOther: true, noexec: true, trace: true });
    expect(asked).toEqual(expect.arrayContaining(['allow_other', 'noexec', 'debug']));
  });

  it('keeps commas and backslashes of the name', () => {
    expect(words({ fsname: '/a,b\\c,allow_root' })).toContain('fsname=/a\\,b\\\\c\\,allow_root');
  });

  it('cuts a long name at its start, and nothing else', () => {
    const text = mountOptions({ ...request, noexec: true, fsname: `/first/${'ä,'.repeat(2000)}/last` });
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(1021);
    expect(text).toMatch(/noexec/);
    expect(text).toMatch(/\/last$/);
    expect(text).not.toContain('first');
  });
});

describe('describeLoadFailure', () => {
  it.each([
    ["Cannot find module 'fuse-native'\nRequire stack:\n- /x", 'is not installed', 'npm install fuse-native'],
    [
      'libfuse.so.2: cannot open shared object file: No such file or directory',
      'libfuse.so.2',
      'apt install libfuse2',
    ],
    ['No native build was found for platform=linux arch=arm64 runtime=node', 'arch=arm64', 'x86-64'],
  ])('says what to do about "%s"', (text, said, hint) => {
    const error = describeLoadFailure(new Error(text));
    expect(error.kind).toBe('mount');
    expect(error.message).toContain(said);
    expect(error.message).not.toContain('\n');
    expect(error.hint).toContain(hint);
  });
});
