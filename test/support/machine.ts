/**
 * What this machine can do, and running its programs. Tests that need something special are left out where it is
 * missing, and say so in their titles; the reason is always a capability, never a version.
 */

import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

/** A user's PATH often lacks the directories where mkfs, losetup and mount.fuse3 are. */
export const SEARCH_PATH: string = [
  ...new Set([...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/usr/bin', '/sbin', '/bin']),
].join(':');

/** The absolute path of a program, or undefined. */
export function findProgram(name: string): string | undefined {
  return SEARCH_PATH.split(':')
    .map((directory) => join(directory, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/**
 * - a program's name: it is in SEARCH_PATH.
 * - root, /dev/fuse, loop devices: what it says.
 * - "kernel: xfs": the running kernel knows the file system.
 * - "package: fuse-native": the npm package is installed.
 * - "fio engine: libaio": fio is installed and has the engine.
 * - "mount.fuse3 option: drop_privileges": mount.fuse3 is installed and knows the option.
 * - "no user_allow_other": /etc/fuse.conf does not let everyone use allow_other.
 */
export type Need =
  | 'root'
  | '/dev/fuse'
  | 'loop devices'
  | 'no user_allow_other'
  | `fio engine: ${string}`
  | `kernel: ${string}`
  | `mount.fuse3 option: ${string}`
  | `package: ${string}`
  | `program: ${string}`;

function missing(need: Need): string | undefined {
  const [kind, name] = need.split(': ') as [string, string | undefined];
  if (kind === 'program') return findProgram(name!) === undefined ? `${name} is not installed` : undefined;
  if (kind === 'fio engine') return hasEngine(name!) ? undefined : `fio has no engine ${name}`;
  if (kind === 'kernel') return knowsFileSystem(name!) ? undefined : `the kernel knows no ${name}`;
  if (kind === 'mount.fuse3 option') {
    return hasMountOption(name!) ? undefined : `mount.fuse3 has no option ${name}`;
  }
  if (kind === 'package') return hasPackage(name!) ? undefined : `the package ${name} is not installed`;
  if (need === 'root') return process.geteuid?.() === 0 ? undefined : 'only for root';
  if (need === '/dev/fuse') return existsSync('/dev/fuse') ? undefined : 'there is no /dev/fuse';
  if (need === 'loop devices') {
    if (!existsSync('/dev/loop-control')) return 'there are no loop devices';
    return missing('program: losetup');
  }
  return allowsOther() ? '/etc/fuse.conf says user_allow_other' : undefined;
}

function hasEngine(name: string): boolean {
  const { stdout } = spawnSync(findProgram('fio') ?? 'fio', ['--enghelp'], { encoding: 'utf8' });
  return (stdout ?? '').split(/\s+/).includes(name);
}

/** It has no help that lists them: the word is in the program or it is not. */
function hasMountOption(name: string): boolean {
  const program = findProgram('mount.fuse3');
  return program !== undefined && readFileSync(program).includes(name);
}

function knowsFileSystem(name: string): boolean {
  try {
    return readFileSync('/proc/filesystems', 'utf8').split(/\s+/).includes(name);
  } catch {
    return false;
  }
}

function hasPackage(name: string): boolean {
  // Not by resolving it: a package need not export anything to require().
  const places = createRequire(import.meta.url).resolve.paths(name) ?? [];
  return places.some((place) => existsSync(join(place, name, 'package.json')));
}

function allowsOther(): boolean {
  try {
    return /^\s*user_allow_other\b/m.test(readFileSync('/etc/fuse.conf', 'utf8'));
  } catch {
    return false;
  }
}

/** Why a test with these needs cannot run here, or undefined where it can. */
export function reasonToSkip(...needs: readonly Need[]): string | undefined {
  const reasons = [...new Set(needs)].flatMap((need) => missing(need) ?? []);
  return reasons.length === 0 ? undefined : reasons.join(', ');
}

/** What every mount in the end-to-end suite needs. */
export const TO_MOUNT: readonly Need[] = ['root', '/dev/fuse', 'program: mount', 'program: umount'];

export interface Gate {
  readonly skip: boolean;
  /** The title, with the reason where the test is left out. */
  title(text: string): string;
}

/** `const gate = gateOf(…); describe(gate.title('…'), { skip: gate.skip }, …)` */
export function gateOf(...needs: readonly Need[]): Gate {
  const reason = reasonToSkip(...needs);
  return {
    skip: reason !== undefined,
    title: (text) => (reason === undefined ? text : `${text} (left out: ${reason})`),
  };
}

export interface Ran {
  /** null where a signal ended it. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** What it reads on standard input; nothing by default. */
  readonly input?: string;
  /** After this it is killed, and the call fails: 30 s where not given. A bound on hangs, not on speed. */
  readonly limitMs?: number;
}

/**
 * Runs a program to its end. Rejects where it cannot be started or hangs. Never blocks this process: a test that
 * waits for its own mount in a system call could not be ended.
 */
export function run(program: string, args: readonly string[] = [], options: RunOptions = {}): Promise<Ran> {
  const limitMs = options.limitMs ?? 30_000;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: { ...process.env, PATH: SEARCH_PATH, LC_ALL: 'C.UTF-8', ...options.env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    const texts = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        texts[name] += text;
      });
    }
    let hung = false;
    const timer = setTimeout(() => {
      hung = true;
      child.kill('SIGKILL');
      // A grandchild may hold the pipes: 'close' would not come.
      child.stdout.destroy();
      child.stderr.destroy();
    }, limitMs);
    // A program that does not read its input closes it.
    child.stdin.on('error', () => {});
    child.stdin.end(options.input ?? '');
    child.on('error', (problem) => {
      clearTimeout(timer);
      reject(problem);
    });
    child.on('close', (status) => {
      clearTimeout(timer);
      if (!hung) return resolve({ status, ...texts });
      const said = `${texts.stdout}${texts.stderr}`;
      reject(new Error(`${program} ${args.join(' ')} did not end in ${limitMs} ms; it said: ${said}`));
    });
  });
}

/** Runs a program that must succeed; returns what it wrote to standard output. */
export async function must(
  program: string,
  args: readonly string[] = [],
  options: RunOptions = {},
): Promise<string> {
  const { status, stdout, stderr } = await run(program, args, options);
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: status ${status}: ${stdout}${stderr}`);
  return stdout;
}

/** Waits until `holds` says something other than undefined or false; fails after a bound on hangs. */
export async function until<T>(
  what: string,
  holds: () => T | undefined | false | Promise<T | undefined | false>,
  limitMs = 20_000,
): Promise<T> {
  const end = performance.now() + limitMs;
  for (;;) {
    const found = await holds();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/**
 * Whether a process exists and has not ended. A zombie has ended when its threads have as well: until then they
 * keep its descriptors open.
 */
export function isRunning(pid: number): boolean {
  try {
    const ended = /^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return !ended || readdirSync(`/proc/${pid}/task`).length > 1;
  } catch {
    return false;
  }
}
