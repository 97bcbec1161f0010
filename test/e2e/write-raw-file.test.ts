/** The raw file as a writable file: programs that write it in their own ways, its end, its options. */

import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  convertBack,
  KINDS,
  type Kind,
  kindNamed,
  makePatternDisk,
  TO_MAKE_IMAGES,
} from '../support/images.ts';
import { gateOf, must, run, TO_MOUNT } from '../support/machine.ts';
import { type Foreground, type Mounted, Stage } from '../support/mount.ts';
import { random, randomBytes } from '../support/random.ts';

const MIB = 1024 * 1024;
/** Writes one file over another, says so, and keeps it open: closing it, or a copy of the descriptor, would flush. */
const WRITE_AND_HOLD = `
const { openSync, readFileSync, writeSync } = require('node:fs');
const bytes = readFileSync(process.argv[1]);
const fd = openSync(process.argv[2], 'r+');
writeSync(fd, bytes, 0, bytes.length, 0);
console.log('written');
process.stdin.resume();
`;

const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES);
const withFio = gateOf('program: fio');
const withQemuIo = gateOf('program: qemu-io');

const hash = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

describe(gate.title('the raw file is written'), { skip: gate.skip }, () => {
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  async function create(kind: Kind, bytes: number): Promise<string> {
    const image = stage.fresh(`disk${kind.suffix}`);
    const options = kind.options === '' ? [] : ['-o', kind.options];
    await must('qemu-img', ['create', '-q', '-f', kind.qemu, ...options, image, `${bytes}`]);
    return image;
  }

  const shown = (mounted: Mounted, image: string): string =>
    join(mounted.mountpoint, image.slice(image.lastIndexOf('/') + 1).replace(/\.[^.]+$/, '.raw'));

  /** What the image holds, as qemu-img reads it. */
  async function heldBy(kind: Kind, image: string): Promise<string> {
    const raw = stage.fresh('held.raw');
    await convertBack(kind, image, raw);
    return raw;
  }

  for (const kind of KINDS) {
    it(`${kind.name}: cp --sparse=always replaces the disk`, { timeout: 60_000 }, async () => {
      const source = stage.fresh('source.raw');
      makePatternDisk(source, 5);
      const { size } = statSync(source);
      const image = await create(kind, Math.ceil(size / MIB) * MIB);
      // Old bytes everywhere, which must not show through the holes of the copy.
      const first = await stage.mount(image);
      await must('dd', [
        'if=/dev/urandom',
        `of=${shown(first, image)}`,
        'bs=1M',
        'count=64',
        'conv=notrunc',
        'status=none',
      ]);
      await first.unmount();
      const second = await stage.mount(image);
      const disk = shown(second, image);
      const diskSize = statSync(disk).size;
      await must('cp', ['--sparse=always', source, disk]);
      expect(statSync(disk).size).toBe(diskSize);
      await must('truncate', ['-s', `${diskSize}`, source]);
      await must('cmp', [source, disk]);
      await second.unmount();
      const held = await heldBy(kind, image);
      await must('cmp', ['-n', `${diskSize}`, source, held]);
    });

    it(withFio.title(`${kind.name}: fio finds what it wrote`), {
      skip: withFio.skip,
      timeout: 120_000,
    }, async () => {
      const image = await create(kind, 64 * MIB);
      const mounted = await stage.mount(image, { options: ['--threads', '4'] });
      const disk = shown(mounted, image);
      const common = [
        '--name=verify',
        `--filename=${disk}`,
        '--size=62M',
        '--verify=crc32c',
        '--verify_fatal=1',
        '--verify_state_save=0',
        '--randseed=3',
      ];
      const jobs = [
        [
          '--rw=randwrite',
          '--bsrange=512-256k',
          '--bs_unaligned=0',
          '--blockalign=512',
          '--direct=0',
          '--ioengine=psync',
          '--fsync=64',
        ],
        [
          '--rw=randwrite',
          '--bsrange=4k-128k',
          '--blockalign=4k',
          '--direct=1',
          '--ioengine=libaio',
          '--iodepth=16',
        ],
        ['--rw=write', '--bs=1m', '--direct=1', '--ioengine=psync', '--fdatasync=8'],
        ['--rw=randwrite', '--bs=4k', '--ioengine=mmap', '--fsync=128', '--io_size=16M'],
      ];
      for (const job of jobs) {
        await must('fio', [...common, ...job], { limitMs: 100_000 });
      }
      await mounted.unmount();
      const again = await stage.mount(image, { options: ['-r'] });
      await must('cmp', ['-n', `${64 * MIB}`, shown(again, image), await heldBy(kind, image)]);
      await again.unmount();
    });
  }

  const QEMU_IO = [
    ['no cache, native AIO', 'driver=file,cache.direct=on,aio=native,discard=unmap'],
    ['no cache, threads', 'driver=file,cache.direct=on,aio=threads,discard=unmap'],
    ['no cache, io_uring', 'driver=file,cache.direct=on,aio=io_uring,discard=unmap'],
    ['writeback', 'driver=file,cache.direct=off,discard=unmap'],
  ] as const;
  for (const [name, options] of QEMU_IO) {
    it(withQemuIo.title(`a QEMU block layer on it: ${name}`), {
      skip: withQemuIo.skip,
      timeout: 60_000,
    }, async ({ skip }) => {
      const kind = kindNamed('vdi dynamic');
      const image = await create(kind, 32 * MIB);
      // On a file of the host first: QEMU may be built without this, or the kernel may forbid it.
      const host = stage.makeFile('host.raw', new Uint8Array(MIB));
      const tried = await run('qemu-io', ['--image-opts', '-c', 'read 0 4k', `${options},filename=${host}`]);
      if (tried.status !== 0) skip(`not possible here: ${tried.stderr}`);
      const mounted = await stage.mount(image);
      const disk = shown(mounted, image);
      const commands = [
        'write -P 0x11 0 4M',
        'write -P 0x22 1M 64k',
        'discard 2M 1M',
        'write -z -u 3M 512k',
        'flush',
        'read -P 0x11 0 1M',
        'read -P 0x22 1M 64k',
        'read -P 0 2M 1M',
        'read -P 0 3M 512k',
        'read -P 0x11 3584k 512k',
      ];
      const args = commands.flatMap((command) => ['-c', command]);
      const ran = await run('qemu-io', ['--image-opts', ...args, `${options},filename=${disk}`]);
      expect(ran.status, `${ran.stdout}${ran.stderr}`).toBe(0);
      expect(`${ran.stdout}${ran.stderr}`).not.toMatch(/failed|error/i);
      await mounted.unmount();
    });
  }

  it('two images are written at once in one mount', { timeout: 120_000 }, async () => {
    const kinds = [kindNamed('vhdx dynamic'), kindNamed('qed')];
    const images = await Promise.all(kinds.map((kind) => create(kind, 128 * MIB)));
    const mounted = await stage.mount(images);
    const source = stage.fresh('noise.raw');
    await must('dd', ['if=/dev/urandom', `of=${source}`, 'bs=1M', 'count=100', 'status=none']);
    await Promise.all(
      images.map((image) =>
        must('dd', [
          `if=${source}`,
          `of=${shown(mounted, image)}`,
          'bs=192k',
          'conv=notrunc,fsync',
          'status=none',
        ]),
      ),
    );
    await mounted.unmount();
    for (const [number, image] of images.entries()) {
      await must('cmp', ['-n', `${100 * MIB}`, source, await heldBy(kinds[number]!, image)]);
    }
  });

  it('ends where the disk ends: ENOSPC, and the size stays', { timeout: 60_000 }, async () => {
    for (const options of [[], ['-o', 'sync']]) {
      const image = await create(kindNamed('vdi dynamic'), 4 * MIB);
      const mounted = await stage.mount(image, { options });
      const disk = shown(mounted, image);
      const write = (...words: string[]) =>
        run('dd', ['if=/dev/urandom', `of=${disk}`, 'conv=notrunc', 'status=none', ...words]);
      for (const words of [
        ['bs=64k', 'count=80', 'conv=notrunc,fsync'],
        ['bs=4k', 'seek=1024', 'count=1', 'conv=notrunc,fsync'],
        ['bs=4k', 'seek=1024', 'count=1', 'oflag=direct'],
        ['bs=1M', 'seek=4', 'count=1'],
      ]) {
        const ran = await write(...words);
        expect(ran.status, words.join(' ')).not.toBe(0);
        expect(ran.stderr).toContain('No space left on device');
      }
      await must('sync', ['-f', disk]).catch(() => {});
      expect((await run('truncate', ['-s', '5M', disk])).status).not.toBe(0);
      await mounted.unmount();
      const again = await stage.mount(image);
      expect(statSync(shown(again, image)).size).toBe(4 * MIB);
      await again.unmount();
    }
  });

  it('nothing is changed by a mount that nobody writes to', async () => {
    for (const kind of KINDS) {
      const image = await create(kind, 8 * MIB);
      const before = { hash: hash(image), mtime: statSync(image).mtimeMs };
      const mounted = await stage.mount(image);
      expect(mounted.stderr).toBe('');
      await must('cat', [shown(mounted, image)], { limitMs: 20_000 }).then(() => {});
      await must('stat', [shown(mounted, image)]);
      await mounted.unmount();
      expect({ hash: hash(image), mtime: statSync(image).mtimeMs }, kind.name).toEqual(before);
    }
  });

  /** Kills the daemon and returns what qemu-img then reads from the image. */
  async function afterKill(mounted: Foreground, kind: Kind, image: string): Promise<string> {
    mounted.signal('SIGKILL');
    await mounted.ended();
    await run('umount', ['-l', mounted.mountpoint]);
    return heldBy(kind, image);
  }

  it('what nobody syncs is in the image some seconds later, and when the file is closed', async () => {
    const kind = kindNamed('vdi dynamic');
    const source = stage.makeFile('source', randomBytes(random(3), 3 * MIB));
    for (const way of ['closed', 'open']) {
      const image = await create(kind, 8 * MIB);
      const mounted = await stage.foreground(image);
      const disk = shown(mounted, image);
      // Past the page cache, so that the write is with the daemon when it returns.
      const write = `dd if="$1" of="$2" bs=1M oflag=direct conv=notrunc status=none`;
      if (way === 'closed') await must('sh', ['-c', write, 'sh', source, disk]);
      else {
        const holder = await stage.hold(process.execPath, ['-e', WRITE_AND_HOLD, source, disk]);
        // This makes the kernel write its page cache back, and asks the daemon for nothing.
        await must('sync', ['-f', disk]);
        await new Promise((resolve) => setTimeout(resolve, 6500));
        const held = await afterKill(mounted, kind, image);
        await holder.release();
        await must('cmp', ['-n', `${3 * MIB}`, source, held]);
        continue;
      }
      await must('cmp', ['-n', `${3 * MIB}`, source, await afterKill(mounted, kind, image)]);
    }
  });

  it('counts what it did', async () => {
    const image = await create(kindNamed('qed'), 8 * MIB);
    const mounted = await stage.mount(image);
    const disk = shown(mounted, image);
    await must('dd', [
      'if=/dev/urandom',
      `of=${disk}`,
      'bs=64k',
      'count=4',
      'oflag=direct',
      'conv=notrunc,fsync',
      'status=none',
    ]);
    await must('dd', [`if=${disk}`, 'of=/dev/null', 'bs=64k', 'count=2', 'iflag=direct', 'status=none']);
    await must('fallocate', ['-p', '-o', '0', '-l', '65536', disk]);
    const script = 'import os, sys; print(os.getxattr(sys.argv[1], "user.vdisk.stats").decode())';
    const stats = JSON.parse(await must('python3', ['-c', script, disk]));
    expect(stats).toMatchObject({
      reads: 2,
      readBytes: 131072,
      writes: 4,
      writtenBytes: 262144,
      zeroings: 1,
      zeroedBytes: 65536,
      errors: 0,
    });
    expect(stats.flushes).toBeGreaterThanOrEqual(1);
    expect(stats.commits).toBeGreaterThanOrEqual(1);
    expect(stats.cache.pages).toBeGreaterThanOrEqual(1);
    await mounted.unmount();
  });

  it('-o sync: a write is in the image when it returns', async () => {
    const kind = kindNamed('qed');
    const image = await create(kind, 8 * MIB);
    const mounted = await stage.foreground(image, { options: ['-o', 'sync'] });
    await must('dd', [
      'if=/dev/urandom',
      `of=${shown(mounted, image)}`,
      'bs=4k',
      'seek=7',
      'count=3',
      'conv=notrunc',
      'status=none',
    ]);
    const bytes = stage.fresh('written');
    await must('dd', [
      `if=${shown(mounted, image)}`,
      `of=${bytes}`,
      'bs=4k',
      'skip=7',
      'count=3',
      'status=none',
    ]);
    const held = await afterKill(mounted, kind, image);
    await must('cmp', ['-n', '12288', '-i', '0:28672', bytes, held]);
  });
});
