/** Signals to vdisk-mount, its daemon and mount(8) while a mount comes up: it is there and said to be, or neither. */

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isMounted } from '../support/leftovers.ts';
import { findProgram, gateOf, isRunning, must, TO_MOUNT, until } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';

const INTERRUPTED = 8;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Of a process that may be gone. */
function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

const gate = gateOf(...TO_MOUNT, 'package: koffi');

describe(gate.title('a signal while a mount comes up'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** vdisk-mount as a process group of its own, begun by `prefix`. */
  function begin(prefix: readonly string[] = [], options: readonly string[] = []) {
    const mountpoint = stage.makeDirectory('mnt');
    const pidFile = stage.fresh('daemon.pid');
    const image = stage.makeFile('small.img', new Uint8Array(4096));
    const before = new Set(stage.processes());
    const [program, ...args] = [...prefix, VDISK_MOUNT, ...options, '--pid-file', pidFile, image, mountpoint];
    const command: ChildProcess = spawn(program!, args, {
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    command.stderr!.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    const ended = new Promise<number | NodeJS.Signals | null>((resolve) =>
      command.on('close', (status, signal) => resolve(status ?? signal)),
    );
    const others = () => stage.processes().filter((pid) => !before.has(pid) && pid !== command.pid);
    return {
      mountpoint,
      pidFile,
      ended,
      said: () => said,
      /** To the command, or with `group` to all that it has started, as a terminal does. */
      signal(name: NodeJS.Signals, whom?: 'group') {
        if (isRunning(command.pid!)) process.kill(whom === 'group' ? -command.pid! : command.pid!, name);
      },
      /** The command has done all that it can, and waits for its daemon. */
      async waits() {
        let before = -1;
        await until('the command waits', async () => {
          await pause(500);
          const [user, system] = readFileSync(`/proc/${command.pid}/stat`, 'utf8').split(' ').slice(13, 15);
          const now = Number(user) + Number(system);
          const rests = now === before;
          before = now;
          return rests;
        });
      },
      daemon: () =>
        until('there is a daemon', () => others().find((pid) => commandLine(pid).includes('main.cjs'))),
      async leavesNothing() {
        expect(isMounted(mountpoint)).toBe(false);
        await until('no daemon is left', () => others().length === 0);
        expect(existsSync(pidFile)).toBe(false);
      },
    };
  }

  /** It is mounted if the command said so by its exit status, and only then. */
  async function agrees(begun: ReturnType<typeof begin>, name: NodeJS.Signals = 'SIGINT'): Promise<void> {
    const end = await begun.ended;
    if (end === 0) await must('umount', [begun.mountpoint]);
    // By the signal itself before anything listened to it.
    else expect([INTERRUPTED, name]).toContain(end);
    await until('the mount has ended', () => end !== 0 || !isMounted(begun.mountpoint));
    await begun.leavesNothing();
  }

  // A terminal sends its Ctrl-C to the command, the daemon that comes up and mount(8) at once.
  it.each([30, 90, 120, 150, 180, 210, 250, 300, 400])('SIGINT to all after %i ms', async (ms) => {
    const begun = begin();
    await pause(ms);
    begun.signal('SIGINT', 'group');
    await agrees(begun);
  });

  it.each([0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 25])(
    'SIGINT to the command %i ms after the pid file is there',
    async (ms) => {
      const begun = begin();
      while (!existsSync(begun.pidFile)) await pause(1);
      await pause(ms);
      begun.signal('SIGINT');
      await agrees(begun);
    },
  );

  const moments: [string, (mountpoint: string) => Promise<unknown>][] = [
    ['at the start', () => pause(20)],
    ['once the mount is there', (mountpoint) => until('it is mounted', () => isMounted(mountpoint))],
  ];
  for (const [when, moment] of moments) {
    it.each(['SIGINT', 'SIGTERM'] as const)(`%s to the command ${when}`, async (name) => {
      const begun = begin();
      await moment(begun.mountpoint);
      begun.signal(name);
      await agrees(begun, name);
    });

    it.each(['SIGINT', 'SIGTERM'] as const)(`%s ${when}, with -f`, async (name) => {
      const begun = begin([], ['-f']);
      await moment(begun.mountpoint);
      begun.signal(name);
      // 0: it had begun, and was unmounted.
      expect([0, INTERRUPTED, name]).toContain(await begun.ended);
      await begun.leavesNothing();
    });
  }

  it.each(['SIGINT', 'SIGTERM'] as const)('%s that the daemon gets before it listens', async (name) => {
    const begun = begin();
    process.kill(await begun.daemon(), name);
    expect(await begun.ended).toBe(INTERRUPTED);
    expect(begun.said()).toBe(`vdisk-mount: ${name}: nothing was mounted\n`);
    await begun.leavesNothing();
  });

  it('SIGINT that comes together with the word that the mount is there: it is waited for until that has ended', async () => {
    const begun = begin();
    const daemon = await begun.daemon();
    process.kill(daemon, 'SIGSTOP');
    await begun.waits();
    begun.signal('SIGSTOP');
    process.kill(daemon, 'SIGCONT');
    await until('the mount is there', () => existsSync(begun.pidFile));
    await pause(200);
    process.kill(daemon, 'SIGSTOP');
    begun.signal('SIGINT');
    begun.signal('SIGCONT');
    expect(await Promise.race([begun.ended, pause(500)])).toBe(undefined);
    process.kill(daemon, 'SIGCONT');
    expect(await begun.ended).toBe(INTERRUPTED);
    await begun.leavesNothing();
  });

  it('the second is not for waiting: the command ends, and the daemon as soon as it can', async () => {
    const begun = begin();
    const daemon = await begun.daemon();
    process.kill(daemon, 'SIGSTOP');
    await begun.waits();
    begun.signal('SIGINT');
    await pause(300);
    expect(begun.said()).toBe('');
    begun.signal('SIGINT');
    expect(await begun.ended).toBe(INTERRUPTED);
    expect(begun.said()).toContain('SIGINT again');
    process.kill(daemon, 'SIGCONT');
    await begun.leavesNothing();
  });

  const traced = gateOf('program: strace');
  it(traced.title('mount(8) that a signal ends when its work is done'), { skip: traced.skip }, async () => {
    const trace = stage.fresh('strace');
    const calls = ['-e', 'trace=mount', '-e', 'inject=mount:signal=SIGINT', '-e', 'signal=none'];
    const begun = begin([findProgram('strace')!, '-f', '-I', '2', '-qq', '-o', trace, ...calls, '--']);
    expect(await begun.ended).toBe(INTERRUPTED);
    expect(readFileSync(trace, 'utf8')).toMatch(/ mount\(.* = 0/);
    expect(begun.said()).toBe(`vdisk-mount: ${begun.mountpoint}: SIGINT while mounting\n`);
    await begun.leavesNothing();
  });
});
