/** Ending a mount that is in use: by signals, by umount, by force. */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findMount } from '../../src/transport/mountinfo.ts';
import { isMounted } from '../support/leftovers.ts';
import { gateOf, isRunning, must, run, TO_MOUNT, until } from '../support/machine.ts';
import { type Foreground, logged, REPOSITORY, Stage } from '../support/mount.ts';

const LINES = 2_000_000;
const MIB = 1024 * 1024;
const VDISK = join(REPOSITORY, 'bin', 'vdisk');

const gate = gateOf(...TO_MOUNT);

/** Cuts the connection, as root can for each, whatever it is in. fusectl may not be mounted; here it is, for this alone. */
async function abort(mountpoint: string): Promise<void> {
  const connections = '/sys/fs/fuse/connections';
  const number = findMount(mountpoint)!.device.split(':')[1]!;
  const script = `mount -t fusectl none ${connections} && echo 1 > ${connections}/$1/abort`;
  await must('unshare', ['--mount', 'sh', '-c', script, 'sh', number]);
}

describe(gate.title('a mount in use'), { skip: gate.skip }, () => {
  let stage: Stage;
  let image: string;
  /** The line at byte `at`: line n of the disk is n in 15 digits, so every 16 bytes differ. */
  const lineAt = (at: number): string => `${at / 16}`.padStart(15, '0');

  beforeAll(async () => {
    stage = await Stage.open();
    image = stage.path('lines.img');
    await must('sh', ['-c', `seq -f %015.0f 0 ${LINES - 1} > "$1"`, 'sh', image]);
  });
  afterAll(() => stage?.close());

  const rawOf = (mounted: { mountpoint: string }): string => join(mounted.mountpoint, 'lines.raw');
  const warnings = (mounted: Foreground): string[] =>
    logged(mounted).filter((line) => line.includes('in use'));
  const ended = async (mounted: Foreground): Promise<number | NodeJS.Signals> => {
    const how = await mounted.ended();
    expect(existsSync(mounted.pidFile)).toBe(false);
    return how;
  };

  for (const options of [[], ['--transport', 'fuse-native']]) {
    const transport = gateOf(...(options.length === 0 ? [] : (['package: fuse-native'] as const)));

    describe(transport.title(`${options[1] ?? 'kernel'} transport`), { skip: transport.skip }, () => {
      it('after SIGTERM names who holds it, serves on, and ends when released', async () => {
        const mounted = await stage.foreground(image, { options });
        const holder = await stage.holdOpen(rawOf(mounted));
        mounted.signal('SIGTERM');
        const warning = await until('the holder is named', () => warnings(mounted)[0]);
        expect(warning).toContain(mounted.mountpoint);
        expect(warning).toContain(`(pid ${holder.pid})`);
        expect(await holder.ask(`${20 * MIB}`)).toBe(lineAt(20 * MIB));
        expect(await must('sh', ['-c', 'tail -c 16 "$1"', 'sh', rawOf(mounted)])).toBe(
          `${lineAt((LINES - 1) * 16)}\n`,
        );
        await holder.release();
        expect(await ended(mounted)).toBe(0);
        expect(isMounted(mounted.mountpoint)).toBe(false);
        expect(warnings(mounted)).toHaveLength(1);
      });

      it('is cut off by a second signal', async () => {
        const mounted = await stage.foreground(image, { options });
        const holder = await stage.holdOpen(rawOf(mounted));
        mounted.signal('SIGTERM');
        await until('it says that it is in use', () => warnings(mounted)[0]);
        mounted.signal('SIGTERM');
        // 2: the connection was cut, which is not how a mount should end.
        expect(await ended(mounted)).toBe(2);
        expect(isMounted(mounted.mountpoint)).toBe(false);
        expect(await holder.ask(`${24 * MIB}`)).toMatch(/^(ENOTCONN|ECONNABORTED|EIO)$/);
        await holder.release();
      });

      it('taken away by umount -l is served until it is released', async () => {
        const mounted = await stage.foreground(image, { options });
        const holder = await stage.holdOpen(rawOf(mounted));
        await must('umount', ['-l', mounted.mountpoint]);
        expect(isMounted(mounted.mountpoint)).toBe(false);
        for (const at of [8 * MIB, 16 * MIB]) expect(await holder.ask(`${at}`)).toBe(lineAt(at));
        expect(isRunning(mounted.pid)).toBe(true);
        await holder.release();
        expect(await ended(mounted)).toBe(0);
      });

      it('is kept by umount, which says that it is busy', async () => {
        const mounted = await stage.foreground(image, { options });
        const holder = await stage.holdOpen(rawOf(mounted));
        const refused = await run('umount', [mounted.mountpoint]);
        expect(refused.status).toBe(32);
        expect(refused.stderr).toContain('busy');
        expect(await holder.ask(`${12 * MIB}`)).toBe(lineAt(12 * MIB));
        await holder.release();
        await must('umount', [mounted.mountpoint]);
        expect(await ended(mounted)).toBe(0);
      });

      const cuts: [string, (mounted: Foreground) => unknown][] = [
        ['umount -f', (mounted) => run('umount', ['-f', mounted.mountpoint])],
        ['kill -9', (mounted) => mounted.signal('SIGKILL')],
      ];
      for (const [how, cut] of cuts) {
        it(`leaves no reader waiting after ${how} during reads`, async () => {
          const mounted = await stage.foreground(image, { options });
          // The readers say what they got; a reader that hangs fails the test by its limit.
          const script = 'echo begun; while cat "$1" > "$2" && cmp "$2" "$3"; do :; done 2>&1';
          const readers = await Promise.all(
            [1, 2, 3].map(async () => {
              const copy = stage.fresh('copy');
              return await stage.hold('sh', ['-c', script, 'sh', rawOf(mounted), copy, image]);
            }),
          );
          await cut(mounted);
          await Promise.all(
            readers.map(async (reader) => {
              // The first line after an error names it; a copy that differs would be cmp's line. The file is not
              // there for a reader that comes when the mount is gone.
              const said = await reader.ask('');
              expect(said).toMatch(/not connected|connection abort|Input\/output error|No such file/);
              await reader.release();
            }),
          );
          await mounted.ended();
        });
      }
    });
  }

  const byOthers: [string, boolean, (mounted: Foreground) => Promise<unknown>][] = [
    ['umount -f', false, (mounted) => run('umount', ['-f', mounted.mountpoint])],
    ['an abort through sysfs', true, (mounted) => abort(mounted.mountpoint)],
  ];
  for (const [how, inNamespace, cut] of byOthers) {
    const needs = gateOf(...(inNamespace ? (['program: unshare'] as const) : []));
    it(needs.title(`cut off by ${how} says so, and leaves no dead mount`), { skip: needs.skip }, async () => {
      const mounted = await stage.foreground(image);
      const holder = await stage.holdOpen(rawOf(mounted));
      await cut(mounted);
      expect(await ended(mounted)).toBe(2);
      expect(isMounted(mounted.mountpoint)).toBe(false);
      expect(logged(mounted).at(-1)).toContain('cut off while in use');
      expect(await holder.ask(`${8 * MIB}`)).toMatch(/^(ENOTCONN|ECONNABORTED|EIO)$/);
      await holder.release();
    });
  }

  it('with something mounted over it, waits until that is gone, and takes nothing away', async () => {
    const mounted = await stage.foreground(image);
    await must('mount', ['-t', 'tmpfs', 'over', mounted.mountpoint]);
    mounted.signal('SIGTERM');
    await until('it says that it is in use', () => warnings(mounted)[0]);
    expect(findMount(mounted.mountpoint)).toMatchObject({ type: 'tmpfs', source: 'over' });
    await must('umount', [mounted.mountpoint]);
    expect(await ended(mounted)).toBe(0);
    expect(isMounted(mounted.mountpoint)).toBe(false);
  });

  it('taken away by umount -l, two signals end it while it is used', async () => {
    const mounted = await stage.foreground(image);
    const holder = await stage.holdOpen(rawOf(mounted));
    await must('umount', ['-l', mounted.mountpoint]);
    mounted.signal('SIGTERM');
    expect(await holder.ask(`${8 * MIB}`)).toBe(lineAt(8 * MIB));
    mounted.signal('SIGTERM');
    expect(await ended(mounted)).toBe(2);
    expect(await holder.ask(`${16 * MIB}`)).toMatch(/^(ENOTCONN|ECONNABORTED|EIO)$/);
    await holder.release();
  });

  it('not in use: two signals at once end it as one does, with the image clean', async () => {
    const [disk, source] = [stage.fresh('disk.vhdx'), stage.makeFile('source', 'written'.repeat(1_000_000))];
    await must(VDISK, ['create', disk, '64M']);
    const mounted = await stage.foreground(disk);
    const [raw] = readdirSync(mounted.mountpoint);
    await must('dd', [`if=${source}`, `of=${join(mounted.mountpoint, raw!)}`, 'bs=1M', 'conv=notrunc']);
    for (const name of ['SIGTERM', 'SIGINT'] as const) mounted.signal(name);
    expect(await ended(mounted)).toBe(0);
    const found = JSON.parse(await must(VDISK, ['check', '--json', disk]));
    expect(found).toMatchObject([{ result: 'clean', findings: [] }]);
    const copy = stage.fresh('copy.raw');
    await must(VDISK, ['convert', disk, copy]);
    await must('cmp', ['-n', '7000000', copy, source]);
  });

  it('taken away by umount -l during reads lets the readers finish', async () => {
    const mounted = await stage.foreground(image);
    const script = 'exec 9< "$1"; echo begun; read -r line; cat <&9 | cmp - "$2" 2>&1 && echo same';
    const readers = await Promise.all(
      [1, 2, 3].map(() => stage.hold('sh', ['-c', script, 'sh', rawOf(mounted), image])),
    );
    const answers = Promise.all(readers.map((reader) => reader.ask('')));
    await must('umount', ['-l', mounted.mountpoint]);
    expect(await answers).toEqual(['same', 'same', 'same']);
    await Promise.all(readers.map((reader) => reader.release()));
    expect(await ended(mounted)).toBe(0);
  });

  it('names a working directory as its holder', async () => {
    const mounted = await stage.foreground(image);
    const script = 'cd "$1" && echo there && read -r line';
    const holder = await stage.hold('sh', ['-c', script, 'sh', mounted.mountpoint]);
    mounted.signal('SIGINT');
    const warning = await until('the holder is named', () => warnings(mounted)[0]);
    expect(warning).toContain(`sh (pid ${holder.pid})`);
    await holder.release();
    expect(await ended(mounted)).toBe(0);
  });

  const python = gateOf('program: python3');
  it(python.title('names a mapping as its holder'), { skip: python.skip }, async () => {
    const mounted = await stage.foreground(image);
    const script = [
      'import mmap, sys',
      'with open(sys.argv[1], "rb") as disk: view = mmap.mmap(disk.fileno(), 0, prot=mmap.PROT_READ)',
      'print(len(view), flush=True)',
      'sys.stdin.read()',
    ];
    // Python's mmap keeps a descriptor of its own; the test is about whichever of the two is found.
    const holder = await stage.hold('python3', ['-c', script.join('\n'), rawOf(mounted)]);
    mounted.signal('SIGTERM');
    const warning = await until('the holder is named', () => warnings(mounted)[0]);
    expect(warning).toContain(`(pid ${holder.pid})`);
    await holder.release();
    expect(await ended(mounted)).toBe(0);
  });

  const loop = gateOf('loop devices');
  it(loop.title('names a loop device as its holder'), { skip: loop.skip }, async () => {
    const mounted = await stage.foreground(image);
    const device = await stage.attachLoop(rawOf(mounted));
    mounted.signal('SIGTERM');
    const warning = await until('the loop device is named', () => warnings(mounted)[0]);
    expect(warning).toContain(device);
    const at = 28 * MIB;
    const read = ['-c', `dd if="$1" bs=16 skip=${at / 16} count=1 status=none`, 'sh', device];
    expect(await must('sh', read)).toBe(`${lineAt(at)}\n`);
    await stage.detachLoop(device);
    expect(await ended(mounted)).toBe(0);
  });

  it('on a regular file is named and released like any other', async () => {
    const mountpoint = stage.makeFile('flat.raw');
    const mounted = await stage.foreground(image, { mountpoint });
    const holder = await stage.holdOpen(mountpoint);
    mounted.signal('SIGTERM');
    const warning = await until('the holder is named', () => warnings(mounted)[0]);
    expect(warning).toContain(`(pid ${holder.pid})`);
    expect(await holder.ask(`${4 * MIB}`)).toBe(lineAt(4 * MIB));
    await holder.release();
    expect(await ended(mounted)).toBe(0);
    expect(isMounted(mountpoint)).toBe(false);
  });
});
