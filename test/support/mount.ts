/**
 * Real mounts for the end-to-end suite. A Stage is a private directory with everything that a test file starts
 * in it: daemons, mounts, loop devices, helper processes. Closing it ends all of them, whatever state the tests
 * left them in; opening one clears what a killed earlier run left behind.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, parse } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseMountinfo } from '../../src/transport/mountinfo.ts';
import { isRunning, must, type Ran, type RunOptions, run, SEARCH_PATH, until } from './machine.ts';

export const REPOSITORY: string = fileURLToPath(new URL('../../', import.meta.url));
export const VDISK_MOUNT: string = join(REPOSITORY, 'bin', 'vdisk-mount');

/** Directories of this suite: the prefix, the owner's PID, its start time (clock ticks), a random part. */
const PREFIX = 'vdisk-e2e-';

/** Field 22 of /proc/PID/stat: with it, a PID names one process for good. */
function startTime(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

const isInside = (directory: string, path: string): boolean =>
  path === directory || path.startsWith(`${directory}/`);

/** Mountpoints in or at `directory`, the last mounted first. */
function mountsIn(directory: string): string[] {
  return parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8'))
    .map((entry) => entry.mountpoint)
    .filter((path) => isInside(directory, path))
    .reverse();
}

/** Whether anything is mounted exactly there. */
export function isMounted(path: string): boolean {
  return mountsIn(path).includes(path);
}

/** Loop devices whose file is in `directory`. */
export function loopsIn(directory: string): string[] {
  return readdirSync('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .filter((name) => {
      try {
        const file = readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trimEnd();
        return isInside(directory, file);
      } catch {
        return false;
      }
    })
    .map((name) => `/dev/${name}`);
}

/** In the environment of everything that a stage starts, and so in that of the daemons: the stage's directory. */
const MARK = 'VDISK_E2E_STAGE';

/** The processes that were started on the stage `directory` and are running. */
function processesOf(directory: string): number[] {
  const mark = `\0${MARK}=${directory}\0`;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        // The environment at its start: this process, which marked itself later, is not among them.
        return `\0${readFileSync(`/proc/${pid}/environ`, 'latin1')}`.includes(mark) && isRunning(pid);
      } catch {
        return false;
      }
    });
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It was faster.
  }
}

/** umount, of a mount whose daemon may not answer: -c, so that it does not look at the path first. */
async function tryUnmount(path: string, ...options: readonly string[]): Promise<void> {
  await run('umount', ['-c', ...options, path], { limitMs: 3000 }).catch(() => {});
}

/** Ends whatever is mounted, attached or running on the stage `directory`, and removes it. */
async function clear(directory: string): Promise<void> {
  // File systems on loop devices lie on top, so they come first; each loop device holds the mount below it.
  for (const path of mountsIn(directory)) await tryUnmount(path);
  for (const device of loopsIn(directory)) await run('losetup', ['-d', device]);
  // -f cuts the connection, so that nobody waits for a daemon that does not answer; -l takes it away in use.
  for (const path of mountsIn(directory)) {
    await tryUnmount(path, '-f');
    if (isMounted(path)) await tryUnmount(path, '-l');
  }
  await until('all processes end', () => processesOf(directory).length === 0, 3000).catch(() => {
    for (const pid of processesOf(directory)) kill(pid);
  });
  // What was still coming up a moment ago may have mounted meanwhile.
  for (const path of mountsIn(directory)) await tryUnmount(path, '-l');
  rmSync(directory, { recursive: true, force: true });
}

/** Clears the directories of runs whose process is gone. */
async function sweep(): Promise<void> {
  for (const name of readdirSync(tmpdir())) {
    const [, pid, started] = new RegExp(`^${PREFIX}(\\d+)-(\\d+)-`).exec(name) ?? [];
    if (pid === undefined || startTime(Number(pid)) === started) continue;
    await clear(join(realpathSync(tmpdir()), name));
  }
}

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

/** A child that holds something until it is told to let go; it also lets go when this process ends. */
export interface Holder {
  readonly pid: number;
  /** Writes a line to it, and returns the next line that it says. */
  ask(line: string): Promise<string>;
  /** Ends it by closing its input. */
  release(): Promise<void>;
}

const HOLD_OPEN = `
const { openSync, readSync } = require('node:fs');
const fd = openSync(process.argv[1]);
console.log('open');
require('node:readline').createInterface({ input: process.stdin }).on('line', (at) => {
  const bytes = Buffer.alloc(16);
  try {
    console.log(bytes.toString('latin1', 0, readSync(fd, bytes, 0, 16, Number(at))).trimEnd());
  } catch (problem) {
    console.log(problem.code);
  }
});
`;

export class Stage {
  readonly directory: string;
  #count = 0;
  readonly #children = new Set<ChildProcess>();

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** A new private directory. Fails where the project is not built. */
  static async open(): Promise<Stage> {
    if (!existsSync(join(REPOSITORY, 'dist', 'mount.js'))) {
      throw new Error('dist/ is missing: the end-to-end tests run what "npm run build" made');
    }
    await sweep();
    const owner = `${process.pid}-${startTime(process.pid)}`;
    const directory = mkdtempSync(join(realpathSync(tmpdir()), `${PREFIX}${owner}-`));
    process.env[MARK] = directory;
    return new Stage(directory);
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

  /**
   * Starts a child that says a line when it holds what it shall hold, and then answers each line on its standard
   * input with one, until that ends. `begin` is written to it first.
   */
  async hold(program: string, args: readonly string[], begin = ''): Promise<Holder> {
    const child = spawn(program, args, {
      env: { ...process.env, PATH: SEARCH_PATH },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.#children.add(child);
    // 'close', not 'exit': until then what it said may still be on its way.
    let closed = false;
    const ended = new Promise<void>((resolve) => {
      child.on('close', () => {
        this.#children.delete(child);
        closed = true;
        resolve();
      });
    });
    let said = '';
    let complaint = '';
    child.on('error', (error) => {
      complaint += error.message;
    });
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      complaint += text;
    });
    child.stdin.on('error', () => {});
    const nextLine = (): Promise<string> =>
      until(`${program} says a line`, () => {
        const end = said.indexOf('\n');
        if (end < 0) {
          if (closed) throw new Error(`${program} ended: ${complaint}`);
          return undefined;
        }
        const line = said.slice(0, end);
        said = said.slice(end + 1);
        return line;
      });
    child.stdin.write(begin);
    await nextLine();
    return {
      pid: child.pid!,
      ask: (line) => {
        child.stdin.write(`${line}\n`);
        return nextLine();
      },
      release: () => {
        child.stdin.end();
        return ended;
      },
    };
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
