/**
 * One mount through fuse-native, from fuse_mount to the end of libfuse's loop.
 *
 * The package's own `open` and `close` are gone around, for these reasons (fuse-native 2.2.6, index.js):
 * - `close` runs `fusermount -uz` through a shell, with the mountpoint in double quotes: what a name holds is
 *   executed, and a mount in use is torn away where EBUSY is due. Without `close`, nothing lets go of the event
 *   loop, and the process never ends.
 * - nothing tells that the mount was ended from outside.
 * - `open` refuses a regular file as mountpoint, which libfuse can do, and knows neither `ro` nor `noexec` nor
 *   `nonempty`, nor commas in `fsname`.
 * - `getxattr` and `listxattr` return more bytes than the caller has room for, and libfuse then sends what lies
 *   behind its buffer. Here the buffer itself goes to the handler, which answers ERANGE.
 */

import { fstatSync, readdirSync } from 'node:fs';
import { ImageError } from '../../base/errors.ts';
import { findMount } from '../mountinfo.ts';
import type { MountEnd } from '../transport.ts';
import type { NativeHandlers, NativePackage } from './binding.ts';

/** makedev(10, 229), the number of /dev/fuse (Documentation/admin-guide/devices.txt). */
const FUSE_DEVICE = (10 << 8) | 229;

/** How often it is looked whether libfuse still has its device. Nothing wakes us: see `Connection`. */
const WATCH_MS = 200;

/** The package copies the options and the mountpoint into 1024 bytes each, with a NUL, and cuts silently. */
export const MAX_TEXT_BYTES = 1023;

function isFuseDevice(descriptor: number): boolean {
  try {
    const stat = fstatSync(descriptor);
    return stat.isCharacterDevice() && stat.rdev === FUSE_DEVICE;
  } catch {
    return false;
  }
}

function fuseDevices(): number[] {
  return readdirSync('/proc/self/fd').map(Number).filter(isFuseDevice);
}

/**
 * A mount being served. libfuse closes its device at the end of its loop (unmounted, with the last user gone,
 * or cut), and there is no callback for that: the descriptor is looked at from time to time.
 */
export interface Connection {
  /** Settled once, when libfuse has ended. Never rejects. */
  readonly ended: Promise<MountEnd>;
}

/**
 * Mounts with the options given (the text after -o) and returns when the kernel's INIT is answered. Throws
 * ImageError('mount') with nothing left mounted; `cut` is called to take away a mount that is of no use.
 */
export async function connect(
  { Fuse, library }: NativePackage,
  mountpoint: string,
  options: string,
  handlers: NativeHandlers,
  cut: () => void,
): Promise<Connection> {
  const session = new Fuse(mountpoint, handlers, { timeout: false });
  session._op_getxattr = (signal, path, name, target) => {
    handlers.getxattr(path, name, target, (status) => signal(status, target.buffer));
  };
  session._op_listxattr = (signal, path, target) => {
    handlers.listxattr(path, target, (status) => signal(status, target.buffer));
  };
  const thread = Buffer.alloc(library.sizeof_fuse_thread_t);
  session._thread = thread;
  const ready = new Promise<'ready'>((resolve) => {
    session._openCallback = () => resolve('ready');
  });
  const before = new Set(fuseDevices());
  let failure: unknown;
  try {
    const implemented = session._getImplementedArray();
    library.fuse_native_mount(
      mountpoint,
      `-o${options}`,
      thread,
      session,
      session._malloc,
      session._handlers,
      implemented,
    );
  } catch (problem) {
    failure = problem;
  }
  const device = fuseDevices().find((descriptor) => !before.has(descriptor));
  const release = (): void => library.fuse_native_unmount(mountpoint, thread);
  if (failure !== undefined || device === undefined) {
    // libfuse may have mounted before it failed.
    if (device !== undefined) cut();
    release();
    throw new ImageError('mount', `${mountpoint}: libfuse did not mount it`, {
      cause: failure,
      hint: 'With -f, libfuse says why on stderr.',
    });
  }
  const number = findMount(mountpoint)?.device;
  const ended = endOf(device).then((): MountEnd => {
    release();
    // A connection that was cut leaves its mount behind.
    const left = number !== undefined && findMount(mountpoint)?.device === number;
    return { how: left ? 'aborted' : 'unmounted' };
  });
  const first = await Promise.race([ready, ended]);
  if (first === 'ready') return { ended };
  throw new ImageError('mount', `${mountpoint}: the mount ended before it could be used (${first.how})`);
}

/** Waits until libfuse has closed the device, and a moment more: it then frees what it holds. */
function endOf(device: number): Promise<void> {
  return new Promise((resolve) => {
    const watch = setInterval(() => {
      if (isFuseDevice(device)) return;
      clearInterval(watch);
      setTimeout(resolve, WATCH_MS);
    }, WATCH_MS);
  });
}
