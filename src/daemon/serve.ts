/**
 * The life of a mount, from opened images to the last answer: used by the daemon in the background and by
 * `-f` alike.
 */

import { writeFileSync } from 'node:fs';
import { ImageError } from '../base/errors.ts';
import type { Ended, LogLevel } from '../control/protocol.ts';
import { Custody, type HashControl } from '../evidence/custody.ts';
import { progressTo } from '../evidence/progress.ts';
import { SPARE_SLOTS } from '../fuse/members.ts';
import { FileTimes, timeOf } from '../fuse/times.ts';
import { isWritable, slotsFor, type TreeSeed } from '../fuse/tree.ts';
import { IoGate } from '../shared/io-gate.ts';
import { PagePool } from '../shared/page-pool.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { kernelTransport } from '../transport/kernel/session.ts';
import { dismissSpares } from '../transport/kernel/workers.ts';
import type { Mount, MountEnd, MountRequest, Transport, TransportName } from '../transport/transport.ts';
import type { MountConfig } from './config.ts';
import {
  closeImages,
  countAllocation,
  type ExposedFile,
  exposedFiles,
  exposedNames,
  fileSeeds,
  type OpenedImage,
  openImages,
} from './images.ts';
import { Keeper } from './keeper.ts';
import { Live } from './live.ts';
import type { Log } from './log.ts';
import { keepRecord } from './mount-record.ts';
import { mountShape } from './mountpoint.ts';
import { ServiceManager } from './notify.ts';
import { withPartitions } from './partitions.ts';
import { removePidFile, Stopper } from './stopper.ts';
import { visibilityNote } from './visibility.ts';

export interface ServeHooks {
  readonly log: Log;
  /** Sets how much is logged; gives what it was. */
  readonly setLogLevel: (level: LogLevel) => string;
  /** The mount is usable. */
  readonly ready: () => void;
  /** How far hashing is: called often, where evidence is hashed and somebody watches. */
  readonly progress?: (text: string) => void;
}

async function transportOf(name: TransportName): Promise<Transport> {
  if (name === 'kernel') return kernelTransport;
  // Started ahead for the kernel transport, before anybody could know.
  dismissSpares();
  return (await import('../transport/fuse-native/adapter.ts')).fuseNativeTransport;
}

/**
 * Opens the images, mounts them and serves until the end. Returns how it ended; throws ImageError where it
 * never began, with nothing left open or mounted: 'interrupted' where a signal kept it from beginning. Evidence is
 * compared at the end: 'changed' where it is not what it was.
 */
export async function serveMount(config: MountConfig, given: ServeHooks): Promise<MountEnd> {
  let hooks = given;
  // What ps and the holders in our own messages show: not "node".
  process.title = 'vdisk-mount';
  const manager = new ServiceManager();
  const stopper = new Stopper(config, given.log, (status) => manager.status(status));
  let opened: OpenedImage[] = [];
  let live: Live | undefined;
  let ended: Ended = { how: 'failed', clean: false };
  let custody: Custody | undefined;
  let stopCounting = (): void => {};
  let conclude: (failure: string | undefined) => void = () => {};
  let failure: string | undefined;
  try {
    const shape = mountShape(config, (text) => given.log.info(text));
    custody = custodyOf(config, given.log);
    if (custody !== undefined) hooks = { ...given, log: notedLog(given.log, custody) };
    const { log } = hooks;
    const noAtime = custody !== undefined;
    manager.opening(`opening ${config.images.join(', ')}`);
    const tables = new TableAllocator();
    opened = openImages({ ...config, noAtime }, (text) => log.warn(text), tables);
    const files = exposedFiles(opened, config.layers);
    const allocated = new SharedArrayBuffer((files.length + SPARE_SLOTS) * 8);
    stopCounting = countAllocation(files, allocated, (text) => log.warn(text));
    const transport = await transportOf(config.transport);
    const request = mountRequest(config, hooks, shape, opened, files, allocated);
    if (custody !== undefined) manager.atWork('hashing the evidence');
    await custody?.take(heldImages(opened), request.tree.pool, hashControl(config, given, stopper));
    const mount = await transport.mount(request);
    if (stopper.interruptedBy !== undefined) {
      mount.unmount('force');
      await mount.ended;
      throw new ImageError('interrupted', stopper.interruptedBy);
    }
    stopper.watch(mount);
    conclude = keepRecord(config.mountpoint);
    custody?.served();
    const { tree, threads } = request;
    const keeper = isWritable(tree)
      ? new Keeper(tree, threads, log, (reason) => mount.abandon(reason))
      : undefined;
    const { setLogLevel } = hooks;
    live = await Live.begin({ config, tree, tables, keeper, mount, log, setLogLevel }, opened, files);
    const [outcome] = await Promise.allSettled([whileMounted(mount, config, hooks, manager)]);
    manager.stopping('unmounted; the images are being written out');
    const end = outcome.status === 'fulfilled' ? outcome.value : undefined;
    if (end?.how === 'failed') failure = end.reason;
    if (end !== undefined) ended = { ...end, clean: false };
    if (end?.how === 'failed' && end.abandoned === true) {
      await keeper?.abandon();
      return end;
    }
    const clean = keeper === undefined || (await keeper.close());
    ended = { ...ended, clean };
    if (!clean) failure = 'an image was not left clean';
    if (custody !== undefined) {
      manager.atWork('unmounted; the evidence is being compared with what it was');
      stopper.beginLastWork('the evidence is being compared with what it was');
      await custody.close(end?.how ?? 'failed', hashControl(config, given, stopper));
    }
    if (outcome.status === 'rejected') throw outcome.reason;
    return clean ? outcome.value : { how: 'failed', reason: failure! };
  } catch (problem) {
    failure = ImageError.from(problem, 'bug').message;
    // Whatever failed: the signal is why, or was first.
    const signal = stopper.interruptedBy;
    throw signal === undefined ? problem : new ImageError('interrupted', `${signal}: nothing was mounted`);
  } finally {
    stopCounting();
    stopper.close();
    custody?.drop();
    closeImages(opened);
    live?.end(ended);
    conclude(failure);
    manager.status(failure ?? 'ended');
    manager.close();
  }
}

function custodyOf(config: MountConfig, log: Log): Custody | undefined {
  if (config.evidence === undefined) return undefined;
  return new Custody(config.evidence, {
    mountpoint: config.mountpoint,
    'mount-options': ['ro', 'noexec', 'nodev', 'nosuid'],
    'opened-with': {
      ...(config.format === undefined ? {} : { format: config.format }),
      'format-options': config.formatOptions,
      'force-parent': config.chain.force,
      locks: config.lock,
    },
    sideFiles: [config.logFile, config.pidFile, config.metrics].filter((path) => path !== undefined),
    log: { warn: (text) => log.warn(text), error: (text) => log.error(text) },
  });
}

/** A log whose warnings and errors are noted in the record. */
function notedLog(log: Log, custody: Custody): Log {
  const noting = (say: (text: string) => void) => ({
    value: (text: string) => {
      custody.note(text);
      say(text);
    },
  });
  return Object.create(log, {
    warn: noting((text) => log.warn(text)),
    error: noting((text) => log.error(text)),
  }) as Log;
}

function heldImages(opened: readonly OpenedImage[]) {
  const names = exposedNames(opened.map(({ path }) => path));
  return opened.map((top, index) => ({ name: names[index]!, layers: [top, ...top.parents] as const }));
}

function hashControl(config: MountConfig, { progress }: ServeHooks, stopper: Stopper): HashControl {
  const watched = progress !== undefined && config.evidence?.watched === true;
  return { signal: stopper.cancelled, progress: watched ? progressTo(progress) : undefined };
}

function mountRequest(
  config: MountConfig,
  { log }: ServeHooks,
  shape: TreeSeed['shape'],
  opened: readonly OpenedImage[],
  files: readonly ExposedFile[],
  allocated: SharedArrayBuffer,
): MountRequest {
  const tree: TreeSeed = {
    shape,
    files: fileSeeds(files),
    windows: [],
    partitions: false,
    pool: PagePool.seed(config.cacheBytes),
    allocated,
    gate: IoGate.seed(config.threads + 2),
    times: FileTimes.seed(files.length + SPARE_SLOTS),
    ...slotsFor(config.threads, files.length),
    sync: config.sync,
    uid: config.uid,
    gid: config.gid,
    umask: config.umask,
    mounted: timeOf(BigInt(Date.now()) * 1_000_000n),
  };
  // Of the images themselves: what their parents hold is another time's.
  const disks = files.flatMap(({ layers: [top], shown: { image, path } }, file) =>
    opened.includes(top as OpenedImage) ? [{ file, image, path }] : [],
  );
  return {
    mountpoint: config.mountpoint,
    tree: config.partitions ? withPartitions(tree, disks, config.threads, (text) => log.warn(text)) : tree,
    fsname: config.fsname ?? config.images[0]!,
    allowOther: config.allowOther,
    noexec: config.noexec,
    netdev: config.netdev === true,
    threads: config.threads,
    trace: config.trace,
    log: {
      debug: (text) => log.debug(text),
      warn: (text) => log.warn(text),
      error: (text) => log.error(text),
    },
  };
}

async function whileMounted(
  mount: Mount,
  config: MountConfig,
  hooks: ServeHooks,
  manager: ServiceManager,
): Promise<MountEnd> {
  const { log } = hooks;
  try {
    if (config.pidFile !== undefined) writePidFile(config.pidFile);
    log.info(`mounted ${config.images.join(', ')} on ${config.mountpoint}`);
    const note = visibilityNote(config);
    if (note !== undefined) log.info({ hint: note.hint }, note.text);
    hooks.ready();
    manager.ready(`${config.images.join(', ')} on ${config.mountpoint}`, () => mount.isAnswering());
    const end = await mount.ended;
    if (end.how === 'failed') log.error(end.reason);
    else if (end.how === 'unmounted') log.info(`${config.mountpoint}: unmounted`);
    else
      log.warn(`${config.mountpoint}: cut off while in use; what the kernel had yet to write back is lost`);
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
