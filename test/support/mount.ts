/**
 * Real mounts for the end-to-end suite. A Stage is a private directory with everything that a test file starts
 * in it: daemons, mounts, loop devices, helper processes. Closing it ends all of them, whatever state the tests
 * left them in; opening one clears what a killed earlier run left behind.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, parse } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HOLD_OPEN, type Holder, hold } from './holder.ts';
import { clear, loopsIn, makeStageDirectory, mountsIn, processesOf } from './leftovers.ts';
import { isRunning, must, type Ran, type RunOptions, run, SEARCH_PATH, until } from './machine.ts';

export const REPOSITORY: string = fileURLToPath(new URL('../../', import.meta.url));
export const VDISK_MOUNT: string = join(REPOSITORY, 'bin', 'vdisk-mount');

export interface Mounted {
  readonly mountpoint: string;
  /** Of the daemon. */
  readonly pid: number;
  readonly pidFile: string;
  /** Path of the daemon's log, JSON lines. */
  readonly log: string;
  /** What the command said while mounting. */
  readonly stderr: string;
  /** umount(8), and waits until the daemon has ended. */
  unmount(): Promise<void>;
}

/** vdisk-mount as our child. */
export interface Started {
  /** What it wrote to standard output and standard error. */
  said(): string;
  /** Waits for its end: its exit status, or the signal that ended it. */
  ended(limitMs?: number): Promise<number | NodeJS.Signals>;
  hasEnded(): boolean;
  signal(name: NodeJS.Signals): void;
}

/** A daemon with -f. */
export interface Foreground extends Mounted, Started {}

export interface MountAsked {
  /** Default: a new directory. */
  readonly mountpoint?: string;
  readonly options?: readonly string[];
}

export class Stage {
  readonly directory: string;
  #count = 0;
  readonly #children = new Set<ChildProcess>();

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** A new private directory. Fails where the project is not built. */
  static async open(): Promise<Stage> {
    if (!existsSync(join(REPOSITORY, 'dist', 'mount.cjs'))) {
      throw new Error('dist/ is missing: the end-to-end tests run what "npm run build" made');
    }
    return new Stage(await makeStageDirectory());
  }

  /** The processes that run on this stage, daemons and others. */
  processes(): number[] {
    return processesOf(this.directory);
  }

  path(...parts: readonly string[]): string {
    return join(this.directory, ...parts);
  }

  /** A path that was not used before: "stem-7.suffix". */
  fresh(name: string): string {
    this.#count += 1;
    const { name: stem, ext } = parse(name);
    return this.path(`${stem}-${this.#count}${ext}`);
  }

  makeDirectory(name: string): string {
    const path = this.fresh(name);
    mkdirSync(path);
    return path;
  }

  makeFile(name: string, content: string | Uint8Array = ''): string {
    const path = this.fresh(name);
    writeFileSync(path, content);
    return path;
  }

  /** A directory for another user, who gets to it through the stage's own, which mkdtemp made private. */
  makeHome(uid: number): string {
    const path = this.path('home');
    mkdirSync(path);
    chownSync(path, uid, uid);
    chmodSync(this.directory, 0o755);
    return path;
  }

  /** Runs vdisk-mount to its end, whatever that is. */
  command(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    return run(VDISK_MOUNT, args, options);
  }

  /** Mounts in the background. Rejects where that fails. */
  async mount(images: string | readonly string[], asked: MountAsked = {}): Promise<Mounted> {
    const place = this.#place(images, asked);
    const { status, stdout, stderr } = await this.command(place.args);
    if (status !== 0) throw new Error(`vdisk-mount ended with ${status}: ${stdout}${stderr}`);
    if (stdout !== '') throw new Error(`vdisk-mount wrote to standard output: ${stdout}`);
    return this.#mounted(place, stderr);
  }

  /** Starts vdisk-mount as a child, and returns at once. */
  start(args: readonly string[]): Started {
    const child = spawn(VDISK_MOUNT, args, {
      env: { ...process.env, PATH: SEARCH_PATH },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#children.add(child);
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        said += text;
      });
    }
    let how: number | NodeJS.Signals | undefined;
    child.on('error', (problem) => {
      said += problem.message;
    });
    child.on('close', (status, signal) => {
      this.#children.delete(child);
      how = signal ?? status ?? -1;
    });
    return {
      said: () => said,
      ended: (limitMs) => until('vdisk-mount ends', () => how, limitMs),
      hasEnded: () => how !== undefined,
      signal: (name) => child.kill(name),
    };
  }

  /** Mounts with -f; returns when the pid file says that the mount is there. */
  async foreground(images: string | readonly string[], asked: MountAsked = {}): Promise<Foreground> {
    const place = this.#place(images, asked);
    const started = this.start(['-f', ...place.args]);
    await until('vdisk-mount -f is ready', () => {
      if (started.hasEnded()) throw new Error(`vdisk-mount -f ended: ${started.said()}`);
      return existsSync(place.pidFile) && readFileSync(place.pidFile, 'utf8').endsWith('\n');
    });
    return { ...this.#mounted(place, started.said()), ...started };
  }

  #place(images: string | readonly string[], asked: MountAsked) {
    const mountpoint = asked.mountpoint ?? this.makeDirectory('mnt');
    const pidFile = this.fresh('daemon.pid');
    const log = this.fresh('daemon.log');
    const list = typeof images === 'string' ? [images] : images;
    const files = ['--pid-file', pidFile, '--log-file', log];
    return {
      mountpoint,
      pidFile,
      log,
      args: [...files, ...(asked.options ?? []), '--', ...list, mountpoint],
    };
  }

  #mounted(place: { mountpoint: string; pidFile: string; log: string }, stderr: string): Mounted {
    const pid = Number(readFileSync(place.pidFile, 'utf8'));
    return {
      mountpoint: place.mountpoint,
      pid,
      pidFile: place.pidFile,
      log: place.log,
      stderr,
      unmount: async () => {
        await must('umount', [place.mountpoint]);
        await until('the daemon ends', () => !isRunning(pid));
      },
    };
  }

  /** Attaches a file to a loop device; returns the device. */
  async attachLoop(file: string, options: readonly string[] = ['-r']): Promise<string> {
    return (await must('losetup', [...options, '-f', '--show', file])).trim();
  }

  /** Detaches a loop device and waits until it is free. */
  async detachLoop(device: string): Promise<void> {
    await must('losetup', ['-d', device]);
    const attached = `/sys/block/${device.slice('/dev/'.length)}/loop/backing_file`;
    await until(`${device} is detached`, () => !existsSync(attached));
  }

  /** `hold`, by a child that is ended with the stage. */
  hold(program: string, args: readonly string[], begin = ''): Promise<Holder> {
    return hold(program, args, begin, this.#children);
  }

  /**
   * A process that keeps `file` open for reading. Asked for an offset, it says the 16 bytes of text there, or the
   * name of the error.
   */
  holdOpen(file: string): Promise<Holder> {
    return this.hold(process.execPath, ['-e', HOLD_OPEN, file]);
  }

  /** Ends everything, and removes the directory. Rejects where something could not be ended. */
  async close(): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL');
    await clear(this.directory);
    const left = [...mountsIn(this.directory), ...loopsIn(this.directory)];
    if (left.length > 0) throw new Error(`left behind: ${left.join(', ')}`);
  }
}

/** What a daemon logged: the messages of its JSON lines, in order. */
export function logged(mounted: Pick<Mounted, 'log'>): string[] {
  if (!existsSync(mounted.log)) return [];
  return readFileSync(mounted.log, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => (JSON.parse(line) as { msg: string }).msg);
}
