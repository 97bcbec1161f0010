/** scripts/install: what it puts where, that it works from there, and that nothing is left when it is taken away. */

import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, isRunning, must, type Ran, run, until } from '../support/machine.ts';
import { REPOSITORY, Stage } from '../support/mount.ts';
import { System, TO_HAVE_A_SYSTEM } from '../support/system.ts';

const SCRIPT = join(REPOSITORY, 'scripts', 'install');
const LIMIT_MS = 180_000;

const gate = gateOf(...TO_HAVE_A_SYSTEM);

describe(gate.title('scripts/install'), { skip: gate.skip, timeout: LIMIT_MS }, () => {
  let stage: Stage;
  let image: string;
  const content = 'installed'.padEnd(2048, '.');
  const install = (args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ran> =>
    run(SCRIPT, args, { env: { DESTDIR: '', ...env }, limitMs: LIMIT_MS });
  const tree = async (path: string): Promise<string[]> =>
    (await must('find', [path, '-mindepth', '1'])).split('\n').filter((line) => line !== '');

  beforeAll(async () => {
    stage = await Stage.open();
    image = stage.makeFile('disk.img', content);
  });
  afterAll(() => stage?.close());

  it('for a package: below DESTDIR, with the helpers, which mount(8) can use from there', async () => {
    const root = stage.makeDirectory('root');
    const env = { DESTDIR: root };
    const first = await install(['--prefix=/usr'], env);
    expect(first.stderr).toBe('');
    expect(first.status).toBe(0);
    const at = (path: string): string => join(root, path);
    for (const path of [
      'usr/share/man/man8/vdisk-mount.8',
      'usr/share/man/man5/vdisk-image-formats.5',
      'usr/share/bash-completion/completions/vdisk',
      'usr/share/zsh/site-functions/_vdisk',
      'usr/share/fish/vendor_completions.d/vdisk-mount.fish',
      'usr/lib/systemd/system/vdisk-mount@.service',
      'usr/lib/systemd/user/vdisk-mount@.service',
      'etc/vdisk-mount',
    ]) {
      expect(existsSync(at(path)), path).toBe(true);
    }
    expect(await must('readlink', [at('usr/bin/vdisk')])).toBe('/usr/lib/vdisk-mount/bin/vdisk\n');
    const programs = at('usr/lib/vdisk-mount/bin');
    expect(readFileSync(join(programs, 'mount-helper'), 'utf8')).toMatch(/^#!\/.*node\n/);

    // A PATH that somebody else controls.
    const traps = stage.makeDirectory('traps');
    const marker = stage.path('trapped');
    for (const name of ['node', 'mount', 'umount', 'fusermount3', 'nsenter']) {
      writeFileSync(join(traps, name), `#!/bin/sh\necho ${name} >> ${marker}\nexit 1\n`);
      chmodSync(join(traps, name), 0o755);
    }
    const system = await System.open(stage, programs);
    try {
      const mountpoint = stage.makeDirectory('mnt');
      const pidFile = stage.fresh('daemon.pid');
      const path = `PATH=${traps}:/usr/bin:/bin`;
      const words = `ro,pid_file=${pidFile}`;
      const mount = ['-t', 'fuse.vdisk-mount', image, mountpoint, '-o', words];
      const mounted = await system.run('/usr/bin/env', [path, '/bin/mount', ...mount]);
      expect(mounted).toEqual({ status: 0, stdout: '', stderr: '' });
      const daemon = Number(readFileSync(pidFile, 'utf8'));
      const unmounted = await system.run('/usr/bin/env', [path, '/bin/umount', mountpoint]);
      expect(unmounted).toEqual({ status: 0, stdout: '', stderr: '' });
      await until('the daemon ends', () => !isRunning(daemon));
      const sprung = existsSync(marker) ? readFileSync(marker, 'utf8') : '';
      expect(sprung).toBe('');
    } finally {
      await system.close();
    }

    // What an administrator put beside it stays, and so does its directory.
    writeFileSync(at('etc/vdisk-mount/mine.toml'), '');
    expect((await install(['--prefix=/usr'], env)).status).toBe(0);
    const removed = await install(['--uninstall', '--prefix=/usr'], env);
    expect(removed).toEqual({ status: 0, stdout: `removed what was installed in ${root}/usr\n`, stderr: '' });
    expect(await tree(root)).toEqual([at('etc'), at('etc/vdisk-mount'), at('etc/vdisk-mount/mine.toml')]);
    const again = await install(['--uninstall', '--prefix=/usr'], env);
    expect(again.status).toBe(1);
    expect(again.stderr).toContain('nothing was installed there');
  });

  it('for a user: below the home directory; a mount that a file describes', async () => {
    const home = stage.makeDirectory('home');
    const env = { HOME: home };
    const foreign = join(home, '.local/share/man/man1/vdisk.1');
    mkdirSync(dirname(foreign), { recursive: true });
    writeFileSync(foreign, 'not ours');
    const refused = await install(['--user'], env);
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain(`${foreign}: is there, and was not put there by this script`);
    expect(readFileSync(foreign, 'utf8')).toBe('not ours');
    expect(existsSync(join(home, '.local/lib'))).toBe(false);
    await must('rm', [foreign]);

    const before = await tree(home);
    const ran = await install(['--user'], env);
    expect(ran.stderr).toBe('');
    expect(ran.stdout).toContain('systemctl --user daemon-reload');
    const bin = join(home, '.local/bin');
    const mountpoint = stage.makeDirectory('mnt');
    const config = stage.makeFile(
      'mount.toml',
      `images = ["${image}"]\nmountpoint = "${mountpoint}"\nread_only = true\n`,
    );
    const checked = await run(join(bin, 'vdisk'), ['config', 'check', config]);
    expect(checked).toEqual({ status: 0, stdout: `${config}: fine\n`, stderr: '' });
    const mounted = await run(join(bin, 'vdisk-mount'), ['--config', config]);
    expect(mounted).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(await must('cat', [join(mountpoint, 'disk-1.raw')])).toBe(content);
    await must('umount', [mountpoint]);
    await until('the daemon ends', () => stage.processes().length === 0);
    expect((await install(['--uninstall', '--user'], env)).status).toBe(0);
    expect(await tree(home)).toEqual(before);
  });

  it('refuses what it cannot do', async () => {
    for (const [args, message] of [
      [['--prefix', 'relative'], 'expected an absolute path'],
      [['--what'], 'unknown option'],
      [['--prefix'], 'needs a value'],
      [['--prefix', '/a b'], 'letters, digits'],
      [['--node', '/no/such/node'], 'is no program'],
    ] as const) {
      const { status, stderr } = await install(args, { DESTDIR: '/no/such/place' });
      expect(status, args.join(' ')).toBe(1);
      expect(stderr).toContain(message);
    }
  });
});

const analyze = gateOf('program: systemd-analyze');
describe(analyze.title('the units'), { skip: analyze.skip }, () => {
  it('are what systemd understands, and all that it may not say is unsaid', async () => {
    const stage = await Stage.open();
    try {
      const directory = stage.makeDirectory('units');
      const prepare = (file: string, name: string): string => {
        const text = readFileSync(join(REPOSITORY, 'systemd', file), 'utf8');
        const path = join(directory, name);
        writeFileSync(path, text.replaceAll('/usr/bin/vdisk', join(REPOSITORY, 'bin', 'vdisk')));
        return path;
      };
      prepare('system/vdisk-mount@.service', 'vdisk-mount@.service');
      const units = [
        join(directory, 'vdisk-mount@name.service'),
        prepare('examples/mnt-img.mount', 'mnt-img.mount'),
        prepare('examples/srv-guest.mount', 'srv-guest.mount'),
      ];
      const verified = await run('systemd-analyze', ['verify', '--man=no', ...units]);
      expect(verified).toEqual({ status: 0, stdout: '', stderr: '' });
      prepare('user/vdisk-mount@.service', 'vdisk-mount@.service');
      const env = { XDG_RUNTIME_DIR: stage.makeDirectory('runtime') };
      const user = await run('systemd-analyze', ['--user', 'verify', '--man=no', units[0]!], { env });
      expect(user).toEqual({ status: 0, stdout: '', stderr: '' });
      // Each of these gives the service a mount namespace, in which the mount would stay; the last ends Node.
      const hiding =
        /^(Private(Mounts|Tmp|Devices)|Protect(System|Home|Kernel\w+|ControlGroups|Proc)|ProcSubset|\w+Paths|BindPaths|RootDirectory|DynamicUser|JoinsNamespaceOf|MountFlags|MemoryDenyWriteExecute)=/m;
      for (const name of ['system', 'user']) {
        const text = readFileSync(join(REPOSITORY, 'systemd', name, 'vdisk-mount@.service'), 'utf8');
        expect(hiding.exec(text)?.[0]).toBeUndefined();
      }
    } finally {
      await stage.close();
    }
  });
});
