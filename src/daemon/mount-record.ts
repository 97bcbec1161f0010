/**
 * What a daemon leaves for whoever unmounts: umount(2) returns before the images are written out, so a file says that
 * the daemon is still at it. The file is gone when every image was left clean, and says why where one was not.
 * It names the daemon's process and the device of its mount, and is believed only while that process lives: nothing is
 * decided by it but how long somebody waits, and what is said then.
 */

import { mkdirSync, readdirSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { ImageError } from '../base/errors.ts';
import { findMount } from '../transport/mountinfo.ts';

export interface MountRecord {
  readonly pid: number;
  /** Clock ticks from boot to the start of the process: with it, the number names one process for good. */
  readonly started: string;
  /** "0:45", as in the mount table. */
  readonly device: string;
  readonly mountpoint: string;
  /** Why the end was no good one; undefined while it is served or written out. */
  readonly failure?: string;
}

/** Where this user's records are; undefined where there is no such place. */
function directory(): string | undefined {
  if (process.geteuid?.() === 0) return '/run/vdisk-mount';
  const runtime = process.env['XDG_RUNTIME_DIR'];
  return runtime?.startsWith('/') ? `${runtime}/vdisk-mount` : undefined;
}

const SUFFIX = '.mount';
const pathOf = (place: string, pid: number): string => `${place}/${pid}${SUFFIX}`;

/** Field 22 of /proc/PID/stat; undefined where there is no such process, or only what is left of one. */
function startOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const [state, ...fields] = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return state === 'Z' || state === 'X' ? undefined : fields[18];
  } catch {
    return undefined;
  }
}

const isAlive = ({ pid, started }: MountRecord): boolean => startOf(pid) === started;

function readRecord(path: string): MountRecord | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as MountRecord;
  } catch {
    return undefined;
  }
}

function records(place: string): { path: string; record: MountRecord }[] {
  let names: string[];
  try {
    names = readdirSync(place);
  } catch {
    return [];
  }
  return names
    .filter((name) => name.endsWith(SUFFIX))
    .flatMap((name) => {
      const record = readRecord(`${place}/${name}`);
      return record === undefined ? [] : [{ path: `${place}/${name}`, record }];
    });
}

/**
 * Writes this process's record of the mount at `mountpoint`. Returns a function to be called when the images are closed:
 * undefined takes the record away, a text is kept in it. Where no record can be written, nobody can wait: no error.
 */
export function keepRecord(mountpoint: string): (failure: string | undefined) => void {
  const place = directory();
  const device = findMount(mountpoint)?.device;
  const started = startOf(process.pid);
  if (place === undefined || device === undefined || started === undefined) return () => {};
  const path = pathOf(place, process.pid);
  const record: MountRecord = { pid: process.pid, started, device, mountpoint };
  const write = (text: MountRecord): void => {
    try {
      writeFileSync(`${path}.new`, `${JSON.stringify(text)}\n`);
      renameSync(`${path}.new`, path);
    } catch {
      // Then umount does not wait.
    }
  };
  try {
    // As the control socket's, which lies there too: a user's is for nobody else.
    mkdirSync(place, { recursive: true, mode: process.geteuid?.() === 0 ? 0o755 : 0o700 });
  } catch {
    return () => {};
  }
  // What killed daemons left, and a failure here that nobody asked for.
  for (const { path: old, record: other } of records(place)) {
    if (!isAlive(other) && (other.failure === undefined || other.mountpoint === mountpoint)) remove(old);
  }
  write(record);
  return (failure) => (failure === undefined ? remove(path) : write({ ...record, failure }));
}

function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody was faster.
  }
}

/** The record of the daemon that serves the mount at `mountpoint`; undefined where none can be found. */
export function findRecord(mountpoint: string): MountRecord | undefined {
  const place = directory();
  const device = findMount(mountpoint)?.device;
  if (place === undefined || device === undefined) return undefined;
  return records(place).find(({ record }) => record.device === device && isAlive(record))?.record;
}

/** How often it is looked whether the daemon is done. */
const LOOK_MS = 20;

/**
 * Waits until the daemon of `record`, whose mount is gone, has left the images clean; at most `limitMs`. `waiting` is
 * called once where that takes longer than a second. Throws ImageError('io') where it did not succeed or is not done in time.
 */
export async function awaitCleanEnd(
  record: MountRecord,
  limitMs: number,
  waiting: () => void,
): Promise<void> {
  const path = pathOf(directory() ?? '', record.pid);
  const begun = performance.now();
  let told = false;
  for (;;) {
    // In this order: a daemon that ends well between the two has taken its record away.
    const alive = isAlive(record);
    const now = readRecord(path);
    if (now === undefined || now.started !== record.started) return;
    if (now.failure !== undefined) {
      remove(path);
      throw new ImageError('io', `${record.mountpoint}: unmounted, but ${now.failure}`, {
        hint: 'The log has more. Look the images through with "vdisk check" before they are used again.',
      });
    }
    if (!alive) {
      remove(path);
      throw new ImageError(
        'io',
        `${record.mountpoint}: unmounted, but its daemon (pid ${record.pid}) was killed before it had written everything out`,
        { hint: 'What was flushed is safe. Look the images through with "vdisk check".' },
      );
    }
    const spent = performance.now() - begun;
    if (spent > limitMs) {
      throw new ImageError(
        'io',
        `${record.mountpoint}: unmounted, but its daemon (pid ${record.pid}) is not done after ${Math.round(spent / 1000)} s`,
        { hint: 'It goes on. The images may be used when it has ended.' },
      );
    }
    if (spent > 1000 && !told) {
      told = true;
      waiting();
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}
