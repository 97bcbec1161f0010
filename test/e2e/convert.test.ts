/** `vdisk convert` as built: what is left when it is interrupted, and what it refuses. Nothing is mounted for it. */

import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, must, run, until } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';
import { random, randomBytes } from '../support/random.ts';

const VDISK = join(dirname(VDISK_MOUNT), 'vdisk');
const MIB = 1 << 20;
const mounts = gateOf('root', 'program: mount', 'program: umount');

describe('convert', () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** `mib` MiB of noise. */
  function noise(name: string, mib: number): string {
    const path = stage.fresh(name);
    const fd = openSync(path, 'w');
    const piece = randomBytes(random(mib), MIB);
    for (let n = 0; n < mib; n += 1) {
      piece[0] = n & 0xff;
      writeSync(fd, piece);
    }
    closeSync(fd);
    return path;
  }

  function directory(name: string): string {
    const path = stage.fresh(name);
    mkdirSync(path);
    return path;
  }

  const sha = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

  /** Bytes that the files in a folder take. */
  const taken = (folder: string): number =>
    readdirSync(folder).reduce(
      (sum, name) => sum + (statSync(join(folder, name), { throwIfNoEntry: false })?.blocks ?? 0) * 512,
      0,
    );

  /** Starts a conversion, and holds it as soon as there is some data in `folder`. */
  async function held(
    folder: string,
    args: readonly string[],
  ): Promise<{ child: ChildProcess; ended: Promise<unknown> }> {
    const child = spawn(VDISK, ['convert', ...args], { stdio: 'ignore' });
    const ended = new Promise((resolve) => child.once('exit', (status, signal) => resolve(signal ?? status)));
    const before = taken(folder);
    await until('data is written', () => taken(folder) > before + MIB);
    child.kill('SIGSTOP');
    return { child, ended };
  }

  it('Ctrl-C leaves nothing behind', async () => {
    const source = noise('source.raw', 400);
    const folder = directory('out');
    const { child, ended } = await held(folder, [source, join(folder, 'disk.vhdx')]);
    child.kill('SIGINT');
    child.kill('SIGCONT');
    expect(await ended).toBe(1);
    expect(readdirSync(folder)).toEqual([]);
  });

  it('with --resume it goes on after Ctrl-C, after kill -9, and begins anew where the source has changed', async () => {
    const source = noise('source.raw', 400);
    const folder = directory('out');
    const target = join(folder, 'disk.vhdx');
    const record = `${target}.partial.json`;
    const args = ['--resume', '--json', source, target];
    const done = (): number => (existsSync(record) ? JSON.parse(readFileSync(record, 'utf8')).done : 0);

    const first = await held(folder, args);
    first.child.kill('SIGINT');
    first.child.kill('SIGCONT');
    expect(await first.ended).toBe(1);
    expect(readdirSync(folder).sort()).toEqual(['disk.vhdx.partial', 'disk.vhdx.partial.json']);
    const before = done();

    // The time in which it is held counts: the next thing it does is to make stable what there is.
    const second = await held(folder, args);
    await new Promise((resolve) => setTimeout(resolve, 3000));
    second.child.kill('SIGCONT');
    await until('more is stable', () => done() > before || second.child.exitCode !== null);
    second.child.kill('SIGKILL');
    expect(await second.ended).toBe('SIGKILL');
    const kept = done();
    expect(kept).toBeGreaterThan(before);

    const third = await run(VDISK, ['convert', ...args, '--verify']);
    expect(third.stderr).toBe('');
    expect(JSON.parse(third.stdout)).toMatchObject({ 'resumed-from': kept, verified: true, format: 'vhdx' });
    expect(readdirSync(folder)).toEqual(['disk.vhdx']);
    expect((await run(VDISK, ['check', target])).status).toBe(0);
    expect((await run(VDISK, ['compare', source, target])).status).toBe(0);

    const other = join(folder, 'other.vdi');
    const fourth = await held(folder, ['--resume', source, other]);
    fourth.child.kill('SIGINT');
    fourth.child.kill('SIGCONT');
    expect(await fourth.ended).toBe(1);
    utimesSync(source, 1, 1);
    const fifth = await run(VDISK, ['convert', '--resume', '--verify', source, other]);
    expect(fifth.stderr).toMatch(/other\.vdi\.partial: is begun anew: the source has changed/);
    expect(fifth.status).toBe(0);
  });

  it('two at one partial output: the second is refused', async () => {
    const source = noise('source.raw', 64);
    const folder = directory('out');
    const args = ['--resume', source, join(folder, 'disk.qed')];
    const { child, ended } = await held(folder, args);
    const { status, stderr } = await run(VDISK, ['convert', ...args]);
    child.kill('SIGCONT');
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: expect.stringMatching(/disk\.qed\.partial: is in use/),
    });
    expect(await ended).toBe(0);
    expect(readdirSync(folder)).toEqual(['disk.qed']);
  });

  it('a file that is there stays, unless --force; the source stays in any case', async () => {
    const source = noise('source.raw', 3);
    const there = stage.makeFile('there.vhd', new Uint8Array(512));
    const before = sha(there);
    const refused = await run(VDISK, ['convert', source, there]);
    expect(refused).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/is there already\n.*--force/),
    });
    expect(sha(there)).toBe(before);
    expect((await run(VDISK, ['convert', '--force', '--verify', source, there])).status).toBe(0);
    expect((await run(VDISK, ['compare', source, there])).status).toBe(0);
    const same = await run(VDISK, ['convert', '--force', '-O', 'vdi', source, source]);
    expect(same).toMatchObject({ status: 2, stderr: expect.stringContaining('is what is to be converted') });
  });

  it('usage: a format that is not told, a directory that is not there, sizes of one thing', async () => {
    const source = noise('source.raw', 1);
    for (const [args, message] of [
      [[source, stage.path('disk.vmdk')], /its name does not tell its format\n.*-O raw/],
      [[source], /the new image is not named/],
      [[source, stage.path('none', 'disk.vhd')], /its directory is not there/],
      [['--layer', '1', source, stage.path('disk.vhd')], /--layer=1: .* has 1 files, the last is 0/],
      [['-m', '0', source, stage.path('disk.vhd')], /--threads=0: expected a number from 1 to 16/],
      [['--resume', '--flush', 'off', source, stage.path('disk.vhd')], /--resume and --flush=off/],
      [['-O', 'vhd', source, '-'], /standard output takes raw bytes only/],
      [['-o', 'block-size=3', source, stage.path('disk.vhdx')], /block-size/],
    ] as const) {
      const { status, stderr } = await run(VDISK, ['convert', ...args]);
      expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringMatching(message) });
    }
  });

  it('standard output: raw, zeros of holes included; a reader that has enough ends it', async () => {
    const source = stage.fresh('sparse.raw');
    const fd = openSync(source, 'w');
    ftruncateSync(fd, 9 * MIB + 5);
    writeSync(fd, 'here', 5 * MIB);
    closeSync(fd);
    const image = stage.fresh('sparse.vhdx');
    await must(VDISK, ['convert', source, image]);
    const out = stage.fresh('out');
    await must('sh', ['-c', '"$0" convert "$1" - | cat > "$2"', VDISK, source, out]);
    expect(sha(out)).toBe(sha(source));
    await must('sh', ['-c', '"$0" convert -O raw "$1" - > "$2"', VDISK, image, out]);
    expect(statSync(out).size).toBe(9 * MIB + 512);
    const cut = await run('sh', [
      '-c',
      '{ "$0" convert "$1" -; echo "$?" >&2; } | head -c 100 | wc -c',
      VDISK,
      source,
    ]);
    expect(cut).toMatchObject({
      stdout: '100\n',
      stderr: 'vdisk: standard output was closed before all was written\n1\n',
    });
  });

  it('progress for programs', async () => {
    const source = noise('source.raw', 2);
    const { stderr } = await run(VDISK, [
      'convert',
      '--progress=json',
      '--verify',
      source,
      stage.fresh('disk.vdi'),
    ]);
    const told = stderr
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).progress);
    expect(told.at(-1)).toMatchObject({ doing: 'verifying', done: 2 * MIB, total: 2 * MIB });
    expect(told).toContainEqual(expect.objectContaining({ doing: 'converting', done: 2 * MIB }));
  });

  it(mounts.title('a full and a read-only file system: said, and nothing is left'), {
    skip: mounts.skip,
  }, async () => {
    const source = noise('source.raw', 20);
    const folder = directory('small');
    await must('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'none', folder]);
    try {
      for (const name of ['disk.raw', 'disk.vhd', 'disk.vhdx', 'disk.vdi', 'disk.qed']) {
        const { status, stderr } = await run(VDISK, ['convert', source, join(folder, name)]);
        expect({ status, stderr }).toEqual({
          status: 1,
          stderr: expect.stringContaining('no space is left'),
        });
        expect(readdirSync(folder)).toEqual([]);
      }
      const kept = await run(VDISK, ['convert', '--resume', source, join(folder, 'disk.vdi')]);
      expect(kept.stderr).toMatch(
        /no space is left.*\n.*disk\.vdi\.partial is kept: the same command goes on with it/,
      );
      await must('mount', ['-o', 'remount,size=64m', folder]);
      expect(
        (await run(VDISK, ['convert', '--resume', '--verify', source, join(folder, 'disk.vdi')])).status,
      ).toBe(0);
      expect(readdirSync(folder)).toEqual(['disk.vdi']);
      await must('mount', ['-o', 'remount,ro', folder]);
      const denied = await run(VDISK, ['convert', source, join(folder, 'other.vdi')]);
      expect(denied).toMatchObject({ status: 1, stderr: expect.stringContaining('mounted read-only') });
    } finally {
      await must('umount', [folder]);
    }
  });

  it('one layer of a chain', async () => {
    const base = stage.makeFile('base.raw', randomBytes(random(1), 4 * MIB));
    const child = stage.fresh('child.qed');
    await must(VDISK, ['create', '-f', 'qed', '-b', base, '-F', 'raw', child]);
    const top = stage.fresh('top.raw');
    await must(VDISK, ['convert', '--layer', '0', child, top]);
    expect(readFileSync(top).equals(Buffer.alloc(4 * MIB))).toBe(true);
    const flat = stage.fresh('flat.raw');
    await must(VDISK, ['convert', child, flat]);
    expect(sha(flat)).toBe(sha(base));
    writeFileSync(flat, '');
    await must(VDISK, ['convert', '--force', '--layer', '1', child, flat]);
    expect(sha(flat)).toBe(sha(base));
  });
});
