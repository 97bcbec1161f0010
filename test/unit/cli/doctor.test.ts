/** `vdisk doctor` on machines that lack something. */

import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { openLayer } from '../../../src/chain/layer.ts';
import { CHECKS } from '../../../src/cli/doctor/checks.ts';
import type { Finding } from '../../../src/cli/doctor/finding.ts';
import { lookAtImage } from '../../../src/cli/doctor/held.ts';
import type { Machine } from '../../../src/cli/doctor/machine.ts';
import { TableAllocator } from '../../../src/shared/paged-table.ts';
import { HOLD_OPEN, hold } from '../../support/holder.ts';
import { vdisk } from '../../support/vdisk.ts';

const FILES: Readonly<Record<string, string>> = {
  '/proc/self/status': 'CapEff:\t000001ffffffffff\nNoNewPrivs:\t0\n',
  '/proc/sys/kernel/osrelease': '6.8.0-31-generic\n',
  '/proc/self/limits': 'Max open files            1024                 524288               files     \n',
  '/proc/meminfo': 'MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n',
  '/proc/self/mountinfo': '',
  '/etc/fuse.conf': '# user_allow_other\nuser_allow_other\n',
};
const STATS: Readonly<Record<string, { uid: number; mode: number }>> = {
  '/usr/bin/fusermount3': { uid: 0, mode: 0o104755 },
  '/dev/loop-control': { uid: 0, mode: 0o20660 },
  '/mnt/dead': { uid: 0, mode: 0o40755 },
};

interface Lacks extends Partial<Omit<Machine, 'read' | 'stat'>> {
  readonly files?: Readonly<Record<string, string | undefined>>;
  readonly stats?: Readonly<Record<string, { uid: number; mode: number } | string>>;
}

/** A machine that has everything, but for what is said. */
function machine({ files = {}, stats = {}, ...more }: Lacks = {}): Machine {
  return {
    euid: 0,
    user: 'ann',
    node: '22.1.0',
    open: () => undefined,
    program: (name) => `/usr/bin/${name}`,
    load: () => undefined,
    ...more,
    read: (path) => (path in files ? files[path] : FILES[path]),
    stat: (path) => stats[path] ?? STATS[path] ?? 'ENOENT',
  };
}

const found = (lacks?: Lacks): Finding[] => CHECKS.flatMap((check) => [...check(machine(lacks))]);
const ofLevel = (level: Finding['level'], lacks?: Lacks): string[] =>
  found(lacks)
    .filter((finding) => finding.level === level)
    .map(({ subject, text, mend }) => `${subject}: ${text}: ${mend}`);

test.each([0, 1000])('nothing is wrong where all is there, for user %i', (euid) => {
  expect(found({ euid }).filter(({ level }) => level !== 'ok')).toEqual([]);
});

describe('what keeps a mount from being made', () => {
  const ann = { euid: 1000 };
  const noAdmin = { '/proc/self/status': 'CapEff:\t00000000a80425fb\n' };
  test.each<[string, Lacks, RegExp]>([
    ['an old Node.js', { node: '18.20.4' }, /^Node.js: 18.20.4 is too old: 20.19/],
    ['one that is a little too old', { node: '20.18.9' }, /^Node.js: 20.18.9 is too old/],
    ['an old kernel', { files: { '/proc/sys/kernel/osrelease': '4.19.0-27-amd64' } }, /5\.4 or newer/],
    ['no device', { open: () => 'ENOENT' }, /^\/dev\/fuse: is not there.*modprobe fuse/],
    [
      'no right to the device',
      { ...ann, open: () => 'EACCES' },
      /by this user: permission denied: chmod 666/,
    ],
    ['a control group', { open: () => 'EPERM' }, /control group.*DeviceAllow/],
    ['no driver', { open: () => 'ENODEV' }, /has no driver.*modprobe/],
    ['root without capabilities', { files: noAdmin }, /without CAP_SYS_ADMIN.*--cap-add SYS_ADMIN/],
    ['no mount(8)', { program: () => undefined }, /^mount\(8\): is not installed: apt install mount/],
    [
      'no fusermount3',
      { ...ann, program: () => undefined },
      /^fusermount3: is not installed.*apt install fuse3/,
    ],
    [
      'fusermount3 without its bit',
      { ...ann, stats: { '/usr/bin/fusermount3': { uid: 0, mode: 0o100755 } } },
      /is not set-user-ID root: chmod u\+s \/usr\/bin\/fusermount3/,
    ],
    [
      'no new privileges',
      { ...ann, files: { '/proc/self/status': 'NoNewPrivs:\t1\n' } },
      /NoNewPrivs.*NoNewPrivileges=no/,
    ],
  ])('%s', (_, lacks, text) => {
    const problems = ofLevel('problem', lacks);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(text);
  });
});

describe('what does not work as one may want', () => {
  const dead = '36 25 0:45 / /mnt/dead rw shared:7 - fuse.vdisk-mount /img/a.vhdx rw\n';
  test.each<[string, Lacks, RegExp]>([
    ['koffi is missing', { load: (name) => (name === 'koffi' ? 'no such' : undefined) }, /not locked/],
    [
      'allow_other is not allowed',
      { euid: 1000, files: { '/etc/fuse.conf': '#user_allow_other' } },
      /Permission denied/,
    ],
    ['a container', { stats: { '/.dockerenv': { uid: 0, mode: 0 } } }, /^container: this is a docker/],
    ['no loop devices', { stats: { '/dev/loop-control': 'ENOENT' } }, /^loop devices: there are none/],
    ['few descriptors', { files: { '/proc/self/limits': 'Max open files 256 512 files' } }, /^limits: .*512/],
    ['little memory', { files: { '/proc/meminfo': 'MemAvailable: 90000 kB' } }, /^memory: /],
    [
      'a dead mount',
      { files: { '/proc/self/mountinfo': dead }, stats: { '/mnt/dead': 'ENOTCONN' } },
      /\/mnt\/dead: its daemon is gone.*umount -l '\/mnt\/dead'/,
    ],
  ])('%s', (_, lacks, text) => {
    expect(ofLevel('problem', lacks)).toEqual([]);
    const warnings = ofLevel('warning', lacks);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(text);
  });

  test('a mount that is alive is none of it', () => {
    expect(ofLevel('warning', { files: { '/proc/self/mountinfo': dead } })).toEqual([]);
  });
});

describe('an image', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-doctor-test-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'disk.raw');
  writeFileSync(path, Buffer.alloc(4096));

  test('that nobody holds', () => {
    expect(lookAtImage(path).map(({ level }) => level)).toEqual(['ok', 'ok', 'ok']);
  });

  test('that somebody has open', async () => {
    const children = new Set<ChildProcess>();
    const holder = await hold(process.execPath, ['-e', HOLD_OPEN, path], '', children);
    try {
      const [held] = lookAtImage(path);
      expect(held?.level).toBe('warning');
      expect(held?.text).toMatch(/^is open in .+ \(pid \d+\)/);
      expect(held?.text).toContain(`${holder.pid}`);
    } finally {
      await holder.release();
    }
  });

  test('that somebody writes to', () => {
    const context = {
      tables: new TableAllocator(),
      report: () => {},
      formatOptions: [],
      lock: true,
      holders: () => [],
    };
    const { source } = openLayer(path, 'write', undefined, context);
    try {
      const said = lookAtImage(path).map(({ level, text }) => `${level}: ${text}`);
      expect(said).toHaveLength(2);
      expect(said[1]).toBe('problem: cannot be mounted: is in use for writing');
    } finally {
      source.close();
    }
  });

  test('that is not there', async () => {
    const { status, stdout } = await vdisk('doctor', '--quick', join(folder, 'none.vhd'));
    expect(stdout).toMatch(/FAIL {2}\S+none\.vhd: cannot be mounted: /);
    expect(status).toBe(1);
  });

  test('as JSON', async () => {
    const { stdout } = await vdisk('doctor', '--quick', '--json', path);
    const findings = JSON.parse(stdout) as Finding[];
    expect(findings.filter(({ subject }) => subject === path)).toHaveLength(3);
  });
});
