/** Overlays of a mount merged into their image by `vdisk commit`, and mounted again; also where it was killed. */

import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sha256 } from '../support/images.ts';
import { gateOf, must, type Ran, run, TO_MOUNT, until } from '../support/machine.ts';
import { type Mounted, Stage, VDISK_MOUNT } from '../support/mount.ts';
import { random, randomBytes } from '../support/random.ts';

const VDISK = join(dirname(VDISK_MOUNT), 'vdisk');
const KIB = 1024;
const MIB = 1024 * KIB;

const gate = gateOf(...TO_MOUNT);

describe(gate.title('vdisk commit of an overlay'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  const vdisk = (...args: string[]): Promise<Ran> => run(VDISK, args);
  const mount = (image: string, overlay: string, ...options: string[]): Promise<Mounted> =>
    stage.mount(image, { options: ['--overlay', overlay, ...options] });

  /** Mounts, changes file and `disk` alike, unmounts. */
  async function write(image: string, overlay: string, disk: Uint8Array, seed: number, lengths: number[]) {
    const mounted = await mount(image, overlay);
    const fd = openSync(join(mounted.mountpoint, 'disk.raw'), 'r+');
    try {
      const next = random(seed);
      for (const length of lengths) {
        const at = Math.floor(next() * (disk.length - length));
        const bytes = randomBytes(next, length);
        writeSync(fd, bytes, 0, length, at);
        disk.set(bytes, at);
      }
    } finally {
      closeSync(fd);
    }
    await mounted.unmount();
  }

  /** Whether the image alone shows `disk`, and so does a mount with the overlay. */
  async function expectBoth(image: string, overlay: string, disk: Uint8Array): Promise<void> {
    const expected = stage.makeFile('expected.raw', disk);
    expect(await vdisk('compare', image, expected)).toMatchObject({ status: 0, stderr: '' });
    const mounted = await mount(image, overlay);
    const seen = sha256(readFileSync(join(mounted.mountpoint, 'disk.raw')));
    await mounted.unmount();
    expect(seen).toBe(sha256(disk));
  }

  it.each(['raw', 'vhd', 'vhdx', 'vdi', 'qed'])(
    '%s: written, merged, mounted again, and once more',
    async (format) => {
      const disk = new Uint8Array(6 * MIB + 512);
      disk.set(randomBytes(random(1), 300 * KIB), 100 * KIB);
      const folder = stage.makeDirectory(format);
      const image = join(folder, `disk.${format}`);
      await must(VDISK, ['convert', stage.makeFile('made.raw', disk), image]);
      const [before, overlay] = [readFileSync(image), join(folder, 'changes.qed')];
      await write(image, overlay, disk, 2, [70_000, 512, 1000, MIB]);
      expect(Buffer.compare(readFileSync(image), before)).toBe(0);
      for (const seed of [3, 4]) {
        const committed = await vdisk('commit', '--json', overlay);
        expect(committed).toMatchObject({ status: 0, stderr: '' });
        expect(JSON.parse(committed.stdout)['written-bytes']).toBeGreaterThan(0);
        await expectBoth(image, overlay, disk);
        expect((await vdisk('check', overlay)).stdout).toContain('0 bytes allocated');
        await write(image, overlay, disk, seed, [30_000]);
      }
    },
  );

  it('of an image that was changed since: refused, and taken with --force-parent', async () => {
    const disk = new Uint8Array(4 * MIB);
    const [image, overlay] = [stage.makeFile('disk.raw', disk), stage.fresh('changes.qed')];
    const named = join(dirname(image), 'disk.raw');
    writeFileSync(named, disk);
    await write(named, overlay, disk, 5, [5000]);
    const other = new Uint8Array(disk.length);
    other.set(randomBytes(random(6), 512), 3 * MIB);
    writeFileSync(named, other);
    const refused = await vdisk('commit', overlay);
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/is not an overlay of .*disk\.raw as it is now.*\n.*--force-parent/);
    expect(Buffer.compare(readFileSync(named), other)).toBe(0);
    expect((await vdisk('commit', '--force-parent', overlay)).status).toBe(0);
  });

  it.each(['raw', 'vhdx'])('%s: killed in the middle, then run again', async (format) => {
    const disk = new Uint8Array(96 * MIB);
    const folder = stage.makeDirectory(format);
    const [image, overlay] = [join(folder, `disk.${format}`), join(folder, 'changes.qed')];
    await must(VDISK, ['create', image, `${disk.length}`]);
    await write(image, overlay, disk, 7, Array(24).fill(3 * MIB));
    const child = spawn(VDISK, ['commit', overlay], { stdio: 'ignore' });
    const ended = new Promise((done) => child.on('close', (status, signal) => done(signal ?? status)));
    await until('bytes are on their way', () => bytesWrittenBy(child.pid!) > 4 * MIB);
    child.kill('SIGKILL');
    expect(await ended).toBe('SIGKILL');
    // Which of the two shows what is not known to a mount: it is refused, with what to do.
    const refused = await stage.command(['--overlay', overlay, image, stage.makeDirectory('mnt')]);
    expect(refused.status).not.toBe(0);
    expect(refused.stderr).toMatch(/a commit of it into .* was begun and not ended\n.*vdisk commit again/);
    expect(await vdisk('commit', overlay)).toMatchObject({ status: 0, stderr: '' });
    await expectBoth(image, overlay, disk);
  });
});

/** By write(2) and its like. */
const bytesWrittenBy = (pid: number): number =>
  Number(/^wchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1]);
