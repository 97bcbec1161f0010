/** Who may write: QEMU's locks in both directions, images that cannot be written, and a full host. */

import { statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { KINDS, kindNamed, TO_MAKE_IMAGES } from '../support/images.ts';
import { gateOf, must, run, TO_MOUNT } from '../support/machine.ts';
import { Stage } from '../support/mount.ts';

const MIB = 1024 * 1024;
const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES);
const withQemuIo = gateOf('program: qemu-io');
const withExt4 = gateOf('loop devices', 'kernel: ext4', 'program: mkfs.ext4');

describe(gate.title('who may write'), { skip: gate.skip }, () => {
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  async function create(name: string, bytes: number, directory = stage.directory): Promise<string> {
    const kind = kindNamed(name);
    const image = join(directory, stage.fresh(`disk${kind.suffix}`).slice(stage.directory.length + 1));
    const options = kind.options === '' ? [] : ['-o', kind.options];
    await must('qemu-img', ['create', '-q', '-f', kind.qemu, ...options, image, `${bytes}`]);
    return image;
  }
  const named = (image: string): string =>
    image.slice(image.lastIndexOf('/') + 1).replace(/\.[^.]+$/, '.raw');

  it('QEMU refuses an image that is mounted for writing; read-only mounts let it read', async () => {
    const image = await create('vdi dynamic', 8 * MIB);
    const writing = await stage.mount(image);
    const refused = await run('qemu-img', ['info', image]);
    expect(refused.status).not.toBe(0);
    expect(refused.stderr).toContain('lock');
    await writing.unmount();
    const reading = await stage.mount(image, { options: ['-r'] });
    expect((await run('qemu-img', ['info', image])).status).toBe(0);
    await reading.unmount();
  });

  it(withQemuIo.title('we refuse an image that QEMU has open, and say who has it'), {
    skip: withQemuIo.skip,
  }, async () => {
    const image = await create('vdi dynamic', 8 * MIB);
    const holder = await stage.hold('sh', ['-c', 'echo held; exec qemu-io -f vdi "$1"', 'sh', image]);
    try {
      const place = stage.makeDirectory('mnt');
      let ran = await stage.command([image, place]);
      for (let tries = 0; ran.status === 0 && tries < 20; tries += 1) {
        // qemu-io was not that far yet.
        await must('umount', [place]);
        ran = await stage.command([image, place]);
      }
      expect(ran.status).toBe(32);
      expect(ran.stderr).toContain('is in use');
      expect(ran.stderr).toContain('qemu-io');
    } finally {
      await holder.release();
    }
  });

  it('two mounts do not write one image; two may read it', async () => {
    const image = await create('qed', 8 * MIB);
    const first = await stage.mount(image);
    for (const options of [[], ['-r']]) {
      const second = await stage.command([...options, image, stage.makeDirectory('mnt')]);
      expect(second.status).toBe(32);
      expect(second.stderr).toContain('is in use');
    }
    await first.unmount();
    const readers = [
      await stage.mount(image, { options: ['-r'] }),
      await stage.mount(image, { options: ['-r'] }),
    ];
    const writer = await stage.command([image, stage.makeDirectory('mnt')]);
    expect(writer.status).toBe(32);
    expect(writer.stderr).toContain('-o ro');
    for (const reader of readers) await reader.unmount();
  });

  it('an image on a read-only file system is mounted read-only, with a word', async () => {
    const directory = stage.makeDirectory('images');
    const image = await create('vhd fixed', 4 * MIB, directory);
    const view = stage.makeDirectory('view');
    await must('mount', ['--bind', directory, view]);
    await must('mount', ['-o', 'remount,bind,ro', view]);
    const mounted = await stage.mount(join(view, image.slice(image.lastIndexOf('/') + 1)));
    expect(mounted.stderr).toContain('mounted read-only');
    const disk = join(mounted.mountpoint, named(image));
    expect((statSync(disk).mode & 0o222).toString(8)).toBe('0');
    const ran = await run('dd', ['if=/dev/zero', `of=${disk}`, 'bs=512', 'count=1', 'conv=notrunc']);
    expect(ran.stderr).toContain('Read-only file system');
    await mounted.unmount();
    await must('umount', [view]);
  });

  for (const kind of KINDS.filter(({ unit }) => unit > 0)) {
    it(withExt4.title(`${kind.name}: a full host is an error to the writer, and no more`), {
      skip: withExt4.skip,
      timeout: 60_000,
    }, async () => {
      const host = stage.fresh('host.img');
      await must('truncate', ['-s', '40M', host]);
      await must('mkfs.ext4', ['-q', '-F', '-O', '^has_journal', host]);
      const device = await stage.attachLoop(host, []);
      const directory = stage.makeDirectory('host');
      await must('mount', [device, directory]);
      const image = await create(kind.name, 96 * MIB, directory);
      const mounted = await stage.mount(image);
      const disk = join(mounted.mountpoint, named(image));
      const noise = stage.fresh('noise');
      await must('dd', ['if=/dev/urandom', `of=${noise}`, 'bs=1M', 'count=60', 'status=none']);
      await must('dd', [
        `if=${noise}`,
        `of=${disk}`,
        'bs=1M',
        'count=8',
        'conv=notrunc,fsync',
        'status=none',
      ]);
      await must('dd', ['if=/dev/zero', `of=${directory}/ballast`, 'bs=1M', 'count=8', 'status=none']);
      const full = await run('dd', [`if=${noise}`, `of=${disk}`, 'bs=1M', 'conv=notrunc,fsync']);
      expect(full.status).not.toBe(0);
      expect(full.stderr).toContain('No space left on device');
      // What was there before is there; with room, writing goes on.
      await must('cmp', ['-n', `${8 * MIB}`, noise, disk]);
      await must('rm', [`${directory}/ballast`]);
      await must('dd', [
        `if=${noise}`,
        `of=${disk}`,
        'bs=1M',
        'count=12',
        'conv=notrunc,fsync',
        'status=none',
      ]);
      await must('cmp', ['-n', `${12 * MIB}`, noise, disk]);
      await mounted.unmount();
      const again = await stage.mount(image);
      expect(again.stderr).toBe('');
      await must('cmp', ['-n', `${12 * MIB}`, noise, join(again.mountpoint, named(image))]);
      await again.unmount();
      await must('umount', [directory]);
      await stage.detachLoop(device);
    });
  }
});
