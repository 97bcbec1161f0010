/** What a mount does when the machine has too little of something, and when there is a lot in it. */

import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, must, type Ran, run, TO_MOUNT, until } from '../support/machine.ts';
import { REPOSITORY, Stage } from '../support/mount.ts';

const MIB = 1024 * 1024;
const VDISK = join(REPOSITORY, 'bin', 'vdisk');
const gate = gateOf(...TO_MOUNT);
const limits = gateOf('program: prlimit');

/** Opens argv[1] argv[2] times, reads from each, and says how many it has. */
const OPEN_MANY = `
const fs = require('node:fs');
const [path, count] = process.argv.slice(1);
const fds = Array.from({ length: Number(count) }, () => fs.openSync(path, 'r'));
const byte = Buffer.alloc(1);
const read = fds.filter((fd, at) => fs.readSync(fd, byte, 0, 1, at) === 1);
console.log(read.length);
`;

describe(gate.title('staying up'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  const vdisk = (...args: string[]): Promise<Ran> => run(VDISK, args, { limitMs: 50_000 });
  function raw(name: string, size = 8 * MIB): string {
    const path = stage.path(name);
    writeFileSync(path, 'begin');
    truncateSync(path, size);
    return path;
  }
  const begins = async (file: string): Promise<string> =>
    (await must('dd', [`if=${file}`, 'bs=5', 'count=1', 'iflag=direct', 'status=none'])).slice(0, 5);

  it(limits.title('out of descriptors serves on, and takes images again when there are some'), {
    skip: limits.skip,
    timeout: 120_000,
  }, async () => {
    const mounted = await stage.mount(raw('few.img'));
    const file = join(mounted.mountpoint, 'few.raw');
    const limit = (count: number): Promise<string> =>
      must('prlimit', [`--pid=${mounted.pid}`, `--nofile=${count}:4096`]);
    const extra = raw('extra.img');
    // Its last thread loads while the mount is used already; where it cannot, the mount ends.
    await delay(2000);
    await limit(readdirSync(`/proc/${mounted.pid}/fd`).length);
    expect(await vdisk('add', mounted.mountpoint, extra)).toMatchObject({ status: 1 });
    expect(await begins(file)).toBe('begin');
    await must('dd', [`of=${file}`, 'conv=notrunc,fsync', 'status=none'], { input: 'begun' });
    expect(await begins(file)).toBe('begun');
    await limit(4096);
    expect(await vdisk('add', mounted.mountpoint, extra)).toMatchObject({ status: 0, stderr: '' });
    expect(await begins(join(mounted.mountpoint, 'extra.raw'))).toBe('begin');
    await mounted.unmount();
  });

  it('serves on where the disk of its log is full, and logs again when it is not', async () => {
    const place = stage.makeDirectory('small');
    await must('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', place]);
    try {
      const log = join(place, 'log');
      const mountpoint = stage.makeDirectory('mnt');
      const [image, extra] = [raw('logged.img'), raw('logged-too.img')];
      await must(join(REPOSITORY, 'bin', 'vdisk-mount'), ['--log-file', log, image, mountpoint]);
      await run('dd', ['if=/dev/zero', `of=${join(place, 'filler')}`, 'bs=4k']);
      // A line goes into what is left of the log's last page: fill that as well.
      await run('sh', ['-c', 'while echo filler >> "$1"; do :; done 2> /dev/null', 'sh', log]);
      const before = readFileSync(log, 'utf8').length;
      expect(await vdisk('add', mountpoint, extra)).toMatchObject({ status: 0 });
      expect(await begins(join(mountpoint, 'logged.raw'))).toBe('begin');
      expect(await begins(join(mountpoint, 'logged-too.raw'))).toBe('begin');
      expect(readFileSync(log, 'utf8')).toHaveLength(before);
      await must('rm', [join(place, 'filler')]);
      expect(await vdisk('remove', mountpoint, 'logged-too.raw')).toMatchObject({ status: 0 });
      await until('it logs again', () => readFileSync(log, 'utf8').includes('logged-too.img left'));
      await must(VDISK, ['unmount', '--wait', mountpoint]);
    } finally {
      await run('umount', ['-l', place]);
    }
  });

  it('has 10,000 open handles on one file', async () => {
    const mounted = await stage.mount(raw('handles.img'));
    const file = join(mounted.mountpoint, 'handles.raw');
    const descriptors = (): number => readdirSync(`/proc/${mounted.pid}/fd`).length;
    const before = descriptors();
    const script = 'ulimit -n 11000 && exec "$0" -e "$1" "$2" 10000';
    expect(await must('sh', ['-c', script, process.execPath, OPEN_MANY, file])).toBe('10000\n');
    expect(descriptors()).toBe(before);
    await mounted.unmount();
  }, 60_000);

  it('shows 300 images in one mount', async () => {
    const place = stage.makeDirectory('many');
    const names = Array.from({ length: 300 }, (_, n) => `disk-${n}`);
    const images = names.map((name) => {
      writeFileSync(join(place, `${name}.img`), name.padEnd(512));
      return join(place, `${name}.img`);
    });
    const mounted = await stage.mount(images);
    expect(readdirSync(mounted.mountpoint)).toHaveLength(300);
    for (const name of names) {
      expect(readFileSync(join(mounted.mountpoint, `${name}.raw`), 'utf8')).toBe(name.padEnd(512));
    }
    await mounted.unmount();
  }, 60_000);

  it('takes next to no CPU while nobody asks', async () => {
    const mounted = await stage.mount(raw('idle.img'));
    /** utime and stime (proc(5)), in ticks of 10 ms. */
    const ticks = (): number => {
      const stat = readFileSync(`/proc/${mounted.pid}/stat`, 'latin1');
      const [user, system] = stat
        .slice(stat.lastIndexOf(')') + 2)
        .split(' ')
        .slice(11, 13);
      return Number(user) + Number(system);
    };
    // The start has an end: V8 compiles for a while after it.
    await delay(2000);
    const before = ticks();
    await delay(3000);
    expect(ticks() - before).toBeLessThan(15);
    await mounted.unmount();
  }, 30_000);
});
