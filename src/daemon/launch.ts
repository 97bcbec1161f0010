/** Starting the daemon in the background, and waiting until its mount is usable. */

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { ImageError } from '../base/errors.ts';
import type { StartReport } from './background.ts';
import type { MountConfig } from './config.ts';

/** Descriptor of the daemon that `startDaemon` gives a device as. */
export const INHERITED_DEVICE = 4;

/** Signals that somebody sends to end the daemon: by it, before it listens to them. */
const ENDING: ReadonlySet<string | null> = new Set(['SIGINT', 'SIGTERM', 'SIGHUP']);

const ENTRY = fileURLToPath(new URL('./main.cjs', import.meta.url));

/** A daemon's process that waits to be told what to mount. */
export interface WaitingDaemon {
  /**
   * Tells it. Returns the notices it gave when its mount is usable; throws the ImageError that kept it from
   * coming up. A signal to this process meanwhile ends the daemon as well: 'interrupted', once it has ended, or at
   * the second signal. `progress` is told how far it is, where that takes long.
   */
  mount(config: MountConfig, progress: (text: string) => void): Promise<readonly string[]>;
  /** Lets it go without a word. */
  dismiss(): void;
}

/**
 * Starts the process of a daemon that outlives this one. It is started before the command line is read, so that
 * both happen at once: loading either takes as long as Node's own start. `device` is a FUSE device that is
 * mounted already: it is descriptor INHERITED_DEVICE there.
 */
export function startDaemon(device?: number): WaitingDaemon {
  const child = spawn(process.execPath, ['--no-warnings', ENTRY], {
    // In this process group until its mount is there, as autofs and systemd's automounts want it: see background.ts.
    detached: false,
    // The caller's directory may be gone; the daemon leaves it in any case.
    cwd: '/',
    stdio: ['pipe', 'ignore', 'ignore', 'pipe', device ?? 'ignore'],
    env: environmentOfDaemon(),
  });
  let progress: (text: string) => void = () => {};
  const status = finalReport(child, (text) => progress(text));
  const gone = new Promise((resolve) => child.once('exit', resolve));
  // Nobody may be waiting for it yet.
  status.catch(() => {});
  const stdin = child.stdin!;
  // A daemon that died says so through its status.
  stdin.on('error', () => {});
  return {
    dismiss() {
      stdin.end();
      child.unref();
      (child.stdio[3] as unknown as { destroy(): void }).destroy();
    },
    async mount(config, onProgress) {
      progress = onProgress;
      const interrupt = new Interrupt(() => child.kill('SIGTERM'));
      try {
        stdin.end(JSON.stringify(config));
        const report = await interrupt.unlessAgain(status);
        if (report.outcome === 'failed') throw ImageError.fromWire(report.error);
        // Of what it finds at once, Node tells signals last.
        await new Promise((resolve) => setImmediate(resolve));
        if (interrupt.signal === undefined) return report.notices;
        // It was ready when the signal came to it, and ends all the same: who mounts again shall not find it.
        await interrupt.unlessAgain(gone);
        throw new ImageError('interrupted', `${interrupt.signal}: the mount was ended again`);
      } finally {
        interrupt.close();
        child.unref();
      }
    },
  };
}

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** The signals to this process until `close`; `onFirst` is called at the first. */
class Interrupt {
  /** The first. */
  signal: NodeJS.Signals | undefined;
  readonly #again: Promise<never>;
  readonly #listener: (signal: NodeJS.Signals) => void;

  constructor(onFirst: () => void) {
    let refuse: (problem: ImageError) => void;
    this.#again = new Promise((_resolve, reject) => {
      refuse = reject;
    });
    this.#again.catch(() => {});
    this.#listener = (signal) => {
      if (this.signal === undefined) {
        this.signal = signal;
        onFirst();
      } else
        refuse(new ImageError('interrupted', `${signal} again: the daemon ends without being waited for`));
    };
    for (const name of SIGNALS) process.on(name, this.#listener);
  }

  /** What `work` gives; throws ImageError('interrupted') where a second signal comes first. */
  unlessAgain<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#again]);
  }

  close(): void {
    for (const name of SIGNALS) process.off(name, this.#listener);
  }
}

/**
 * Ours; without the service manager's socket where this command is no service but was started by one, which would take the
 * daemon's word for its own.
 */
function environmentOfDaemon(): NodeJS.ProcessEnv {
  const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, ...rest } = process.env;
  if (NOTIFY_SOCKET === undefined || rest['SYSTEMD_EXEC_PID'] !== `${process.pid}`) return rest;
  // The daemon takes this process' place.
  return { ...rest, NOTIFY_SOCKET, ...(WATCHDOG_USEC === undefined ? {} : { WATCHDOG_USEC }) };
}

/** What a daemon says at last of its start; `progress` gets what it says before. */
function finalReport(
  child: ReturnType<typeof spawn>,
  progress: (text: string) => void,
): Promise<Exclude<StartReport, { outcome: 'progress' }>> {
  const status = child.stdio[3] as NodeJS.ReadableStream & { destroy(): void };
  return new Promise((resolve, reject) => {
    let text = '';
    let concluded = false;
    status.setEncoding('utf8');
    status.on('data', (piece: string) => {
      const lines = (text + piece).split('\n');
      text = lines.pop()!;
      for (const line of lines) {
        const report = JSON.parse(line) as StartReport;
        if (report.outcome === 'progress') progress(report.text);
        else {
          concluded = true;
          status.destroy();
          resolve(report);
        }
      }
    });
    child.on('error', (problem) => reject(ImageError.from(problem, 'io', 'the daemon cannot be started')));
    child.on('exit', (code, signal) => {
      if (concluded) return;
      // A terminal sends its Ctrl-C to us both.
      if (ENDING.has(signal)) reject(new ImageError('interrupted', `${signal}: nothing was mounted`));
      else
        reject(
          new ImageError('bug', `the daemon ended before its mount was ready (${signal ?? `code ${code}`})`),
        );
    });
  });
}
