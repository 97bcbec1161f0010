/** vdisk-mount as a service: what the service manager and the journal are told. */

import { spawn } from 'node:child_process';
import { fstatSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, must, run, TO_MOUNT, until } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';
import { NotifySocket } from '../support/notify-socket.ts';

const gate = gateOf(...TO_MOUNT, 'package: koffi');

describe(gate.title('a service'), { skip: gate.skip }, () => {
  let stage: Stage;
  let image: string;

  beforeAll(async () => {
    stage = await Stage.open();
    image = stage.makeFile('disk.img', 'served'.padEnd(2048, '.'));
  });
  afterAll(() => stage?.close());

  /** vdisk-mount in the foreground, as systemd starts it; stderr is a file. */
  function serve(args: readonly string[], environment: Readonly<Record<string, string>>) {
    const log = stage.makeFile('stderr');
    const fd = openSync(log, 'a');
    const { dev, ino } = fstatSync(fd, { bigint: true });
    const env = { ...process.env, JOURNAL_STREAM: `${dev}:${ino}`, ...environment };
    const child = spawn(VDISK_MOUNT, args, { env, stdio: ['ignore', 'ignore', fd] });
    let status: number | string | undefined;
    child.on('close', (code, signal) => {
      status = code ?? signal ?? undefined;
    });
    return { pid: child.pid!, log: () => readFileSync(log, 'utf8'), ended: () => status };
  }

  for (const kind of ['path', 'abstract name']) {
    it(`tells of its life, to a socket with a ${kind}`, async () => {
      const name = kind === 'path' ? stage.fresh('notify') : `@vdisk-mount-test-${process.pid}`;
      const socket = new NotifySocket(name);
      try {
        const mountpoint = stage.makeDirectory('mnt');
        const service = serve(['-f', image, mountpoint], {
          NOTIFY_SOCKET: name,
          WATCHDOG_USEC: '200000',
        });
        const has = (line: string) => until(line, () => socket.lines().includes(line));
        await has('READY=1');
        // Not before it can be used.
        await must('cat', [join(mountpoint, 'disk-1.raw')]);
        const lines = socket.lines();
        expect(lines.indexOf(`STATUS=opening ${image}`)).toBe(0);
        expect(lines[1]).toMatch(/^EXTEND_TIMEOUT_USEC=\d+$/);
        expect(lines).toContain(`MAINPID=${service.pid}`);
        expect(lines).toContain(`STATUS=${image} on ${mountpoint}`);
        const beats = () => socket.lines().filter((line) => line === 'WATCHDOG=1').length;
        await until('the watchdog was quieted thrice', () => beats() >= 3);
        expect(socket.lines()).not.toContain('STOPPING=1');
        process.kill(service.pid, 'SIGTERM');
        await until('it ends', () => service.ended() !== undefined);
        expect(service.ended()).toBe(0);
        const all = socket.lines();
        const stopping = all.indexOf('STOPPING=1');
        expect(stopping).toBeGreaterThan(all.indexOf('READY=1'));
        expect(all.slice(stopping)).toContain('STATUS=unmounted; the images are being written out');
        expect(all.slice(stopping).some((line) => line.startsWith('EXTEND_TIMEOUT_USEC='))).toBe(true);
      } finally {
        socket.close();
      }
    });
  }

  it('no word to a watchdog that is meant for another process', async () => {
    const socket = new NotifySocket(`@vdisk-mount-hang-${process.pid}`);
    try {
      const mountpoint = stage.makeDirectory('mnt');
      const service = serve(['-f', image, mountpoint], {
        NOTIFY_SOCKET: `@vdisk-mount-hang-${process.pid}`,
        WATCHDOG_USEC: '200000',
        WATCHDOG_PID: '1',
      });
      await until('ready', () => socket.lines().includes('READY=1'));
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(socket.lines()).not.toContain('WATCHDOG=1');
      process.kill(service.pid, 'SIGTERM');
      await until('it ends', () => service.ended() !== undefined);
    } finally {
      socket.close();
    }
  });

  it('says who keeps it from ending', async () => {
    const name = `@vdisk-mount-busy-${process.pid}`;
    const socket = new NotifySocket(name);
    try {
      const mountpoint = stage.makeDirectory('mnt');
      const service = serve(['-f', '-r', image, mountpoint], { NOTIFY_SOCKET: name });
      await until('ready', () => socket.lines().includes('READY=1'));
      const holder = await stage.holdOpen(join(mountpoint, 'disk-1.raw'));
      process.kill(service.pid, 'SIGTERM');
      await until('it says so', () =>
        socket.lines().some((line) => /^STATUS=asked to end; .* in use by .*\(pid \d+\)/.test(line)),
      );
      await holder.release();
      await until('it ends', () => service.ended() !== undefined);
      expect(service.log()).toContain(`<4>${mountpoint}: in use by`);
    } finally {
      socket.close();
    }
  });

  it('a daemon in the background speaks for its unit, and not for one that only ran the command', async () => {
    const name = `@vdisk-mount-fork-${process.pid}`;
    const socket = new NotifySocket(name);
    try {
      const mountpoint = stage.makeDirectory('mnt');
      const start = 'SYSTEMD_EXEC_PID=$$ exec "$@"';
      for (const [script, speaks] of [
        [start, true],
        ['exec "$@"', false],
      ] as const) {
        const before = socket.messages().length;
        const env = { NOTIFY_SOCKET: name, SYSTEMD_EXEC_PID: '1' };
        const ran = await run('sh', ['-c', script, 'sh', VDISK_MOUNT, image, mountpoint], { env });
        expect(ran.status).toBe(0);
        const heard = socket.messages().slice(before).join('\n');
        expect(heard.includes('READY=1')).toBe(speaks);
        if (speaks) expect(stage.processes()).toContain(Number(/MAINPID=(\d+)/.exec(heard)![1]));
        await must('umount', [mountpoint]);
        await until('the daemon ends', () => stage.processes().length === 0);
      }
    } finally {
      socket.close();
    }
  });

  it('journal: each line with its priority, errors at the start as well', async () => {
    const mountpoint = stage.makeDirectory('mnt');
    const service = serve(['-f', image, mountpoint], {});
    await until('it is mounted', () => service.log().includes('mounted'));
    expect(service.log()).toBe(`<6>mounted ${image} on ${mountpoint}\n`);
    await must('umount', [mountpoint]);
    await until('it ends', () => service.ended() !== undefined);
    const failing = serve(['-f', '/no/such/image', mountpoint], {});
    await until('it ends', () => failing.ended() !== undefined);
    expect(failing.ended()).not.toBe(0);
    for (const line of failing.log().trimEnd().split('\n')) expect(line).toMatch(/^<3>/);
    // Another stream: JSON as ever.
    const other = serve(['-f', image, mountpoint], { JOURNAL_STREAM: '1:1' });
    await until('it is mounted', () => other.log().includes('mounted'));
    expect(JSON.parse(other.log())).toMatchObject({ level: 30 });
    await must('umount', [mountpoint]);
    await until('it ends', () => other.ended() !== undefined);
  });
});
