/** Mounting as a user without privileges, through fusermount3. */

import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import { gateOf, isRunning, must, type Ran, until } from '../support/machine.ts';
import { Stage } from '../support/mount.ts';
import { TO_BE_A_USER, USER as UID, User } from '../support/user.ts';

const gate = gateOf(...TO_BE_A_USER);

describe(gate.title('a mount of an ordinary user'), { skip: gate.skip }, () => {
  let stage: Stage;
  let user: User;
  let home: string;
  let program: string;
  let image: string;
  const content = 'for my eyes only'.padEnd(1024, '!');

  beforeAll(async () => {
    stage = await Stage.open();
    user = await User.open(stage);
    ({ home, program } = user);
    image = join(home, 'disk.img');
    expect((await asUser('sh', ['-c', 'cat > "$1"', 'sh', image], content)).stderr).toBe('');
  });
  afterAll(async () => {
    await user?.close();
    await stage?.close();
  });

  const asUser = (command: string, args: readonly string[], input?: string): Promise<Ran> =>
    user.run(command, args, input);
  const mountAt = (path: string) => user.mountAt(path);
  const mountpointOfUser = (): Promise<string> => user.makeDirectory();

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
    expect((await user.runAsRoot('cat', [join(mountpoint, 'disk.raw')])).stderr).toContain(
      'Permission denied',
    );
    expect(await asUser('fusermount3', ['-u', mountpoint])).toEqual({ status: 0, stdout: '', stderr: '' });
    await until('the daemon ends', () => !isRunning(pid));
    expect(mountAt(mountpoint)).toBeUndefined();
    expect(existsSync(pidFile)).toBe(false);
  });

  const traced = gateOf('program: strace');
  it(traced.title('is not left where a signal ends fusermount3 when its work is done'), {
    skip: traced.skip,
  }, async () => {
    const mountpoint = await mountpointOfUser();
    const trace = stage.fresh('strace');
    const calls = ['-e', 'trace=mount,umount2', '-e', 'inject=mount:signal=SIGINT', '-e', 'signal=none'];
    // Traced by root: otherwise fusermount3 would run without what makes it root.
    const options = ['-f', '-I', '2', '-qq', '-o', trace, ...calls, '-E', `HOME=${home}`, '--'];
    const [setpriv, ...identity] = user.args.slice(user.args.indexOf('setpriv'));
    const ran = await user.runAsRoot('strace', [
      ...options,
      setpriv!,
      ...identity,
      program,
      image,
      mountpoint,
    ]);
    expect(ran).toEqual({
      status: 8,
      stdout: '',
      stderr: `vdisk-mount: ${mountpoint}: SIGINT while mounting\n`,
    });
    expect(readFileSync(trace, 'utf8')).toMatch(/ mount\(.* = 0/);
    expect(mountAt(mountpoint)).toBeUndefined();
  });

  const named = gateOf('program: mount.fuse3', 'program: getent');
  it(named.title('is made for them by root, with setuid='), { skip: named.skip }, async () => {
    const mountpoint = await mountpointOfUser();
    const pidFile = join(home, 'for-user.pid');
    const name = (await must('getent', ['passwd', `${UID}`])).split(':')[0]!;
    const options = `ro,setuid=${name},pid_file=${pidFile}`;
    const helper = join(dirname(program), 'mount-helper');
    expect(await user.runAsRoot(helper, [image, mountpoint, '-o', options])).toEqual({
      status: 0,
      stdout: '',
      stderr: '',
    });
    const pid = Number(readFileSync(pidFile, 'utf8'));
    expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(
      new RegExp(`^Uid:\\t${UID}\\t${UID}\\t`, 'm'),
    );
    expect(mountAt(mountpoint)).toMatchObject({ type: 'fuse.vdisk-mount', source: image });
    expect((await asUser('cat', [join(mountpoint, 'disk.raw')])).stdout).toBe(content);
    expect((await asUser('fusermount3', ['-u', mountpoint])).status).toBe(0);
    await until('the daemon ends', () => !isRunning(pid));
  });

  it('is controlled through a socket of its own, by its user and by root', async () => {
    const mountpoint = await mountpointOfUser();
    const runtime = join(home, 'run');
    const vdisk = join(program, '..', 'vdisk');
    const inRuntime = (...args: string[]): Promise<Ran> =>
      asUser('env', [`XDG_RUNTIME_DIR=${runtime}`, ...args]);
    expect((await asUser('mkdir', ['-m', '700', runtime])).status).toBe(0);
    expect((await inRuntime(program, image, mountpoint)).status).toBe(0);
    // Beside it lies the record of the mount.
    const name = readdirSync(join(runtime, 'vdisk-mount')).find((one) => one.endsWith('.sock'));
    const socket = join(runtime, 'vdisk-mount', name!);
    expect([statSync(socket).mode & 0o777, statSync(socket).uid]).toEqual([0o600, UID]);
    expect(statSync(join(runtime, 'vdisk-mount')).mode & 0o777).toBe(0o700);
    expect((await inRuntime(vdisk, 'list')).stdout).toContain(`${mountpoint}  (pid `);
    const client = await ControlClient.connect(socket);
    expect((await client!.ask('state', {})).mountpoint).toBe(mountpoint);
    client!.close();
    expect(await inRuntime(vdisk, 'flush', mountpoint)).toMatchObject({ status: 0, stderr: '' });
    expect(await inRuntime(vdisk, 'unmount', '--wait', mountpoint)).toMatchObject({ status: 0, stderr: '' });
    expect(mountAt(mountpoint)).toBeUndefined();
    expect(existsSync(socket)).toBe(false);
    // Without a runtime directory the mount is made all the same.
    expect((await asUser('env', ['-u', 'XDG_RUNTIME_DIR', program, image, mountpoint])).stderr).toBe('');
    expect((await asUser('fusermount3', ['-u', mountpoint])).status).toBe(0);
  });

  const onTerminal = gateOf('program: script');
  it(onTerminal.title('on a terminal says that not even root can see it'), {
    skip: onTerminal.skip,
  }, async () => {
    const mountpoint = await mountpointOfUser();
    const log = join(home, 'note.log');
    const command = `'${program}' --log-file '${log}' '${image}' '${mountpoint}'`;
    const { stdout } = await asUser('script', ['-qec', command, '/dev/null']);
    const lines = stdout.replaceAll('\r', '').trimEnd().split('\n');
    expect(lines).toEqual([
      `vdisk-mount: only you can see ${mountpoint}, not even root: losetup, mount -o loop and services get "Permission denied"`,
      expect.stringMatching(/^ {2}.*-o allow_other.*user_allow_other.*\/etc\/fuse\.conf/),
    ]);
    expect(readFileSync(log, 'utf8')).toContain(`only you can see ${mountpoint}`);
    expect((await asUser('fusermount3', ['-u', mountpoint])).status).toBe(0);
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
    const holder = await stage.hold('nsenter', [...user.args, 'sh', '-c', script, file]);
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
