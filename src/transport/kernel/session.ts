/**
 * The kernel transport, seen from the main thread: mount, shake hands, start the workers, and know when the
 * last of them is done. The main thread never reads the device after INIT.
 */

import { closeSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { ImageError } from '../../base/errors.ts';
import { ROOT_NODE } from '../../fuse/abi.ts';
import { Members } from '../../fuse/members.ts';
import { isWritable, namesOf, type TreeChange } from '../../fuse/tree.ts';
import type { Report } from '../../image/driver.ts';
import { reportOnce } from '../../image/report-once.ts';
import { findMount } from '../mountinfo.ts';
import type { LiveTree, Mount, MountEnd, MountRequest, Transport } from '../transport.ts';
import { answerFailure, cloneDevice, hasFileSystem } from './device.ts';
import { shakeHands } from './handshake.ts';
import { type MountedDevice, mountDevice } from './mounter.ts';
import { deletedNotice, forgetNotice, pagesNotice } from './notices.ts';
import { PastEnd } from './past-end.ts';
import { SlowRequests } from './slow.ts';
import { makeStatus, WorkerStatus } from './status.ts';
import { waitOf } from './wait.ts';
import { wake } from './wake.ts';
import type { NoticeInput, WorkerInput, WorkerMessage } from './worker.ts';
import { dismissSpares, takeWorker } from './workers.ts';

/** Read-ahead that root sets for the mount, in KiB; more brings nothing (docs/performance.md). */
const READ_AHEAD_KIB = 1024;

/**
 * How much of the memory that may be dirty at all root lets the mount have, in percent. FUSE mounts get 1, and a
 * limit of their own that holds also while there is room (mm/page-writeback.c, BDI_CAP_STRICTLIMIT): that guards
 * against daemons that never write anything back.
 */
const DIRTY_PERCENT = 50;

/** A worker that dies again and again takes the mount down rather than the machine. */
const MAX_REPLACEMENTS = 16;

/** How often it is looked whether the workers follow. */
const PASS_MS = 1;

/** So long the thread that sends notifications stays for the next one. */
const NOTIFIER_MS = 1000;

/** How long workers get to see that the mount is over before they are ended. */
const ABANDON_MS = 1000;

export const kernelTransport: Transport = {
  name: 'kernel',
  async mount(request: MountRequest): Promise<Mount> {
    try {
      const mounted = mountDevice(request);
      try {
        const { minor } = shakeHands(mounted.device, request.tree);
        request.log.debug(`FUSE protocol 7.${minor}, ${request.threads} workers`);
        raiseLimits(request.mountpoint, isWritable(request.tree));
        const session = new Session(mounted, request);
        await session.serving;
        return session;
      } catch (problem) {
        mounted.unmount('force');
        throw problem;
      }
    } finally {
      dismissSpares();
    }
  },
};

/**
 * What is only to be had through sysfs, which takes root: more read-ahead than the 128 KiB that the kernel
 * announces; and for writing, more of the page cache. `strict_limit` is there from Linux 6.2 on.
 */
function raiseLimits(mountpoint: string, writable: boolean): void {
  const entry = findMount(mountpoint);
  if (entry === undefined) return;
  const set = (name: string, value: number): void => {
    try {
      writeFileSync(`/sys/class/bdi/${entry.device}/${name}`, `${value}`);
    } catch {
      // Not permitted, or not there: it stays as it is.
    }
  };
  set('read_ahead_kb', READ_AHEAD_KIB);
  if (!writable) return;
  set('max_ratio', DIRTY_PERCENT);
  set('strict_limit', 0);
}

/** A request that takes longer is told, and how often it is looked. */
const SLOW_MS = 10_000;
const SLOW_LOOK_MS = SLOW_MS / 4;

/** A thread that sends notifications. */
interface Notifier {
  readonly worker: Worker;
  /** Who waits for each of those that are under way, in order. */
  readonly waiting: (() => void)[];
  idle: NodeJS.Timeout | undefined;
}

class Session implements Mount, LiveTree {
  readonly ended: Promise<MountEnd>;
  /** Fulfilled when every worker is about to read the device. */
  readonly serving: Promise<void>;
  readonly #mounted: MountedDevice;
  readonly #request: MountRequest;
  readonly #status: SharedArrayBuffer;
  /** Of each worker; one that takes another's place goes on with its. */
  readonly #statuses: readonly WorkerStatus[];
  readonly #pastEnd: SharedArrayBuffer;
  readonly #members: Members;
  /** What has changed since the tree was made: workers that are started later get it first. */
  #changes: TreeChange[] = [];
  readonly #names: Map<number, string>;
  /** Each worker tells a damage once: so many times it comes here. */
  readonly #damaged: Report;
  readonly #devices: readonly number[];
  readonly #workers = new Set<Worker>();
  /** What each worker was in at the last look of `isAnswering`. */
  #seen: readonly (string | undefined)[] = [];
  /** The number of each worker's thread. */
  readonly #threads: (number | undefined)[] = [];
  readonly #slow: NodeJS.Timeout;
  #notifier: Notifier | undefined;
  #running = 0;
  #waiting: number;
  #replacements = 0;
  #end: MountEnd = { how: 'unmounted' };
  #settle: (end: MountEnd) => void = () => {};
  #begin: () => void = () => {};
  #refuse: (problem: Error) => void = () => {};

  constructor(mounted: MountedDevice, request: MountRequest) {
    this.#mounted = mounted;
    this.#request = request;
    this.#status = makeStatus(request.threads);
    this.#statuses = Array.from({ length: request.threads }, (_, at) => new WorkerStatus(this.#status, at));
    this.#members = new Members(request.tree.members);
    this.#pastEnd = PastEnd.seed(this.#members.capacity);
    // The root has no name.
    const names = request.tree.shape === 'file' ? [] : namesOf(request.tree);
    this.#names = new Map(names.map((name, at) => [ROOT_NODE + 1 + at, name]));
    this.#damaged = reportOnce(request.log.warn);
    this.#waiting = request.threads;
    this.#devices = Array.from({ length: request.threads }, (_, index) =>
      index === 0 ? mounted.device : cloneDevice(mounted.device),
    );
    this.ended = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.serving = new Promise((resolve, reject) => {
      this.#begin = resolve;
      this.#refuse = reject;
    });
    for (let index = 0; index < request.threads; index += 1) this.#start(index);
    this.#slow = this.#watchSlow();
  }

  #watchSlow(): NodeJS.Timeout {
    const { log, mountpoint } = this.#request;
    const workers = this.#statuses.map((status, index) => ({
      status,
      wait: () => waitOf(this.#threads[index]),
    }));
    const slow = new SlowRequests(workers, SLOW_MS, (node) => this.#names.get(node) ?? mountpoint, log.warn);
    return setInterval(() => slow.look(performance.now()), SLOW_LOOK_MS).unref();
  }

  unmount(how: 'clean' | 'force'): number {
    const status = this.#mounted.unmount(how);
    if (status === 0 && how === 'force' && this.#end.how === 'unmounted') this.#end = { how: 'aborted' };
    return status;
  }

  stop(): boolean {
    const all = [...this.#statuses.keys()];
    if (!this.#isStopped) {
      const repeat = setInterval(() => this.#wake(all), PASS_MS);
      void this.ended.then(() => clearInterval(repeat));
    }
    for (const status of this.#statuses) status.stop();
    return this.#wake(all);
  }

  get #isStopped(): boolean {
    return this.#statuses[0]!.isStopped;
  }

  isAnswering(): boolean {
    const before = this.#seen;
    this.#seen = this.#statuses.map(({ stage }) => stage);
    return this.#seen.some((stage, index) => stage === undefined || stage !== before[index]);
  }

  get live(): LiveTree {
    return this;
  }

  async change(change: TreeChange): Promise<void> {
    if (change.kind === 'join') {
      const parts = change.windows.map(({ slot, node, part: { name } }) => ({ slot, node, name }));
      for (const { slot, node, name } of [{ ...change, name: change.file.name }, ...parts]) {
        new PastEnd(this.#pastEnd).settled(slot);
        this.#names.set(node, name);
      }
    }
    this.#changes = following(this.#changes, change);
    for (const worker of this.#workers) worker.postMessage(change);
    this.#members.announce();
    await this.#followed(this.#members.generation);
  }

  /**
   * Fulfilled when every worker answers by that generation of the tree. Those that wait for requests are woken: else they
   * would keep what has left until somebody reads, and the messages of all that came and went meanwhile.
   */
  async #followed(generation: number): Promise<void> {
    while (this.#workers.size > 0) {
      const behind = [...this.#statuses.keys()].filter(
        (index) => !this.#statuses[index]!.follows(generation),
      );
      // One that cannot be woken follows before it answers anything.
      if (behind.length === 0 || !this.#wake(behind)) return;
      await delay(PASS_MS);
    }
  }

  /**
   * Wakes those of these workers that wait for requests. To be called again until they have done what they are woken for: a
   * signal that comes just before the read is for nothing. False where none can be woken, and none will come to it by itself.
   */
  #wake(workers: readonly number[]): boolean {
    const idle = workers.filter((index) => !this.#statuses[index]!.isBusy);
    const woken = idle.filter((index) => wake(this.#threads[index]));
    return woken.length > 0 || idle.length < workers.length;
  }

  async forgetName(name: string, node: number): Promise<void> {
    this.#names.delete(node);
    await this.#notify(deletedNotice(name, node));
  }

  async forgetPages(node: number): Promise<void> {
    await this.#notify(pagesNotice(node));
  }

  #start(index: number): void {
    const { tree, trace, log } = this.#request;
    const worker: Worker = takeWorker();
    const device = this.#devices[index]!;
    const status = this.#status;
    const changes = this.#changes;
    const { generation } = this.#members;
    const pastEnd = this.#pastEnd;
    const input: WorkerInput = { index, device, tree, changes, generation, status, pastEnd, trace };
    this.#workers.add(worker);
    let done = false;
    let fault = 'it ended without a word';
    this.#running += 1;
    worker.on('message', (message: WorkerMessage) => {
      if (message.kind === 'serving') {
        this.#threads[index] = message.thread;
        this.#waiting -= 1;
        if (this.#waiting === 0) this.#begin();
      } else if (message.kind === 'outgrown') this.#forget(message.node);
      else if (message.kind === 'damage') this.#damaged(message.text);
      else if (message.kind === 'defect') log.error(`internal error, answered with EIO: ${message.text}`);
      else if (message.kind === 'ended') done = true;
    });
    worker.on('error', (problem) => {
      fault = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
    });
    worker.on('exit', () => {
      this.#workers.delete(worker);
      this.#running -= 1;
      if (!done && this.#end.how !== 'failed') this.#replace(index, fault);
      if (this.#workers.size === 0) this.#dismissNotifier();
      if (this.#running === 0) this.#finish();
    });
    worker.postMessage(input);
  }

  /**
   * Makes the kernel forget the name of a file. From a thread of its own: it waits for lookups that the workers
   * have yet to answer, and this thread must be there for a worker that dies.
   */
  #forget(node: number): void {
    const name = this.#names.get(node);
    // The root has no name: its size stays wrong until it is truncated to what it was.
    if (name === undefined) return;
    this.#damaged(`${name}: somebody wrote past the end of the disk`);
    void this.#notify(forgetNotice(name));
  }

  /** Sends a notification that may have to wait for the workers. Fulfilled when it was sent, or could not be. */
  #notify(notice: Uint8Array): Promise<void> {
    if (this.#workers.size === 0) return Promise.resolve();
    this.#notifier ??= this.#startNotifier();
    this.#notifier.worker.postMessage({ device: this.#devices[0]!, notice } satisfies NoticeInput);
    return new Promise((resolve) => this.#notifier!.waiting.push(resolve));
  }

  #startNotifier(): Notifier {
    const notifier: Notifier = { worker: takeWorker(), waiting: [], idle: undefined };
    const { worker, waiting } = notifier;
    this.#running += 1;
    worker.on('message', ({ kind }: WorkerMessage) => {
      if (kind !== 'notified') return;
      clearTimeout(notifier.idle);
      waiting.shift()?.();
      if (waiting.length > 0) return;
      if (this.#workers.size === 0) this.#dismissNotifier();
      else notifier.idle = setTimeout(() => this.#dismissNotifier(), NOTIFIER_MS);
    });
    worker.on('error', (problem) => this.#request.log.error(`a notification failed: ${String(problem)}`));
    worker.on('exit', () => {
      if (this.#notifier === notifier) this.#notifier = undefined;
      for (const resolve of waiting.splice(0)) resolve();
      this.#running -= 1;
      if (this.#running === 0) this.#finish();
    });
    return notifier;
  }

  /** Ends the thread that sends notifications, unless it is at one: that one ends with the mount. */
  #dismissNotifier(): void {
    const notifier = this.#notifier;
    if (notifier === undefined || notifier.waiting.length > 0) return;
    clearTimeout(notifier.idle);
    this.#notifier = undefined;
    void notifier.worker.terminate();
  }

  /** Answers for a worker that died, and puts another in its place. */
  #replace(index: number, fault: string): void {
    const { log } = this.#request;
    const status = this.#statuses[index]!;
    const left = status.unanswered();
    log.error(`worker ${index} died: ${fault}`);
    if (left !== undefined) {
      answerFailure(this.#devices[index]!, left.low, left.high);
      status.end();
    }
    if (left !== undefined && isWritable(this.#request.tree)) {
      this.abandon(`worker ${index} died in a request, of: ${fault}`);
      return;
    }
    this.#replacements += 1;
    if (this.#replacements <= MAX_REPLACEMENTS) {
      this.#start(index);
      return;
    }
    const reason = `workers died ${this.#replacements} times, the last one of: ${fault}`;
    this.#end = { how: 'failed', reason };
    this.#refuse(new ImageError('bug', reason));
    this.#cut();
  }

  #cut(): void {
    if (this.#mounted.unmount('force') < 0) this.stop();
  }

  abandon(reason: string): void {
    this.#end = { how: 'failed', reason, abandoned: true };
    this.#refuse(new ImageError('bug', reason));
    this.#cut();
    // Those that wait for a lock of the dead one never come back to the device.
    const timer = setTimeout(() => {
      for (const worker of this.#workers) void worker.terminate();
    }, ABANDON_MS);
    timer.unref();
  }

  #finish(): void {
    clearInterval(this.#slow);
    // Somebody cut it, by umount -f of a mount in use, through sysfs or by `stop`: it is still there, of no use to anybody.
    const left = hasFileSystem(this.#devices[0]!) && (this.#mounted.clear() || this.#isStopped);
    if (left && this.#end.how === 'unmounted') this.#end = { how: 'aborted' };
    for (const device of new Set(this.#devices)) closeSync(device);
    this.#settle(this.#end);
  }
}

/** `changes`, and then `change`: what joined and left again is in none of them. */
function following(changes: readonly TreeChange[], change: TreeChange): TreeChange[] {
  if (change.kind === 'join') return [...changes, change];
  const joined = (slot: number): boolean =>
    changes.some((one) => one.kind === 'join' && [one, ...one.windows].some((file) => file.slot === slot));
  const slots = change.slots.filter((slot) => !joined(slot));
  const kept = changes.filter((one) => one.kind !== 'join' || !change.slots.includes(one.slot));
  return slots.length === 0 ? kept : [...kept, { kind: 'leave', slots }];
}
