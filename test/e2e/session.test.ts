/** Whose process group and session a daemon is in, and from when on. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, must, run, TO_MOUNT } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';

const gate = gateOf(...TO_MOUNT, 'program: strace', 'package: koffi');

describe(gate.title('the session of a daemon in the background'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  it('is its own, and not before the mount is there: autofs would hold up another process group', async () => {
    const image = stage.makeFile('disk.img', 'session'.padEnd(2048, '.'));
    const mountpoint = stage.makeDirectory('mnt');
    const trace = stage.fresh('strace');
    const pidFile = stage.fresh('daemon.pid');
    // Not followed to its end: strace ends when the command does, and lets the daemon go.
    const args = [
      '-f',
      '-I',
      '2',
      '-qq',
      '-e',
      'trace=mount,setsid,setpgid',
      '-e',
      'signal=none',
      '-o',
      trace,
    ];
    const command = [
      VDISK_MOUNT,
      '-o',
      `pid_file=${pidFile},log-file=${stage.fresh('log')}`,
      image,
      mountpoint,
    ];
    const traced = run('strace', [...args, '--', ...command], { limitMs: 60_000 });
    await expect.poll(() => readFileSync(trace, 'utf8'), { timeout: 50_000 }).toContain('setsid()');
    expect(await must('cat', [join(mountpoint, 'disk-1.raw')])).toContain('session');
    const daemon = Number(readFileSync(pidFile, 'utf8'));
    await must('umount', [mountpoint]);
    expect((await traced).status).toBe(0);
    const calls = readFileSync(trace, 'utf8')
      .split('\n')
      .filter((line) => / (mount|setsid|setpgid)\(/.test(line) && !line.includes('= -1'));
    expect(calls).toHaveLength(2);
    expect(calls[0]).toContain(`"${mountpoint}"`);
    expect(calls[1]).toMatch(new RegExp(`^${daemon} +setsid\\(\\) += ${daemon}$`));
  });
});
