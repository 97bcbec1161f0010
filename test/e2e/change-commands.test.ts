/** The commands that change images as a whole, as built: `resize`, `compact`, `rebase`, `commit`, `check --repair`. */

import { spawn } from 'node:child_process';
import { copyFileSync, readFileSync, renameSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { driverOf } from '../../src/formats/registry.ts';
import { readDisk } from '../support/disk.ts';
import { gateOf, type Ran, run, until } from '../support/machine.ts';
import { paint, shown, strokes } from '../support/made.ts';
import { MemorySource } from '../support/memory-source.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';
import { LET_GO } from '../support/namespace.ts';
import { between, random, randomBytes } from '../support/random.ts';

const VDISK = join(dirname(VDISK_MOUNT), 'vdisk');
const MIB = 1 << 20;
const COMMANDS = ['resize', 'compact', 'rebase', 'commit', 'check'];
const FORMATS = ['vhd', 'vhdx', 'vdi', 'qed'] as const;
const vdisk = (...args: string[]): Promise<Ran> => run(VDISK, args);

/** Runs it, and fails unless it ends well. */
async function ok(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await vdisk(...args);
  expect({ status, stderr }, args.join(' ')).toEqual({ status: 0, stderr: '' });
  return stdout;
}

/** By read(2) and its like. */
const bytesReadBy = (pid: number): number =>
  Number(/^rchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1]);

describe('commands that change images', () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** A raw image with data here and there, and the bytes. */
  function rawImage(size = 6 * MIB, seed = 1): { path: string; disk: Uint8Array } {
    const next = random(seed);
    const disk = new Uint8Array(size);
    for (let at = 0; at + MIB / 2 < size; at += MIB)
      disk.set(randomBytes(next, 70_000), at + between(next, 0, 1000));
    return { path: stage.makeFile('disk.raw', disk), disk };
  }

  /** Whether two images show the same disk. */
  const same = async (one: string, two: string): Promise<boolean> =>
    (await vdisk('compare', one, two)).status === 0;

  describe('what is wrong is said in a line, with what to do', () => {
    it.each(COMMANDS)('%s: without arguments', async (command) => {
      const { status, stdout, stderr } = await vdisk(command);
      expect({ status, stdout }).toEqual({ status: command === 'check' ? 1 : 2, stdout: '' });
      expect(stderr).toMatch(
        /^vdisk: \w+: more is needed: vdisk \w+ <image.*\n {2}See vdisk \w+ --help\.\n$/,
      );
    });

    it.each([
      ['resize', 'FILE', '+1M'],
      ['compact', 'FILE'],
      ['rebase', '-b', '', 'FILE'],
      ['commit', 'FILE'],
      ['check', '--repair', 'FILE'],
    ])('%s: no such file, no image, no right to write', async (...words) => {
      const fill = (path: string): string[] => words.map((word) => (word === 'FILE' ? path : word));
      const missing = await vdisk(...fill(stage.path('none.vhdx')));
      expect(missing.status).toBe(words[0] === 'check' ? 1 : 2);
      expect(missing.stderr).toContain('none.vhdx: no such file');
      const wrong = await vdisk(...fill(stage.makeFile('text.vhdx', 'not an image')));
      expect(wrong.status).toBe(1);
      expect(wrong.stderr).toContain('no known format');
    });

    it('a locked image is not touched, and who has it is said', async () => {
      const { path, disk } = rawImage();
      const holder = await stage.hold('python3', [
        '-c',
        'import fcntl,struct,sys\nf=open(sys.argv[1],"r+b")\n' +
          'fcntl.fcntl(f,37,struct.pack("hhqqi4x",fcntl.F_RDLCK,0,101,1,0))\nprint("held",flush=True)\nsys.stdin.read()',
        path,
      ]);
      try {
        for (const words of [
          ['resize', path, '+1M'],
          ['compact', path],
          ['check', '--repair', path],
        ]) {
          const { status, stderr } = await vdisk(...words);
          expect(status).toBe(1);
          expect(stderr).toMatch(/is in use.*\n {2}Stop the virtual machine/);
        }
        expect(Buffer.compare(readFileSync(path), disk)).toBe(0);
      } finally {
        await holder.release();
      }
    });

    it('-U is not for them', async () => {
      const { path } = rawImage();
      expect((await vdisk('compact', '-U', path)).stderr).toContain('compact has no option -U');
      expect((await vdisk('check', '-U', '--repair', path)).stderr).toContain('--force-share');
    });
  });

  describe('raw images', () => {
    it('resize: signs, and what shrinking asks for', async () => {
      const { path } = rawImage();
      await ok('resize', path, '+2M');
      expect(statSync(path).size).toBe(8 * MIB);
      const { status, stderr } = await vdisk('resize', path, '-2M');
      expect(status).toBe(2);
      expect(stderr).toContain('--shrink');
      await ok('resize', path, '-2M', '--shrink');
      expect(statSync(path).size).toBe(6 * MIB);
      const lossy = await vdisk('resize', '--shrink', path, '-5M');
      expect(lossy.status).toBe(2);
      expect(lossy.stderr).toMatch(/the byte at 0x1[0-9a-f]{5} \(\d+\) is not/);
      expect(statSync(path).size).toBe(6 * MIB);
      expect((await vdisk('resize', path, '7X')).status).toBe(2);
    });

    it('compact: zeros become holes', async () => {
      const { path, disk } = rawImage();
      const told = JSON.parse(await ok('compact', '--json', path));
      expect(told['actual-size']).toBeLessThan(told['actual-size-before']);
      expect(Buffer.compare(readFileSync(path), disk)).toBe(0);
    });

    it('check --repair: nothing to check', async () => {
      expect((await vdisk('check', '--repair', rawImage().path)).status).toBe(63);
    });

    it('Ctrl-C ends it, and leaves the image whole', async () => {
      const path = stage.makeFile('large.raw', Buffer.alloc(256 * MIB, 1));
      const child = spawn(VDISK, ['compact', path], { stdio: ['ignore', 'ignore', 'pipe'] });
      let said = '';
      child.stderr.on('data', (text: Buffer) => {
        said += text;
      });
      const ended = new Promise((done) => child.on('close', done));
      // It is in the middle of the image when so much was read, and gets no further before the signal has come.
      await until('the image is being read', () => bytesReadBy(child.pid!) > 32 * MIB, 20_000);
      child.kill('SIGSTOP');
      child.kill('SIGINT');
      child.kill('SIGCONT');
      expect(await ended).toBe(1);
      expect(said).toBe(
        `vdisk: ${path}: stopped by SIGINT; the image is whole\n  Run the same command again to go on.\n`,
      );
      expect(Buffer.compare(readFileSync(path), Buffer.alloc(256 * MIB, 1))).toBe(0);
    });
  });

  describe.each(FORMATS)('%s', (format) => {
    const driver = driverOf(format);
    const suffix = driver.suffixes[0]!;

    interface Family {
      readonly base: string;
      readonly child: string;
      /** What the child shows, raw. */
      readonly disk: string;
    }
    const SIZE = 12 * MIB;
    let made: Family;

    beforeAll(async () => {
      const next = random(1);
      const folder = stage.makeDirectory(format);
      const [base, child] = [join(folder, `base${suffix}`), join(folder, `child${suffix}`)];
      await ok('create', base, `${SIZE}`);
      const bottom = new MemorySource(readFileSync(base), base, true);
      paint(driver, bottom, undefined, next, strokes(next, SIZE, 12));
      writeFileSync(base, bottom.bytes);
      await ok('create', '-b', base, child);
      const top = new MemorySource(readFileSync(child), child, true);
      paint(driver, top, shown(driver, bottom), next, strokes(next, SIZE, 9));
      writeFileSync(child, top.bytes);
      const disk = stage.makeFile('expected.raw', readDisk(shown(driver, top, shown(driver, bottom))));
      expect(await same(child, disk)).toBe(true);
      made = { base, child, disk };
    });

    /** A copy of the parent and its child, in a directory of their own. */
    function family(): Family {
      const folder = stage.makeDirectory(format);
      const copy = (path: string): string => {
        const to = join(folder, basename(path));
        copyFileSync(path, to);
        return to;
      };
      return { base: copy(made.base), child: copy(made.child), disk: copy(made.disk) };
    }

    /** Leaks are none: QED has no other way to say that a cluster is free. */
    const sound = async (...paths: string[]): Promise<void> => {
      const { status, stdout } = await vdisk('check', ...paths);
      expect(format === 'qed' ? [0, 3] : [0], stdout).toContain(status);
    };

    it('rebase: stands alone, gets another parent, and that one moves', async () => {
      const { base, child, disk } = family();
      await ok('rebase', '-b', '', child);
      await sound(child);
      const other = join(dirname(base), `other${suffix}`);
      await ok('create', other, `${SIZE}`);
      await ok('rebase', '-b', other, child);
      expect(await same(child, disk)).toBe(true);
      await ok('rebase', '-b', base, child);
      expect(await same(child, disk)).toBe(true);
      const moved = join(dirname(base), `moved${suffix}`);
      renameSync(base, moved);
      await ok('rebase', '-u', '-b', moved, child);
      expect(await same(child, disk)).toBe(true);
      await sound(child);
    });

    it('commit: the parent shows the child’s disk, and the child is empty', async () => {
      const { base, child, disk } = family();
      const told = JSON.parse(await ok('commit', '--json', child));
      expect(told['written-bytes']).toBeGreaterThan(0);
      expect(await same(base, disk)).toBe(true);
      expect(await same(child, disk)).toBe(true);
      await sound(base, child);
      expect(JSON.parse(await ok('commit', '--json', child))['written-bytes']).toBe(0);
    });

    it('commit -d: the child keeps what it has; children of the child go on', async () => {
      const { base, child, disk } = family();
      const top = join(dirname(base), `top${suffix}`);
      await ok('create', '-b', child, top);
      await ok('commit', '-d', child);
      expect(await same(base, disk)).toBe(true);
      // What it shows is the same: nobody is warned of it.
      await ok('commit', top);
      expect(await same(top, disk)).toBe(true);
      await sound(base, child, top);
    });

    it('resize: larger and smaller', async () => {
      const { child, disk } = family();
      await ok('resize', child, '+8M');
      truncateSync(disk, SIZE + 8 * MIB);
      expect(await same(child, disk)).toBe(true);
      await ok('resize', '--shrink', child, '-8M');
      truncateSync(disk, SIZE);
      expect(await same(child, disk)).toBe(true);
      const lossy = await vdisk('resize', '--shrink', child, '1M');
      expect(lossy.status).toBe(2);
      expect(lossy.stderr).toMatch(/the byte at 0x/);
      await sound(child);
    });

    it('compact: smaller, the same disk, and its children still know it', async () => {
      const { base, child, disk } = family();
      const size = statSync(base).size;
      const told = JSON.parse(await ok('compact', '--json', base));
      expect(told['file-size']).toBeLessThanOrEqual(size);
      // No warning that the parent was changed.
      await ok('compact', child);
      expect(await same(child, disk)).toBe(true);
      expect((await vdisk('check', base, child)).status).toBe(0);
    });

    it('check --repair: of a sound image changes nothing of the disk', async () => {
      const { base, child, disk } = family();
      const told = await ok('check', '--repair=all', base, child);
      expect(told).not.toContain('error');
      expect(await same(child, disk)).toBe(true);
    });

    if (format !== 'vhdx') return;

    it('what is refused', async () => {
      const { base, child } = family();
      const refused = async (text: string, ...words: string[]): Promise<void> => {
        const { status, stderr } = await vdisk(...words);
        expect(status).toBe(2);
        expect(stderr).toContain(text);
      };
      await refused('cannot be its own parent', 'rebase', '-b', child, child);
      await refused('cannot be its parent', 'rebase', '-b', child, base);
      const large = join(dirname(base), `large${suffix}`);
      await ok('create', large, '64M');
      await refused('would be cut off', 'rebase', '-b', large, child);
      await refused('has no parent', 'commit', base);
    });

    const unshare = gateOf('program: unshare');
    it(unshare.title('a full disk: told, and the image is whole'), { skip: unshare.skip }, async () => {
      const { base, child, disk } = family();
      const folder = stage.makeDirectory('small');
      const script =
        LET_GO +
        'mount -t tmpfs tmpfs "$1" && cp --sparse=always "$2" "$3" "$1"/ || exit 98; child="$1/$(basename "$3")"; ' +
        'mount -o remount,size=$(($(du -sk "$1" | cut -f1) + 64))k "$1" || exit 97; ' +
        '"$4" rebase -b "" "$child"; status=$?; "$4" compare "$child" "$5" >&2 || exit 99; exit $status';
      const words = [folder, base, child, VDISK, disk];
      const { status, stderr } = await run('unshare', ['-m', 'sh', '-c', script, 'sh', ...words]);
      expect(status, stderr).toBe(1);
      expect(stderr).toMatch(/child\.vhdx: its disk cannot be written .*\n {2}No space is left/);
    });
  });

  const unshare = gateOf('program: unshare');
  it(unshare.title('a read-only directory'), { skip: unshare.skip }, async () => {
    const folder = stage.makeDirectory('read-only');
    copyFileSync(rawImage().path, join(folder, 'disk.raw'));
    const script = `${LET_GO}mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && "$2" compact "$1/disk.raw"`;
    const { status, stderr } = await run('unshare', ['-m', 'sh', '-c', script, 'sh', folder, VDISK]);
    expect(status).toBe(1);
    expect(stderr).toContain('disk.raw: its file system is mounted read-only');
  });
});
