/** Partitions as files: found, used by file systems' own programs and by the kernel, coherent with the disk. */

import { closeSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { differingFiles, fill } from '../support/images.ts';
import { gateOf, must, run, TO_MOUNT, until } from '../support/machine.ts';
import { type Mounted, REPOSITORY, Stage } from '../support/mount.ts';
import { TO_BE_A_USER, USER, User } from '../support/user.ts';

const MIB = 1024 * 1024;
const GPT = `label: gpt
label-id: 01234567-89AB-CDEF-0123-456789ABCDEF
start=2048, size=${64 * 2048}, name="first one"
size=${64 * 2048}, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name=second
`;

const gate = gateOf(...TO_MOUNT, 'program: qemu-img', 'program: sfdisk', 'program: python3');

/** What a program in the mount says of the attributes of a file. */
const ATTRIBUTES = `
import json, os, sys
print(json.dumps({name[len('user.vdisk.'):]: os.getxattr(sys.argv[1], name).decode() for name in os.listxattr(sys.argv[1])}))
`;

/** Maps a page of one file, and sees what is written to that file, and what is written through the map. */
const MAP = `
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
page = mmap.mmap(fd, 4096, offset=int(sys.argv[2]))
os.pwrite(fd, b'by write', int(sys.argv[2]))
print(page[:8].decode())
page[:8] = b'by map!!'
page.flush()
print(os.pread(fd, 8, int(sys.argv[2])).decode())
`;

/** O_APPEND at the end of a file that cannot grow. */
const APPEND = `
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
try:
  os.write(fd, b'x')
except OSError as problem:
  print(problem.errno)
`;

describe(gate.title('partitions as files'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  async function attributes(path: string): Promise<Record<string, string>> {
    return JSON.parse(await must('python3', ['-c', ATTRIBUTES, path])) as Record<string, string>;
  }

  /** A VHDX of 192 MiB with two partitions, made through its raw file. */
  async function partitioned(table = GPT): Promise<string> {
    const image = stage.fresh('disk.vhdx');
    await must('qemu-img', ['create', '-q', '-f', 'vhdx', image, '192M']);
    const mounted = await stage.mount(image);
    await must('sfdisk', ['-q', rawOf(mounted, image)], { input: table });
    await mounted.unmount();
    return image;
  }

  const stem = (mounted: Mounted, image: string): string =>
    join(mounted.mountpoint, image.slice(image.lastIndexOf('/') + 1, image.lastIndexOf('.')));
  const rawOf = (mounted: Mounted, image: string): string => `${stem(mounted, image)}.raw`;
  const mount = (image: string, ...options: string[]): Promise<Mounted> =>
    stage.mount(image, { options: ['-o', ['partitions', ...options].join(',')] });

  it('have their places, names and types', async () => {
    const image = await partitioned();
    const mounted = await mount(image);
    expect(mounted.stderr).toBe('');
    const [raw, first, second] = ['raw', 'p1', 'p2'].map((end) => `${stem(mounted, image)}.${end}`);
    expect((await must('ls', [mounted.mountpoint])).trim().split('\n')).toHaveLength(3);
    expect(await attributes(raw!)).toMatchObject({
      'partition-table': 'gpt',
      'partition-table-uuid': '01234567-89ab-cdef-0123-456789abcdef',
    });
    expect(await attributes(first!)).toMatchObject({
      number: '1',
      start: `${MIB}`,
      length: `${64 * MIB}`,
      type: '0fc63daf-8483-4772-8e79-3d69d8477de4',
      'type-name': 'Linux file system',
      label: 'first one',
    });
    expect((await attributes(second!))['type-name']).toBe('Microsoft basic data');
    expect((await must('stat', ['-c', '%s', second!])).trim()).toBe(`${64 * MIB}`);
    expect((await must('stat', ['-f', '-c', '%b %S', raw!])).trim()).toBe(`${(192 * MIB) / 4096} 4096`);
    await mounted.unmount();
  });

  const direct = gateOf('loop devices', 'kernel: ext4', 'program: mkfs.ext4', 'program: e2fsck');
  it(direct.title('are used through loop devices of both kinds'), {
    skip: direct.skip,
    timeout: 60_000,
  }, async () => {
    const image = await partitioned();
    const mounted = await mount(image);
    const first = `${stem(mounted, image)}.p1`;
    const inside = stage.makeDirectory('inside');
    const device = await stage.attachLoop(first, ['--direct-io=on']);
    await must('mkfs.ext4', ['-q', device]);
    await must('mount', [device, inside]);
    const files = fill(inside, 7);
    await must('umount', [inside]);
    await stage.detachLoop(device);
    expect((await run('e2fsck', ['-n', '-f', first])).status).toBe(0);
    await must('mount', ['-o', 'loop', first, inside]);
    expect(await differingFiles(inside, files)).toEqual([]);
    await must('rm', [`${inside}/large`]);
    await must('umount', [inside]);
    expect((await run('e2fsck', ['-n', '-f', first])).status).toBe(0);
    await mounted.unmount();
    const again = await mount(image, 'ro');
    await must('mount', ['-o', 'loop,ro', `${stem(again, image)}.p1`, inside]);
    files.delete('large');
    expect(await differingFiles(inside, files)).toEqual([]);
    await must('umount', [inside]);
    await again.unmount();
  });

  it('and the disk show each other’s bytes at once, and those that were synced after a crash', async () => {
    const image = await partitioned();
    const mounted = await mount(image);
    const raw = openSync(rawOf(mounted, image), 'r+');
    const part = openSync(`${stem(mounted, image)}.p1`, 'r+');
    const bytes = Buffer.alloc(4096);
    for (let round = 0; round < 50; round += 1) {
      const at = (round % 5) * 4096 + round;
      const text = `round ${round}`;
      const [from, to, back] = round % 2 === 0 ? [raw, part, 0] : [part, raw, MIB];
      // Whoever reads has read the place before: nothing old may be kept.
      readSync(to, bytes, 0, 4096, at + back);
      writeSync(from, text, at + (MIB - back));
      readSync(to, bytes, 0, 4096, at + back);
      expect(bytes.toString('latin1', 0, text.length)).toBe(text);
    }
    closeSync(part);
    closeSync(raw);
    await must(
      'dd',
      [`of=${rawOf(mounted, image)}`, 'bs=1M', 'seek=3', 'conv=notrunc,fsync', 'status=none'],
      {
        input: 'through the disk',
      },
    );
    process.kill(mounted.pid, 'SIGKILL');
    await until('the daemon is gone', async () => (await run('ls', [mounted.mountpoint])).status !== 0);
    await must('umount', ['-l', mounted.mountpoint]);
    const again = await mount(image, 'ro');
    const read = await must('dd', [
      `if=${stem(again, image)}.p1`,
      'bs=1M',
      'skip=2',
      'count=1',
      'status=none',
    ]);
    expect(read.slice(0, 16)).toBe('through the disk');
    await again.unmount();
  });

  it('change the times of the disk, can be mapped, and do not grow', async () => {
    const image = await partitioned();
    const mounted = await mount(image);
    const first = `${stem(mounted, image)}.p1`;
    const before = statSync(rawOf(mounted, image)).mtimeMs;
    await must('dd', [`of=${first}`, 'conv=notrunc', 'status=none'], { input: 'x' });
    await until('the disk is seen to be changed', () => statSync(rawOf(mounted, image)).mtimeMs > before);
    expect((await must('python3', ['-c', APPEND, first])).trim()).toBe('28');
    const mapped = await run('python3', ['-c', MAP, first, '8192']);
    // Kernels before 6.6 map no file that goes past the page cache.
    if (mapped.status === 0) expect(mapped.stdout).toBe('by write\nby map!!\n');
    else expect(mapped.stderr).toContain('No such device');
    const part = await must('dd', [
      `if=${rawOf(mounted, image)}`,
      'bs=4096',
      'skip=258',
      'count=1',
      'status=none',
    ]);
    expect(part.slice(0, 8)).toBe(mapped.status === 0 ? 'by map!!' : '\0'.repeat(8));
    await mounted.unmount();
  });

  it('are found by the backup of a GPT whose first copy is gone, with a notice', async () => {
    const image = await partitioned();
    const broken = await stage.mount(image);
    await must('dd', [
      ...['if=/dev/zero', `of=${rawOf(broken, image)}`, 'bs=512', 'seek=1', 'count=33'],
      ...['conv=notrunc', 'status=none'],
    ]);
    await broken.unmount();
    const mounted = await mount(image);
    expect(mounted.stderr).toMatch(/GPT header at LBA 1 .*; the backup at LBA 393215 is used/);
    expect((await attributes(`${stem(mounted, image)}.p1`))['label']).toBe('first one');
    await mounted.unmount();
  });

  it('of an MBR have the numbers that Linux gives them', async () => {
    const image = await partitioned(
      'label: dos\n1: size=16M\n2: size=100M, type=5\n5: size=8M\n6: size=8M, type=82\n',
    );
    const mounted = await mount(image);
    expect(
      (await must('ls', [mounted.mountpoint]))
        .replaceAll(/disk-\d+\./g, '')
        .trim()
        .split('\n'),
    ).toEqual(['p1', 'p5', 'p6', 'raw']);
    expect(await attributes(`${stem(mounted, image)}.p6`)).toMatchObject({ type: '0x82', number: '6' });
    await mounted.unmount();
  });

  const large = gateOf('loop devices');
  it(large.title('of a disk with sectors of 4096 bytes'), { skip: large.skip }, async () => {
    const image = stage.fresh('disk.img');
    await must('truncate', ['-s', '64M', image]);
    const device = await stage.attachLoop(image, ['-b', '4096']);
    await must('sfdisk', ['-q', device], { input: 'label: gpt\nstart=256, size=1024\n' });
    await stage.detachLoop(device);
    const mounted = await mount(image);
    expect(mounted.stderr).toContain("counts in sectors of 4096 bytes, not in the disk's of 512");
    expect(await attributes(`${stem(mounted, image)}.p1`)).toMatchObject({
      start: `${MIB}`,
      length: `${4 * MIB}`,
    });
    await mounted.unmount();
  });

  const bare = gateOf('program: mkfs.ext4');
  it(bare.title('are none where the disk is one file system, which is named'), {
    skip: bare.skip,
  }, async () => {
    const image = stage.fresh('disk.img');
    await must('truncate', ['-s', '16M', image]);
    await must('mkfs.ext4', ['-q', '-F', '-L', 'whole', image]);
    const mounted = await mount(image);
    expect(mounted.stderr).toMatch(/no partition table; the whole disk holds ext4 "whole"/);
    expect(await attributes(rawOf(mounted, image))).toMatchObject({
      'partition-table': 'none',
      'file-system': 'ext4',
      'file-system-label': 'whole',
    });
    expect((await must('ls', [mounted.mountpoint])).trim().split('\n')).toHaveLength(1);
    await mounted.unmount();
  });

  it('of images that join later join and leave with them', async () => {
    const [first, second] = [await partitioned(), await partitioned()];
    const mounted = await mount(first);
    const vdisk = (...args: string[]) => run(join(REPOSITORY, 'bin', 'vdisk'), args, { limitMs: 50_000 });
    const listed = async (): Promise<string[]> =>
      (await must('ls', [mounted.mountpoint])).trim().split('\n').sort();
    const before = await listed();
    const files = ['raw', 'p1', 'p2'].map((end) => `${stem(mounted, second)}.${end}`);
    const [raw, p1, p2] = files as [string, string, string];
    for (let round = 0; round < 2; round += 1) {
      const added = await vdisk('add', mounted.mountpoint, second);
      expect(added).toMatchObject({ status: 0, stdout: files.map((file) => `${file}\n`).join('') });
      expect((await listed()).length).toBe(before.length + 3);
      expect(await attributes(raw)).toMatchObject({ 'partition-table': 'gpt' });
      expect(await attributes(p1)).toMatchObject({ start: `${MIB}`, label: 'first one' });
      // The same bytes at once, also where the other file has been read.
      const [disk, part] = [openSync(raw, 'r+'), openSync(p1, 'r+')];
      const bytes = Buffer.alloc(16);
      const text = `in round ${round}`;
      readSync(disk, bytes, 0, 16, MIB + 4096);
      writeSync(part, text, 4096);
      readSync(disk, bytes, 0, 16, MIB + 4096);
      expect(bytes.toString('latin1', 0, text.length)).toBe(text);
      closeSync(disk);
      const refused = await vdisk('remove', mounted.mountpoint, second);
      expect([refused.status, refused.stderr]).toEqual([1, expect.stringMatching(/p1: is open/)]);
      if (round === 0) closeSync(part);
      // The second time, who has a partition open is cut off.
      const how = round === 0 ? [] : ['--force'];
      expect(await vdisk('remove', ...how, mounted.mountpoint, p2)).toMatchObject({ status: 0 });
      if (round === 1) {
        expect(() => readSync(part, bytes, 0, 16, 4096)).toThrow('EIO');
        closeSync(part);
      }
      expect(await listed()).toEqual(before);
      for (const file of files) expect(() => statSync(file)).toThrow('ENOENT');
      expect((await vdisk('check', second)).status).toBe(0);
    }
    await mounted.unmount();
    const alone = await mount(second, 'ro');
    const read = await must('dd', [
      `if=${stem(alone, second)}.p1`,
      'bs=4096',
      'skip=1',
      'count=1',
      'status=none',
    ]);
    expect(read.slice(0, 10)).toBe('in round 1');
    await alone.unmount();
  });

  it('have no place on a mountpoint that is a file', async () => {
    const image = stage.makeFile('disk.img', Buffer.alloc(4096));
    const { status, stderr } = await stage.command(['--partitions', image, stage.makeFile('flat.raw')]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/--partitions: the mountpoint is a file/);
  });

  const native = gateOf('package: fuse-native');
  it(native.title('through fuse-native'), { skip: native.skip }, async () => {
    const image = await partitioned();
    const mounted = await stage.mount(image, { options: ['--partitions', '--transport', 'fuse-native'] });
    const first = `${stem(mounted, image)}.p1`;
    await must('dd', [`if=${rawOf(mounted, image)}`, 'of=/dev/null', 'bs=1M', 'count=3', 'status=none']);
    await must('dd', [`of=${first}`, 'bs=1M', 'seek=1', 'conv=notrunc', 'status=none'], { input: 'seen' });
    const read = await must('dd', [
      `if=${rawOf(mounted, image)}`,
      'bs=1M',
      'skip=2',
      'count=1',
      'status=none',
    ]);
    expect(read.slice(0, 4)).toBe('seen');
    await mounted.unmount();
  });

  const user = gateOf(
    ...TO_BE_A_USER,
    'program: fuse2fs',
    'program: ntfs-3g',
    'program: mkntfs',
    'program: mkfs.ext4',
  );
  it(user.title('are used by an ordinary user: ext4 and NTFS, without loop devices'), {
    skip: user.skip,
    timeout: 60_000,
  }, async () => {
    const image = await partitioned();
    // What mounts NTFS for a user is set-user-ID root, and so another one than the user: that takes allow_other.
    const configuration = stage.makeFile('fuse.conf', 'user_allow_other\n');
    const someone = await User.open(stage, `mount --bind '${configuration}' /etc/fuse.conf`);
    const ntfs3g = stage.path('ntfs-3g');
    await must('sh', ['-c', 'cp "$(command -v ntfs-3g)" "$1" && chmod 4755 "$1"', 'sh', ntfs3g]);
    const disk = join(someone.home, 'disk.vhdx');
    await must('cp', [image, disk]);
    await must('chown', [`${USER}`, disk]);
    const must1 = async (command: string, ...args: string[]): Promise<string> => {
      const { status, stdout, stderr } = await someone.run(command, args);
      expect(status, `${command} ${args.join(' ')}: ${stdout}${stderr}`).toBe(0);
      return stdout;
    };
    const mountpoint = await someone.makeDirectory();
    const second = join(mountpoint, 'disk.p2');
    const inside = await someone.makeDirectory();
    const unmount = async (path: string, program = 'fusermount3'): Promise<void> => {
      await until(
        'it is not busy any more',
        async () => (await someone.run(program, ['-u', path])).status === 0,
      );
    };
    await must1(someone.program, '-o', 'partitions,allow_other', disk, mountpoint);

    await must1('mkfs.ext4', '-q', '-F', '-L', 'mine', second);
    await must1('fuse2fs', second, inside, '-o', 'fakeroot');
    await must1('sh', '-c', 'echo from the user > "$1/file"', 'sh', inside);
    await unmount(inside);
    // fuse2fs goes on writing for a moment.
    await until(
      'the file is there, and the superblock whole',
      async () => (await someone.run('debugfs', ['-R', 'cat /file', second])).stdout === 'from the user\n',
    );

    await must1('mkntfs', '-q', '-F', '-f', '-L', 'mine too', second);
    await must1(ntfs3g, second, inside);
    await must1('sh', '-c', 'echo from the user > "$1/file"', 'sh', inside);
    // Its own way of unmounting, as whoever mounted it.
    expect((await someone.runAsRoot('umount', [inside])).status).toBe(0);
    await until(
      'ntfs-3g has ended',
      async () => (await someone.run('ntfscat', [second, 'file'])).status === 0,
    );
    expect(await must1('ntfscat', second, 'file')).toBe('from the user\n');
    await unmount(mountpoint);

    // What was made is named the next time.
    await must1(someone.program, '-o', 'partitions,ro,allow_other', disk, mountpoint);
    const found = JSON.parse(
      (await someone.runAsRoot('python3', ['-c', ATTRIBUTES, second])).stdout,
    ) as Record<string, string>;
    expect(found).toMatchObject({ 'file-system': 'ntfs', 'file-system-label': 'mine too' });
    await unmount(mountpoint);
    await someone.close();
  });
});
