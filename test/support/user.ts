/**
 * An ordinary user with the program installed where the user can read it. fusermount3 opens /dev/fuse as that user,
 * and not every machine lets everyone do that; so all of this happens in a mount namespace where /dev/fuse is as udev
 * makes it, open to all.
 */

import { cpSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type MountEntry, parseMountinfo } from '../../src/transport/mountinfo.ts';
import type { Holder } from './holder.ts';
import { type Need, type Ran, run, TO_MOUNT } from './machine.ts';
import { REPOSITORY, type Stage } from './mount.ts';
import { LET_GO } from './namespace.ts';

/** "nobody", or at least nobody in particular. */
export const USER = 65534;

export const TO_BE_A_USER: readonly Need[] = [
  ...TO_MOUNT,
  'program: setpriv',
  'program: unshare',
  'program: nsenter',
  'program: fusermount3',
  'package: koffi',
];

/** Installs the program below `directory`; returns the path of vdisk-mount. */
export function install(directory: string): string {
  const lock = JSON.parse(readFileSync(join(REPOSITORY, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean }>;
  };
  // A package inside another comes along with it.
  const packages = Object.entries(lock.packages)
    .filter(([path, { dev }]) => /^node_modules\/(@[^/]+\/)?[^/]+$/.test(path) && dev !== true)
    .map(([path]) => path);
  for (const path of ['bin', 'dist', 'package.json', ...packages]) {
    const source = join(REPOSITORY, path);
    if (existsSync(source)) cpSync(source, join(directory, path), { recursive: true });
  }
  return join(directory, 'bin', 'vdisk-mount');
}

/** Makes /dev/fuse open to all in this mount namespace; $1 is an empty directory, $2 is run as well. */
const OPEN_DEVICE = `${LET_GO}
mount -t tmpfs -o mode=755 tmpfs "$1" &&
  mknod -m 666 "$1/fuse" c $(stat -c '0x%t 0x%T' /dev/fuse) &&
  mount --bind "$1/fuse" /dev/fuse &&
  eval "$2" &&
  echo ready && read -r line
`;

export class User {
  /** vdisk-mount. */
  readonly program: string;
  readonly home: string;
  readonly #space: Holder;
  #count = 0;

  private constructor(program: string, home: string, space: Holder) {
    this.program = program;
    this.home = home;
    this.#space = space;
  }

  /** `prepare` is run by root's shell in the namespace, before anything else. */
  static async open(stage: Stage, prepare = ':'): Promise<User> {
    const home = stage.makeHome(USER);
    const program = install(stage.makeDirectory('installed'));
    const script = ['sh', '-c', OPEN_DEVICE, 'sh', stage.makeDirectory('dev'), prepare];
    const space = await stage.hold('unshare', ['--mount', '--', ...script]);
    return new User(program, home, space);
  }

  /** What nsenter takes before the user's command: no groups, no capabilities. */
  get args(): string[] {
    return [
      ...['--target', `${this.#space.pid}`, '--mount', `--wdns=${this.home}`, 'setpriv'],
      ...['--reuid', `${USER}`, '--regid', `${USER}`, '--clear-groups', '--inh-caps=-all'],
    ];
  }

  run(command: string, args: readonly string[], input?: string): Promise<Ran> {
    return run('nsenter', [...this.args, command, ...args], {
      env: { HOME: this.home },
      ...(input === undefined ? {} : { input }),
    });
  }

  /** The same for root in the user's namespace. */
  runAsRoot(command: string, args: readonly string[]): Promise<Ran> {
    return run('nsenter', ['--target', `${this.#space.pid}`, '--mount', command, ...args]);
  }

  /** What is mounted at `path`, as the user sees it. */
  mountAt(path: string): MountEntry | undefined {
    const table = readFileSync(`/proc/${this.#space.pid}/mountinfo`, 'utf8');
    return parseMountinfo(table).findLast((entry) => entry.mountpoint === path);
  }

  /** A new directory of the user's. Its name has a space. */
  async makeDirectory(): Promise<string> {
    this.#count += 1;
    const path = join(this.home, `mnt ${this.#count}`);
    const { status, stderr } = await this.run('mkdir', [path]);
    if (status !== 0) throw new Error(stderr);
    return path;
  }

  close(): Promise<void> {
    return this.#space.release();
  }
}
