/** How a mount begins and ends, with nobody using it. */

import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { convert, KINDS, makePatternDisk, sha256, TO_MAKE_IMAGES } from '../support/images.ts';
import { isMounted } from '../support/leftovers.ts';
import { gateOf, isRunning, must, run, TO_MOUNT, until } from '../support/machine.ts';
import { logged, Stage, VDISK_MOUNT } from '../support/mount.ts';

const gate = gateOf(...TO_MOUNT);

describe(gate.title('life of a mount'), { skip: gate.skip }, () => {
  let stage: Stage;
  let image: string;
  const content = 'the first and only sector'.padEnd(512, '.');

  beforeAll(async () => {
    stage = await Stage.open();
    image = stage.path('disk.img');
    await must('sh', ['-c', 'cat > "$1"', 'sh', image], { input: content });
  });
  afterAll(() => stage?.close());

  const read = (mountpoint: string): Promise<string> => must('cat', [join(mountpoint, 'disk.raw')]);

  it('returns when the mount is usable, and says nothing', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    // In one shell: nothing happens between the return and the read.
    const script = '"$1" "$2" "$3" && cat "$3/disk.raw"';
    for (let round = 0; round < 3; round += 1) {
      const ran = await run('sh', ['-c', script, 'sh', VDISK_MOUNT, image, mountpoint]);
      expect(ran).toEqual({ status: 0, stdout: content, stderr: '' });
      await must('umount', [mountpoint]);
    }
  });

  it('leaves no terminal, no directory and no standard stream in use', async () => {
    const mounted = await stage.mount(image);
    const link = (name: string): Promise<string> => must('readlink', [`/proc/${mounted.pid}/${name}`]);
    expect(await link('cwd')).toBe('/\n');
    for (const stream of ['1', '2']) expect(await link(`fd/${stream}`)).toBe('/dev/null\n');
    const session = readFileSync(`/proc/${mounted.pid}/stat`, 'latin1').split(') ')[1]!.split(' ')[3];
    expect(Number(session)).toBe(mounted.pid);
    await mounted.unmount();
  });

  it('writes its process ID while it serves, and takes it away at the end', async () => {
    const mounted = await stage.mount(image);
    expect(readFileSync(mounted.pidFile, 'utf8')).toBe(`${mounted.pid}\n`);
    expect(isRunning(mounted.pid)).toBe(true);
    await mounted.unmount();
    expect(existsSync(mounted.pidFile)).toBe(false);
    expect(logged(mounted).at(-1)).toBe(`${mounted.mountpoint}: unmounted`);
  });

  it('can be mounted again at once, time after time', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    for (let round = 0; round < 5; round += 1) {
      await stage.mount(image, { mountpoint });
      expect(await read(mountpoint)).toBe(content);
      await must('umount', [mountpoint]);
    }
  });

  const helper = gateOf('program: fusermount3');
  const ends: [string, boolean, (mountpoint: string, pid: number) => Promise<unknown>][] = [
    ['umount', false, (mountpoint) => must('umount', [mountpoint])],
    ['umount -l', false, (mountpoint) => must('umount', ['-l', mountpoint])],
    ['fusermount3 -u', helper.skip, (mountpoint) => must('fusermount3', ['-u', mountpoint])],
    ['SIGINT', false, (_, pid) => must('kill', ['-INT', `${pid}`])],
    ['SIGTERM', false, (_, pid) => must('kill', ['-TERM', `${pid}`])],
    ['SIGHUP', false, (_, pid) => must('kill', ['-HUP', `${pid}`])],
  ];
  for (const options of [[], ['--transport', 'fuse-native']]) {
    const transport = gateOf(...(options.length === 0 ? [] : (['package: fuse-native'] as const)));
    const name = options[1] ?? 'kernel';

    describe(transport.title(`${name} transport`), { skip: transport.skip }, () => {
      for (const [how, skip, end] of ends) {
        const title = skip ? helper.title(how) : how;
        it(`ends with status 0 after ${title}`, { skip }, async () => {
          const mounted = await stage.foreground(image, { options });
          expect(await read(mounted.mountpoint)).toBe(content);
          await end(mounted.mountpoint, mounted.pid);
          expect(await mounted.ended()).toBe(0);
          expect(isMounted(mounted.mountpoint)).toBe(false);
          expect(existsSync(mounted.pidFile)).toBe(false);
        });
      }

      it('ends after SIGTERM in the background', async () => {
        const mounted = await stage.mount(image, { options });
        process.kill(mounted.pid, 'SIGTERM');
        await until('the daemon ends', () => !isRunning(mounted.pid));
        expect(isMounted(mounted.mountpoint)).toBe(false);
        expect(existsSync(mounted.pidFile)).toBe(false);
      });

      it('leaves a dead mount when killed, which the next start clears', async () => {
        const mounted = await stage.mount(image, { options });
        process.kill(mounted.pid, 'SIGKILL');
        await until('the daemon is gone', () => !isRunning(mounted.pid));
        const dead = await run('ls', [mounted.mountpoint]);
        expect(dead.stderr).toContain('Transport endpoint is not connected');
        const again = await stage.mount(image, { options, mountpoint: mounted.mountpoint });
        expect(await read(again.mountpoint)).toBe(content);
        await again.unmount();
        expect(isMounted(again.mountpoint)).toBe(false);
      });
    });
  }

  it('clears a dead mount from a regular file as well', async () => {
    const mountpoint = stage.makeFile('flat.raw');
    const mounted = await stage.mount(image, { mountpoint });
    process.kill(mounted.pid, 'SIGKILL');
    await until('the daemon is gone', () => !isRunning(mounted.pid));
    const again = await stage.mount(image, { mountpoint });
    expect(await must('cat', [mountpoint])).toBe(content);
    await again.unmount();
    expect(isMounted(mountpoint)).toBe(false);
  });

  it('is cut by umount -f, and ends', async () => {
    const mounted = await stage.foreground(image);
    const status = (await run('umount', ['-f', mounted.mountpoint])).status;
    expect(status).toBe(0);
    // 2: the connection was cut before the mount was taken away.
    expect([0, 2]).toContain(await mounted.ended());
    expect(isMounted(mounted.mountpoint)).toBe(false);
    expect(existsSync(mounted.pidFile)).toBe(false);
  });

  it('goes on serving an image that was deleted meanwhile', async () => {
    const doomed = stage.path('doomed.img');
    await must('cp', [image, doomed]);
    const mounted = await stage.mount(doomed);
    await must('rm', [doomed]);
    expect(await must('cat', [join(mounted.mountpoint, 'doomed.raw')])).toBe(content);
    await mounted.unmount();
  });

  const qemu = gateOf(TO_MAKE_IMAGES);
  describe(qemu.title('a read-only session leaves the image as it was'), { skip: qemu.skip }, () => {
    let pattern: string;
    beforeAll(() => {
      pattern = stage.path('pattern');
      makePatternDisk(pattern, 4);
    });

    for (const kind of KINDS) {
      it(kind.name, async () => {
        const path = stage.fresh(`untouched${kind.suffix}`);
        await convert(kind, pattern, path);
        await must('touch', ['-d', '2020-01-02T03:04:05.678901234Z', path]);
        // Until then the host may still be deciding how many blocks the file takes.
        await must('sync', [path]);
        const before = statSync(path, { bigint: true });
        const hash = await must('sha256sum', [path]);
        const mounted = await stage.mount(path, { options: ['-r'] });
        await must('sh', ['-c', 'cat "$1"/* | sha256sum', 'sh', mounted.mountpoint]);
        await run('sh', [
          '-c',
          'for file in "$1"/*; do : > "$file"; rm -f "$file"; done',
          'sh',
          mounted.mountpoint,
        ]);
        await mounted.unmount();
        const after = statSync(path, { bigint: true });
        for (const field of ['size', 'mtimeNs', 'ctimeNs', 'blocks', 'ino'] as const) {
          expect(after[field], field).toBe(before[field]);
        }
        expect(await must('sha256sum', [path])).toBe(hash);
      });
    }
  });

  it('refuses to write, rename, remove and create where it is read-only', async () => {
    const mounted = await stage.mount(image, { options: ['-r'] });
    const attempts = [
      'echo text > disk.raw',
      'echo text >> disk.raw',
      'truncate -s 0 disk.raw',
      'rm disk.raw',
      'mv disk.raw other.raw',
      'touch disk.raw',
      'touch new',
      'mkdir new',
      'chmod 600 disk.raw',
      'chown 1 disk.raw',
      'ln disk.raw new',
      'ln -s disk.raw new',
    ];
    for (const attempt of attempts) {
      const { status, stderr } = await run('sh', ['-c', attempt], { cwd: mounted.mountpoint });
      expect(status, attempt).not.toBe(0);
      expect(stderr, attempt).toContain('Read-only file system');
    }
    expect(sha256(readFileSync(image))).toBe(sha256(Buffer.from(content)));
    await mounted.unmount();
  });
});
