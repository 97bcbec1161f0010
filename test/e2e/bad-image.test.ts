/** Images that cannot be mounted: each ends with mount(8)'s status, a line that says why, and nothing left. */

import { rmSync, statSync, truncateSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  convert,
  KINDS,
  type Kind,
  kindNamed,
  makePatternDisk,
  PATTERN_SIZE,
  TO_MAKE_IMAGES,
} from '../support/images.ts';
import { gateOf, must, run, TO_MOUNT } from '../support/machine.ts';
import { Stage } from '../support/mount.ts';
import { random, randomBytes } from '../support/random.ts';
import { checkRefusal, expectRefusal, MOUNT_FAILURE, USAGE } from './refusal.ts';

const KIB = 1024;

/**
 * Says in which pages the file of the first argument differs from that of the second; pages of which nothing can
 * be read are left out.
 */
const FIND_WRONG_BYTES = `
const { fstatSync, openSync, readSync } = require('node:fs');
const [mine, theirs] = process.argv.slice(1).map((path) => openSync(path));
const [a, b] = [Buffer.alloc(4096), Buffer.alloc(4096)];
for (let at = 0; at < fstatSync(theirs).size; at += 4096) {
  const length = readSync(theirs, b, 0, 4096, at);
  try {
    const moved = readSync(mine, a, 0, length, at);
    if (moved !== length || a.compare(b, 0, length, 0, length) !== 0) console.log(at);
  } catch (problem) {
    if (problem.code !== 'EIO') throw problem;
  }
}
`;

const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES);

describe(gate.title('images that cannot be mounted'), { skip: gate.skip }, () => {
  let stage: Stage;
  let pattern: string;

  beforeAll(async () => {
    stage = await Stage.open();
    pattern = stage.path('pattern');
    makePatternDisk(pattern, 5);
  });
  afterAll(() => stage?.close());

  const make = async (kind: Kind, name = `disk${kind.suffix}`): Promise<string> => {
    const path = stage.fresh(name);
    await convert(kind, pattern, path);
    return path;
  };
  const garbage = (length: number): Uint8Array => randomBytes(random(6), length);

  /** Tries to mount, and checks everything that a refusal must be. Returns what was said. */
  const refused = (status: number, image: string, ...options: string[]): Promise<string> =>
    expectRefusal(stage, status, [...options, image, stage.makeDirectory('mnt')], image);

  it('a file that does not exist', async () => {
    expect(await refused(USAGE, stage.path('nowhere', 'disk.vhd'))).toContain('no such file');
  });

  it('a directory', async () => {
    expect(await refused(USAGE, stage.makeDirectory('folder.vhdx'))).toContain('is a directory');
  });

  it('a character device', async () => {
    expect(await refused(USAGE, '/dev/null')).toContain('/dev/null');
  });

  it('a named pipe, without waiting for a writer', async () => {
    const pipe = stage.fresh('pipe.vhd');
    await must('mkfifo', [pipe]);
    await refused(USAGE, pipe);
  });

  it.each(['.vhd', '.vhdx', '.vdi', '.qed', '.img', '.foo'])('an empty file named %s', async (suffix) => {
    expect(await refused(MOUNT_FAILURE, stage.makeFile(`none${suffix}`))).toContain('empty');
  });

  it.each(['.vhd', '.vhdx', '.vdi', '.qed', '.foo', ''])('noise in a file named "%s"', async (suffix) => {
    const said = await refused(MOUNT_FAILURE, stage.makeFile(`noise${suffix}`, garbage(3 * 1024 * KIB)));
    expect(said).toContain(
      suffix === '.foo' || suffix === '' ? 'no known format' : suffix.slice(1).toUpperCase(),
    );
    expect(said).toContain('format=raw');
  });

  it.each(['vhd', 'vhdx', 'vdi', 'qed'])('noise that is said to be %s', async (format) => {
    await refused(MOUNT_FAILURE, stage.makeFile('noise.img', garbage(64 * KIB)), '-o', `format=${format}`);
  });

  it('noise of less than a sector', async () => {
    await refused(MOUNT_FAILURE, stage.makeFile('tiny.vhd', garbage(10)));
  });

  /** Where an image was cut: in bytes, or as a part of it. */
  const CUTS = [1, 511, 512, 4096, 70_000, 0.4, 0.7, 0.999];

  const cuttable = KINDS.filter(({ format, options }) => format !== 'raw' && options !== 'subformat=dynamic');
  for (const kind of cuttable) {
    describe(`cut off: ${kind.name}`, () => {
      let whole: string;
      beforeAll(async () => {
        whole = await make(kind);
      });

      it.each(CUTS)('at %f', async (cut) => {
        const path = stage.fresh(`cut${kind.suffix}`);
        await must('cp', ['--sparse=always', whole, path]);
        truncateSync(path, cut < 1 ? Math.floor(statSync(whole).size * cut) : cut);
        const mountpoint = stage.makeDirectory('mnt');
        const ran = await stage.command([path, mountpoint]);
        if (ran.status !== 0 || statSync(path).size < 512) {
          checkRefusal(ran, MOUNT_FAILURE, path, mountpoint);
          return;
        }
        // All structures are there and only blocks are missing: reading them must fail, not give other bytes.
        for (const line of ran.stderr.split('\n').filter(Boolean))
          expect(line).toMatch(/^vdisk-mount: warning: /);
        const raw = join(mountpoint, basename(path).replace(kind.suffix, '.raw'));
        expect(await must(process.execPath, ['-e', FIND_WRONG_BYTES, raw, pattern])).toBe('');
        await must('umount', [mountpoint]);
      });
    });
  }

  it('nothing at all when one of several is bad', async () => {
    const good = await make(kindNamed('qed'));
    const bad = stage.makeFile('bad.vdi', garbage(1000));
    const mountpoint = stage.makeDirectory('mnt');
    await expectRefusal(stage, MOUNT_FAILURE, [good, bad, mountpoint], bad);
  });

  it('a differencing QED whose backing file is not there, which it names', async () => {
    const base = await make(kindNamed('qed'), 'base.qed');
    const child = stage.fresh('child.qed');
    await must('qemu-img', ['create', '-q', '-f', 'qed', '-b', base, '-F', 'qed', child]);
    rmSync(base);
    expect(await refused(MOUNT_FAILURE, child)).toContain(basename(base));
  });

  it('an image of a known format that is not among ours', async () => {
    const path = stage.fresh('disk.qcow2');
    await must('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
    await refused(MOUNT_FAILURE, path);
  });

  const qemuIo = gateOf('program: qemu-io');
  describe(qemuIo.title('in use by qemu-io'), { skip: qemuIo.skip }, () => {
    it('for writing, which is said', async () => {
      const image = stage.makeFile('busy.img', new Uint8Array(64 * KIB));
      const writer = await stage.hold('qemu-io', ['-f', 'raw', image], 'length\n');
      const said = await refused(MOUNT_FAILURE, image);
      expect(said).toContain('in use');
      expect(said).toContain(`(pid ${writer.pid})`);
      await (await stage.mount(image, { options: ['-o', 'lock=off'] })).unmount();
      await writer.release();
      await (await stage.mount(image)).unmount();
    });

    it('for reading is no reason', async () => {
      const image = stage.makeFile('read.img', new Uint8Array(64 * KIB));
      const reader = await stage.hold('qemu-io', ['-r', '-f', 'raw', image], 'length\n');
      await (await stage.mount(image)).unmount();
      await reader.release();
    });

    it('for writing is refused while it is mounted', async () => {
      const image = stage.makeFile('served.img', new Uint8Array(64 * KIB));
      const mounted = await stage.mount(image);
      const write = ['-f', 'raw', '-c', 'write -P 1 0 512', image];
      const denied = await run('qemu-io', write);
      expect(`${denied.stdout}${denied.stderr}`).toContain('lock');
      expect((await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0 0 512', image])).status).toBe(0);
      await mounted.unmount();
      expect((await run('qemu-io', write)).status).toBe(0);
    });
  });

  describe('is recognized by content, whatever its name', () => {
    it.each([
      ['vhd dynamic', 'disk.img'],
      ['vhd fixed', 'disk.vmdk'],
      ['vhdx dynamic', 'disk.img'],
      ['vhdx fixed', 'disk.vhd'],
      ['vdi dynamic', 'disk.raw'],
      ['qed', 'disk'],
    ])('%s named %s', async (name, file) => {
      const kind = kindNamed(name);
      const path = await make(kind, file);
      const mounted = await stage.mount(path);
      const raw = join(mounted.mountpoint, `${basename(path).replace(/\.[^.]*$/, '')}.raw`);
      await must('cmp', ['-n', `${PATTERN_SIZE}`, raw, pattern]);
      await mounted.unmount();
    });

    it('unless the user says that it is raw', async () => {
      const path = await make(kindNamed('vhdx dynamic'));
      const mounted = await stage.mount(path, { options: ['-o', 'format=raw'] });
      await must('cmp', [join(mounted.mountpoint, basename(path).replace('.vhdx', '.raw')), path]);
      await mounted.unmount();
    });

    it('but not when two formats match, which are named', async () => {
      // A fixed VHD whose disk begins with a VDI.
      const inner = await make(kindNamed('vdi dynamic'));
      const path = stage.fresh('both.vhd');
      await must('truncate', ['-s', '8M', inner]);
      await convert(kindNamed('vhd fixed'), inner, path);
      const said = await refused(MOUNT_FAILURE, path);
      expect(said).toMatch(/vhd/i);
      expect(said).toMatch(/vdi/i);
    });
  });
});
