/**
 * What a daemon leaves for whoever unmounts: umount(2) returns before the images are written out, so a file says that
 * the daemon is still at it. The file is gone when every image was left clean, and says why where one was not.
 * It names the daemon's process and the device of its mount, and is believed only while that process lives: nothing is
 * decided by it but how long somebody waits, and what is said then.
 */

import {
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { ImageError } from '../base/errors.ts';
import { makeOwnDirectory, ownDirectory } from '../control/place.ts';
import { isThere, processMark, startOf } from '../control/process.ts';
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

/** "PID-START.mount": no other process ever makes one of this name. */
const RECORD = /^(\d+-\d+)\.mount$/;
const DRAFT = '.new';
const pathOf = (place: string, { pid, started }: MountRecord): string =>
  `${place}/${processMark(pid, started)}.mount`;

/** A failure that nobody has asked for by then is told to nobody: in ms. */
const KEPT_MS = 3_600_000;

const isAlive = ({ pid, started }: MountRecord): boolean => isThere(processMark(pid, started));

function readRecord(path: string): MountRecord | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as MountRecord;
  } catch {
    return undefined;
  }
}

function namesIn(place: string): string[] {
  try {
    return readdirSync(place);
  } catch {
    return [];
  }
}

/**
 * Removes the records of daemons that were killed, and what a failure left that nobody will ask for any more: another mount
 * is at its `mountpoint` now, or an hour has passed.
 */
export function removeStaleRecords(mountpoint?: string): void {
  const place = ownDirectory();
  if (place === undefined) return;
  for (const name of namesIn(place)) {
    const [, mark] = RECORD.exec(name.endsWith(DRAFT) ? name.slice(0, -DRAFT.length) : name) ?? [];
    // Read only when it is known that nobody writes to it any more.
    if (mark === undefined || isThere(mark)) continue;
    const path = `${place}/${name}`;
    const record = readRecord(path);
    if (record?.failure === undefined || record.mountpoint === mountpoint || isOld(path)) remove(path);
  }
}

function isOld(path: string): boolean {
  try {
    return Date.now() - statSync(path).mtimeMs > KEPT_MS;
  } catch {
    return false;
  }
}

/**
 * Writes this process's record of the mount at `mountpoint`. Returns a function to be called when the images are closed:
 * undefined takes the record away, a text is kept in it. Where no record can be written, nobody can wait: no error.
 */
export function keepRecord(mountpoint: string): (failure: string | undefined) => void {
  const place = recordsPlace();
  const device = findMount(mountpoint)?.device;
  const started = startOf(process.pid);
  if (place === undefined || device === undefined || started === undefined) return () => {};
  const record: MountRecord = { pid: process.pid, started, device, mountpoint };
  const path = pathOf(place, record);
  const write = (text: MountRecord): void => {
    try {
      writeFileSync(`${path}${DRAFT}`, `${JSON.stringify(text)}\n`);
      renameSync(`${path}${DRAFT}`, path);
    } catch {
      // Then umount does not wait.
    }
  };
  removeStaleRecords(mountpoint);
  write(record);
  return (failure) => {
    if (failure !== undefined) return write({ ...record, failure });
    // Who waits has it open: an end like this one is told apart from a record that somebody else removed.
    empty(path);
    remove(path);
  };
}

function recordsPlace(): string | undefined {
  try {
    return makeOwnDirectory();
  } catch {
    return undefined;
  }
}

function empty(path: string): void {
  try {
    truncateSync(path, 0);
  } catch {
    // It could not be written, or was removed.
  }
}

function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody was faster.
  }
}

/** A record that is open: for as long as the process lasts that found it. */
export interface FoundRecord extends MountRecord {
  readonly file: number;
}

/** The record of the daemon that serves the mount at `mountpoint`; undefined where none can be found. */
export function findRecord(mountpoint: string): FoundRecord | undefined {
  const place = ownDirectory();
  const device = findMount(mountpoint)?.device;
  if (place === undefined || device === undefined) return undefined;
  for (const name of namesIn(place)) {
    const record = RECORD.test(name) ? readRecord(`${place}/${name}`) : undefined;
    if (record?.device !== device || !isAlive(record)) continue;
    try {
      return { ...record, file: openSync(`${place}/${name}`, 'r') };
    } catch {
      // It ended at this moment.
    }
  }
  return undefined;
}

/** How often it is looked whether the daemon is done. */
const LOOK_MS = 20;

/**
 * Waits until the daemon of `record`, whose mount is gone, has left the images clean; at most `limitMs`. `waiting` is
 * called once where that takes longer than a second. Throws ImageError('io') where it did not succeed or is not done in time.
 */
export async function awaitCleanEnd(
  record: FoundRecord,
  limitMs: number,
  waiting: () => void,
): Promise<void> {
  const path = pathOf(ownDirectory() ?? '', record);
  const begun = performance.now();
  let told = false;
  for (;;) {
    // In this order: a daemon that ends well between the two has emptied its record.
    const alive = isAlive(record);
    const now = readRecord(path);
    if (now === undefined && fstatSync(record.file).size === 0) return;
    if (now?.failure !== undefined) {
      remove(path);
      throw new ImageError('io', `${record.mountpoint}: unmounted, but ${now.failure}`, {
        hint: 'The log has more. Look the images through with "vdisk check" before they are used again.',
      });
    }
    if (!alive || now === undefined) {
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
