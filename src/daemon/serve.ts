/**
 * The life of a mount, from opened images to the last answer: used by the daemon in the background and by
 * `-f` alike.
 */

import { writeFileSync } from 'node:fs';
import { ImageError } from '../base/errors.ts';
import { Counters } from '../fuse/counters.ts';
import { isWritable, type TreeSeed, timeOf } from '../fuse/tree.ts';
import { IoGate } from '../shared/io-gate.ts';
import { PagePool } from '../shared/page-pool.ts';
import { kernelTransport } from '../transport/kernel/session.ts';
import { dismissSpares } from '../transport/kernel/workers.ts';
import type { Mount, MountEnd, MountRequest, Transport, TransportName } from '../transport/transport.ts';
import type { MountConfig } from './config.ts';
import { closeImages, countAllocation, fileSeeds, type OpenedImage, openImages } from './images.ts';
import { Keeper } from './keeper.ts';
import type { Log } from './log.ts';
import { mountShape } from './mountpoint.ts';
import { removePidFile, Stopper } from './stopper.ts';

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
 * never began, with nothing left open or mounted: 'interrupted' where a signal kept it from beginning.
 */
export async function serveMount(config: MountConfig, hooks: ServeHooks): Promise<MountEnd> {
  const { log } = hooks;
  // What ps and the holders in our own messages show: not "node".
  process.title = 'vdisk-mount';
  const stopper = new Stopper(config, log);
  let opened: readonly OpenedImage[] = [];
  let stopCounting = (): void => {};
  try {
    const shape = mountShape(config, (text) => log.info(text));
    opened = openImages(config, (text) => log.warn(text));
    const allocated = new SharedArrayBuffer(opened.length * 8);
    stopCounting = countAllocation(opened, allocated, (text) => log.warn(text));
    const transport = await transportOf(config.transport);
    const request = mountRequest(config, hooks, shape, opened, allocated);
    const mount = await transport.mount(request);
    if (stopper.interruptedBy !== undefined) {
      mount.unmount('force');
      await mount.ended;
      throw new ImageError('interrupted', stopper.interruptedBy);
    }
    stopper.watch(mount);
    const { tree, threads } = request;
    const keeper = isWritable(tree)
      ? new Keeper(tree, threads, log, (reason) => mount.abandon(reason))
      : undefined;
    const [outcome] = await Promise.allSettled([whileMounted(mount, config, hooks)]);
    const end = outcome.status === 'fulfilled' ? outcome.value : undefined;
    if (end?.how === 'failed' && end.abandoned === true) {
      await keeper?.abandon();
      return end;
    }
    const clean = keeper === undefined || (await keeper.close());
    if (outcome.status === 'rejected') throw outcome.reason;
    return clean ? outcome.value : { how: 'failed', reason: 'an image was not left clean' };
  } catch (problem) {
    // Whatever failed: the signal is why, or was first.
    const signal = stopper.interruptedBy;
    throw signal === undefined ? problem : new ImageError('interrupted', `${signal}: nothing was mounted`);
  } finally {
    stopCounting();
    stopper.close();
    closeImages(opened);
  }
}

function mountRequest(
  config: MountConfig,
  { log }: ServeHooks,
  shape: TreeSeed['shape'],
  opened: readonly OpenedImage[],
  allocated: SharedArrayBuffer,
): MountRequest {
  return {
    mountpoint: config.mountpoint,
    tree: {
      shape,
      files: fileSeeds(opened),
      pool: PagePool.seed(config.cacheBytes),
      allocated,
      gate: IoGate.seed(config.threads + 2),
      times: new SharedArrayBuffer(opened.length * 24),
      counters: Counters.seed(config.threads + 2, opened.length),
      sync: config.sync,
      uid: config.uid,
      gid: config.gid,
      umask: config.umask,
      mounted: timeOf(BigInt(Date.now()) * 1_000_000n),
    },
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
  };
}

async function whileMounted(mount: Mount, config: MountConfig, hooks: ServeHooks): Promise<MountEnd> {
  const { log } = hooks;
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
    removePidFile(config);
  }
}

function writePidFile(path: string): void {
  try {
    writeFileSync(path, `${process.pid}\n`);
  } catch (problem) {
    throw ImageError.from(problem, 'io', 'the pid file cannot be written');
  }
}
