/** The ways in which programs get at the bytes of a mount. */

import { mkdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findMount } from '../../src/transport/mountinfo.ts';
import {
  convert,
  KINDS,
  kindNamed,
  makePatternDisk,
  PATTERN_SIZE,
  sha256,
  TO_MAKE_IMAGES,
} from '../support/images.ts';
import { gateOf, must, type Need, TO_MOUNT } from '../support/machine.ts';
import { type Mounted, Stage } from '../support/mount.ts';
import { random, randomBytes } from '../support/random.ts';

const TRANSPORTS: readonly { title: string; options: readonly string[]; needs: readonly Need[] }[] = [
  { title: 'kernel transport', options: [], needs: [] },
  {
    title: 'fuse-native transport',
    options: ['--transport', 'fuse-native'],
    needs: ['package: fuse-native'],
  },
];

const HASH_MAPPED = `
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as disk:
    with mmap.mmap(disk.fileno(), 0, access=mmap.ACCESS_READ) as view:
        # Backwards, so that nothing is read ahead in order.
        parts = [view[at:at + 1000003] for at in reversed(range(0, len(view), 1000003))]
        print(hashlib.sha256(b"".join(reversed(parts))).hexdigest())
`;

const SEND = `
import os, sys
with open(sys.argv[1], "rb") as disk, open(sys.argv[2], "wb") as copy:
    at = 0
    while sent := os.sendfile(copy.fileno(), disk.fileno(), at, 3000000):
        at += sent
`;

const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES);

describe(gate.title('access to a mount'), { skip: gate.skip }, () => {
  let stage: Stage;
  /** The disk's bytes. */
  let pattern: string;
  let image: string;

  beforeAll(async () => {
    stage = await Stage.open();
    pattern = stage.path('pattern');
    makePatternDisk(pattern, 2);
    image = stage.path('disk.vhdx');
    await convert(kindNamed('vhdx dynamic'), pattern, image);
  });
  afterAll(() => stage?.close());

  for (const { title, options, needs } of TRANSPORTS) {
    const transport = gateOf(...needs);

    describe(transport.title(title), { skip: transport.skip }, () => {
      let mounted: Mounted;
      let raw: string;

      beforeAll(async () => {
        mounted = await stage.mount(image, { options: [...options, '-r'] });
        raw = join(mounted.mountpoint, 'disk.raw');
      });
      afterAll(() => mounted?.unmount());

      it('serves eight readers at once', async () => {
        const part = async (file: string, at: number): Promise<string> => {
          const script =
            'dd if="$1" bs=53K iflag=skip_bytes,count_bytes skip="$2" count=30M status=none | sha256sum';
          return await must('sh', ['-c', script, 'sh', file, `${at}`]);
        };
        const starts = Array.from({ length: 8 }, (_, reader) => reader * 9_000_001);
        const [found, expected] = await Promise.all([
          Promise.all(starts.map((at) => part(raw, at))),
          Promise.all(starts.map((at) => part(pattern, at))),
        ]);
        expect(found).toEqual(expected);
        expect(new Set(found).size).toBeGreaterThan(3);
      });

      it('is read around the page cache with O_DIRECT', async () => {
        const read = (file: string, flags: string): Promise<string> =>
          must('sh', ['-c', `dd if="$1" bs=1M ${flags} status=none | sha256sum`, 'sh', file]);
        expect(await read(raw, 'iflag=direct')).toBe(await read(pattern, ''));
      });

      it('says nothing behind its end', async () => {
        const script = 'dd if="$1" bs=1 skip="$2" count=10 status=none | wc -c';
        const read = (at: number): Promise<string> => must('sh', ['-c', script, 'sh', raw, `${at}`]);
        expect(await read(PATTERN_SIZE - 3)).toBe('3\n');
        expect(await read(PATTERN_SIZE)).toBe('0\n');
      });

      const python = gateOf('program: python3');
      it(python.title('is mapped with mmap'), { skip: python.skip }, async () => {
        const hash = (file: string): Promise<string> => must('python3', ['-c', HASH_MAPPED, file]);
        expect(await hash(raw)).toBe(await hash(pattern));
      });

      it(python.title('is sent with sendfile'), { skip: python.skip }, async () => {
        const copy = stage.fresh('sent');
        await must('python3', ['-c', SEND, raw, copy]);
        await must('cmp', [copy, pattern]);
      });

      const fio = gateOf('fio engine: libaio');
      it(fio.title('is read by asynchronous I/O of many requests'), { skip: fio.skip }, async () => {
        const source = stage.fresh('verified.raw');
        const job = ['--name=verify', '--size=16M', '--bs=4k', '--verify=crc32c', '--randrepeat=1'];
        await must('fio', [...job, '--rw=write', '--do_verify=0', '--end_fsync=0', `--filename=${source}`], {
          cwd: stage.directory,
        });
        const other = stage.fresh('verified.qed');
        await convert(kindNamed('qed'), source, other);
        const verified = await stage.mount(other, { options });
        const disk = join(verified.mountpoint, basename(other).replace('.qed', '.raw'));
        const asynchronous = ['--ioengine=libaio', '--iodepth=16', '--direct=1'];
        await must('fio', [...job, '--rw=randread', '--readonly', ...asynchronous, `--filename=${disk}`], {
          cwd: stage.directory,
        });
        await verified.unmount();
      });

      it('shows one image as the regular file that it is mounted on', async () => {
        const mountpoint = stage.makeFile('flat.raw', 'hidden while mounted');
        const flat = await stage.mount(image, { options: [...options, '-r'], mountpoint });
        await must('cmp', [mountpoint, pattern]);
        expect(statSync(mountpoint).isFile()).toBe(true);
        await flat.unmount();
        expect(await must('cat', [mountpoint])).toBe('hidden while mounted');
      });
    });
  }

  it('shows images of every format side by side', async () => {
    const directory = stage.makeDirectory('kinds');
    const images: string[] = [];
    for (const kind of KINDS) {
      const path = join(directory, `${kind.name.replaceAll(' ', '-')}${kind.suffix}`);
      await convert(kind, pattern, path);
      images.push(path);
    }
    const mounted = await stage.mount(images);
    for (const path of images) {
      const raw = join(mounted.mountpoint, basename(path).replace(/\.[^.]*$/, '.raw'));
      // The size of some is rounded up.
      await must('cmp', ['-n', `${PATTERN_SIZE}`, raw, pattern]);
    }
    await mounted.unmount();
  });

  it('keeps apart images whose names differ only in suffix or directory', async () => {
    const directories = [stage.makeDirectory('one'), stage.makeDirectory('two')];
    const next = random(3);
    const images = ['one', 'two', 'three'].map((_, index) => ({
      path: join(directories[index === 2 ? 1 : 0]!, index === 1 ? 'disk.bin' : 'disk.img'),
      bytes: randomBytes(next, 10_000 + index),
    }));
    for (const { path, bytes } of images)
      await must('sh', ['-c', 'base64 -d > "$1"', 'sh', path], {
        input: Buffer.from(bytes).toString('base64'),
      });
    const mounted = await stage.mount(images.map(({ path }) => path));
    const names = ['disk.img.raw', 'disk.bin.raw', 'disk.img-2.raw'];
    expect((await must('ls', [mounted.mountpoint])).split('\n').sort()).toEqual(['', ...names].sort());
    const sums = (await must('sha256sum', names, { cwd: mounted.mountpoint })).trimEnd().split('\n');
    expect(sums.map((line) => line.slice(0, 64))).toEqual(images.map(({ bytes }) => sha256(bytes)));
    await mounted.unmount();
  });

  it.each([
    ['spaces', 'my disk  of today'],
    ['commas', 'a,b,ro,fsname=x'],
    ['a newline', 'line\nbreak'],
    ['letters of other languages', 'Größe-磁盘-диск-💾'],
    ['quotes and backslashes', `it's "quoted" \\ \\040 $HOME`],
    ['a leading dash', '-o allow_other'],
    ['dots', '..a.b..c'],
  ])('takes names with %s', async (_, name) => {
    const directory = stage.makeDirectory('names');
    const path = join(directory, `${name}.img`);
    const mountpoint = join(directory, `mnt ${name}`);
    await must('cp', ['--', pattern, path]);
    mkdirSync(mountpoint);
    const mounted = await stage.mount(path, { mountpoint });
    await must('cmp', ['--', join(mountpoint, `${name}.raw`), pattern]);
    expect(findMount(mountpoint)).toMatchObject({ type: 'fuse.vdisk-mount', source: path });
    await mounted.unmount();
  });

  it('takes paths relative to where it was started', async () => {
    const directory = stage.makeDirectory('here');
    mkdirSync(join(directory, 'mnt'));
    await must('cp', [pattern, join(directory, 'near.img')]);
    const { status, stderr } = await stage.command(['near.img', 'mnt'], { cwd: directory });
    expect([status, stderr]).toEqual([0, '']);
    await must('cmp', [join(directory, 'mnt', 'near.raw'), pattern]);
    await must('umount', [join(directory, 'mnt')]);
  });

  it('shows one image in two mounts at once', async () => {
    const first = await stage.mount(image, { options: ['-r'] });
    const second = await stage.mount(image, { options: ['-r'] });
    await Promise.all(
      [first, second].map(({ mountpoint }) => must('cmp', [join(mountpoint, 'disk.raw'), pattern])),
    );
    await first.unmount();
    await must('cmp', [join(second.mountpoint, 'disk.raw'), pattern]);
    await second.unmount();
  });
});
