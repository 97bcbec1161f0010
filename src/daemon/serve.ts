/**
 * The life of a mount, from opened images to the last answer: used by the daemon in the background and by
 * `-f` alike.
 */

import { unlinkSync, writeFileSync } from 'node:fs';
import { EBUSY } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { type TreeSeed, timeOf } from '../fuse/tree.ts';
import { PagePool } from '../shared/page-pool.ts';
import { kernelTransport } from '../transport/kernel/session.ts';
import { dismissSpares } from '../transport/kernel/workers.ts';
import { findMount } from '../transport/mountinfo.ts';
import type { Mount, MountEnd, Transport, TransportName } from '../transport/transport.ts';
import type { MountConfig } from './config.ts';
import { holdersOfMount } from './holders.ts';
import { countAllocation, fileSeeds, openImages } from './images.ts';
import type { Log } from './log.ts';
import { mountShape } from './mountpoint.ts';

/** How often a busy mount is tried again after SIGTERM. */
const RETRY_MS = 500;
/** How long a cut connection may take to end before the process ends itself. */
const FORCE_GRACE_MS = 5000;

export interface ServeHooks {
  readonly log: Log;
  /** The mount is usable. */
  readonly ready: () => void;
}

async function transportOf(name: TransportName): Promise<Transport> {
  if (name === 'kernel') return kernelTransport;
  // Started ahead for the kernel transport, before anybody could know.
  dismissSpares();
  return (await import('../transport/fuse-native/adapter.ts')).fuseNativeTransport;
}

/**
 * Opens the images, mounts them and serves until the end. Returns how it ended; throws ImageError where it
 * never began, with nothing left open or mounted.
 */
export async function serveMount(config: MountConfig, hooks: ServeHooks): Promise<MountEnd> {
  const { log } = hooks;
  const shape = mountShape(config, (text) => log.info(text));
  const opened = openImages(config, (text) => log.warn(text));
  let stopCounting = (): void => {};
  try {
    const allocated = new SharedArrayBuffer(opened.length * 8);
    const tree: TreeSeed = {
      shape,
      files: fileSeeds(opened),
      pool: PagePool.seed(config.cacheBytes),
      allocated,
      uid: config.uid,
      gid: config.gid,
      umask: config.umask,
      mounted: timeOf(BigInt(Date.now()) * 1_000_000n),
    };
    stopCounting = countAllocation(opened, allocated, (text) => log.warn(text));
    const transport = await transportOf(config.transport);
    const mount = await transport.mount({
      mountpoint: config.mountpoint,
      tree,
      fsname: config.fsname ?? config.images[0]!,
      allowOther: config.allowOther,
      noexec: config.noexec,
      threads: config.threads,
      trace: config.trace,
      log: {
        debug: (text) => log.debug(text),
        warn: (text) => log.warn(text),
        error: (text) => log.error(text),
      },
    });
    return await whileMounted(mount, config, hooks);
  } finally {
    stopCounting();
    for (const { source } of opened) source.close();
  }
}

async function whileMounted(mount: Mount, config: MountConfig, hooks: ServeHooks): Promise<MountEnd> {
  const { log } = hooks;
  const stopper = new Stopper(mount, config.mountpoint, log);
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const onSignal = (name: NodeJS.Signals): void => stopper.request(name);
  for (const name of signals) process.on(name, onSignal);
  try {
    if (config.pidFile !== undefined) writePidFile(config.pidFile);
    log.info(`mounted ${config.images.join(', ')} on ${config.mountpoint}`);
    hooks.ready();
    const end = await mount.ended;
    if (end.how === 'failed') log.error(end.reason);
    else log.info(`${config.mountpoint}: ${end.how}`);
    return end;
  } catch (problem) {
    mount.unmount('force');
    await mount.ended;
    throw problem;
  } finally {
    stopper.done();
    for (const name of signals) process.off(name, onSignal);
    if (config.pidFile !== undefined) removePidFile(config.pidFile);
  }
}

function writePidFile(path: string): void {
  try {
    writeFileSync(path, `${process.pid}\n`);
  } catch (problem) {
    throw ImageError.from(problem, 'io', 'the pid file cannot be written');
  }
}

function removePidFile(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody was faster, or its directory is gone: the file says nothing any more either way.
  }
}

/** What signals do: the first asks for a clean unmount and keeps asking; the second cuts. */
class Stopper {
  readonly #mount: Mount;
  readonly #mountpoint: string;
  readonly #log: Log;
  #timer: NodeJS.Timeout | undefined;
  #asked = false;
  #told = '';

  constructor(mount: Mount, mountpoint: string, log: Log) {
    this.#mount = mount;
    this.#mountpoint = mountpoint;
    this.#log = log;
  }

  request(signal: string): void {
    if (this.#asked) {
      this.#log.warn(`${signal} again: ${this.#mountpoint} is cut off from whoever uses it`);
      this.done();
      this.#mount.unmount('force');
      // Without fusectl an unprivileged daemon cannot cut the connection but by its own end.
      this.#timer = setTimeout(() => process.kill(process.pid, 'SIGKILL'), FORCE_GRACE_MS);
      this.#timer.unref();
      return;
    }
    this.#asked = true;
    this.#log.info(`${signal}: unmounting ${this.#mountpoint}`);
    this.#try();
  }

  done(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #try(): void {
    const status = this.#mount.unmount('clean');
    if (status === 0) return;
    if (status === -EBUSY) this.#tellWhoHolds();
    else this.#log.error(`${this.#mountpoint}: unmounting failed (errno ${-status})`);
    this.#timer = setTimeout(() => this.#try(), RETRY_MS);
  }

  #tellWhoHolds(): void {
    const entry = findMount(this.#mountpoint);
    const holders = entry === undefined ? [] : holdersOfMount(entry.id, this.#mountpoint);
    const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`;
    if (by === this.#told && by !== '') return;
    this.#told = by;
    this.#log.warn(
      `${this.#mountpoint}: in use${by}; serving goes on until it is released (a second signal cuts it off)`,
    );
  }
}
