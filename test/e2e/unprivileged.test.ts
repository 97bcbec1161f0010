/**
 * Mounting as a user without privileges, through fusermount3. It opens /dev/fuse as that user, and not every
 * machine lets everyone do that; so all of this happens in a mount namespace where /dev/fuse is as udev makes it,
 * open to all.
 */

import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type MountEntry, parseMountinfo } from '../../src/transport/mountinfo.ts';
import { gateOf, isRunning, must, type Ran, run, TO_MOUNT, until } from '../support/machine.ts';
import { type Holder, REPOSITORY, Stage } from '../support/mount.ts';

/** "nobody", or at least nobody in particular. */
const UID = 65534;

/** Installs the program below `directory`, where the user can read it; returns the path of vdisk-mount. */
function install(directory: string): string {
  const lock = JSON.parse(readFileSync(join(REPOSITORY, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean }>;
  };
  // A package inside another comes along with it.
  const packages = Object.entries(lock.packages)
    .filter(([path, { dev }]) => /^node_modules\/(@[^/]+\/)?[^/]+$/.test(path) && dev !== true)
    .map(([path]) => path);
  for (const path of ['bin', 'dist', 'package.json', ...packages]) {
    const source = join(REPOSITORY, path);
    if (existsSync(source)) cpSync(source, join(directory, path), { recursive: true });
  }
  return join(directory, 'bin', 'vdisk-mount');
}

/** Makes /dev/fuse open to all in this mount namespace; $1 is an empty directory. */
const OPEN_DEVICE = `
mount -t tmpfs -o mode=755 tmpfs "$1" &&
  mknod -m 666 "$1/fuse" c $(stat -c '0x%t 0x%T' /dev/fuse) &&
  mount --bind "$1/fuse" /dev/fuse &&
  echo ready && read -r line
`;

const gate = gateOf(
  ...TO_MOUNT,
  'program: setpriv',
  'program: unshare',
  'program: nsenter',
  'program: fusermount3',
  'package: koffi',
);

describe(gate.title('a mount of an ordinary user'), { skip: gate.skip }, () => {
  let stage: Stage;
  let space: Holder;
  let home: string;
  let program: string;
  let image: string;
  const content = 'for my eyes only'.padEnd(1024, '!');

  beforeAll(async () => {
    stage = await Stage.open();
    home = stage.makeHome(UID);
    program = install(stage.makeDirectory('installed'));
    const script = ['sh', '-c', OPEN_DEVICE, 'sh', stage.makeDirectory('dev')];
    space = await stage.hold('unshare', ['--mount', '--', ...script]);
    image = join(home, 'disk.img');
    expect((await asUser('sh', ['-c', 'cat > "$1"', 'sh', image], content)).stderr).toBe('');
  });
  afterAll(async () => {
    await space?.release();
    await stage?.close();
  });

  /** What a shell line must be preceded by to be the user's: no groups, no capabilities, no way to new ones. */
  const asUserArgs = (): string[] => [
    ...['--target', `${space.pid}`, '--mount', `--wdns=${home}`, 'setpriv'],
    ...['--reuid', `${UID}`, '--regid', `${UID}`, '--clear-groups', '--inh-caps=-all'],
  ];
  const asUser = (command: string, args: readonly string[], input?: string): Promise<Ran> =>
    run('nsenter', [...asUserArgs(), command, ...args], {
      env: { HOME: home },
      ...(input === undefined ? {} : { input }),
    });
  /** What is mounted at `path`, as the user sees it. */
  const mountAt = (path: string): MountEntry | undefined =>
    parseMountinfo(readFileSync(`/proc/${space.pid}/mountinfo`, 'utf8')).findLast(
      (entry) => entry.mountpoint === path,
    );

  let count = 0;
  const mountpointOfUser = async (): Promise<string> => {
    count += 1;
    const path = join(home, `mnt ${count}`);
    expect((await asUser('mkdir', [path])).status).toBe(0);
    return path;
  };

  it('is made, read and taken away with fusermount3', async () => {
    const mountpoint = await mountpointOfUser();
    const pidFile = join(home, 'daemon.pid');
    const mounted = await asUser(program, ['--pid-file', pidFile, image, mountpoint]);
    expect(mounted).toEqual({ status: 0, stdout: '', stderr: '' });
    const pid = Number(readFileSync(pidFile, 'utf8'));
    expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(
      new RegExp(`^Uid:\\t${UID}\\t${UID}\\t`, 'm'),
    );
    expect(mountAt(mountpoint)).toMatchObject({ type: 'fuse.vdisk-mount', source: image });
    expect((await asUser('cat', [join(mountpoint, 'disk.raw')])).stdout).toBe(content);
    expect((await asUser('stat', ['-c', '%u %g %a %s', join(mountpoint, 'disk.raw')])).stdout).toBe(
      `${UID} ${UID} 644 1024\n`,
    );
    // Not even for root: that is what allow_other is for.
    const asRoot = ['--target', `${space.pid}`, '--mount', 'cat', join(mountpoint, 'disk.raw')];
    expect((await run('nsenter', asRoot)).stderr).toContain('Permission denied');
    expect(await asUser('fusermount3', ['-u', mountpoint])).toEqual({ status: 0, stdout: '', stderr: '' });
    await until('the daemon ends', () => !isRunning(pid));
    expect(mountAt(mountpoint)).toBeUndefined();
    expect(existsSync(pidFile)).toBe(false);
  });

  it('ends after SIGTERM', async () => {
    const mountpoint = await mountpointOfUser();
    const pidFile = join(home, 'daemon.pid');
    expect((await asUser(program, ['--pid-file', pidFile, image, mountpoint])).status).toBe(0);
    const pid = Number(readFileSync(pidFile, 'utf8'));
    expect((await asUser('kill', [`${pid}`])).status).toBe(0);
    await until('the daemon ends', () => !isRunning(pid));
    expect(mountAt(mountpoint)).toBeUndefined();
  });

  it('after SIGTERM in use names the holder, and is cut off by a second signal', async () => {
    const mountpoint = await mountpointOfUser();
    const [pidFile, log] = [join(home, 'daemon.pid'), join(home, 'busy.log')];
    const started = await asUser(program, ['--pid-file', pidFile, '--log-file', log, image, mountpoint]);
    expect(started.stderr).toBe('');
    const pid = Number(readFileSync(pidFile, 'utf8'));
    const script = 'exec 9< "$0" && echo open && read -r line';
    const file = join(mountpoint, 'disk.raw');
    const holder = await stage.hold('nsenter', [...asUserArgs(), 'sh', '-c', script, file]);
    process.kill(pid, 'SIGTERM');
    await until('the holder is named', () => readFileSync(log, 'utf8').includes(`(pid ${holder.pid})`));
    expect(isRunning(pid)).toBe(true);
    process.kill(pid, 'SIGTERM');
    await until('the daemon ends', () => !isRunning(pid));
    expect(mountAt(mountpoint)).toBeUndefined();
    expect(existsSync(pidFile)).toBe(false);
    await holder.release();
  });

  it('that died is cleared by the next start', async () => {
    const mountpoint = await mountpointOfUser();
    const pidFile = join(home, 'daemon.pid');
    expect((await asUser(program, ['--pid-file', pidFile, image, mountpoint])).status).toBe(0);
    const pid = Number(readFileSync(pidFile, 'utf8'));
    process.kill(pid, 'SIGKILL');
    await until('the daemon is gone', () => !isRunning(pid));
    expect(mountAt(mountpoint)).toBeDefined();
    expect((await asUser(program, [image, mountpoint])).stderr).toBe('');
    expect((await asUser('cat', [join(mountpoint, 'disk.raw')])).stdout).toBe(content);
    expect((await asUser('fusermount3', ['-u', mountpoint])).status).toBe(0);
    await until('nothing is mounted', () => mountAt(mountpoint) === undefined);
  });

  const closed = gateOf('no user_allow_other');
  it(closed.title('for others is refused, with what would allow it'), { skip: closed.skip }, async () => {
    const mountpoint = await mountpointOfUser();
    const { status, stdout, stderr } = await asUser(program, ['-o', 'allow_other', image, mountpoint]);
    expect([status, stdout]).toEqual([1, '']);
    expect(stderr).toContain('allow_other');
    expect(stderr).toContain('/etc/fuse.conf');
    expect(stderr.trimEnd().split('\n').length).toBeLessThanOrEqual(2);
    expect(mountAt(mountpoint)).toBeUndefined();
  });

  it('of an image that the user may not read is refused', async () => {
    const secret = stage.makeFile('secret.img', 'x'.repeat(512));
    await must('chmod', ['600', secret]);
    const { status, stderr } = await asUser(program, [secret, await mountpointOfUser()]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^vdisk-mount: .*secret-\d+\.img: permission denied\n {2}.+\n$/);
  });

  it('on a directory that is not the user’s is refused', async () => {
    const mountpoint = stage.makeDirectory('foreign');
    const { status, stdout, stderr } = await asUser(program, [image, mountpoint]);
    expect([status, stdout]).toEqual([1, '']);
    expect(stderr).toContain(mountpoint);
    expect(stderr.trimEnd().split('\n').length).toBeLessThanOrEqual(2);
    expect(mountAt(mountpoint)).toBeUndefined();
  });

  it('on a regular file of the user shows the disk there', async () => {
    const mountpoint = join(home, 'flat.raw');
    writeFileSync(mountpoint, '');
    await must('chown', [`${UID}:${UID}`, mountpoint]);
    expect((await asUser(program, [image, mountpoint])).stderr).toBe('');
    expect((await asUser('cat', [mountpoint])).stdout).toBe(content);
    expect((await asUser('fusermount3', ['-u', mountpoint])).status).toBe(0);
    await until('nothing is mounted', () => mountAt(mountpoint) === undefined);
  });
});
