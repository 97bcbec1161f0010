/** Mounts with an overlay: what is written goes to it, and the image stays as it is. */

import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { convert, convertBack, kindNamed, sha256, TO_MAKE_IMAGES } from '../support/images.ts';
import { gateOf, must, run, TO_MOUNT } from '../support/machine.ts';
import { logged, type Mounted, Stage } from '../support/mount.ts';
import { random, randomBytes } from '../support/random.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE = 6 * MIB + 3 * 512;

const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES, 'program: dd', 'program: fallocate', 'program: sha256sum');

/** Data, a hole of more than a block of any format, data up to the end. */
function diskBytes(size = SIZE): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set(randomBytes(random(1), 300 * KIB), 100 * KIB);
  bytes.set(randomBytes(random(2), MIB + 700), size - MIB - 700);
  return bytes;
}

/** What is written: in data, over its edge into the hole, in the hole, at the end. */
const WRITES: readonly (readonly [at: number, length: number])[] = [
  [120 * KIB + 100, 10_000],
  [390 * KIB, 30 * KIB],
  [3 * MIB + 5, 70 * KIB],
  [SIZE - 700, 700],
];

interface State {
  readonly sum: string;
  readonly mtime: bigint;
  readonly size: bigint;
}

function stateOf(path: string): State {
  const { mtimeNs, size } = statSync(path, { bigint: true });
  return { sum: sha256(readFileSync(path)), mtime: mtimeNs, size };
}

describe(gate.title('overlays'), { skip: gate.skip }, () => {
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** By another program: this process must not wait for a mount that it tests. */
  async function write(mounted: Mounted, name: string, at: number, bytes: Uint8Array): Promise<void> {
    const from = stage.makeFile('patch', bytes);
    const to = ['oflag=seek_bytes', `seek=${at}`, 'conv=notrunc,fsync'];
    await must('dd', [`if=${from}`, `of=${join(mounted.mountpoint, name)}`, 'bs=64K', ...to, 'status=none']);
  }

  async function sumOf(mounted: Mounted, name: string): Promise<string> {
    return (await must('sha256sum', [join(mounted.mountpoint, name)])).slice(0, 64);
  }

  const sizeOf = async (mounted: Mounted, name: string): Promise<number> =>
    Number(await must('stat', ['-c', '%s', join(mounted.mountpoint, name)]));

  async function makeImage(name: string): Promise<string> {
    const kind = kindNamed(name);
    const raw = stage.makeFile('source.raw', diskBytes());
    const image = stage.path(`disk-${kind.format}${kind.suffix}`);
    await convert(kind, raw, image);
    return image;
  }

  for (const name of ['raw', 'vhd dynamic with its exact size', 'vhdx dynamic', 'vdi dynamic', 'qed']) {
    it(`${name}: the writes are in the overlay, for QEMU too; the image is as it was`, {
      timeout: 120_000,
    }, async () => {
      const image = await makeImage(name);
      const before = stateOf(image);
      const shown = `disk-${kindNamed(name).format}.raw`;
      const overlay = stage.fresh('over.qed');
      const asked = { options: ['--overlay', overlay] };
      const model = diskBytes();

      let mounted = await stage.mount(image, asked);
      expect(readdirSync(mounted.mountpoint)).toEqual([shown]);
      expect(await sumOf(mounted, shown)).toBe(sha256(model));
      for (const [at, length] of WRITES) {
        const bytes = randomBytes(random(at), length);
        await write(mounted, shown, at, bytes);
        model.set(bytes, at);
      }
      const hole = ['-p', '-o', `${200 * KIB}`, '-l', `${70 * KIB}`, join(mounted.mountpoint, shown)];
      await must('fallocate', hole);
      model.fill(0, 200 * KIB, 270 * KIB);
      expect(await sumOf(mounted, shown)).toBe(sha256(model));
      await mounted.unmount();
      expect(stateOf(image)).toEqual(before);

      const back = stage.fresh('back.raw');
      await convertBack(kindNamed('qed'), overlay, back);
      expect(sha256(readFileSync(back))).toBe(sha256(model));
      await must('qemu-img', ['check', '-f', 'qed', overlay]);

      // QEMU writes on where we stopped, and the record lasts.
      await must('qemu-io', ['-f', 'qed', '-c', `write -q -P 77 ${5 * 64 * KIB} 512`, overlay]);
      model.fill(77, 5 * 64 * KIB, 5 * 64 * KIB + 512);
      expect(stateOf(image)).toEqual(before);
      mounted = await stage.mount(image, asked);
      expect(logged(mounted).filter((text) => text.includes('record'))).toEqual([]);
      expect(await sumOf(mounted, shown)).toBe(sha256(model));
      await mounted.unmount();
      expect(stateOf(image)).toEqual(before);
    });
  }

  it('a disk of an odd size keeps it', async () => {
    const size = 200_001;
    const image = stage.makeFile('odd.raw', diskBytes(MIB + 800).subarray(0, size));
    const before = stateOf(image);
    const shown = `${image.slice(stage.directory.length + 1)}`;
    const overlay = stage.fresh('over.qed');
    const model = new Uint8Array(readFileSync(image));
    let mounted = await stage.mount(image, { options: ['--overlay', overlay] });
    expect(await sizeOf(mounted, shown)).toBe(size);
    await write(mounted, shown, size - 3, Uint8Array.of(1, 2, 3));
    model.set([1, 2, 3], size - 3);
    const tail = ['-p', '-o', `${131_072}`, '-l', `${size - 131_072 - 100}`, join(mounted.mountpoint, shown)];
    await must('fallocate', tail);
    model.fill(0, 131_072, size - 100);
    await mounted.unmount();
    mounted = await stage.mount(image, { options: ['--overlay', overlay] });
    expect(await sizeOf(mounted, shown)).toBe(size);
    expect(await sumOf(mounted, shown)).toBe(sha256(model));
    await mounted.unmount();
    expect(stateOf(image)).toEqual(before);
  });

  it('an overlay is refused on another image, and on this one when it was changed', async () => {
    const image = stage.makeFile('base.raw', diskBytes());
    const other = stage.makeFile('other.raw', diskBytes());
    const overlay = stage.fresh('over.qed');
    const options = ['--overlay', overlay];
    const mounted = await stage.mount(image, { options });
    await write(mounted, image.slice(stage.directory.length + 1), 5, Uint8Array.of(1));
    await mounted.unmount();
    const kept = stateOf(overlay);

    const point = stage.makeDirectory('mnt');
    const refused = await stage.command([...options, other, point]);
    expect(refused.status).not.toBe(0);
    expect(refused.stderr).toMatch(
      /is not an overlay of .*other.* it was made for one with .* this one has /,
    );
    const fd = openSync(image, 'r+');
    writeSync(fd, Uint8Array.of(9), 0, 1, 0);
    closeSync(fd);
    const changed = await stage.command([...options, image, point]);
    expect(changed.status).not.toBe(0);
    expect(changed.stderr).toMatch(/is not an overlay of .*base.* as it is now/);
    expect(stateOf(overlay)).toEqual(kept);
  });

  it('tmp: nothing of it is left', async () => {
    const image = stage.makeFile('base.raw', diskBytes());
    const before = stateOf(image);
    const shown = image.slice(stage.directory.length + 1);
    const directory = stage.makeDirectory('tmp');
    const saved = process.env['TMPDIR'];
    process.env['TMPDIR'] = directory;
    try {
      const mounted = await stage.mount(image, { options: ['-o', 'overlay=tmp'] });
      await write(mounted, shown, 0, new Uint8Array(MIB).fill(7));
      const model = diskBytes();
      model.fill(7, 0, MIB);
      expect(await sumOf(mounted, shown)).toBe(sha256(model));
      expect(readdirSync(directory)).toEqual([]);
      await mounted.unmount();
    } finally {
      if (saved === undefined) delete process.env['TMPDIR'];
      else process.env['TMPDIR'] = saved;
    }
    expect(readdirSync(directory)).toEqual([]);
    expect(stateOf(image)).toEqual(before);
  });

  it('killed: what was synced is in the overlay, and the image is as it was', async () => {
    const image = stage.makeFile('base.raw', diskBytes());
    const before = stateOf(image);
    const shown = image.slice(stage.directory.length + 1);
    const overlay = stage.fresh('over.qed');
    const model = diskBytes();
    for (let round = 0; round < 3; round += 1) {
      const mounted = await stage.foreground(image, { options: ['--overlay', overlay] });
      for (const [at, length] of WRITES) {
        const bytes = randomBytes(random(at + round), length);
        await write(mounted, shown, at + round, bytes.subarray(0, SIZE - at - round));
        model.set(bytes.subarray(0, SIZE - at - round), at + round);
      }
      mounted.signal('SIGKILL');
      await mounted.ended();
      await run('umount', ['-l', mounted.mountpoint]);
      const again = await stage.mount(image, { options: ['-r', '--overlay', overlay] });
      expect(await sumOf(again, shown)).toBe(sha256(model));
      await again.unmount();
    }
    expect(stateOf(image)).toEqual(before);
    // Leaks are all that a crash leaves.
    expect([0, 3]).toContain((await run('qemu-img', ['check', '-f', 'qed', overlay])).status);
  });

  it('read-only: an overlay that is there is read, and none is made', async () => {
    const image = stage.makeFile('base.raw', diskBytes());
    const shown = image.slice(stage.directory.length + 1);
    const overlay = stage.fresh('over.qed');
    const point = stage.makeDirectory('mnt');
    const missing = await stage.command(['-r', '--overlay', overlay, image, point]);
    expect([missing.status, existsSync(overlay)]).toEqual([1, false]);
    expect(missing.stderr).toMatch(/there is no such overlay/);

    const written = await stage.mount(image, { options: ['--overlay', overlay] });
    await write(written, shown, 10, Uint8Array.of(1, 2, 3));
    await written.unmount();
    const kept = stateOf(overlay);
    const model = diskBytes();
    model.set([1, 2, 3], 10);
    const mounted = await stage.mount(image, { options: ['-o', `ro,overlay=${overlay}`] });
    expect(await sumOf(mounted, shown)).toBe(sha256(model));
    const place = join(mounted.mountpoint, shown);
    const refused = await run('dd', ['if=/dev/zero', `of=${place}`, 'bs=1', 'count=1', 'conv=notrunc']);
    expect(refused.stderr).toMatch(/Read-only file system/);
    await mounted.unmount();
    expect(stateOf(overlay)).toEqual(kept);
  });

  it('the image may be one that cannot be written, and others may read it', async () => {
    const image = stage.makeFile('base.raw', diskBytes());
    const shown = image.slice(stage.directory.length + 1);
    await must('chmod', ['a-w', image]);
    const [one, two] = await Promise.all(
      ['one.qed', 'two.qed'].map((name) => stage.mount(image, { options: ['--overlay', stage.fresh(name)] })),
    );
    await write(one!, shown, 0, Uint8Array.of(1));
    await write(two!, shown, 0, Uint8Array.of(2));
    for (const mounted of [one!, two!]) {
      expect(logged(mounted).filter((text) => /read-only|warn/.test(text))).toEqual([]);
    }
    const sums = [1, 2].map((value) => {
      const model = diskBytes();
      model[0] = value;
      return sha256(model);
    });
    expect([await sumOf(one!, shown), await sumOf(two!, shown)]).toEqual(sums);
    await one!.unmount();
    await two!.unmount();
  });

  it.each([
    [['--overlay', 'x.qed', 'one.raw', 'two.raw'], /for one image, 2 were named/],
    [['-r', '--overlay', 'tmp', 'one.raw'], /nothing could be written to it/],
    [['--overlay', '', 'one.raw'], /needs a value|Not enough/i],
  ])('%j is a mistake', async (args, text) => {
    const { status, stderr } = await stage.command([...args, stage.directory]);
    expect([status, stderr]).toEqual([1, expect.stringMatching(text)]);
  });

  it('the image is no overlay of itself', async () => {
    const image = stage.fresh('base.qed');
    writeFileSync(stage.path('source.raw'), diskBytes());
    await convert(kindNamed('qed'), stage.path('source.raw'), image);
    const { status, stderr } = await stage.command(['--overlay', image, image, stage.makeDirectory('mnt')]);
    expect([status, stderr]).toEqual([1, expect.stringMatching(/is to stay as it is/)]);
  });
});
