/** Running mounts under the commands of vdisk: list, add, remove, flush, unmount, stats, log-level. */

import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import { socketPaths } from '../../src/control/place.ts';
import type { MountState } from '../../src/control/protocol.ts';
import type { MountStats } from '../../src/control/stats.ts';
import { isMounted } from '../support/leftovers.ts';
import { gateOf, isRunning, must, type Ran, run, TO_MOUNT, until } from '../support/machine.ts';
import { logged, REPOSITORY, Stage } from '../support/mount.ts';
import { parseExposition } from '../support/prometheus.ts';

const MIB = 1024 * 1024;
const VDISK = join(REPOSITORY, 'bin', 'vdisk');

const gate = gateOf(...TO_MOUNT);
const fio = gateOf('program: fio');

describe(gate.title('live control'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  const vdisk = (...args: string[]): Promise<Ran> => run(VDISK, args, { limitMs: 50_000 });
  /** What it wrote to standard output; rejects where it fails. */
  const done = (...args: string[]): Promise<string> => must(VDISK, args);
  const statsOf = async (mountpoint: string): Promise<MountStats> =>
    (JSON.parse(await done('stats', '--format', 'json', mountpoint)) as MountStats[])[0]!;

  function raw(name: string, size = 8 * MIB): string {
    const path = stage.makeFile(name, 'begin');
    truncateSync(path, size);
    return path;
  }
  async function vhdx(name: string): Promise<string> {
    const path = stage.fresh(name);
    await done('create', '-f', 'vhdx', path, '64M');
    return path;
  }
  const rawName = (image: string): string =>
    `${image
      .split('/')
      .at(-1)!
      .replace(/\.\w+$/, '')}.raw`;

  it('lists mounts, and removes what a daemon left that was killed', async () => {
    const image = raw('listed.img');
    const [one, dead] = [await stage.mount(image), await stage.mount(raw('dead.img'))];
    const states = JSON.parse(await done('list', '--json')) as MountState[];
    const found = states.find(({ mountpoint }) => mountpoint === one.mountpoint);
    expect(found).toMatchObject({ pid: one.pid, files: [{ path: image, format: 'raw', size: 8 * MIB }] });
    expect(await done('list')).toContain(`${one.mountpoint}  (pid ${one.pid})\n  ${rawName(image)}  8 MiB`);
    const [socket] = socketPaths(dead.mountpoint);
    expect(statSync(socket!).mode & 0o777).toBe(0o600);
    const left = (pid: number): string[] =>
      readdirSync(dirname(socket!)).filter((name) => name.includes(`${pid}-`));
    expect(left(dead.pid)).toHaveLength(2);
    process.kill(dead.pid, 'SIGKILL');
    await until('the daemon is gone', () => !isRunning(dead.pid));
    expect(await done('list')).not.toContain(dead.mountpoint);
    expect(left(dead.pid)).toEqual([]);
    // The next daemon does the same.
    const other = await stage.mount(raw('dead-too.img'));
    process.kill(other.pid, 'SIGKILL');
    await until('the daemon is gone', () => !isRunning(other.pid));
    expect(left(other.pid)).toHaveLength(2);
    const next = await stage.mount(raw('next.img'));
    await until('nothing is left', () => left(other.pid).length === 0);
    await next.unmount();
    expect(left(one.pid)).toHaveLength(2);
    await one.unmount();
    expect(socketPaths(one.mountpoint)).toEqual([]);
    expect(await vdisk('flush', one.mountpoint)).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/no running mount/),
    });
  });

  it('names a mount by its mountpoint, by a file in it, and by an image', async () => {
    const image = raw('named.img');
    const mounted = await stage.mount(image);
    const file = join(mounted.mountpoint, rawName(image));
    for (const name of [mounted.mountpoint, `${mounted.mountpoint}/`, file, image]) {
      expect(await vdisk('log-level', name, 'info')).toMatchObject({ status: 0, stdout: 'info → info\n' });
    }
    await mounted.unmount();
  });

  it('adds an image and takes it away again, clean and free', async () => {
    const mounted = await stage.mount(raw('first.img'));
    const image = await vhdx('extra.vhdx');
    const file = join(mounted.mountpoint, rawName(image));
    const content = Buffer.alloc(3 * MIB, 'new');
    for (let round = 0; round < 2; round += 1) {
      expect(await done('add', mounted.mountpoint, image)).toBe(`${file}\n`);
      expect(readdirSync(mounted.mountpoint)).toContain(rawName(image));
      if (round > 0) expect(readFileSync(file).subarray(0, content.length).equals(content)).toBe(true);
      await must('dd', [`of=${file}`, 'bs=1M', 'conv=notrunc', 'status=none'], { input: content.toString() });
      const inode = statSync(file).ino;
      expect(await done('remove', mounted.mountpoint, rawName(image))).toBe(`removed ${rawName(image)}\n`);
      expect(readdirSync(mounted.mountpoint)).not.toContain(rawName(image));
      expect(() => statSync(file)).toThrow('ENOENT');
      expect((await vdisk('check', image)).status).toBe(0);
      await done('add', mounted.mountpoint, image);
      expect(statSync(file).ino).not.toBe(inode);
      await done('remove', mounted.mountpoint, image);
    }
    await mounted.unmount();
  });

  it('does not remove what is open; with --force cuts off who has it open, and nobody else', async () => {
    const [first, second] = [raw('kept.img'), await vhdx('cut.vhdx')];
    const mounted = await stage.mount([first, second]);
    const [kept, cut] = [first, second].map((image) => join(mounted.mountpoint, rawName(image)));
    await must('dd', [`of=${cut}`, 'bs=1M', 'conv=notrunc', 'status=none'], { input: 'x'.repeat(5 * MIB) });
    const holders = await Promise.all([kept, cut].map((file) => stage.holdOpen(file!)));
    expect(await holders[1]!.ask(`${MIB}`)).toBe('x'.repeat(16));
    expect(await vdisk('remove', mounted.mountpoint, second)).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/is open/),
    });
    expect(await holders[1]!.ask(`${2 * MIB}`)).toBe('x'.repeat(16));
    expect((await vdisk('remove', '--force', mounted.mountpoint, second)).status).toBe(0);
    expect((await vdisk('check', second)).status).toBe(0);
    // Pages that the kernel had are gone too.
    for (const at of [MIB, 3 * MIB]) expect(await holders[1]!.ask(`${at}`)).toBe('EIO');
    expect(await holders[0]!.ask('0')).toMatch(/^begin/);
    // The same image joins again: what is open from before has no part in it.
    await done('add', mounted.mountpoint, second);
    expect(readFileSync(cut!).subarray(0, 4).toString()).toBe('xxxx');
    expect(await holders[1]!.ask(`${MIB}`)).toBe('EIO');
    for (const holder of holders) await holder.release();
    await done('unmount', '--wait', mounted.mountpoint);
  });

  it('refuses images that cannot join, with everything as it was', async () => {
    const mounted = await stage.mount(raw('alone.img'));
    const bad = stage.makeFile('bad.vhdx', 'no image');
    const used = await vhdx('used.vhdx');
    const other = await stage.mount(used);
    for (const [image, why] of [
      [bad, /bad/],
      [used, /in use|lock|writ/i],
      ['/nowhere/x.raw', /no such file/],
    ] as const) {
      const { status, stderr } = await vdisk('add', mounted.mountpoint, image);
      expect([status === 0, stderr]).toEqual([false, expect.stringMatching(why)]);
    }
    expect(readdirSync(mounted.mountpoint)).toHaveLength(1);
    await other.unmount();
    await mounted.unmount();
    const readOnly = await stage.mount(raw('ro.img'), { options: ['-r'] });
    await done('add', readOnly.mountpoint, used);
    const states = JSON.parse(await done('list', '--json')) as MountState[];
    const files = states.find(({ mountpoint }) => mountpoint === readOnly.mountpoint)!.files;
    expect(files.map(({ writable }) => writable)).toEqual([false, false]);
    await readOnly.unmount();
  });

  it('unmount --wait leaves images clean, and says where a mount is in use', async () => {
    const image = await vhdx('clean.vhdx');
    const mounted = await stage.mount(image);
    const file = join(mounted.mountpoint, rawName(image));
    const holder = await stage.holdOpen(file);
    expect(await vdisk('unmount', '--wait', mounted.mountpoint)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining(`(pid ${holder.pid})`),
    });
    await holder.release();
    writeFileSync(file, Buffer.alloc(20 * MIB, 7), { flag: 'r+' });
    await done('unmount', '--wait', mounted.mountpoint);
    expect(isMounted(mounted.mountpoint)).toBe(false);
    // It has closed its socket, and has a moment to go.
    await until('the daemon ends', () => !isRunning(mounted.pid));
    expect((await vdisk('check', image)).status).toBe(0);
  });

  it('flush puts what was written into the image', async () => {
    const image = raw('flushed.img');
    const mounted = await stage.mount(image);
    const file = join(mounted.mountpoint, rawName(image));
    const holder = await stage.hold('python3', [
      '-c',
      'import sys; f = open(sys.argv[1], "r+b", 0); f.write(b"written"); print("ready", flush=True); sys.stdin.read()',
      file,
    ]);
    await done('flush', mounted.mountpoint);
    expect(readFileSync(image).subarray(0, 7).toString()).toBe('written');
    await holder.release();
    await done('unmount', '--wait', mounted.mountpoint);
  });

  it('log-level changes what is logged', async () => {
    const mounted = await stage.mount(raw('said.img'));
    const image = raw('late.img');
    expect(await done('log-level', mounted.mountpoint, 'warn')).toBe('info → warn\n');
    // For programs.
    const json = async (...words: string[]): Promise<unknown> => JSON.parse(await done(...words, '--json'));
    expect(await json('log-level', mounted.mountpoint, 'warn')).toEqual({ before: 'warn', level: 'warn' });
    expect(await json('flush', mounted.mountpoint)).toEqual({ flushed: mounted.mountpoint });
    const spare = join(mounted.mountpoint, rawName(image));
    expect(await json('add', mounted.mountpoint, image)).toEqual({ files: [spare] });
    expect(await json('remove', mounted.mountpoint, image)).toEqual({ removed: [rawName(image)] });
    expect(await json('stats', mounted.mountpoint)).toMatchObject([{ mountpoint: mounted.mountpoint }]);
    await done('add', mounted.mountpoint, image);
    expect(logged(mounted).join('\n')).not.toContain('joined');
    expect(await done('log-level', mounted.mountpoint, 'debug')).toBe('warn → debug\n');
    await done('remove', mounted.mountpoint, image);
    expect(logged(mounted).join('\n')).toContain(`${image} left`);
    await mounted.unmount();
  });

  it('writes metrics that a parser accepts, and removes them at the end', async () => {
    const metrics = stage.fresh('vdisk.prom');
    const mounted = await stage.mount(raw('metered.img'), { options: ['-o', `metrics=${metrics}`] });
    expect(parseExposition(readFileSync(metrics, 'utf8')).length).toBeGreaterThan(5);
    await must('cat', [join(mounted.mountpoint, readdirSync(mounted.mountpoint)[0]!)]);
    const samples = parseExposition(await done('stats', '--format', 'prometheus', mounted.mountpoint));
    const read = samples.find(
      ({ name, labels }) => name === 'vdisk_mount_bytes_total' && labels['operation'] === 'read',
    );
    expect(read!.value).toBe(8 * MIB);
    expect(await done('stats', mounted.mountpoint)).toMatch(/reads +\d+, 8 MiB.*; mean .* 99 % below/);
    await mounted.unmount();
    expect(existsSync(metrics)).toBe(false);
  });

  it('tells the dirty bytes of each image, until they are flushed', async () => {
    const [busy, idle] = [await vhdx('dirty.vhdx'), await vhdx('idle.vhdx')];
    const mounted = await stage.mount([busy, idle]);
    // Each time into a new block, as told, past the page cache.
    const writer = await stage.hold('python3', [
      '-c',
      'import mmap, os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT); page = mmap.mmap(-1, 4096); print("ready", flush=True)\n' +
        'for line in sys.stdin: print(os.pwritev(f, [page], int(line)), flush=True)',
      join(mounted.mountpoint, rawName(busy)),
    ]);
    let block = 0;
    const dirty = async (): Promise<number[]> => {
      const { files, cache } = await statsOf(mounted.mountpoint);
      return [...files.map(({ dirtyBytes }) => dirtyBytes), cache.dirtyBytes];
    };
    // The keeper may write them out at any moment.
    const bytes = await until('bytes are dirty', async () => {
      await writer.ask(`${(block % 32) * 2 * MIB}`);
      block += 1;
      const [one, other, all] = await dirty();
      return one! > 0 ? [one, other, all] : undefined;
    });
    expect(bytes).toEqual([4096, 0, 4096]);
    await done('flush', mounted.mountpoint);
    expect(await dirty()).toEqual([0, 0, 0]);
    await writer.release();
    await mounted.unmount();
  });

  it('serves on, whatever a client sends or leaves unread', async () => {
    const image = raw('steady.img');
    const mounted = await stage.mount(image);
    const [socket] = socketPaths(mounted.mountpoint);
    const clients = Array.from({ length: 50 }, (_, n) => {
      const client = createConnection(socket!).on('error', () => {});
      client.write(n % 2 === 0 ? 'x'.repeat(200_000) : '{"do":"stats"}\n'.repeat(10_000));
      return client.pause();
    });
    try {
      const file = join(mounted.mountpoint, rawName(image));
      await must('dd', [`if=${file}`, 'of=/dev/null', 'bs=4k', 'iflag=direct', 'status=none']);
      expect((await statsOf(mounted.mountpoint)).files[0]!.reads.bytes).toBe(8 * MIB);
    } finally {
      for (const client of clients) client.destroy();
    }
    await done('unmount', '--wait', mounted.mountpoint);
  });

  describe(fio.title('under fio'), { skip: fio.skip }, () => {
    const fioArgs = (file: string, ...more: string[]): string[] => [
      ...['--name=t', `--filename=${file}`, '--bs=4k', '--ioengine=psync', '--direct=1'],
      ...['--allow_file_create=0', '--output-format=json', ...more],
    ];

    it('counts what fio counts', async () => {
      const image = raw('counted.img', 16 * MIB);
      const mounted = await stage.mount(image);
      const file = join(mounted.mountpoint, rawName(image));
      const args = fioArgs(file, '--rw=randrw', '--size=16M', '--io_size=8M', '--fsync=100');
      const { jobs } = JSON.parse(await must('fio', args)) as {
        jobs: {
          read: { total_ios: number; io_bytes: number };
          write: { total_ios: number; io_bytes: number };
        }[];
      };
      const { reads, writes, flushes } = (await statsOf(mounted.mountpoint)).files[0]!;
      for (const [ours, theirs] of [
        [reads, jobs[0]!.read],
        [writes, jobs[0]!.write],
      ] as const) {
        expect(Math.abs(ours.count / theirs.total_ios - 1)).toBeLessThan(0.01);
        expect(Math.abs(ours.bytes / theirs.io_bytes - 1)).toBeLessThan(0.01);
        expect(ours.buckets.reduce((sum, count) => sum + count, 0)).toBe(ours.count);
        expect(ours.errors).toBe(0);
      }
      expect(flushes.count).toBeGreaterThanOrEqual(Math.floor(jobs[0]!.write.total_ios / 100));
      await mounted.unmount();
    });

    it('images come and go without an error on another one', async () => {
      const [busy, guest] = [await vhdx('busy.vhdx'), await vhdx('guest.vhdx')];
      const mounted = await stage.mount(busy);
      const file = join(mounted.mountpoint, rawName(busy));
      let ended = false;
      const args = fioArgs(file, '--rw=randrw', '--size=64M', '--time_based', '--runtime=8');
      const load = run('fio', [...args, '--numjobs=3', '--verify=0', '--error_dump=1']).finally(() => {
        ended = true;
      });
      let rounds = 0;
      while (!ended) {
        await done('add', mounted.mountpoint, guest);
        const forced = rounds % 2 === 0 ? ['--force'] : [];
        const other = join(mounted.mountpoint, rawName(guest));
        if (rounds % 2 === 1) writeFileSync(other, `${rounds}`, { flag: 'r+' });
        await done('remove', ...forced, mounted.mountpoint, guest);
        rounds += 1;
      }
      const { status, stdout } = await load;
      expect(status).toBe(0);
      const { jobs } = JSON.parse(stdout) as { jobs: { error: number }[] };
      expect(jobs.map(({ error }) => error)).toEqual(jobs.map(() => 0));
      expect(rounds).toBeGreaterThan(1);
      await done('unmount', '--wait', mounted.mountpoint);
      for (const image of [busy, guest]) expect((await vdisk('check', image)).status).toBe(0);
    });
  });

  it('does not grow by images that come and go while nobody reads', { timeout: 120_000 }, async () => {
    const mounted = await stage.mount(raw('unread.img'));
    const image = await vhdx('passing.vhdx');
    const client = (await ControlClient.connect(socketPaths(mounted.mountpoint)[0]!))!;
    const pass = async (times: number): Promise<number> => {
      for (let n = 0; n < times; n += 1) {
        await client.ask('add', { path: image });
        await client.ask('remove', { name: image });
      }
      const memory = readFileSync(`/proc/${mounted.pid}/status`, 'utf8');
      return Number(/^RssAnon:\s+(\d+) kB$/m.exec(memory)![1]) / 1024;
    };
    try {
      const before = await pass(200);
      // One that stayed in the queue of a thread would keep some 150 KiB.
      expect((await pass(400)) - before).toBeLessThan(20);
    } finally {
      client.close();
    }
    await mounted.unmount();
  });

  it('shows 200 images in one mount, and takes half of them away', async () => {
    const images = Array.from({ length: 200 }, (_, n) => raw(`many${n}.img`, 4096));
    const mounted = await stage.mount(images.slice(0, 100));
    expect((await done('add', mounted.mountpoint, ...images.slice(100))).split('\n')).toHaveLength(101);
    expect(readdirSync(mounted.mountpoint).sort()).toEqual(images.map(rawName).sort());
    for (const image of images) {
      expect(readFileSync(join(mounted.mountpoint, rawName(image))).toString('latin1', 0, 5)).toBe('begin');
    }
    expect((await statsOf(mounted.mountpoint)).files).toHaveLength(200);
    await done('remove', mounted.mountpoint, ...images.slice(50, 150));
    expect(readdirSync(mounted.mountpoint)).toHaveLength(100);
    await done('unmount', '--wait', mounted.mountpoint);
  });
});
