/**
 * What every transport must do, through real mounts: vdisk-mount in a process of its own, and programs that use
 * the mount in others, each with a time limit. A hang is a failure, never a stuck test run.
 */

import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findMount } from '../../src/transport/mountinfo.ts';
import { isMounted } from '../support/leftovers.ts';
import { gateOf, isRunning, must, type Need, run, TO_MOUNT, until } from '../support/machine.ts';
import { logged, type Mounted, Stage } from '../support/mount.ts';
import { random, randomBytes } from '../support/random.ts';

export interface TransportCase {
  /** Options of vdisk-mount that choose the transport. */
  readonly options: readonly string[];
  /** What it needs beyond what every mount needs. */
  readonly needs?: readonly Need[];
  /** Whether SEEK_DATA and SEEK_HOLE follow the image; else all of the file is data. */
  readonly seeks: boolean;
}

const PROBE = fileURLToPath(new URL('./transport-probe.py', import.meta.url));

const MIB = 1024 * 1024;
/** Not a whole number of pages or sectors. */
const SIZE = 9 * MIB + 333;
const DATA: readonly (readonly [number, number])[] = [
  [0, 70_000],
  [MIB + 4096, 2 * MIB],
  [5 * MIB + 4096 * 7, 4096],
  [9 * MIB, 333],
];
const MANY = 200;

/** A sparse raw image with known times. The later access time keeps reading from changing it (relatime). */
function makeImage(path: string, seed: number): void {
  const next = random(seed);
  const fd = openSync(path, 'wx');
  try {
    ftruncateSync(fd, SIZE);
    for (const [at, length] of DATA) writeSync(fd, randomBytes(next, length), 0, length, at);
  } finally {
    closeSync(fd);
  }
  utimesSync(path, new Date('2100-02-03T04:05:06.789Z'), new Date('2011-12-13T14:15:16.171Z'));
}

export function describeTransport(name: string, { options, needs = [], seeks }: TransportCase): void {
  const gate = gateOf(...TO_MOUNT, ...needs, 'program: python3', 'program: cmp', 'program: ls');

  describe.skipIf(gate.skip)(gate.title(`transport ${name}`), () => {
    let stage: Stage;
    let image: string;
    let mounted: Mounted;
    let shown: string;
    const asked = ['-o', 'format=raw,ro', ...options];

    const probe = async (...args: readonly string[]): Promise<unknown> =>
      JSON.parse(await must('python3', [PROBE, ...args]));
    const isSame = async (left: string, right: string): Promise<boolean> =>
      (await run('cmp', [left, right])).status === 0;
    /** A child that reads until it is let go: `result` is what it says at the end. */
    const startReading = async (file: string) => {
      const report = stage.fresh('report');
      const script = 'exec python3 "$1" reading "$2" | tee "$3"';
      const holder = await stage.hold('sh', ['-c', script, 'sh', PROBE, file, report]);
      return {
        release: () => holder.release(),
        result: async () => {
          const line = await until('the reader has ended', () =>
            readFileSync(report, 'utf8')
              .split('\n')
              .find((text) => text.startsWith('{')),
          );
          return JSON.parse(line) as { readonly ended: string; readonly reads: number };
        },
      };
    };

    beforeAll(async () => {
      stage = await Stage.open();
      image = stage.path('disk.img');
      makeImage(image, 7);
      mounted = await stage.mount(image, { options: asked });
      shown = join(mounted.mountpoint, 'disk.raw');
    });
    afterAll(() => stage?.close());

    it('is in the mount table as ours, read-only', () => {
      const entry = findMount(mounted.mountpoint);
      expect(entry).toMatchObject({ type: 'fuse.vdisk-mount', source: image });
      const line = readFileSync('/proc/self/mountinfo', 'utf8')
        .split('\n')
        .find((text) => text.startsWith(`${entry?.id} `));
      expect(line?.split(' ')[5]?.split(',')).toEqual(expect.arrayContaining(['ro', 'nosuid', 'nodev']));
    });

    it('finds no names but those that are there', async () => {
      expect(await probe('missing', mounted.mountpoint, shown)).toEqual({
        other: 'ENOENT',
        part: 'ENOENT',
        'below a file': 'ENOTDIR',
        'too long': 'ENAMETOOLONG',
        'no UTF-8': 'ENOENT',
      });
    });

    it('shows size, mode and times of the image', async () => {
      const format = '%s %a %F %h %u %g %o %i %b %.3X %.3Y %.3Z';
      const own = statSync(image);
      const time = (ms: number): string => (Math.floor(ms) / 1000).toFixed(3);
      const times = [own.atimeMs, own.mtimeMs, own.ctimeMs].map(time);
      expect(times.slice(0, 2)).toEqual(['4105310706.789', '1323785716.171']);
      const blocks = Math.min(own.blocks, Math.ceil(SIZE / 512));
      const file = ['444', 'regular', 'file', '1', '0', '0', '4096', '2', `${blocks}`, ...times];
      expect((await must('stat', ['-c', format, shown])).trim().split(' ')).toEqual([`${SIZE}`, ...file]);
      const directory = (await must('stat', ['-c', '%a %F %h %i', mounted.mountpoint])).trim();
      expect(directory).toBe('555 directory 2 1');
    });

    it('lists the images, and "." and ".."', async () => {
      const names = (await must('ls', ['-fa', mounted.mountpoint])).trim().split('\n');
      expect(names).toEqual(['.', '..', 'disk.raw']);
      expect(await probe('listing', mounted.mountpoint)).toEqual({ 'disk.raw': [true, 2] });
    });

    it('reads what the image holds, at its start, its end, across and past it, at any place', async () => {
      const found = (await probe('compare', shown, image)) as { wrong: unknown[]; same: number };
      expect(found.wrong).toEqual([]);
      expect(found.same).toBeGreaterThan(5 * MIB);
      expect(await isSame(shown, image)).toBe(true);
    });

    it('reads around the page cache', async () => {
      expect(await probe('direct', shown, image)).toEqual([]);
    });

    it('reads in eight processes at once', async () => {
      expect(await probe('parallel', shown, image)).toEqual(Array(8).fill(0));
    });

    it('can be mapped for reading only', async () => {
      expect(await probe('mapped', shown, image)).toEqual({ same: true, bytes: SIZE, writing: 'EACCES' });
    });

    it('can be copied by sendfile, cp and dd', async () => {
      const copy = stage.fresh('copy');
      expect(await probe('sent', shown, copy)).toBe(SIZE);
      expect(await isSame(copy, image)).toBe(true);
      const second = stage.fresh('copy');
      await must('cp', ['--reflink=never', shown, second]);
      expect(await isSame(second, image)).toBe(true);
      const third = stage.fresh('copy');
      await must('dd', [`if=${shown}`, `of=${third}`, 'bs=100003', 'status=none']);
      expect(await isSame(third, image)).toBe(true);
    });

    it('refuses every change, and takes fsync', async () => {
      const changes = (await probe('written', shown, mounted.mountpoint)) as Record<string, string>;
      const { fsync, fdatasync, ...refused } = changes;
      expect([fsync, fdatasync]).toEqual(['ok', 'ok']);
      expect(Object.keys(refused).length).toBeGreaterThan(10);
      for (const [what, outcome] of Object.entries(refused)) expect(outcome, what).toBe('EROFS');
      expect(await isSame(shown, image)).toBe(true);
    });

    it('answers access', async () => {
      expect(await probe('access', shown, mounted.mountpoint)).toEqual({ file: 'FR', directory: 'FRX' });
    });

    it('has extended attributes that say what the image is', async () => {
      const found = (await probe('xattrs', shown, mounted.mountpoint)) as Record<string, unknown>;
      expect(found).toMatchObject({
        values: {
          'user.vdisk.format': 'raw',
          'user.vdisk.virtual-size': `${SIZE}`,
          'user.vdisk.source': image,
        },
        'size alone': 3,
        'too little room': 'ERANGE',
        'just enough': 3,
        'list: too little room': 'ERANGE',
        missing: 'ENODATA',
        'of the directory': [],
      });
      expect(found['list: size alone']).toBe(found['listed']);
    });

    it('tells the size of the file system', async () => {
      expect(await probe('statfs', mounted.mountpoint)).toEqual({
        bytes: Math.ceil(SIZE / 4096) * 4096,
        free: 0,
        files: 1,
        namemax: 255,
        'read-only': true,
      });
    });

    it(
      seeks
        ? 'finds data and holes where the image has them'
        : 'takes everything for data (it knows no lseek)',
      async () => {
        const own = await probe('holes', image);
        expect(own, 'the image itself has holes').toHaveLength(DATA.length + 2);
        expect(await probe('holes', shown)).toEqual(seeks ? own : [[0, SIZE], 'ENXIO', 'ENXIO']);
      },
    );

    it('shows many images at once', async () => {
      const directory = stage.makeDirectory('images');
      const images = Array.from({ length: MANY }, (_, number) => join(directory, `image ${number}.img`));
      for (const [number, path] of images.entries()) {
        writeFileSync(path, randomBytes(random(number), 512 + number));
      }
      const many = await stage.mount(images, { options: asked });
      const names = images.map((_, number) => `image ${number}.raw`);
      const listing = (await probe('listing', many.mountpoint)) as Record<string, unknown>;
      expect(Object.entries(listing)).toEqual(names.map((entry, number) => [entry, [true, number + 2]]));
      const listed = (await must('ls', ['-fa', many.mountpoint])).trim().split('\n');
      expect(listed).toEqual(['.', '..', ...names]);
      for (const number of [0, 1, 99, MANY - 1]) {
        expect(await isSame(join(many.mountpoint, names[number]!), images[number]!)).toBe(true);
      }
      expect(await isSame(join(many.mountpoint, names[0]!), images[1]!)).toBe(false);
      await many.unmount();
    });

    it('is mounted on a regular file, which is then the disk', async () => {
      const mountpoint = stage.makeFile('place', 'what was there before');
      const single = await stage.mount(image, { mountpoint, options: asked });
      expect(await isSame(mountpoint, image)).toBe(true);
      expect((await probe('compare', mountpoint, image)) as object).toMatchObject({ wrong: [] });
      expect((await must('stat', ['-c', '%s %a %F', mountpoint])).trim()).toBe(`${SIZE} 444 regular file`);
      await single.unmount();
      expect(readFileSync(mountpoint, 'utf8')).toBe('what was there before');
    });

    it('takes names with blanks, quotes and what a shell would run', async () => {
      const trap = stage.fresh('trap');
      // A name cannot hold a slash, so that the trap is a relative path.
      const mountpoint = stage.path(`m "a" $(touch ${trap.split('/').at(-1)}) \`b\` 'c' \\d ä,e`);
      mkdirSync(mountpoint);
      const odd = stage.path('odd "name", ä.img');
      writeFileSync(odd, 'odd');
      const daemon = await stage.foreground(odd, { mountpoint, options: asked });
      expect(findMount(mountpoint)).toMatchObject({ source: odd });
      expect(await must('cat', [join(mountpoint, 'odd "name", ä.raw')])).toBe('odd');
      daemon.signal('SIGTERM');
      expect(await daemon.ended()).toBe(0);
      expect(isMounted(mountpoint)).toBe(false);
      expect([trap, join(process.cwd(), trap.split('/').at(-1)!)].filter(existsSync)).toEqual([]);
    });

    describe('the end', () => {
      it('comes with umount(8): the process ends by itself', async () => {
        const daemon = await stage.foreground(image, { options: asked });
        await must('umount', [daemon.mountpoint]);
        expect(await daemon.ended()).toBe(0);
        expect(existsSync(daemon.pidFile)).toBe(false);
      });

      it('does not come while somebody reads, and the reader notices nothing', async () => {
        const used = await stage.mount(image, { options: asked });
        const reader = await startReading(join(used.mountpoint, 'disk.raw'));
        const busy = await run('umount', [used.mountpoint]);
        expect(busy.status).not.toBe(0);
        expect(busy.stderr).toContain('busy');
        process.kill(used.pid, 'SIGTERM');
        await until('it is said that the mount is in use', () =>
          logged(used).some((line) => line.includes('in use')),
        );
        expect(isMounted(used.mountpoint)).toBe(true);
        await reader.release();
        const { ended, reads } = await reader.result();
        expect(ended).toBe('asked to');
        expect(reads).toBeGreaterThan(0);
        // The signal is still in force: it unmounts once nobody reads any more.
        await until('the daemon ends', () => !isRunning(used.pid));
        expect(isMounted(used.mountpoint)).toBe(false);
      });

      it('comes after the last reader where the mount was detached under it', async () => {
        const daemon = await stage.foreground(image, { options: asked });
        const reader = await startReading(join(daemon.mountpoint, 'disk.raw'));
        await must('umount', ['-l', daemon.mountpoint]);
        const pause = new Promise((resolve) => setTimeout(() => resolve('still there'), 700));
        expect(await Promise.race([daemon.ended(), pause])).toBe('still there');
        await reader.release();
        expect((await reader.result()).ended).toBe('asked to');
        expect(await daemon.ended()).toBe(0);
      });

      it('comes at once with a second signal: the reader gets an error', async () => {
        const daemon = await stage.foreground(image, { options: asked });
        const reader = await startReading(join(daemon.mountpoint, 'disk.raw'));
        daemon.signal('SIGTERM');
        await until('it is said that the mount is in use', () =>
          logged(daemon).some((line) => line.includes('in use')),
        );
        daemon.signal('SIGTERM');
        await daemon.ended();
        expect(['ENOTCONN', 'ECONNABORTED', 'EIO']).toContain((await reader.result()).ended);
        expect(isMounted(daemon.mountpoint)).toBe(false);
        await reader.release();
      });
    });
  });
}
