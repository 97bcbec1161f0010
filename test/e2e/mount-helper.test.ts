/** Mounting in the manner of fstab: through mount(8) and libfuse's helper mount.fuse3. */

import { readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findMount } from '../../src/transport/mountinfo.ts';
import { isMounted } from '../support/leftovers.ts';
import { gateOf, isRunning, must, type Ran, run, SEARCH_PATH, TO_MOUNT, until } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';

/** The helper waits for vdisk-mount; a limit well below the tests' own names what hangs. */
const LIMIT_MS = 15_000;

const gate = gateOf(...TO_MOUNT, 'program: mount.fuse3');

describe(gate.title('mounting through mount.fuse3'), { skip: gate.skip }, () => {
  let stage: Stage;
  let image: string;
  /** vdisk-mount alone: the helper looks for it in PATH. */
  let programs: string;
  const content = 'helped'.padEnd(2048, '.');

  beforeAll(async () => {
    stage = await Stage.open();
    image = stage.path('disk.img');
    await must('sh', ['-c', 'cat > "$1"', 'sh', image], { input: content });
    programs = stage.makeDirectory('programs');
    symlinkSync(VDISK_MOUNT, join(programs, 'vdisk-mount'));
  });
  afterAll(() => stage?.close());

  const help = (program: string, args: readonly string[]): Promise<Ran> =>
    run(program, args, { env: { PATH: `${programs}:${SEARCH_PATH}` }, limitMs: LIMIT_MS });

  const read = (mountpoint: string): Promise<string> => must('cat', [join(mountpoint, 'disk.raw')]);

  /** Options with which the daemon can be found again. */
  const traceable = () => {
    const pidFile = stage.fresh('daemon.pid');
    return {
      words: `pid_file=${pidFile},log-file=${stage.fresh('daemon.log')}`,
      pid: () => Number(readFileSync(pidFile, 'utf8')),
    };
  };

  it('finds the program by the type', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const { words, pid } = traceable();
    const ran = await help('mount.fuse3', [image, mountpoint, '-t', 'fuse.vdisk-mount', '-o', words]);
    expect(ran).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(await read(mountpoint)).toBe(content);
    const daemon = pid();
    await must('umount', [mountpoint]);
    await until('the daemon ends', () => !isRunning(daemon));
  });

  it('takes the program with the image from mount(8), and options as in fstab', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const { words, pid } = traceable();
    const options = `rw,noexec,nodev,nofail,_netdev,x-systemd.automount,allow_other,umask=0077,${words}`;
    const ran = await help('mount', ['-t', 'fuse', `${VDISK_MOUNT}#${image}`, mountpoint, '-o', options]);
    expect(ran).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(findMount(mountpoint)).toMatchObject({ type: 'fuse.vdisk-mount', source: image });
    expect(await read(mountpoint)).toBe(content);
    expect(await must('stat', ['-c', '%a', join(mountpoint, 'disk.raw')])).toBe('600\n');
    const flags = (await must('findmnt', ['-n', '-o', 'OPTIONS', mountpoint])).trim().split(',');
    for (const flag of ['rw', 'nosuid', 'nodev', 'noexec', 'allow_other', 'default_permissions']) {
      expect(flags).toContain(flag);
    }
    const daemon = pid();
    await must('umount', [mountpoint]);
    await until('the daemon ends', () => !isRunning(daemon));
  });

  it('passes on what went wrong, and the status', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const garbage = stage.makeFile('garbage.vhd', 'no disk');
    const ran = await help('mount.fuse3', [garbage, mountpoint, '-t', 'fuse.vdisk-mount']);
    expect(ran.status).toBe(32);
    expect(ran.stderr).toContain('garbage');
    const unknown = await help('mount.fuse3', [
      image,
      mountpoint,
      '-t',
      'fuse.vdisk-mount',
      '-o',
      'what=ever',
    ]);
    expect(unknown.status).toBe(1);
    expect(unknown.stderr).toContain('what=ever');
    expect(isMounted(mountpoint)).toBe(false);
  });

  const dropping = gateOf('mount.fuse3 option: drop_privileges');
  describe(dropping.title('without privileges, from its start'), { skip: dropping.skip }, () => {
    const drop = (what: string, mountpoint: string, words: string): Promise<Ran> =>
      help('mount.fuse3', [
        ...[what, mountpoint, '-t', 'fuse.vdisk-mount'],
        ...['-o', `ro,drop_privileges,${words}`],
      ]);

    it('serves in the background', async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const { words, pid } = traceable();
      expect(await drop(image, mountpoint, words)).toEqual({ status: 0, stdout: '', stderr: '' });
      expect(await read(mountpoint)).toBe(content);
      const daemon = pid();
      const status = readFileSync(`/proc/${daemon}/status`, 'utf8');
      expect(status).toMatch(/^CapEff:\t0+$/m);
      expect(status).toMatch(/^NoNewPrivs:\t1$/m);
      await must('umount', [mountpoint]);
      await until('the daemon ends', () => !isRunning(daemon));
    });

    it('ends after SIGTERM', async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const { words, pid } = traceable();
      expect((await drop(image, mountpoint, words)).status).toBe(0);
      const daemon = pid();
      process.kill(daemon, 'SIGTERM');
      // It may not unmount: the mount is left to whoever made it, and is dead.
      await until('the daemon ends', () => !isRunning(daemon));
      await run('umount', [mountpoint]);
    });

    it('says what is wrong with an image', async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const garbage = stage.makeFile('garbage.vhd', 'no disk');
      const ran = await drop(garbage, mountpoint, traceable().words);
      expect(ran.status).toBe(32);
      expect(ran.stderr).toContain('garbage');
      await run('umount', [mountpoint]);
    });
  });
});
