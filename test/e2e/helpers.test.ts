/** Our own helpers of mount(8) and umount(8), through both, as from a shell and from fstab. */

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, isRunning, must, type Ran, run, until } from '../support/machine.ts';
import { REPOSITORY, Stage } from '../support/mount.ts';
import { System, TO_HAVE_A_SYSTEM } from '../support/system.ts';

const gate = gateOf(...TO_HAVE_A_SYSTEM);
const VDISK = join(REPOSITORY, 'bin', 'vdisk');
const FINE: Ran = { status: 0, stdout: '', stderr: '' };

describe(gate.title('helpers of mount(8) and umount(8)'), { skip: gate.skip }, () => {
  let stage: Stage;
  let system: System;
  let image: string;
  const content = 'helped'.padEnd(2048, '.');

  beforeAll(async () => {
    stage = await Stage.open();
    system = await System.open(stage);
    image = stage.makeFile('disk.img', content);
  });
  afterAll(async () => {
    await system?.close();
    await stage?.close();
  });

  const read = async (mountpoint: string, name = 'disk-2.raw'): Promise<string> => {
    const { stdout } = await system.run('cat', [join(mountpoint, name)]);
    return stdout;
  };
  const pidFile = (): string => stage.fresh('daemon.pid');
  const pidIn = (file: string): number => Number(readFileSync(file, 'utf8'));
  const nameOf = (path: string): string => `${path.slice(path.lastIndexOf('/') + 1, -'.img'.length)}.raw`;
  const findmnt = async (mountpoint: string, column: string): Promise<string> =>
    (await system.run('findmnt', ['-n', '-o', column, '--mountpoint', mountpoint])).stdout.trim();

  for (const type of ['fuse.vdisk-mount', 'vdisk-mount']) {
    it(`${type}: umount returns when the daemon is done`, async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const pid = pidFile();
      const mount = ['-t', type, image, mountpoint, '-o', `ro,allow_other,pid_file=${pid}`];
      expect(await system.run('mount', mount)).toEqual(FINE);
      expect(await read(mountpoint, nameOf(image))).toBe(content);
      expect(await findmnt(mountpoint, 'SOURCE')).toBe(image);
      expect(await findmnt(mountpoint, 'FSTYPE')).toBe('fuse.vdisk-mount');
      const options = (await findmnt(mountpoint, 'OPTIONS')).split(',');
      for (const word of ['ro', 'nosuid', 'nodev', 'allow_other']) expect(options).toContain(word);
      const daemon = pidIn(pid);
      // Stopped, it cannot be done: umount waits.
      process.kill(daemon, 'SIGSTOP');
      let done = false;
      const umount = system.run('umount', ['-c', mountpoint]).then((ran) => {
        done = true;
        return ran;
      });
      await until('it is unmounted', () => system.mountAt(mountpoint) === undefined);
      await new Promise((resolve) => setTimeout(resolve, 1300));
      expect(done).toBe(false);
      process.kill(daemon, 'SIGCONT');
      const ran = await umount;
      expect(ran.status).toBe(0);
      expect(ran.stderr).toContain(`waiting until the daemon (pid ${daemon})`);
      expect(existsSync(pid)).toBe(false);
      expect(readdirSync('/run/vdisk-mount').filter((name) => name.startsWith(`${daemon}-`))).toEqual([]);
    });
  }

  it('umount says when the daemon was killed before it was done', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const pid = pidFile();
    await system.run('mount', ['-t', 'vdisk-mount', image, mountpoint, '-o', `pid_file=${pid}`]);
    const daemon = pidIn(pid);
    process.kill(daemon, 'SIGSTOP');
    const umount = system.run('umount', ['-c', mountpoint]);
    await until('it is unmounted', () => system.mountAt(mountpoint) === undefined);
    process.kill(daemon, 'SIGKILL');
    const { status, stderr } = await umount;
    expect(status).toBe(2);
    expect(stderr).toContain(`its daemon (pid ${daemon}) was killed`);
  });

  it('fstab: names with blanks and commas, and words that are for others', async () => {
    const directory = stage.makeDirectory('a, b "c" d');
    const odd = join(directory, 'an, "odd" image.img');
    writeFileSync(odd, content);
    const mountpoint = join(directory, 'mount point');
    mkdirSync(mountpoint);
    const field = (path: string): string => path.replaceAll(' ', '\\040');
    const words =
      'ro,nofail,_netdev,noauto,user,x-systemd.automount,x-systemd.requires-mounts-for=/a,fsname="a,b",umask=077';
    system.setFstab(`${field(odd)} ${field(mountpoint)} fuse.vdisk-mount ${words} 0 0`);
    expect(await system.run('mount', [mountpoint])).toEqual(FINE);
    expect(await read(mountpoint, 'an, "odd" image.raw')).toBe(content);
    expect(await findmnt(mountpoint, 'SOURCE')).toBe('a,b');
    expect(await findmnt(mountpoint, 'OPTIONS')).toContain('noexec');
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
    system.setFstab(`${field(odd)} ${field(mountpoint)} vdisk-mount ro 0 0`);
    expect(await system.run('mount', ['-a', '-t', 'vdisk-mount'])).toEqual(FINE);
    expect(await findmnt(mountpoint, 'SOURCE')).toBe(odd);
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
    expect((await system.run('mount', [mountpoint, '-o', 'nonsense'])).status).toBe(1);
    system.setFstab();
  });

  it('names with newlines, tabs, backslashes and quotes, to findmnt and back', async () => {
    const directory = stage.makeDirectory("new\nline\ttab\\back'quote,comma");
    const odd = join(directory, 'i\n,\\"\u00e9.img');
    const mountpoint = join(directory, 'm\n,\\"\u00e9');
    writeFileSync(odd, content);
    mkdirSync(mountpoint);
    expect(await system.run('mount', ['-t', 'fuse.vdisk-mount', odd, mountpoint, '-o', 'ro'])).toEqual(FINE);
    expect(await read(mountpoint, 'i\n,\\"\u00e9.raw')).toBe(content);
    expect(system.mountAt(mountpoint)).toMatchObject({ source: odd, type: 'fuse.vdisk-mount' });
    const json = await system.run('findmnt', ['-J', '-o', 'SOURCE,TARGET', '--mountpoint', mountpoint]);
    expect(json.status).toBe(0);
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
    expect(system.mountAt(mountpoint)).toBeUndefined();
  });

  it('-f does nothing, -n nothing more, -s takes unknown words, -v says no more than needed', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const type = ['-t', 'vdisk-mount'];
    expect(await system.run('mount', ['-f', ...type, '/no/such/image', mountpoint])).toEqual(FINE);
    expect(system.mountAt(mountpoint)).toBeUndefined();
    const strict = await system.run('mount', [...type, image, mountpoint, '-o', 'what=ever']);
    expect(strict.status).toBe(1);
    expect(strict.stderr).toContain('what=ever');
    // As autofs calls it.
    const sloppy = ['-n', ...type, '-s', '-o', 'rw,what=ever', image, mountpoint];
    expect(await system.run('mount', sloppy)).toEqual(FINE);
    expect(await system.run('umount', ['-n', mountpoint])).toEqual(FINE);
  });

  const dropping = gateOf('mount.fuse3 option: drop_privileges');
  describe(dropping.title('drop_privileges, which is an option of mount.fuse3'), {
    skip: dropping.skip,
  }, () => {
    const drop = async (
      what: string,
      mountpoint: string,
      access = 'ro',
    ): Promise<Ran & { daemon: () => number }> => {
      const pid = pidFile();
      const words = `${access},allow_other,drop_privileges,pid_file=${pid},log-file=${stage.fresh('log')}`;
      const ran = await system.run('mount', ['-t', 'fuse.vdisk-mount', what, mountpoint, '-o', words]);
      return { ...ran, daemon: () => pidIn(pid) };
    };

    it('is handed over to it; the mount is as all of ours are', async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const { daemon, ...ran } = await drop(image, mountpoint);
      expect(ran).toEqual(FINE);
      expect(await read(mountpoint, nameOf(image))).toBe(content);
      const pid = daemon();
      expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(/^CapEff:\t0+$/m);
      expect(await findmnt(mountpoint, 'SOURCE')).toBe(image);
      expect(await findmnt(mountpoint, 'FSTYPE')).toBe('fuse.vdisk-mount');
      const options = (await findmnt(mountpoint, 'OPTIONS')).split(',');
      for (const word of ['ro', 'nosuid', 'nodev', 'noatime', 'allow_other', 'default_permissions']) {
        expect(options).toContain(word);
      }
      // Its dead mount is cleared, as any of ours.
      process.kill(pid, 'SIGKILL');
      await until('the daemon ends', () => !isRunning(pid));
      const again = await drop(image, mountpoint);
      expect(again.status).toBe(0);
      expect(await read(mountpoint, nameOf(image))).toBe(content);
      const next = again.daemon();
      expect(await system.run('umount', [mountpoint])).toEqual(FINE);
      await until('the daemon ends', () => !isRunning(next));
      expect(system.mountAt(mountpoint)).toBeUndefined();
    });

    it('SIGTERM: it may not unmount, but leaves the image clean', async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const disk = stage.fresh('disk.vhdx');
      await must(VDISK, ['create', disk, '16M']);
      const { daemon, status } = await drop(disk, mountpoint, 'rw');
      expect(status).toBe(0);
      const pid = daemon();
      const write = 'printf %512s written | dd of="$(echo "$1"/*)" conv=notrunc oflag=direct status=none';
      expect(await system.run('sh', ['-c', write, 'sh', mountpoint])).toEqual(FINE);
      process.kill(pid, 'SIGTERM');
      await until('the daemon ends', () => !isRunning(pid));
      expect(JSON.parse(await must(VDISK, ['check', '--json', disk]))).toMatchObject([{ findings: [] }]);
      expect(await must('sh', ['-c', '"$1" convert "$2" - | head -c 512', 'sh', VDISK, disk])).toBe(
        'written'.padStart(512),
      );
      expect(await system.run('umount', ['-l', mountpoint])).toMatchObject({ status: 0 });
    });

    it('leaves nothing mounted where vdisk-mount fails', async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const { status, stderr } = await drop(stage.makeFile('garbage.vhd', 'no disk'), mountpoint);
      expect(status).toBe(32);
      expect(stderr).toContain('garbage');
      expect(system.mountAt(mountpoint)).toBeUndefined();
    });
  });

  it('a subtype is a format', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const file = stage.makeFile('nameless', content);
    expect(await system.run('mount', ['-t', 'vdisk-mount.raw', file, mountpoint, '-r'])).toEqual(FINE);
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
    const unknown = await system.run('mount', ['-t', 'vdisk-mount.qcow9', file, mountpoint]);
    expect(unknown.status).toBe(1);
    expect(unknown.stderr).toContain('qcow9 is no format');
  });

  it('passes on what went wrong, and the status', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const garbage = stage.makeFile('garbage.vhd', 'no disk');
    const ran = await system.run('mount', ['-t', 'vdisk-mount', garbage, mountpoint]);
    expect(ran.status).toBe(32);
    expect(ran.stderr).toContain(garbage);
    expect(system.mountAt(mountpoint)).toBeUndefined();
  });

  it('remount: to read-only, and not back', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const writable = stage.makeFile('writable.img', content);
    const name = nameOf(writable);
    const remount = (words: string): Promise<Ran> =>
      system.run('mount', ['-t', 'vdisk-mount', '-o', `remount,${words}`, writable, mountpoint]);
    expect(await system.run('mount', ['-t', 'vdisk-mount', writable, mountpoint])).toEqual(FINE);
    const write = (): Promise<Ran> =>
      system.run('dd', ['if=/dev/zero', `of=${join(mountpoint, name)}`, 'bs=512', 'count=1', 'conv=notrunc']);
    expect((await write()).status).toBe(0);
    expect(await remount('rw')).toEqual(FINE);
    expect(await remount('ro')).toEqual(FINE);
    expect(await findmnt(mountpoint, 'OPTIONS')).toMatch(/^ro,nosuid,nodev,/);
    expect((await write()).stderr).toContain('Read-only file system');
    const back = await remount('rw');
    expect(back.status).toBe(32);
    expect(back.stderr).toContain('is not supported');
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
    expect(readFileSync(writable).subarray(0, 512)).toEqual(Buffer.alloc(512));
  });

  it('mount -o remount,ro DIR, with what the mount table says', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    await system.run('mount', ['-t', 'vdisk-mount', image, mountpoint]);
    expect(await system.run('mount', ['-o', 'remount,ro', mountpoint])).toEqual(FINE);
    expect(await findmnt(mountpoint, 'OPTIONS')).toMatch(/^ro,/);
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
  });

  it('-N: in another mount namespace', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    // By the helper itself, as mount -N calls it.
    const program = join(import.meta.dirname, '../../bin/mount-helper');
    const args = [image, mountpoint, '-o', 'ro', '-N', system.namespace];
    expect(await run(program, args)).toEqual(FINE);
    expect(system.mountAt(mountpoint)).toMatchObject({ source: image });
    const umount = join(import.meta.dirname, '../../bin/umount-helper');
    expect(await run(umount, [mountpoint, `-N${system.namespace}`])).toEqual(FINE);
    expect(system.mountAt(mountpoint)).toBeUndefined();
    expect((await run(program, [image, mountpoint, '-N', '/no/such/namespace'])).status).not.toBe(0);
  });

  it('no mark stays in the table of mount(8), however the mount ends', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const table = async (): Promise<boolean> =>
      (await system.run('cat', ['/run/mount/utab'])).stdout.includes(`TARGET=${mountpoint} `);
    const pid = pidFile();
    const mount = ['-t', 'vdisk-mount', image, mountpoint, '-o', `pid_file=${pid}`];
    expect(await system.run('mount', mount)).toEqual(FINE);
    expect(await table()).toBe(true);
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
    expect(await table()).toBe(false);
    expect(await system.run('mount', mount)).toEqual(FINE);
    const daemon = pidIn(pid);
    process.kill(daemon, 'SIGTERM');
    await until('the daemon ends', () => !isRunning(daemon));
    expect(await table()).toBe(false);
  });

  it('the table of the machine that runs the tests has nothing of all this', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const own = '/run/mount/utab';
    const machine = (): string => (existsSync(own) ? readFileSync(own, 'utf8') : '');
    expect(await system.run('mount', ['-t', 'vdisk-mount', image, mountpoint])).toEqual(FINE);
    expect((await system.run('cat', [own])).stdout).toContain(mountpoint);
    expect(machine()).not.toContain(stage.directory);
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
    expect(machine()).not.toContain(stage.directory);
  });

  it('_netdev is in the table of mount(8), where systemd looks for it', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const line = async (): Promise<string | undefined> =>
      (await system.run('cat', ['/run/mount/utab'])).stdout
        .split('\n')
        .find((text) => text.includes(`TARGET=${mountpoint} `));
    expect(await system.run('mount', ['-t', 'vdisk-mount', image, mountpoint, '-o', '_netdev'])).toEqual(
      FINE,
    );
    expect(await line()).toMatch(/ OPTS=\S*\b_netdev\b/);
    expect(await system.run('umount', [mountpoint])).toEqual(FINE);
    expect(await line()).toBeUndefined();
  });

  it('umount of a mount in use: says by whom; -r makes it read-only; -l takes it away', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const pid = pidFile();
    await system.run('mount', ['-t', 'vdisk-mount', image, mountpoint, '-o', `pid_file=${pid}`]);
    const daemon = pidIn(pid);
    const script = 'cd "$1" && echo ready && read -r line';
    const held = [`--mount=${system.namespace}`, '--', 'sh', '-c', script, 'sh', mountpoint];
    const holder = await stage.hold('nsenter', held);
    try {
      const busy = await system.run('umount', [mountpoint]);
      expect(busy.status).toBe(32);
      expect(busy.stderr).toMatch(/in use by sh \(pid \d+\)/);
      const kept = await system.run('umount', ['-r', mountpoint]);
      expect(kept.status).toBe(0);
      expect(kept.stderr).toContain('it is read-only now');
      expect(await findmnt(mountpoint, 'OPTIONS')).toMatch(/^ro,/);
      expect(await system.run('umount', ['-l', mountpoint])).toEqual(FINE);
      expect(isRunning(daemon)).toBe(true);
    } finally {
      await holder.release();
    }
    await until('the daemon ends', () => !isRunning(daemon));
  });
});
