/** Who uses a file or a mount, read from /proc: for messages, so it says what it can see and never fails. */

import { fstatSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';

const MAX_NAMED = 5;

function processName(pid: string): string {
  try {
    return `${readFileSync(`/proc/${pid}/comm`, 'utf8').trim()} (pid ${pid})`;
  } catch {
    return `pid ${pid}`;
  }
}

function processes(): string[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name) && name !== `${process.pid}`);
}

function descriptors(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`);
  } catch {
    return [];
  }
}

/** Processes other than this one that have the file behind `fd` open: "qemu-system-x86 (pid 123)". */
export function holdersOfFile(fd: number): string[] {
  const ours = fstatSync(fd);
  const holds = (pid: string): boolean =>
    descriptors(pid).some((number) => {
      try {
        const theirs = statSync(`/proc/${pid}/fd/${number}`);
        return theirs.dev === ours.dev && theirs.ino === ours.ino;
      } catch {
        return false;
      }
    });
  return processes().filter(holds).slice(0, MAX_NAMED).map(processName);
}

/**
 * Processes and loop devices that use the mount with this ID and path. It never touches the mount itself:
 * mount IDs stand in fdinfo, directories and mappings are links.
 */
export function holdersOfMount(mountId: number, mountpoint: string): string[] {
  const inside = (path: string): boolean => path === mountpoint || path.startsWith(`${mountpoint}/`);
  const link = (path: string): string => {
    try {
      return readlinkSync(path);
    } catch {
      return '';
    }
  };
  const holds = (pid: string): boolean =>
    inside(link(`/proc/${pid}/cwd`)) ||
    inside(link(`/proc/${pid}/root`)) ||
    descriptors(pid).some((number) => {
      try {
        return readFileSync(`/proc/${pid}/fdinfo/${number}`, 'utf8').includes(`mnt_id:\t${mountId}\n`);
      } catch {
        return false;
      }
    }) ||
    mappings(pid).some(inside);
  const named = processes().filter(holds).slice(0, MAX_NAMED).map(processName);
  return [
    ...loopDevices()
      .filter(({ file }) => inside(file))
      .map(({ name }) => name),
    ...named,
  ];
}

function mappings(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/maps`, 'utf8')
      .split('\n')
      .map((line) => line.slice(73))
      .filter((path) => path.startsWith('/'));
  } catch {
    return [];
  }
}

function loopDevices(): { name: string; file: string }[] {
  try {
    return readdirSync('/sys/block')
      .filter((name) => name.startsWith('loop'))
      .flatMap((name) => {
        try {
          const file = readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim();
          return [{ name: `/dev/${name}`, file }];
        } catch {
          return [];
        }
      });
  } catch {
    return [];
  }
}
