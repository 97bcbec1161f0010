/** Evidence is left as it is, and it is proven; and who changes it meanwhile is noticed. */

import { createHash } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EvidenceRecord } from '../../src/evidence/record.ts';
import { findMount } from '../../src/transport/mountinfo.ts';
import { age } from '../support/age.ts';
import { chains } from '../support/encoders/vdi.ts';
import { samples } from '../support/encoders/vhdx.ts';
import { isMounted } from '../support/leftovers.ts';
import { gateOf, isRunning, must, run, TO_MOUNT, until } from '../support/machine.ts';
import { logged, Stage, VDISK_MOUNT } from '../support/mount.ts';
import { IMAGES } from '../support/oracle.ts';
import { random } from '../support/random.ts';
import { expectRefusal, SYSTEM, USAGE } from './refusal.ts';

/** What was mounted as evidence has changed. */
const CHANGED = 200;
const INTERRUPTED = 8;

const gate = gateOf(...TO_MOUNT);

/** mount(2) and execve(2) have the path as the name of the source. */
const HARMLESS = new Set(
  'openat close pread64 lseek fstat stat newfstatat statx readlink fcntl fstatfs mount execve'.split(' '),
);
const REAL_DIRTY = join(IMAGES, 'qemu', 'iotest-dirtylog-10G-4M.vhdx.xz');

describe(gate.title('evidence'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  const record = (path: string): EvidenceRecord => JSON.parse(readFileSync(path, 'utf8')) as EvidenceRecord;
  const vdisk = (...args: string[]) => run(join(dirname(VDISK_MOUNT), 'vdisk'), args, { limitMs: 120_000 });
  const parts = (directory: string): string[] =>
    readdirSync(directory).filter((name) => name.endsWith('.part'));

  /** A dirty VHDX of the tests' own in a directory of its own. */
  function dirty() {
    const sample = samples(7).find(({ name, parent }) => parent === undefined && name.includes('log'))!;
    const path = join(stage.makeDirectory('case'), 'dirty.vhdx');
    writeFileSync(path, sample.file);
    age(path);
    return { path, disk: sample.disk };
  }

  /** A chain of VDIs, the child first. */
  function chain() {
    const sample = chains(random(3)).find(({ parent }) => parent !== undefined)!;
    const directory = stage.makeDirectory('case');
    const paths: string[] = [];
    for (let one = sample as typeof sample | undefined; one !== undefined; one = one.parent) {
      paths.push(join(directory, `layer${paths.length}.vdi`));
      writeFileSync(paths.at(-1)!, one.file);
      age(paths.at(-1)!);
    }
    return { paths, disk: sample.disk };
  }

  /** A raw image of `size` bytes without data: hashing takes its time. */
  function vast(size: number): string {
    const path = join(stage.makeDirectory('case'), 'vast.img');
    const fd = openSync(path, 'wx');
    ftruncateSync(fd, size);
    closeSync(fd);
    return path;
  }

  /** Mounts, reads all, unmounts: nothing of the files may be different. */
  async function untouched(paths: readonly string[], content: string, options: readonly string[] = []) {
    const to = stage.fresh('record.json');
    const before = paths.map((path) => statSync(path, { bigint: true }));
    const mounted = await stage.mount(paths[0]!, {
      options: ['--evidence', '--record', to, ...options],
    });
    expect(record(to).state).toBe('open');
    expect(findMount(mounted.mountpoint)?.source).toBe(paths[0]);
    const flags = await must('findmnt', ['-n', '-o', 'OPTIONS', mounted.mountpoint]);
    for (const flag of ['ro', 'noexec', 'nodev', 'nosuid']) expect(flags.trim().split(',')).toContain(flag);
    const read = await must('sh', ['-c', 'cat "$1"/* | sha256sum', 'sh', mounted.mountpoint], {
      limitMs: 120_000,
    });
    expect(read.slice(0, 64)).toBe(content);
    await mounted.unmount();
    expect(paths.map((path) => statSync(path, { bigint: true }))).toEqual(before);
    const { state, result, files, disks } = record(to);
    expect({ state, outcome: result?.outcome, differences: result?.differences }).toEqual({
      state: 'closed',
      outcome: 'unchanged',
      differences: [],
    });
    // Read here only now: this sets the access time.
    expect(files.map((file) => [file.path, file.sha256])).toEqual(
      paths.map((path) => [path, sha256(readFileSync(path))]),
    );
    expect(disks.map((disk) => disk.sha256)).toEqual([content]);
    const verified = await vdisk('verify', to);
    expect(verified.stdout).toContain('the evidence was unchanged');
    expect(verified.status, verified.stdout).toBe(0);
  }

  it('a dirty VHDX is read whole, and nothing of it is different', async () => {
    const { path, disk } = dirty();
    await untouched([path], sha256(disk));
  });

  it('so are a differencing image and its parents', async () => {
    const { paths, disk } = chain();
    await untouched(paths, sha256(disk));
  });

  it('so with the hashes made at the end, and through libfuse', async () => {
    const { path, disk } = dirty();
    await untouched([path], sha256(disk), ['--hash', 'at-end']);
    if (!gateOf('package: fuse-native').skip) {
      age(path);
      await untouched([path], sha256(disk), ['--transport', 'fuse-native']);
    }
  });

  const real = gateOf('program: xz');
  const there = existsSync(REAL_DIRTY);
  const title = there
    ? real.title('so is a dirty VHDX that QEMU made')
    : 'a VHDX of QEMU (left out: not there)';
  // As an option: the one of the suite, false, would win over skipIf.
  it(title, { skip: real.skip || !there }, async () => {
    const path = join(stage.makeDirectory('case'), 'qemu.vhdx');
    await must('sh', ['-c', 'xz -dc "$1" > "$2"', 'sh', REAL_DIRTY, path]);
    const before = sha256(readFileSync(path));
    age(path);
    const stat = statSync(path, { bigint: true });
    // Hashing all of its 10 GiB would take too long here.
    const mounted = await stage.mount(path, { options: ['--evidence', '--hash', 'none'] });
    const head = await must('sh', ['-c', 'head -c 20M "$1"/* | sha256sum', 'sh', mounted.mountpoint]);
    const disk = new Uint8Array(20 << 20).fill(0xa5, 0, 18 << 20);
    expect(head.slice(0, 64)).toBe(sha256(disk));
    await mounted.unmount();
    expect(statSync(path, { bigint: true })).toEqual(stat);
    expect(sha256(readFileSync(path))).toBe(before);
  });

  describe('a file that is changed behind the back of the mount', () => {
    it('is said in the foreground by a status of its own, and in the record', async () => {
      const { path } = dirty();
      const to = stage.fresh('record.json');
      const mounted = await stage.foreground(path, { options: ['--evidence', '--record', to] });
      appendFileSync(path, 'x');
      await must('umount', [mounted.mountpoint]);
      expect(await mounted.ended()).toBe(CHANGED);
      expect(mounted.said()).toContain(`THE EVIDENCE HAS CHANGED while it was mounted: ${path}: size was `);
      expect(mounted.said()).toContain(to);
      expect(record(to).result?.outcome).toBe('changed');
      expect(record(to).result?.differences.map(({ what }) => what)).toContain('sha256');
      const verified = await vdisk('verify', to);
      expect(verified.status).toBe(3);
      expect(verified.stdout).toContain('THE EVIDENCE HAD CHANGED');
      expect(verified.stdout).toMatch(new RegExp(`^${path}: DIFFERENT\n {2}size was `, 'm'));
    });

    it('is said after a signal as well', async () => {
      const { path } = dirty();
      const mounted = await stage.foreground(path, { options: ['--evidence'] });
      utimesSync(path, 1, 1);
      mounted.signal('SIGINT');
      expect(await mounted.ended()).toBe(CHANGED);
      expect(mounted.said()).toContain('THE EVIDENCE HAS CHANGED');
    });

    it('is in the log of a daemon in the background, whichever file of a chain it is', async () => {
      const { paths } = chain();
      const to = stage.fresh('record.json');
      const mounted = await stage.mount(paths[0]!, { options: ['--evidence', '--record', to] });
      const parent = paths.at(-1)!;
      appendFileSync(parent, 'x');
      await mounted.unmount();
      expect(logged(mounted).some((text) => text.startsWith(`${parent}: sha256 was `))).toBe(true);
      expect(logged(mounted).at(-1)).toContain('THE EVIDENCE HAS CHANGED');
      expect(record(to).result?.outcome).toBe('changed');
    });
  });

  const tracer = gateOf('program: strace');
  it(tracer.title('no system call writes to a file of it or opens one for writing'), {
    skip: tracer.skip,
    timeout: 120_000,
  }, async () => {
    const { paths } = chain();
    const trace = stage.fresh('trace');
    const mountpoint = stage.makeDirectory('mnt');
    const to = stage.fresh('record.json');
    const args = ['-f', '-y', '-s', '0', '-o', trace, VDISK_MOUNT, '-f', '--evidence', '--record', to];
    const ended = run('strace', [...args, '--', paths[0]!, mountpoint], { limitMs: 90_000 });
    await until('it is mounted', () => existsSync(to) && isMounted(mountpoint), 60_000);
    await must('sh', ['-c', 'cat "$1"/* > /dev/null', 'sh', mountpoint]);
    await must('umount', [mountpoint]);
    expect((await ended).status).toBe(0);
    const lines = readFileSync(trace, 'utf8').split('\n');
    const touching = lines.filter((line) => line.includes(dirname(paths[0]!)));
    const opens = touching.filter((line) => /\bopen(at2?)?\(/.test(line));
    for (const path of paths) {
      expect(opens.filter((line) => line.includes(`"${path}"`)).length, path).toBeGreaterThan(0);
    }
    for (const line of opens) {
      expect(line).toContain('O_RDONLY');
      expect(line).not.toMatch(/O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND/);
      // Of directories only the names are read.
      if (!line.includes('O_DIRECTORY')) expect(line).toContain('O_NOATIME');
    }
    // The call of each line that has to do with a file of it: a write, a truncation, a new time would be among them.
    const calls = touching
      .filter((line) => paths.some((path) => line.includes(path)))
      .map((line) => /^\d+ +(?:\[pid +\d+\] )?(?:<\.\.\. )?(\w+)/.exec(line)?.[1]);
    expect(calls).toContain('pread64');
    expect([...new Set(calls)].filter((name) => !HARMLESS.has(name!))).toEqual([]);
    expect(touching.some((line) => /F_OFD_SETLK, \{l_type=F_WRLCK/.test(line))).toBe(false);
  });

  it('a killed daemon leaves a record that says so', async () => {
    const { path } = dirty();
    const to = stage.fresh('record.json');
    const mounted = await stage.mount(path, { options: ['--evidence', '--record', to] });
    process.kill(mounted.pid, 'SIGKILL');
    await until('the daemon is gone', () => !isRunning(mounted.pid));
    await must('umount', [mounted.mountpoint]);
    expect(record(to).state).toBe('open');
    expect(record(to)).not.toHaveProperty('result');
    const verified = await vdisk('verify', to);
    expect(verified.stdout).toContain('it was never compared');
    expect(verified.status).toBe(0);
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('%s while hashing leaves nothing', async (signal) => {
    const path = vast(2 ** 40);
    const mountpoint = stage.makeDirectory('mnt');
    const to = join(stage.makeDirectory('records'), 'record.json');
    const started = stage.start(['--evidence', '--record', to, path, mountpoint]);
    await until('it hashes', () => parts(dirname(to)).length > 0);
    started.signal(signal);
    expect(await started.ended()).toBe(INTERRUPTED);
    expect(isMounted(mountpoint)).toBe(false);
    await until(
      'no daemon is left',
      () => readdirSync(dirname(to)).length === 0 && stage.processes().length === 0,
    );
  });

  it('hashing at the end is cut by a second signal, and the record stays open', async () => {
    const to = stage.fresh('record.json');
    const mounted = await stage.foreground(vast(2 ** 40), {
      options: ['--evidence', '--record', to, '--hash', 'at-end'],
    });
    await must('umount', [mounted.mountpoint]);
    await until('it hashes', () => logged(mounted).some((text) => text.endsWith(': unmounted')));
    mounted.signal('SIGTERM');
    await until('it says that it hears', () =>
      logged(mounted).some((text) => text.includes('second signal')),
    );
    expect(mounted.hasEnded()).toBe(false);
    mounted.signal('SIGTERM');
    expect(await mounted.ended()).toBe(INTERRUPTED);
    expect(record(to).state).toBe('open');
  });

  const setpriv = gateOf('program: setpriv');
  it(setpriv.title('who may not use O_NOATIME is told, and so is the record'), {
    skip: setpriv.skip,
  }, async () => {
    const { path } = dirty();
    await must('chown', ['12345', path]);
    age(path);
    const to = stage.fresh('record.json');
    const mountpoint = stage.makeDirectory('mnt');
    const options = ['--bounding-set', '-fowner', '--inh-caps', '-fowner', VDISK_MOUNT, '--evidence'];
    const ran = await run('setpriv', [...options, '--record', to, path, mountpoint]);
    expect(ran.status, ran.stderr).toBe(0);
    expect(ran.stderr).toContain('reading may change its access time');
    expect(record(to).files[0]!['no-atime']).toBe(false);
    expect(record(to).notices[0]).toContain('O_NOATIME is for the owner');
    await must('umount', [mountpoint]);
    await until('it is compared', () => record(to).state === 'closed');
    expect(record(to).result?.outcome).toBe('unchanged');
  });

  it('a full disk under the record: nothing is mounted, or the record stays open', async () => {
    const small = stage.makeDirectory('small');
    await must('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small]);
    const { path } = dirty();
    const to = join(small, 'record.json');
    const fill = (): Promise<unknown> => run('sh', ['-c', 'cat /dev/zero > "$1"/filler', 'sh', small]);
    await fill();
    const mountpoint = stage.makeDirectory('mnt');
    const args = ['--evidence', '--record', to, path, mountpoint];
    await expectRefusal(stage, SYSTEM, args, `${to}: the record cannot be written: ENOSPC`);
    expect(readdirSync(small)).toEqual(['filler']);
    await must('rm', [join(small, 'filler')]);
    const mounted = await stage.foreground(path, { options: ['--evidence', '--record', to] });
    await fill();
    await must('umount', [mounted.mountpoint]);
    expect(await mounted.ended()).toBe(SYSTEM);
    expect(mounted.said()).toContain('ENOSPC');
    expect(record(to).state).toBe('open');
    expect(parts(small)).toEqual([]);
  });

  it('refuses what does not go with evidence', async () => {
    const { path } = dirty();
    const mountpoint = stage.makeDirectory('mnt');
    const to = stage.makeFile('there.json', 'theirs');
    const inside = join(mountpoint, 'r.json');
    const cases: [string[], string][] = [
      [['--evidence', '--rw'], '--evidence and --rw'],
      [['-o', 'rw,evidence'], '--evidence and --rw'],
      [['--record', '/tmp/r.json'], '--record: is for evidence'],
      [['--hash', 'none'], '--hash: is for evidence'],
      [['--evidence', '--hash', 'later'], '--hash: expected one of now, at-end, none'],
      [['--evidence', '--record', to], `${to}: exists`],
      [['--evidence', '--record', inside], 'is in the mountpoint'],
      [['--evidence', '--log-file', path], '--log-file'],
      [['--evidence', '--pid-file', path], '--pid-file'],
    ];
    const before = statSync(path, { bigint: true });
    for (const [options, said] of cases) {
      await expectRefusal(stage, USAGE, [...options, path, mountpoint], said);
    }
    expect(statSync(path, { bigint: true })).toEqual(before);
    expect(readFileSync(to, 'utf8')).toBe('theirs');
    // In the manner of mount(8), as fstab says it.
    const mounted = await stage.mount(path, { options: ['-o', 'rw,ro,evidence'] });
    await mounted.unmount();
  });

  const terminal = gateOf('program: script');
  it(terminal.title('shows on a terminal how far hashing is'), {
    skip: terminal.skip,
    timeout: 180_000,
  }, async () => {
    const copy = vast(2 ** 30);
    const mountpoint = stage.makeDirectory('mnt');
    const command = `${VDISK_MOUNT} --evidence ${copy} ${mountpoint}`;
    const { stdout, status } = await run('script', ['-qec', command, '/dev/null'], { limitMs: 120_000 });
    expect(status).toBe(0);
    expect(stdout).toMatch(/vdisk-mount: hashing: \d+ % of 2\.00 GiB, \d+ MiB\/s, \d+:\d\d left/);
    await must('umount', [mountpoint]);
  });
});
