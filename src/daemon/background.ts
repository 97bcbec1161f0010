/**
 * The daemon in the background. Its configuration comes on standard input as JSON; whether it came up
 * is said once, as a line of JSON on descriptor 3, which is then closed.
 */

import { closeSync, readFileSync, writeSync } from 'node:fs';
import { ImageError, type WireError } from '../base/errors.ts';
import { newSession } from '../source/syscalls.ts';
import { dismissSpares } from '../transport/kernel/workers.ts';
import type { MountConfig } from './config.ts';
import { exitCodeOf, exitCodeOfEnd, OK } from './exit-code.ts';
import { type Log, openLog, setLogLevel } from './log.ts';
import { serveMount } from './serve.ts';

const STATUS_FD = 3;

/** What the parent is told. Notices are warnings met while coming up. */
export type StartReport =
  /** How far it is; more follows. */
  | { readonly outcome: 'progress'; readonly text: string }
  | { readonly outcome: 'ready'; readonly notices: readonly string[] }
  | { readonly outcome: 'failed'; readonly error: WireError };

/** Serves what the parent asks for, to the end; returns the exit status. */
export async function serveInBackground(): Promise<number> {
  const text = readFileSync(0, 'utf8');
  if (text === '') {
    // Dismissed: the command line was wrong, or asked for something else.
    dismissSpares();
    return OK;
  }
  const config = JSON.parse(text) as MountConfig;
  process.chdir('/');
  let told = false;
  const notices: string[] = [];
  const tell = (report: StartReport): void => {
    writeSync(STATUS_FD, `${JSON.stringify(report)}\n`);
    if (report.outcome === 'progress') return;
    told = true;
    closeSync(STATUS_FD);
  };
  let log: Log | undefined;
  try {
    const opened = openLog({
      ...config,
      to: config.logFile ?? 'syslog',
      level: config.verbose ? 'debug' : 'info',
    });
    log = opened;
    const hooked = Object.create(opened, {
      warn: {
        value: (text: string) => {
          if (!told) notices.push(text);
          opened.warn(text);
        },
      },
    }) as Log;
    const end = await serveMount(config, {
      log: hooked,
      setLogLevel: (level) => setLogLevel(opened, level),
      ready: () => {
        leaveSession(hooked);
        tell({ outcome: 'ready', notices });
      },
      progress: (text) => {
        if (!told) tell({ outcome: 'progress', text });
      },
    });
    return exitCodeOfEnd(end);
  } catch (problem) {
    dismissSpares();
    const error = ImageError.from(problem, 'bug');
    if (told) log?.error(error.message);
    else tell({ outcome: 'failed', error: error.toWire() });
    return exitCodeOf(error.kind);
  }
}

/**
 * Out of the session of whoever mounts, whose terminal may close: not before the mount is there. A mountpoint of autofs, or of
 * systemd's automounts, holds up every process until something is mounted on it, but for the process group of automount(8)
 * or the one that systemd starts mount(8) in (autofs_oz_mode() of the kernel): a daemon outside of it would wait for itself.
 */
function leaveSession(log: Log): void {
  if (newSession() >= 0) return;
  log.warn(
    'without the package koffi this daemon stays in the session that it was started from, and may end with it',
  );
}
