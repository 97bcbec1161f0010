/**
 * What a stage may leave behind in its directory: mounts, loop devices, processes, and how each is ended, whatever state
 * it is in. Directories are named by their owner, so that what a killed run left is found and cleared by the next one.
 */

import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseMountinfo } from '../../src/transport/mountinfo.ts';
import { isRunning, run, until } from './machine.ts';

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
export function mountsIn(directory: string): string[] {
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
export function processesOf(directory: string): number[] {
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
export async function clear(directory: string): Promise<void> {
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

/** A new private directory, that of everything that this process starts from now on. */
export async function makeStageDirectory(): Promise<string> {
  await sweep();
  const owner = `${process.pid}-${startTime(process.pid)}`;
  const directory = mkdtempSync(join(realpathSync(tmpdir()), `${PREFIX}${owner}-`));
  process.env[MARK] = directory;
  return directory;
}
