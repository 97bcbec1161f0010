/**
 * Getting a mounted /dev/fuse descriptor, in one of three ways: as root through mount(8) with the descriptor
 * inherited; as anyone else through fusermount3, which sends it over a socket; or given from outside, as
 * `mount.fuse3 -o drop_privileges` does ("/dev/fd/N").
 */

import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync, statSync, writeFileSync } from 'node:fs';
import { EBUSY, EINVAL, ENOSYS, ENOTCONN } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import { isWritable } from '../../fuse/tree.ts';
import { receiveDescriptor, socketPair, umount } from '../../source/syscalls.ts';
import { findMount, mountsAt } from '../mountinfo.ts';
import type { MountRequest } from '../transport.ts';

/** Type shown in the mount table. */
export const MOUNT_TYPE = 'fuse.vdisk-mount';
const SUBTYPE = 'vdisk-mount';

const MNT_FORCE = 1;
const MNT_DETACH = 2;

/**
 * Our helper of umount(8), which waits for the daemon. umount(8) does not always look for it by the type: for a directory it
 * may look no further than statfs(2), which says "fuse". Where it is installed, the mount is marked with its name, in
 * mount(8)'s own table (/run/mount/utab).
 */
const UNMOUNT_HELPER = `/sbin/umount.${SUBTYPE}`;

/** Helpers are looked for here only: PATH may be anybody's. */
const HELPER_DIRECTORIES = ['/usr/bin', '/bin', '/usr/sbin', '/sbin', '/usr/local/bin'];

export interface MountedDevice {
  readonly device: number;
  /** See Mount.unmount. */
  unmount(how: 'clean' | 'force'): number;
  /**
   * Takes the mount away as far as it is still there. Says whether it was. Only for who knows that the kernel has the file
   * system still: of one that is gone, another may have the number.
   */
  clear(): boolean;
}

/** The absolute path of a helper program, or undefined. */
export function findHelper(...names: string[]): string | undefined {
  for (const name of names) {
    const found = HELPER_DIRECTORIES.map((dir) => `${dir}/${name}`).find((path) => existsSync(path));
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Mounts, or takes the descriptor that is mounted already. Throws ImageError('mount'). */
export function mountDevice(request: MountRequest): MountedDevice {
  const given = /^\/dev\/fd\/(\d+)$/.exec(request.mountpoint);
  if (given !== null) {
    return { device: Number(given[1]), unmount: () => -ENOSYS, clear: () => false };
  }
  const { mountpoint } = request;
  const [device, inTable] =
    process.geteuid?.() === 0 ? mountAsRoot(request) : ([mountAsUser(request), false] as const);
  const number = findMount(mountpoint)?.device;
  /** 0; or -EINVAL where it is not there any more, -EBUSY where something else is mounted over it. */
  const look = (): number => {
    const entries = mountsAt(mountpoint);
    const at = entries.findLastIndex((entry) => entry.type === MOUNT_TYPE && entry.device === number);
    return at < 0 ? -EINVAL : at < entries.length - 1 ? -EBUSY : 0;
  };
  return {
    device,
    unmount(how) {
      const state = look();
      if (state < 0) return state;
      return inTable && how === 'clean' ? unmountMarked(mountpoint) : unmountPath(mountpoint, how);
    },
    clear: () => look() === 0 && unmountPath(mountpoint, 'lazy') === 0,
  };
}

function commonOptions(request: MountRequest): string[] {
  const access = isWritable(request.tree) ? 'rw' : 'ro';
  const options = [access, 'nosuid', 'nodev', 'noatime', 'default_permissions'];
  if (request.tree.sync) options.push('sync');
  if (request.noexec) options.push('noexec');
  if (request.allowOther) options.push('allow_other');
  return options;
}

/** Returns the device, and whether the mount is in mount(8)'s own table. */
function mountAsRoot(request: MountRequest): readonly [device: number, inTable: boolean] {
  let device: number;
  try {
    device = openSync('/dev/fuse', 'r+');
  } catch (problem) {
    throw new ImageError('mount', `/dev/fuse cannot be opened: ${messageOf(problem)}`, {
      cause: problem,
      hint: 'Load the module with "modprobe fuse"; in a container, give it the device (--device /dev/fuse).',
    });
  }
  const program = findHelper('mount');
  if (program === undefined) {
    closeSync(device);
    throw new ImageError('mount', `mount(8) was not found in ${HELPER_DIRECTORIES.join(', ')}`, {
      hint: 'Install it ("apt install mount").',
    });
  }
  const rootmode = (statSync(request.mountpoint).mode & 0o170000).toString(8);
  const options = ['fd=3', `rootmode=${rootmode}`, 'user_id=0', 'group_id=0', ...commonOptions(request)];
  const marked = existsSync(UNMOUNT_HELPER);
  if (marked) options.push(`helper=${SUBTYPE}`);
  if (request.netdev === true) options.push('_netdev');
  const inTable = marked || request.netdev === true;
  const args = ['-i', '-t', MOUNT_TYPE, '-o', options.join(','), '--', request.fsname, request.mountpoint];
  const outcome = spawnSync(program, args, { stdio: ['ignore', 'ignore', 'pipe', device] });
  if (outcome.status !== 0) {
    // A signal may have ended mount(8) when its work was done.
    if (findMount(request.mountpoint)?.type === MOUNT_TYPE) umount(request.mountpoint, MNT_DETACH);
    closeSync(device);
    throw describeFailure(request, outcome);
  }
  return [device, inTable];
}

/** By umount(8), which takes the mark out of its own table as well; it neither looks at the path nor asks our helper. */
function unmountMarked(mountpoint: string): number {
  const program = findHelper('umount');
  if (program === undefined) return unmountAsRoot(mountpoint, 'clean');
  const { status } = spawnSync(program, ['-i', '-c', '--', mountpoint], { stdio: 'ignore' });
  return status === 0 ? 0 : -EBUSY;
}

function unmountAsRoot(mountpoint: string, how: UnmountHow): number {
  if (how === 'lazy') return detach(mountpoint, MNT_DETACH);
  if (how === 'force') {
    // Cutting the connection first lets requests that wait return; the mount itself goes with the second call.
    detach(mountpoint, MNT_FORCE);
    return detach(mountpoint, MNT_DETACH);
  }
  return detach(mountpoint, 0);
}

/** umount2(2), or umount(8) where there is no koffi to call it. Returns 0 or -errno. */
function detach(mountpoint: string, flags: number): number {
  const status = umount(mountpoint, flags);
  const program = status === -ENOSYS ? findHelper('umount') : undefined;
  if (program === undefined) return status;
  const option = flags === MNT_FORCE ? ['-f'] : flags === MNT_DETACH ? ['-l'] : [];
  const ran = spawnSync(program, ['-i', ...option, '--', mountpoint], { stdio: 'ignore' });
  return ran.status === 0 ? 0 : -EBUSY;
}

function mountAsUser(request: MountRequest): number {
  const program = findHelper('fusermount3', 'fusermount');
  if (program === undefined) {
    throw new ImageError('mount', 'fusermount3 was not found, and mounting without it needs root', {
      hint: 'Install it ("apt install fuse3"), or mount as root.',
    });
  }
  const pair = socketPair();
  if (typeof pair === 'number') {
    throw new ImageError('mount', `a socket for fusermount3 cannot be made (errno ${-pair})`, {
      hint: 'The package koffi is needed to mount without root: run scripts/setup again.',
    });
  }
  const [ours, theirs] = pair;
  const escaped = request.fsname.replaceAll('\\', '\\\\').replaceAll(',', '\\,');
  const options = [...commonOptions(request), `subtype=${SUBTYPE}`, `fsname=${escaped}`];
  const outcome = spawnSync(program, ['-o', options.join(','), '--', request.mountpoint], {
    stdio: ['ignore', 'ignore', 'pipe', theirs],
    env: { ...process.env, _FUSE_COMMFD: '3' },
  });
  closeSync(theirs);
  if (outcome.status !== 0) {
    closeSync(ours);
    if (outcome.signal !== null && findMount(request.mountpoint)?.type === MOUNT_TYPE)
      unmountAsUser(request.mountpoint, 'lazy');
    throw describeFailure(request, outcome);
  }
  const device = receiveDescriptor(ours);
  closeSync(ours);
  if (device < 0) throw new ImageError('mount', `fusermount3 sent no descriptor (errno ${-device})`);
  return device;
}

/** Of mount(8) or fusermount3. A terminal sends its Ctrl-C to them as well. */
function describeFailure(
  { mountpoint }: MountRequest,
  { error, signal, stderr }: SpawnSyncReturns<Buffer>,
): ImageError {
  if (signal !== null) return new ImageError('interrupted', `${mountpoint}: ${signal} while mounting`);
  const said = error?.message ?? stderr.toString().trim();
  const text = `${mountpoint}: mounting failed: ${firstLine(said)}`;
  if (said.includes('user_allow_other')) {
    return new ImageError('denied', text, {
      hint: 'Add the line "user_allow_other" to /etc/fuse.conf (as root), or leave out -o allow_other.',
    });
  }
  if (/\/dev\/fuse: Permission denied/.test(said)) {
    return new ImageError('denied', text, {
      hint: 'It is open to root only here; everywhere else it is open to all ("chmod 666 /dev/fuse").',
    });
  }
  if (/has no write access|Permission denied|not owned/i.test(said)) {
    return new ImageError('denied', text, { hint: 'Mount on a directory of your own.' });
  }
  return new ImageError('mount', text);
}

function fusermountUnmounts(mountpoint: string, ...options: string[]): boolean {
  const program = findHelper('fusermount3', 'fusermount');
  if (program === undefined) return false;
  return spawnSync(program, ['-u', ...options, '--', mountpoint], { stdio: 'ignore' }).status === 0;
}

function unmountAsUser(mountpoint: string, how: UnmountHow): number {
  if (how === 'lazy') return fusermountUnmounts(mountpoint, '-z') ? 0 : -EBUSY;
  if (how === 'clean') return fusermountUnmounts(mountpoint) ? 0 : -EBUSY;
  const entry = findMount(mountpoint);
  const detached = fusermountUnmounts(mountpoint, '-z');
  const cut = entry === undefined || abortConnection(entry.device);
  return detached && cut ? 0 : -EBUSY;
}

/** 'lazy': taken away now, and ended when nobody uses it any more. The others: see Mount.unmount. */
export type UnmountHow = 'clean' | 'force' | 'lazy';

/** Ends the mount at `mountpoint`. Returns 0 or -errno. */
export function unmountPath(mountpoint: string, how: UnmountHow): number {
  return process.geteuid?.() === 0 ? unmountAsRoot(mountpoint, how) : unmountAsUser(mountpoint, how);
}

/** Cuts the connection behind device "0:45"; false where fusectl is not mounted. */
function abortConnection(device: string): boolean {
  try {
    writeFileSync(`/sys/fs/fuse/connections/${device.split(':')[1]}/abort`, '1');
    return true;
  } catch {
    return false;
  }
}

/**
 * Clears what a killed daemon left behind: a dead mount of our type on `mountpoint` is detached. Says whether
 * that was done, or a live mount is there, or nothing. Throws ImageError('mount') for a dead mount of another
 * file system.
 */
export function clearStaleMount(mountpoint: string): 'cleared' | 'alive' | 'free' {
  const entry = findMount(mountpoint);
  // A place that waits for something to be mounted on it: of systemd's automounts, and of direct maps of autofs.
  if (entry === undefined || entry.type === 'autofs') return 'free';
  try {
    statSync(mountpoint);
    return 'alive';
  } catch (problem) {
    const code = problem instanceof Error && 'code' in problem ? problem.code : undefined;
    // Right after its end a connection answers with the second.
    if (code !== 'ENOTCONN' && code !== 'ECONNABORTED') return 'alive';
  }
  if (entry.type !== MOUNT_TYPE) {
    throw new ImageError('mount', `${mountpoint}: a dead mount of type ${entry.type} is in the way`, {
      hint: `Remove it with "umount -l ${mountpoint}".`,
    });
  }
  const detached =
    process.geteuid?.() === 0 ? umount(mountpoint, MNT_DETACH) === 0 : fusermountUnmounts(mountpoint, '-z');
  if (!detached) {
    throw new ImageError('mount', `${mountpoint}: a dead mount is in the way (errno ${ENOTCONN})`, {
      hint: `Remove it with "fusermount3 -u -z ${mountpoint}", or as root with "umount -l ${mountpoint}".`,
    });
  }
  return 'cleared';
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}

function messageOf(problem: unknown): string {
  return problem instanceof Error ? problem.message : String(problem);
}
