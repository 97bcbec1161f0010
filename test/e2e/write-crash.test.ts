/**
 * The daemon is killed in the middle of work that syncs all the time. What fsync acknowledged is in the image
 * afterwards. CRASH_ROUNDS sets the rounds per format: 5, in the soak run 50.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { kindNamed, TO_MAKE_IMAGES } from '../support/images.ts';
import { gateOf, must, run, TO_MOUNT, until } from '../support/machine.ts';
import { type Foreground, Stage } from '../support/mount.ts';

const MIB = 1024 * 1024;
const ROUNDS = Number(process.env['CRASH_ROUNDS'] ?? 5);
const DISK = 48 * MIB;
const SLOTS = DISK / 4096;

const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES);

/**
 * Writes 4 KiB records (slot, number, slot again) at random slots of its own half, syncing after one to eight of
 * them, and now and then makes a run of slots zeros first. Says "slot number" once a record is synced.
 */
const WRITER = `
const { openSync, writeSync, fdatasyncSync } = require('node:fs');
const [path, half, seed] = [process.argv[1], Number(process.argv[2]), Number(process.argv[3])];
let state = seed;
const next = (below) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
};
const fd = openSync(path, 'r+');
const record = Buffer.alloc(4096);
// Later rounds have larger numbers, so that old records cannot pass for new ones.
let number = Math.floor(seed / 2) * 1000000;
try {
  for (;;) {
    const batch = [];
    for (let n = next(8); n >= 0; n -= 1) {
      const slot = next(${SLOTS} / 2) * 2 + half;
      number += 1;
      record.fill(number & 0xff);
      for (const at of [0, 512, 4084]) {
        record.writeUInt32LE(slot, at);
        record.writeUInt32LE(number, at + 4);
      }
      writeSync(fd, record, 0, 4096, slot * 4096);
      batch.push(slot + ' ' + number);
    }
    fdatasyncSync(fd);
    process.stdout.write(batch.join('\\n') + '\\n');
  }
} catch {
  process.exit(0);
}
`;

/** Says "slot number" for every record that is whole; "torn slot" for one that is not. */
const READER = `
const { openSync, readSync } = require('node:fs');
const fd = openSync(process.argv[1]);
const record = Buffer.alloc(4096);
const lines = [];
for (let slot = 0; slot < ${SLOTS}; slot += 1) {
  readSync(fd, record, 0, 4096, slot * 4096);
  const number = record.readUInt32LE(4);
  if (number === 0) continue;
  const whole = [0, 512, 4084].every((at) => record.readUInt32LE(at) === slot && record.readUInt32LE(at + 4) === number);
  lines.push(whole ? slot + ' ' + number : 'torn ' + slot);
}
process.stdout.write(lines.join('\\n'));
`;

describe(gate.title('killed while it syncs'), { skip: gate.skip }, () => {
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** Runs two writers until some work is done, kills the daemon, and returns what was acknowledged. */
  async function round(mounted: Foreground, disk: string, seed: number): Promise<Map<number, number>> {
    const acknowledged = new Map<number, number>();
    let count = 0;
    const writers: ChildProcess[] = [0, 1].map((half) => {
      const child = spawn(process.execPath, ['-e', WRITER, disk, `${half}`, `${seed * 2 + half + 2}`], {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      let rest = '';
      child.stdout!.setEncoding('utf8').on('data', (text: string) => {
        const lines = (rest + text).split('\n');
        rest = lines.pop()!;
        for (const line of lines) {
          const [slot, number] = line.split(' ').map(Number) as [number, number];
          acknowledged.set(slot, number);
          count += 1;
        }
      });
      return child;
    });
    try {
      await until('some records are synced', () => count > 40 + seed * 17, 60_000);
      mounted.signal('SIGKILL');
      await mounted.ended();
    } finally {
      await run('umount', ['-l', mounted.mountpoint]);
      await until('the writers end', () => writers.every((child) => child.exitCode !== null), 20_000).finally(
        () => {
          for (const child of writers) child.kill('SIGKILL');
        },
      );
    }
    return acknowledged;
  }

  for (const name of ['raw', 'vhd dynamic', 'vhd fixed', 'vhdx dynamic', 'vdi dynamic', 'qed']) {
    it(`${name}: what was synced is there, over ${ROUNDS} rounds`, {
      timeout: 60_000 + ROUNDS * 20_000,
    }, async () => {
      const kind = kindNamed(name);
      const image = stage.fresh(`disk${kind.suffix}`);
      const options = kind.options === '' ? [] : ['-o', kind.options];
      await must('qemu-img', ['create', '-q', '-f', kind.qemu, ...options, image, `${DISK}`]);
      const expected = new Map<number, number>();
      for (let number = 0; number < ROUNDS; number += 1) {
        const mounted = await stage.foreground(image);
        const disk = join(
          mounted.mountpoint,
          image.slice(image.lastIndexOf('/') + 1).replace(/\.[^.]+$/, '.raw'),
        );
        for (const [slot, value] of await round(mounted, disk, number)) expected.set(slot, value);
        const again = await stage.mount(image, { options: ['-r'] });
        const said = await must(process.execPath, [
          '-e',
          READER,
          join(again.mountpoint, disk.slice(disk.lastIndexOf('/') + 1)),
        ]);
        await again.unmount();
        const checked = await run('node', [join('bin', 'vdisk'), 'check', image]);
        if (kind.format !== 'raw')
          expect([0, 3], `${checked.stdout}${checked.stderr}`).toContain(checked.status);
        const found = new Map(
          said
            .split('\n')
            .map((line) => line.split(' '))
            .map(([slot, value]) => [Number(slot), Number(value)]),
        );
        expect(said).not.toContain('torn');
        // A record that was written again but not synced may be there too: its number is larger.
        const lost = [...expected].filter(([slot, value]) => (found.get(slot) ?? 0) < value);
        expect(lost).toEqual([]);
        for (const [slot, value] of found) expected.set(slot, value);
      }
    });
  }
});
