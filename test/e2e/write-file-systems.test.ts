/**
 * File systems made, used, trimmed and checked inside images, through loop devices on the mount, as an
 * administrator would; then the image judged by qemu-img and read again.
 */

import { statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  convertBack,
  differingFiles,
  FILE_SYSTEMS,
  type FileSystemKind,
  fill,
  KINDS,
  type Kind,
  TO_MAKE_IMAGES,
} from '../support/images.ts';
import { gateOf, must, run, TO_MOUNT, until } from '../support/machine.ts';
import { Stage } from '../support/mount.ts';

const MIB = 1024 * 1024;
/** Room for every file system, behind a partition table. */
const DISK = 384 * MIB;
const PARTITION_AT = MIB;
/** Files that come and go again. */
const BALLAST = 48 * MIB;

const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES, 'loop devices', 'program: sfdisk', 'program: fstrim');

/** Formats that qemu-img can check; of those that it cannot, it is the reader that judges. */
const CHECKED = new Set(['vhdx', 'vdi', 'qed']);

const allocated = (path: string): number => statSync(path).blocks * 512;

describe(gate.title('file systems made in images'), { skip: gate.skip }, () => {
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** A fresh image of `kind`, all zeros. */
  async function create(kind: Kind): Promise<string> {
    const image = stage.fresh(`disk${kind.suffix}`);
    const options = kind.options === '' ? [] : ['-o', kind.options];
    await must('qemu-img', ['create', '-q', '-f', kind.qemu, ...options, image, `${DISK}`]);
    return image;
  }

  async function judge(kind: Kind, image: string, fileSystem: FileSystemKind): Promise<void> {
    if (CHECKED.has(kind.format)) {
      const checked = await run('qemu-img', ['check', '-f', kind.qemu, image]);
      // QED records no free clusters: those that were trimmed and not used again are leaked in QEMU's eyes.
      const fine = kind.format === 'qed' ? [0, 3] : [0];
      expect(fine, `${checked.stdout}${checked.stderr}`).toContain(checked.status);
    }
    const raw = stage.fresh('judged.raw');
    await convertBack(kind, image, raw);
    const device = await stage.attachLoop(raw, ['-r', '-o', `${PARTITION_AT}`]);
    const [program, ...options] = fileSystem.check;
    const found = await run(program!, [...options, device]);
    expect(found.status, `${found.stdout}${found.stderr}`).toBe(0);
    await stage.detachLoop(device);
  }

  async function use(kind: Kind, fileSystem: FileSystemKind, direct: boolean): Promise<void> {
    const image = await create(kind);
    const mounted = await stage.mount(image);
    expect(mounted.stderr).toBe('');
    const disk = join(
      mounted.mountpoint,
      `${image.slice(image.lastIndexOf('/') + 1, -kind.suffix.length)}.raw`,
    );
    const directIo = direct ? ['--direct-io=on'] : [];
    const whole = await stage.attachLoop(disk, directIo);
    await must('sfdisk', ['-q', whole], { input: `label: gpt\nstart=${PARTITION_AT / 512}\n` });
    await stage.detachLoop(whole);
    expect(await must('sfdisk', ['-d', disk])).toContain(`start=        ${PARTITION_AT / 512}`);

    const window = ['-o', `${PARTITION_AT}`, '--sizelimit', `${DISK - 2 * PARTITION_AT}`];
    const device = await stage.attachLoop(disk, [...directIo, ...window]);
    const [program, ...options] = fileSystem.make;
    await must(program!, [...options, device]);
    const inside = stage.makeDirectory('inside');
    await must('mount', ['-t', fileSystem.name, device, inside]);
    const files = fill(inside, 1);
    await must('dd', [
      'if=/dev/urandom',
      `of=${inside}/ballast`,
      'bs=1M',
      `count=${BALLAST / MIB}`,
      'status=none',
    ]);
    await must('sync', ['-f', inside]);
    const full = allocated(image);
    await must('rm', [`${inside}/ballast`]);
    await must('sync', ['-f', inside]);
    // XFS frees what was removed in the background, and can trim it only then. Nearly all must go: what a file
    // system keeps around a file is a matter of its own.
    await until('the space of what was removed is given back', async () => {
      await must('fstrim', [inside]);
      return full - allocated(image) > BALLAST * 0.75;
    });
    await must('umount', [inside]);

    const [checker, ...checkOptions] = fileSystem.check;
    const checked = await run(checker!, [...checkOptions, device]);
    expect(checked.status, `${checked.stdout}${checked.stderr}`).toBe(0);
    await stage.detachLoop(device);
    await mounted.unmount();

    const again = await stage.mount(image, { options: ['-r'] });
    expect(again.stderr).toBe('');
    const reread = await stage.attachLoop(join(again.mountpoint, disk.slice(disk.lastIndexOf('/') + 1)), [
      '-r',
      ...window,
    ]);
    await must('mount', ['-t', fileSystem.name, '-o', fileSystem.mount, reread, inside]);
    expect(await differingFiles(inside, files)).toEqual([]);
    await must('umount', [inside]);
    await stage.detachLoop(reread);
    await again.unmount();
    await judge(kind, image, fileSystem);
    await must('rm', [image]);
  }

  for (const [number, kind] of KINDS.entries()) {
    // ext4 everywhere; the others take turns, and so do the two ways of a loop device.
    const others = FILE_SYSTEMS.filter(({ name }) => name !== 'ext4');
    const turns = [FILE_SYSTEMS.find(({ name }) => name === 'ext4')!, others[number % others.length]!];
    for (const [turn, fileSystem] of turns.entries()) {
      const direct = (number + turn) % 2 === 1;
      const own = gateOf(...fileSystem.needs);
      const title = `${kind.name}: ${fileSystem.name}, ${direct ? 'direct' : 'buffered'} loop device`;
      it(own.title(title), { skip: own.skip, timeout: 120_000 }, () => use(kind, fileSystem, direct));
    }
  }
});
