/** The kernel's own list of mounts, /proc/self/mountinfo (proc(5)): the only truth about what is mounted. */

import { readFileSync } from 'node:fs';

export interface MountEntry {
  /** Mount ID, as in /proc/PID/fdinfo. */
  readonly id: number;
  /** "0:45": the device number, and the name under /sys/class/bdi. */
  readonly device: string;
  readonly mountpoint: string;
  /** "fuse.vdisk-mount" */
  readonly type: string;
  readonly source: string;
  /** Of this mount: "ro", "nosuid", …, as they stand there. */
  readonly options: readonly string[];
  /** Of the file system, which may be mounted elsewhere too. */
  readonly superOptions: readonly string[];
}

/** Space, tab, newline and backslash stand as three octal digits. */
function decodeField(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** The entries of a mountinfo text, in order; lines that do not fit are left out. */
export function parseMountinfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-');
    if (dash < 6 || fields.length < dash + 3) continue;
    entries.push({
      id: Number(fields[0]),
      device: fields[2]!,
      mountpoint: decodeField(fields[4]!),
      type: fields[dash + 1]!,
      source: decodeField(fields[dash + 2]!),
      options: fields[5]!.split(','),
      superOptions: (fields[dash + 3] ?? '').split(','),
    });
  }
  return entries;
}

/** What is mounted at exactly `mountpoint`, the topmost last. */
export function mountsAt(mountpoint: string): MountEntry[] {
  return parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')).filter(
    (entry) => entry.mountpoint === mountpoint,
  );
}

/** What is mounted on top at exactly `mountpoint`, if anything is. */
export function findMount(mountpoint: string): MountEntry | undefined {
  return mountsAt(mountpoint).at(-1);
}
