/** Command lines and mountpoints that are refused, with mount(8)'s status and a line that says why. */

import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findMount } from '../../src/transport/mountinfo.ts';
import { isMounted } from '../support/leftovers.ts';
import { gateOf, must, TO_MOUNT } from '../support/machine.ts';
import { Stage } from '../support/mount.ts';
import { expectRefusal, SYSTEM, USAGE } from './refusal.ts';

const gate = gateOf(...TO_MOUNT);

describe(gate.title('bad usage'), { skip: gate.skip }, () => {
  let stage: Stage;
  let image: string;

  beforeAll(async () => {
    stage = await Stage.open();
    image = stage.path('disk.img');
    writeFileSync(image, 'x'.repeat(512));
  });
  afterAll(() => stage?.close());

  const refused = (status: number, args: readonly string[], named: string): Promise<string> =>
    expectRefusal(stage, status, args, named);

  describe('mountpoint', () => {
    it('that does not exist', async () => {
      const mountpoint = stage.path('not', 'there');
      expect(await refused(USAGE, [image, mountpoint], mountpoint)).toContain('does not exist');
    });

    it('that is not empty', async () => {
      const mountpoint = stage.makeDirectory('full');
      writeFileSync(join(mountpoint, 'precious'), '');
      expect(await refused(USAGE, [image, mountpoint], mountpoint)).toContain('not empty');
      const mounted = await stage.mount(image, { mountpoint, options: ['-o', 'nonempty'] });
      expect(await must('ls', [mountpoint])).toBe('disk.raw\n');
      await mounted.unmount();
    });

    it('that is mounted already, by us', async () => {
      const mounted = await stage.mount(image);
      const said = await refused(USAGE, [image, mounted.mountpoint], mounted.mountpoint);
      expect(said).toContain('already mounted');
      expect(said).toContain(image);
      expect(await must('ls', [mounted.mountpoint])).toBe('disk.raw\n');
      await mounted.unmount();
    });

    it('that is a file and mounted already', async () => {
      const mountpoint = stage.makeFile('flat.raw');
      const mounted = await stage.mount(image, { mountpoint });
      expect(await refused(USAGE, [image, mountpoint], mountpoint)).toContain('already mounted');
      await mounted.unmount();
    });

    it('that is a device', async () => {
      await refused(USAGE, [image, '/dev/null'], '/dev/null');
    });

    it('that is below a file', async () => {
      await refused(USAGE, [image, join(image, 'mnt')], join(image, 'mnt'));
    });

    it('that is a link which leads nowhere', async () => {
      const link = stage.fresh('link');
      symlinkSync(stage.path('nowhere'), link);
      await refused(USAGE, [image, link], link);
    });

    it('that is a file, for two images', async () => {
      const mountpoint = stage.makeFile('flat.raw');
      const other = stage.path('other.img');
      writeFileSync(other, 'y'.repeat(512));
      await refused(USAGE, [image, other, mountpoint], mountpoint);
    });

    it('through a link is mounted where the link leads', async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const link = stage.fresh('link');
      symlinkSync(mountpoint, link);
      expect((await stage.command([image, link])).stderr).toBe('');
      expect(isMounted(mountpoint)).toBe(true);
      await must('umount', [link]);
    });
  });

  describe('command line', () => {
    const cases: [string, (mountpoint: string) => string[], string][] = [
      ['without arguments', () => [], 'an image and a mountpoint'],
      ['with one argument', () => [image], 'an image and a mountpoint'],
      ['with an unknown long option', (at) => ['--frobnicate', image, at], 'frobnicate'],
      ['with an unknown letter', (at) => ['-Q', image, at], 'Q'],
      ['with an unknown word in -o', (at) => ['-o', 'ro,frobnicate=1', image, at], 'frobnicate=1'],
      ['with -o and nothing', (at) => [image, at, '-o'], 'o'],
      ['with no number of threads', (at) => ['--threads', 'many', image, at], '"many"'],
      ['with 0 threads', (at) => ['--threads', '0', image, at], 'threads'],
      ['with too many threads', (at) => ['-o', 'threads=65', image, at], '65'],
      ['with a size that is none', (at) => ['--cache-size', '1X', image, at], '"1X"'],
      ['with a umask that is not octal', (at) => ['-o', 'umask=99', image, at], '"99"'],
      ['with an unknown format', (at) => ['--format', 'vmdk2', image, at], 'vmdk2'],
      ['with an unknown format in -o', (at) => ['-o', 'format=vmdk2', image, at], 'vmdk2'],
      ['with an unknown transport', (at) => ['--transport', 'pigeon', image, at], 'pigeon'],
      ['with a flag that is given a value', (at) => ['-o', 'allow_other=yes', image, at], 'allow-other'],
      ['with an option that lacks its value', (at) => ['-o', 'format', image, at], 'format'],
      ['with an empty value', (at) => ['-o', 'fsname=', image, at], 'fsname'],
    ];
    it.each(cases)('%s', async (_, args, named) => {
      await refused(USAGE, args(stage.makeDirectory('mnt')), named);
    });

    it('with a pid file that cannot be written', async () => {
      const mountpoint = stage.makeDirectory('mnt');
      const pidFile = stage.path('nowhere', 'daemon.pid');
      await refused(SYSTEM, ['--pid-file', pidFile, image, mountpoint], pidFile);
      expect(isMounted(mountpoint)).toBe(false);
    });

    it.each(['the background', 'the foreground'])(
      'with a log file that cannot be written, in %s',
      async (where) => {
        const mountpoint = stage.makeDirectory('mnt');
        const logFile = stage.path('nowhere', 'daemon.log');
        const options = where === 'the foreground' ? ['-f'] : [];
        await refused(SYSTEM, [...options, '--log-file', logFile, image, mountpoint], logFile);
        expect(isMounted(mountpoint)).toBe(false);
      },
    );

    it('in the foreground is refused in the same way', async () => {
      const mountpoint = stage.path('not', 'there');
      expect(await refused(USAGE, ['-f', image, mountpoint], mountpoint)).toContain('does not exist');
    });

    it('with a word unknown to -o is taken with -s', async () => {
      const mounted = await stage.mount(image, { options: ['-s', '-o', 'frobnicate=1'] });
      await mounted.unmount();
    });

    it('shows its help and its version', async () => {
      const help = await stage.command(['--help']);
      expect([help.status, help.stderr]).toEqual([0, '']);
      for (const word of ['IMAGE... MOUNTPOINT', '--pid-file', 'umount']) expect(help.stdout).toContain(word);
      const version = await stage.command(['-V']);
      expect([version.status, version.stderr]).toEqual([0, '']);
      expect(version.stdout).toMatch(/\d+\.\d+\.\d+/);
    });
  });

  it('options of mount(8) are taken, on either side of the paths', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const pidFile = stage.fresh('daemon.pid');
    const options = ['-o', `rw,noatime,fsname="my, disk",nofail,pid_file=${pidFile}`, '-n', '-r'];
    expect(await stage.command([image, mountpoint, ...options])).toMatchObject({ status: 0, stderr: '' });
    expect(findMount(mountpoint)?.source).toBe('my, disk');
    expect(Number(readFileSync(pidFile, 'utf8'))).toBeGreaterThan(1);
    await must('umount', [mountpoint]);
  });

  it('mounts on a directory that lies on another mount', async () => {
    const outer = stage.makeDirectory('outer');
    await must('mount', ['-t', 'tmpfs', 'tmpfs', outer]);
    mkdirSync(join(outer, 'mnt'));
    const mounted = await stage.mount(image, { mountpoint: join(outer, 'mnt') });
    expect(findMount(join(outer, 'mnt'))?.source).toBe(image);
    await mounted.unmount();
    expect(findMount(join(outer, 'mnt'))).toBeUndefined();
    await must('umount', [outer]);
  });
});
