/**
 * A system on which our helpers are in /sbin, and with an /etc/fstab of its own: a mount namespace, so that the
 * machine's own are left as they are.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type MountEntry, parseMountinfo } from '../../src/transport/mountinfo.ts';
import type { Holder } from './holder.ts';
import { type Need, type Ran, type RunOptions, run, TO_MOUNT } from './machine.ts';
import { REPOSITORY, type Stage } from './mount.ts';
import { LET_GO } from './namespace.ts';

export const TO_HAVE_A_SYSTEM: readonly Need[] = [
  ...TO_MOUNT,
  'program: findmnt',
  'program: unshare',
  'program: nsenter',
];

/** $1: an empty directory; $2: the helpers; $3: the fstab. */
const PREPARE = `${LET_GO}
for place in $(realpath /usr/sbin /sbin | sort -u); do
  mkdir -p "$1$place" && mount --bind "$place" "$1$place" && mount -t tmpfs -o mode=755 tmpfs "$place" || exit 1
  for file in "$1$place"/*; do ln -s "$file" "$place/\${file##*/}"; done
  for type in vdisk-mount fuse.vdisk-mount; do
    ln -s "$2/mount-helper" "$place/mount.$type" && ln -s "$2/umount-helper" "$place/umount.$type" || exit 1
  done
done
touch /etc/fstab 2>/dev/null
mount --bind "$3" /etc/fstab && echo ready && read -r line
`;

export class System {
  readonly #space: Holder;
  readonly #fstab: string;

  private constructor(space: Holder, fstab: string) {
    this.#space = space;
    this.#fstab = fstab;
  }

  /** `programs`: the directory with the helpers. */
  static async open(stage: Stage, programs = join(REPOSITORY, 'bin')): Promise<System> {
    const fstab = stage.makeFile('fstab');
    const place = stage.makeDirectory('system');
    const script = ['sh', '-c', PREPARE, 'sh', place, programs, fstab];
    const space = await stage.hold('unshare', ['--mount', '--propagation', 'private', '--', ...script]);
    return new System(space, fstab);
  }

  /** The namespace, as a file. */
  get namespace(): string {
    return `/proc/${this.#space.pid}/ns/mnt`;
  }

  /** The system's fstab from now on. */
  setFstab(...lines: readonly string[]): void {
    writeFileSync(this.#fstab, lines.map((line) => `${line}\n`).join(''));
  }

  /** Runs a program of the system as root. */
  run(program: string, args: readonly string[] = [], options: RunOptions = {}): Promise<Ran> {
    return run('nsenter', [`--mount=${this.namespace}`, '--', program, ...args], options);
  }

  /** What is mounted at `path` there. */
  mountAt(path: string): MountEntry | undefined {
    const table = readFileSync(`/proc/${this.#space.pid}/mountinfo`, 'utf8');
    return parseMountinfo(table).findLast((entry) => entry.mountpoint === path);
  }

  close(): Promise<void> {
    return this.#space.release();
  }
}
