/**
 * The kernel transport, seen from the main thread: mount, shake hands, start the workers, and know when the
 * last of them is done. The main thread never reads the device after INIT.
 */

import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { EIO } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import { DEVICE_CLONE, ReplyHeader } from '../../fuse/abi.ts';
import { ioctlWord } from '../../source/syscalls.ts';
import { findMount } from '../mountinfo.ts';
import type { Mount, MountEnd, MountRequest, Transport } from '../transport.ts';
import { shakeHands } from './handshake.ts';
import { type MountedDevice, mountDevice } from './mounter.ts';
import { makeStatus, WorkerStatus } from './status.ts';
import type { WorkerInput, WorkerMessage, WorkerStart } from './worker.ts';

/** Read-ahead that root sets for the mount, in KiB: measured best for sequential reads (see docs/performance.md). */
const READ_AHEAD_KIB = 1024;

/** A worker that dies again and again takes the mount down rather than the machine. */
const MAX_REPLACEMENTS = 16;

const WORKER_LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 256 };

export const kernelTransport: Transport = {
  name: 'kernel',
  async mount(request: MountRequest): Promise<Mount> {
    const session = new Session(request);
    try {
      const mounted = mountDevice(request);
      try {
        const { minor } = shakeHands(mounted.device);
        request.log.debug(`FUSE protocol 7.${minor}, ${request.threads} workers`);
        raiseReadAhead(request.mountpoint);
        await session.serve(mounted);
        return session;
      } catch (problem) {
        mounted.unmount('force');
        throw problem;
      }
    } catch (problem) {
      session.discard();
      throw problem;
    }
  },
};

/** The kernel announces 128 KiB; more is only to be had through sysfs, which takes root. */
function raiseReadAhead(mountpoint: string): void {
  const entry = findMount(mountpoint);
  if (entry === undefined) return;
  try {
    writeFileSync(`/sys/class/bdi/${entry.device}/read_ahead_kb`, `${READ_AHEAD_KIB}`);
  } catch {
    // Not permitted: 128 KiB it stays.
  }
}

class Session implements Mount {
  readonly ended: Promise<MountEnd>;
  readonly #request: MountRequest;
  readonly #status: SharedArrayBuffer;
  readonly #workers = new Map<number, Worker>();
  #mounted: MountedDevice | undefined;
  #devices: readonly number[] = [];
  #serving = 0;
  #discarded = false;
  #replacements = 0;
  #end: MountEnd = { how: 'unmounted' };
  #settle: (end: MountEnd) => void = () => {};
  #begun: (problem?: Error) => void = () => {};

  /** Starts the workers; they wait for `serve`. */
  constructor(request: MountRequest) {
    this.#request = request;
    this.#status = makeStatus(request.threads);
    this.ended = new Promise((resolve) => {
      this.#settle = resolve;
    });
    for (let index = 0; index < request.threads; index += 1) this.#start(index);
  }

  /** Gives the workers the device; returns when all of them serve it. */
  async serve(mounted: MountedDevice): Promise<void> {
    this.#mounted = mounted;
    this.#devices = Array.from({ length: this.#request.threads }, (_, index) =>
      index === 0 ? mounted.device : cloneDevice(mounted.device),
    );
    const begun = new Promise<void>((resolve, reject) => {
      this.#begun = (problem) => (problem === undefined ? resolve() : reject(problem));
    });
    for (const [index, worker] of this.#workers) this.#give(index, worker);
    await begun;
  }

  /** Ends workers that were never given a device. */
  discard(): void {
    this.#discarded = true;
    if (this.#mounted === undefined) for (const worker of this.#workers.values()) void worker.terminate();
  }

  unmount(how: 'clean' | 'force'): number {
    return this.#mounted!.unmount(how);
  }

  #give(index: number, worker: Worker): void {
    const start: WorkerStart = { device: this.#devices[index]! };
    worker.postMessage(start);
  }

  #start(index: number): void {
    const { tree, trace, log } = this.#request;
    const input: WorkerInput = { index, tree, status: this.#status, trace };
    const worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: input,
      resourceLimits: WORKER_LIMITS,
      trackUnmanagedFds: false,
    });
    this.#workers.set(index, worker);
    if (this.#mounted !== undefined) this.#give(index, worker);
    let done = false;
    let fault = 'it ended without a word';
    worker.on('message', (message: WorkerMessage) => {
      if (message.kind === 'serving') {
        this.#serving += 1;
        if (this.#serving === this.#request.threads) this.#begun();
      } else if (message.kind === 'damage') log.warn(message.text);
      else if (message.kind === 'defect') log.error(`internal error, answered with EIO: ${message.text}`);
      else {
        done = true;
        if (message.how === 'aborted') this.#end = { how: 'aborted' };
      }
    });
    worker.on('error', (problem) => {
      fault = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
    });
    worker.on('exit', () => {
      this.#workers.delete(index);
      if (!done && !this.#discarded) this.#replace(index, fault);
      if (this.#workers.size === 0) this.#finish();
    });
  }

  /** Answers for a worker that died, and puts another in its place. */
  #replace(index: number, fault: string): void {
    const { log } = this.#request;
    const status = new WorkerStatus(this.#status, index);
    const left = status.unanswered();
    log.error(`worker ${index} died: ${fault}`);
    if (left !== undefined && this.#mounted !== undefined) {
      answerFailure(this.#devices[index]!, left.low, left.high);
      status.end();
    }
    this.#replacements += 1;
    if (this.#replacements <= MAX_REPLACEMENTS) {
      this.#start(index);
      return;
    }
    const reason = `workers died ${this.#replacements} times, the last one of: ${fault}`;
    this.#end = { how: 'failed', reason };
    this.#begun(new ImageError('bug', reason));
    this.#mounted?.unmount('force');
  }

  #finish(): void {
    for (const device of new Set([...this.#devices, this.#mounted?.device ?? -1])) {
      if (device >= 0) closeSync(device);
    }
    this.#settle(this.#end);
  }
}

/** Another descriptor of the same connection, with a queue of its own; the same one where that is not to be had. */
function cloneDevice(device: number): number {
  let clone: number;
  try {
    clone = openSync('/dev/fuse', 'r+');
  } catch {
    return device;
  }
  if (ioctlWord(clone, DEVICE_CLONE, device) === 0) return clone;
  closeSync(clone);
  return device;
}

function answerFailure(device: number, low: number, high: number): void {
  const reply = Buffer.alloc(ReplyHeader.size);
  reply.writeUInt32LE(reply.length, ReplyHeader.at.len);
  reply.writeInt32LE(-EIO, ReplyHeader.at.error);
  reply.writeUInt32LE(low, ReplyHeader.at.unique);
  reply.writeUInt32LE(high, ReplyHeader.at.unique + 4);
  try {
    writeSync(device, reply);
  } catch {
    // The caller is gone: nobody waits for it.
  }
}
