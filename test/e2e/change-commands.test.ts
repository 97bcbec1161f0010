/** The commands that change images as a whole, as built: `resize`, `compact`, `rebase`, `commit`, `check --repair`. */

import { spawn } from 'node:child_process';
import { copyFileSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { driverOf } from '../../src/formats/registry.ts';
import { readDisk } from '../support/disk.ts';
import { gateOf, type Ran, run } from '../support/machine.ts';
import { paint, shown, strokes } from '../support/made.ts';
import { MemorySource } from '../support/memory-source.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';
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
    (await vdisk('compare', '--strict', one, two)).status === 0 ||
    (await vdisk('compare', one, two)).status === 0;

  describe('what is wrong is said in a line, with what to do', () => {
    it.each(COMMANDS)('%s: without arguments', async (command) => {
      const { status, stdout, stderr } = await vdisk(command);
      expect({ status, stdout }).toEqual({ status: command === 'check' ? 1 : 2, stdout: '' });
      expect(stderr).toMatch(/^vdisk: Not enough non-option arguments.*\n {2}See vdisk \w+ --help\.\n$/);
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
      expect((await vdisk('compact', '-U', path)).stderr).toContain('Unknown argument');
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
      const path = stage.makeFile('large.raw', '');
      truncateSync(path, 64 * MIB);
      // Data all over, so that it takes a while.
      writeFileSync(path, Buffer.alloc(200 * MIB, 1));
      const child = spawn(VDISK, ['compact', '--progress=json', path], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let said = '';
      child.stderr.on('data', (text: Buffer) => {
        said += text;
        if (said.includes('"done"')) child.kill('SIGINT');
      });
      const status = await new Promise((done) => child.on('close', done));
      if (said.includes('"done"') && status === 0) return;
      expect(status).toBe(1);
      expect(said).toContain('stopped by SIGINT; the image is whole');
    });
  });

  describe.each(FORMATS)('%s', (format) => {
    const driver = driverOf(format);
    const suffix = driver.suffixes[0]!;

    /** A parent and its child, with what each shows. */
    async function family(
      seed: number,
      size = 12 * MIB,
    ): Promise<{ base: string; child: string; disk: string }> {
      const next = random(seed);
      const base = stage.fresh(`base${suffix}`);
      const child = stage.fresh(`child${suffix}`);
      await ok('create', '-f', format, base, `${size}`);
      const bottom = new MemorySource(readFileSync(base), base, true);
      paint(driver, bottom, undefined, next, strokes(next, size, 12));
      writeFileSync(base, bottom.bytes);
      await ok('create', '-f', format, '-b', base, child);
      const top = new MemorySource(readFileSync(child), child, true);
      paint(driver, top, shown(driver, bottom), next, strokes(next, size, 9));
      writeFileSync(child, top.bytes);
      const disk = stage.makeFile('expected.raw', readDisk(shown(driver, top, shown(driver, bottom))));
      expect(await same(child, disk)).toBe(true);
      return { base, child, disk };
    }

    const clean = async (...paths: string[]): Promise<void> => {
      for (const path of paths) expect((await vdisk('check', path)).status, path).toBe(0);
    };

    it('rebase: stands alone, shows the same, and gets a parent again', async () => {
      const { base, child, disk } = await family(1);
      await ok('rebase', '-b', '', child);
      expect(await same(child, disk)).toBe(true);
      await clean(child);
      await ok('rebase', '-b', base, child);
      expect(await same(child, disk)).toBe(true);
      await clean(child);
    });

    it('rebase: onto another parent; then that one moves', async () => {
      const { child, disk } = await family(2);
      const { base: other } = await family(3);
      await ok('rebase', '-b', other, child);
      expect(await same(child, disk)).toBe(true);
      await clean(child);
      const moved = stage.fresh(`moved${suffix}`);
      copyFileSync(other, moved);
      await ok('rebase', '-u', '-b', moved, child);
      expect(await same(child, disk)).toBe(true);
    });

    it('rebase: what it refuses', async () => {
      const { base, child } = await family(4);
      expect((await vdisk('rebase', '-b', child, child)).stderr).toContain('cannot be its own parent');
      const descendant = await vdisk('rebase', '-b', child, base);
      expect(descendant.status).toBe(2);
      expect(descendant.stderr).toContain('cannot be its parent');
      const large = stage.fresh(`large${suffix}`);
      await ok('create', '-f', format, large, '64M');
      expect((await vdisk('rebase', '-b', large, child)).stderr).toContain('would be cut off');
    });

    it('commit: the parent shows the child’s disk, and the child is empty', async () => {
      const { base, child, disk } = await family(5);
      const told = JSON.parse(await ok('commit', '--json', child));
      expect(told['written-bytes']).toBeGreaterThan(0);
      expect(await same(base, disk)).toBe(true);
      expect(await same(child, disk)).toBe(true);
      await clean(base, child);
      await ok('commit', child);
      expect(await same(child, disk)).toBe(true);
    });

    it('commit -d: the child keeps what it has; three deep', async () => {
      const { base, child, disk } = await family(6);
      const top = stage.fresh(`top${suffix}`);
      await ok('create', '-f', format, '-b', child, top);
      await ok('commit', '-d', child);
      expect(await same(base, disk)).toBe(true);
      // What it shows is the same, but by its own state nobody but its parent knows.
      expect(await same(child, disk)).toBe(true);
      await ok('commit', top);
      expect(await same(top, disk)).toBe(true);
      await clean(base, child, top);
    });

    it('commit: an image that stands alone', async () => {
      const { base } = await family(7);
      const { status, stderr } = await vdisk('commit', base);
      expect(status).toBe(2);
      expect(stderr).toContain('has no parent');
    });

    it('resize: larger and smaller, parents and children', async () => {
      const { base, child, disk } = await family(8);
      await ok('resize', child, '+8M');
      truncateSync(disk, 20 * MIB);
      expect(await same(child, disk)).toBe(true);
      await ok('resize', '--shrink', child, '-8M');
      truncateSync(disk, 12 * MIB);
      expect(await same(child, disk)).toBe(true);
      const lossy = await vdisk('resize', '--shrink', child, '1M');
      expect(lossy.status).toBe(2);
      expect(lossy.stderr).toMatch(/the byte at 0x/);
      await clean(base, child);
    });

    it('compact: smaller, the same disk, and its children still know it', async () => {
      const { base, child, disk } = await family(9);
      const size = statSync(base).size;
      const zeroed = new MemorySource(readFileSync(base), base, true);
      const before = stage.makeFile('base.raw', readDisk(shown(driver, zeroed)));
      const told = JSON.parse(await ok('compact', '--json', base));
      expect(told['file-size']).toBeLessThanOrEqual(size);
      expect(await same(base, before)).toBe(true);
      expect(await same(child, disk)).toBe(true);
      await ok('compact', child);
      expect(await same(child, disk)).toBe(true);
      await clean(base, child);
    });

    it('check --repair: of an image that is clean changes nothing of the disk', async () => {
      const { base, child, disk } = await family(10);
      await ok('check', '--repair', base);
      await ok('check', '--repair=leaks', child);
      await ok('check', '--repair=all', child);
      expect(await same(child, disk)).toBe(true);
    });

    const unshare = gateOf('program: unshare');
    it(unshare.title('a full disk: told, and the image is whole'), { skip: unshare.skip }, async () => {
      const { base, child, disk } = await family(11);
      const folder = stage.makeDirectory('small');
      const bytes = statSync(base).size + statSync(child).size + 128 * 1024;
      const script =
        'mount -t tmpfs -o size=$1 tmpfs "$2" && cp "$3" "$4" "$2"/ && cd "$2" && base=$(basename "$3") child=$(basename "$4") && ' +
        '"$5" rebase -u -b "$base" "$child" && "$5" rebase -b "" "$child"; status=$?; ' +
        '"$5" compare "$child" "$6" >&2 || exit 99; exit $status';
      const { status, stderr } = await run('unshare', [
        '-m',
        'sh',
        '-c',
        script,
        'sh',
        `${bytes}`,
        folder,
        base,
        child,
        VDISK,
        disk,
      ]);
      expect(status, stderr).toBe(1);
      expect(stderr).toContain('No space is left');
    });
  });

  const unshare = gateOf('program: unshare');
  it(unshare.title('a read-only directory'), { skip: unshare.skip }, async () => {
    const folder = stage.makeDirectory('read-only');
    copyFileSync(rawImage().path, join(folder, 'disk.raw'));
    const script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && "$2" compact "$1/disk.raw"';
    const { status, stderr } = await run('unshare', ['-m', 'sh', '-c', script, 'sh', folder, VDISK]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/disk\.raw: permission denied/);
  });
});
