/** Images with parents, as VirtualBox, Hyper-V and QEMU leave them: found, read, written, locked, refused. */

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeVdi, FREE } from '../support/encoders/vdi.ts';
import { link } from '../support/encoders/vhdx-chains.ts';
import { BLOCK, type BlockPlan } from '../support/encoders/vhdx-image.ts';
import {
  convert,
  differingFiles,
  FILE_SYSTEMS,
  type FileSystemDisk,
  kindNamed,
  makeFileSystem,
  sha256,
  TO_MAKE_IMAGES,
} from '../support/images.ts';
import { gateOf, must, run, TO_MOUNT } from '../support/machine.ts';
import { Stage } from '../support/mount.ts';
import { IMAGES } from '../support/oracle.ts';
import { random, randomBytes } from '../support/random.ts';
import { expectRefusal, MOUNT_FAILURE } from './refusal.ts';

const MIB = 1024 * 1024;
const EXT4 = FILE_SYSTEMS.find(({ name }) => name === 'ext4')!;
const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES, 'program: python3');
const withExt4 = gateOf('loop devices', ...EXT4.needs);
const withQemuIo = gateOf('program: qemu-io');

const READ_ATTRIBUTE = 'import os, sys; sys.stdout.write(os.getxattr(*sys.argv[1:]).decode())';

/** What must not change: bytes and time. */
async function stateOf(path: string): Promise<string> {
  const { mtimeNs, ctimeNs } = statSync(path, { bigint: true });
  return `${(await must('sha256sum', [path])).slice(0, 64)} ${mtimeNs} ${ctimeNs}`;
}

/** A VDI of 1 MiB blocks without data, whose parent is the VDI at `parent` as it is now. */
function childOf(parent: string, id: number): Uint8Array {
  const header = readFileSync(parent).subarray(0, 0x200);
  const size = Number(header.readBigUint64LE(0x170));
  return encodeVdi(
    {
      map: Array<number>(Math.ceil(size / MIB)).fill(FREE),
      blockSize: MIB,
      diskSize: size,
      type: 4,
      create: new Uint8Array(16).fill(id),
      modify: new Uint8Array(16).fill(id + 1),
      linkage: header.subarray(0x188, 0x198),
      parentModify: header.subarray(0x198, 0x1a8),
    },
    random(id),
  ).file;
}

describe(gate.title('chains'), { skip: gate.skip }, () => {
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  const attribute = (file: string, name: string): Promise<string> =>
    must('python3', ['-c', READ_ATTRIBUTE, file, `user.vdisk.${name}`]);

  /** A directory with a base image of noise, and a child in Snapshots. */
  async function machine(name: string) {
    const directory = stage.makeDirectory(name);
    const raw = stage.makeFile('noise', randomBytes(random(7), 3 * MIB));
    const base = join(directory, 'vm.vdi');
    await convert(kindNamed('vdi dynamic'), raw, base);
    mkdirSync(join(directory, 'Snapshots'));
    const top = join(directory, 'Snapshots', '{top}.vdi');
    writeFileSync(top, childOf(base, 0x20));
    return { directory, base, top, raw };
  }

  describe(withExt4.title('VirtualBox: a file system on three images'), { skip: withExt4.skip }, () => {
    let fileSystem: FileSystemDisk;
    let base: string;
    let middle: string;
    let top: string;

    /** Mounts an image for writing, its file system on it, and lets `work` work in there. */
    async function inside(
      image: string,
      name: string,
      work: (directory: string) => Promise<void>,
    ): Promise<void> {
      const mounted = await stage.mount(image);
      expect(mounted.stderr).toBe('');
      const device = await stage.attachLoop(join(mounted.mountpoint, name), []);
      const directory = stage.makeDirectory('guest');
      await must('mount', ['-t', 'ext4', device, directory]);
      await work(directory);
      await must('umount', [directory]);
      const [program, ...options] = EXT4.check;
      await must(program!, [...options, device]);
      await stage.detachLoop(device);
      await mounted.unmount();
    }

    beforeAll(async () => {
      fileSystem = await makeFileSystem(stage, EXT4);
      const vm = stage.makeDirectory('vm');
      base = join(vm, 'vm.vdi');
      mkdirSync(join(vm, 'Snapshots'));
      middle = join(vm, 'Snapshots', '{middle}.vdi');
      top = join(vm, 'Snapshots', '{top}.vdi');
      await convert(kindNamed('vdi dynamic'), fileSystem.path, base);
      writeFileSync(middle, childOf(base, 0x20));
    });

    it('is read and written; the parents stay as they are', async () => {
      const before = await stateOf(base);
      await inside(middle, '{middle}.raw', async (directory) => {
        expect(await differingFiles(directory, fileSystem.files)).toEqual([]);
        writeFileSync(join(directory, 'from-the-middle'), randomBytes(random(1), 3 * MIB));
        rmSync(join(directory, 'large'));
      });
      // VirtualBox makes a snapshot when nothing writes: the middle is now what it records.
      writeFileSync(top, childOf(middle, 0x40));
      const parents = [base, middle];
      const states = await Promise.all(parents.map(stateOf));
      expect(states[0]).toBe(before);
      await inside(top, '{top}.raw', async (directory) => {
        const left = new Map([...fileSystem.files].filter(([name]) => name !== 'large'));
        expect(await differingFiles(directory, left)).toEqual([]);
        expect(existsSync(join(directory, 'large'))).toBe(false);
        writeFileSync(join(directory, 'from-the-top'), randomBytes(random(2), 2 * MIB));
        rmSync(join(directory, 'a'), { recursive: true });
      });
      await inside(top, '{top}.raw', async (directory) => {
        expect(sha256(readFileSync(join(directory, 'from-the-top')))).toBe(
          sha256(randomBytes(random(2), 2 * MIB)),
        );
        expect(sha256(readFileSync(join(directory, 'from-the-middle')))).toBe(
          sha256(randomBytes(random(1), 3 * MIB)),
        );
        expect(existsSync(join(directory, 'a'))).toBe(false);
      });
      expect(await Promise.all(parents.map(stateOf))).toEqual(states);
    });

    it('shows its layers, each with its attributes', async () => {
      const mounted = await stage.mount(top, { options: ['-o', 'layers'] });
      const at = (name: string): string => join(mounted.mountpoint, name);
      expect((await must('ls', [mounted.mountpoint])).split('\n').filter(Boolean)).toEqual([
        '{top}.parent1.raw',
        '{top}.parent2.raw',
        '{top}.raw',
      ]);
      await must('cmp', [at('{top}.parent2.raw'), fileSystem.path]);
      expect((await run('cmp', ['-s', at('{top}.parent1.raw'), fileSystem.path])).status).toBe(1);
      expect((statSync(at('{top}.parent1.raw')).mode & 0o222).toString(8)).toBe('0');
      expect((statSync(at('{top}.raw')).mode & 0o200).toString(8)).toBe('200');
      const refused = await run('dd', [
        'if=/dev/zero',
        `of=${at('{top}.parent2.raw')}`,
        'count=1',
        'conv=notrunc',
      ]);
      expect(refused.status).not.toBe(0);
      expect(await attribute(at('{top}.raw'), 'chain-depth')).toBe('3');
      expect(await attribute(at('{top}.raw'), 'parent1')).toBe(middle);
      expect(await attribute(at('{top}.raw'), 'parent2')).toBe(base);
      expect(await attribute(at('{top}.parent1.raw'), 'chain-depth')).toBe('2');
      expect(await attribute(at('{top}.parent2.raw'), 'source')).toBe(base);
      // What is written to the top is not in the layers below.
      const sum = await must('sha256sum', [at('{top}.parent1.raw')]);
      await must('dd', [
        'if=/dev/urandom',
        `of=${at('{top}.raw')}`,
        'bs=1M',
        'count=2',
        'conv=notrunc,fsync',
      ]);
      expect(await must('sha256sum', [at('{top}.parent1.raw')])).toBe(sum);
      await mounted.unmount();
    });
  });

  it(withQemuIo.title('QEMU may read the parents of a mount, and not write to them'), {
    skip: withQemuIo.skip,
  }, async () => {
    const { base, top } = await machine('locked');
    const before = await stateOf(base);
    const write = ['-f', 'vdi', '-c', 'write -P 1 0 512', base];
    for (const options of [[], ['-r']]) {
      const mounted = await stage.mount(top, { options });
      const denied = await run('qemu-io', write);
      expect(`${denied.stdout}${denied.stderr}`).toContain('lock');
      expect((await run('qemu-io', ['-r', '-f', 'vdi', '-c', 'read 0 512', base])).status).toBe(0);
      await mounted.unmount();
    }
    expect(await stateOf(base)).toBe(before);
    const writer = await stage.hold('qemu-io', ['-f', 'vdi', base], 'length\n');
    const said = await expectRefusal(stage, MOUNT_FAILURE, [top, stage.makeDirectory('mnt')], base);
    expect(said).toContain(`is in use for writing by qemu-io (pid ${writer.pid})`);
    await writer.release();
  });

  it('a parent that was written to is read with a word, and not built upon', async () => {
    const { base, top, raw } = await machine('changed');
    const writing = await stage.mount(base);
    await must('dd', [
      'if=/dev/zero',
      `of=${join(writing.mountpoint, 'vm.raw')}`,
      'bs=512',
      'count=1',
      'conv=notrunc',
    ]);
    await writing.unmount();
    const mounted = await stage.mount(top);
    expect(mounted.stderr).toContain(`its parent ${base} was changed since: wanted is modify UUID`);
    expect(mounted.stderr).toContain('mounted read-only');
    const disk = join(mounted.mountpoint, '{top}.raw');
    expect((statSync(disk).mode & 0o222).toString(8)).toBe('0');
    await must('cmp', ['-i', '512', disk, raw]);
    await mounted.unmount();
  });

  it('a missing parent is told in lines, and found where the user says', async () => {
    const { directory, base, top, raw } = await machine('moved');
    const away = stage.makeDirectory('away');
    const moved = join(away, 'renamed.image');
    renameSync(base, moved);
    const said = await expectRefusal(stage, MOUNT_FAILURE, [top, stage.makeDirectory('mnt')], top);
    expect(said.split('\n')).toEqual([
      expect.stringMatching(
        /: its parent with create UUID [-0-9a-f]+, modify UUID [-0-9a-f]+ was not found$/,
      ),
      `  looked at ${join(directory, 'Snapshots')}: none of the images in it (1) is the one`,
      `  looked at ${directory}: no image is in it`,
      '  Name it with --parent=FILE, or the directory where it is with --parent-dir=DIR.',
      '',
    ]);
    const reads = async (...options: string[]): Promise<string> => {
      const mounted = await stage.mount(top, { options });
      await must('cmp', [join(mounted.mountpoint, '{top}.raw'), raw]);
      await mounted.unmount();
      return mounted.stderr;
    };
    expect(await reads('--parent', moved)).toBe('');
    expect(await reads('-o', `parent=${moved},ro`)).toBe('');
    expect(await reads('--parent', raw, '--parent', moved)).toBe(
      `vdisk-mount: warning: --parent=${raw}: no image has this file as a parent\n`,
    );
    renameSync(moved, join(away, 'renamed.vdi'));
    expect(await reads('-o', `parent_dir=${directory},parent_dir=${away}`)).toBe('');
    const other = stage.makeFile('other.vdi', encodeVdi({ map: [FREE], blockSize: MIB }, random(3)).file);
    const refused = await expectRefusal(
      stage,
      MOUNT_FAILURE,
      ['--parent', other, top, stage.makeDirectory('mnt')],
      'its parent should be create UUID',
    );
    expect(refused).toContain('--force-parent');
    const forced = await stage.mount(top, { options: ['--parent', other, '--force-parent'] });
    expect(forced.stderr).toContain('is another image; mounted read-only');
    await forced.unmount();
  });

  it('layers need a directory', async () => {
    const { top } = await machine('flat');
    const said = await expectRefusal(stage, 1, ['-o', 'layers', top, stage.makeFile('flat.raw')], 'flat');
    expect(said).toContain('cannot show layers');
  });

  it('Hyper-V: checkpoints beside their parent, under names that Windows takes for the same', async () => {
    const directory = stage.makeDirectory('Virtual Hard Disks');
    const full = (seed: number): BlockPlan => ({ state: 6, data: randomBytes(random(seed), BLOCK) });
    const size = 4 * BLOCK;
    const parent = link('disk', {
      size,
      blocks: new Map([
        [0, full(1)],
        [1, full(2)],
      ]),
    });
    const child = link('disk_1', { size, blocks: new Map([[1, full(3)]]) }, parent);
    const top = link('disk_2', { size, blocks: new Map([[2, full(4)]]) }, child);
    writeFileSync(join(directory, 'DISK.VHDX'), parent.file);
    writeFileSync(join(directory, 'Disk_1.vhdx'), child.file);
    const image = join(directory, 'disk_2.avhdx');
    writeFileSync(image, top.file);
    const mounted = await stage.mount(image, { options: ['-o', 'layers'] });
    expect(mounted.stderr).toBe('');
    const shows = async (name: string): Promise<string> =>
      (await must('sha256sum', [join(mounted.mountpoint, name)])).slice(0, 64);
    expect(await shows('disk_2.raw')).toBe(sha256(top.disk));
    expect(await shows('disk_2.parent1.raw')).toBe(sha256(child.disk));
    expect(await shows('disk_2.parent2.raw')).toBe(sha256(parent.disk));
    await mounted.unmount();
    // The parent is written to: its DataWriteGuid is another one, and the chain is broken.
    const base = join(directory, 'DISK.VHDX');
    const writing = await stage.mount(base);
    await must('dd', [
      'if=/dev/zero',
      `of=${join(writing.mountpoint, 'DISK.raw')}`,
      'count=1',
      'conv=notrunc',
    ]);
    await writing.unmount();
    const said = await expectRefusal(stage, MOUNT_FAILURE, [image, stage.makeDirectory('mnt')], base);
    expect(said).toContain('its parent should be data-write-guid');
  });

  describe.skipIf(!existsSync(join(IMAGES, 'INDEX.tsv')))('of Windows (needs ../shared/images)', () => {
    it.each([
      ['vhdx', 'a538161f34bc44c12bf9a542ce9218741c62728723ea18d0e4f6ea92e9f32e93'],
      ['vhd', 'f4b61a33ee2f7e8c19f737792a4107e46340026a9a829e4169b751901cc3ef02'],
    ])('a differencing %s', async (suffix, expected) => {
      const directory = stage.makeDirectory(`windows-${suffix}`);
      for (const name of ['fat-differential', 'fat-parent']) {
        const packed = join(IMAGES, 'dfvfs', `${name}.${suffix}.xz`);
        await must('sh', ['-c', 'xz -dc "$1" > "$2"', 'sh', packed, join(directory, `${name}.${suffix}`)]);
      }
      const mounted = await stage.mount(join(directory, `fat-differential.${suffix}`), { options: ['-r'] });
      const raw = join(mounted.mountpoint, 'fat-differential.raw');
      expect((await must('sha256sum', [raw])).slice(0, 64)).toBe(expected);
      expect(await attribute(raw, 'parent1')).toBe(join(directory, `fat-parent.${suffix}`));
      await mounted.unmount();
    });
  });

  it('QEMU: QED on QED on raw, written to, as qemu-img reads it', async () => {
    const directory = stage.makeDirectory('qed');
    writeFileSync(join(directory, 'base'), randomBytes(random(9), 2 * MIB));
    const create = (name: string, ...more: string[]) =>
      must('qemu-img', ['create', '-q', '-f', 'qed', ...more, name], { cwd: directory });
    await create('middle.qed', '-b', 'base', '-F', 'raw');
    await create('top.qed', '-b', 'middle.qed', '-F', 'qed');
    const image = join(directory, 'top.qed');
    const mounted = await stage.mount(image);
    expect(mounted.stderr).toBe('');
    const disk = join(mounted.mountpoint, 'top.raw');
    await must('dd', [
      'if=/dev/urandom',
      `of=${disk}`,
      'bs=1000',
      'seek=300',
      'count=3',
      'conv=notrunc,fsync',
    ]);
    const copy = stage.fresh('copy.raw');
    await must('cp', [disk, copy]);
    await mounted.unmount();
    const theirs = stage.fresh('theirs.raw');
    await must('qemu-img', ['convert', '-f', 'qed', '-O', 'raw', image, theirs]);
    await must('cmp', [copy, theirs]);
    await must('cmp', ['-n', '300000', copy, join(directory, 'base')]);
  });
});
