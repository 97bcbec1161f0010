/**
 * The kernel transport, seen from the main thread: mount, shake hands, start the workers, and know when the
 * last of them is done. The main thread never reads the device after INIT.
 */

import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import type { Worker } from 'node:worker_threads';
import { EIO } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import { DEVICE_CLONE, ReplyHeader } from '../../fuse/abi.ts';
import type { Report } from '../../image/driver.ts';
import { reportOnce } from '../../image/report-once.ts';
import { ioctlWord } from '../../source/syscalls.ts';
import { findMount } from '../mountinfo.ts';
import type { Mount, MountEnd, MountRequest, Transport } from '../transport.ts';
import { shakeHands } from './handshake.ts';
import { type MountedDevice, mountDevice } from './mounter.ts';
import { makeStatus, WorkerStatus } from './status.ts';
import type { WorkerInput, WorkerMessage } from './worker.ts';
import { dismissSpares, takeWorker } from './workers.ts';

/** Read-ahead that root sets for the mount, in KiB; more brings nothing (docs/performance.md). */
const READ_AHEAD_KIB = 1024;

/** A worker that dies again and again takes the mount down rather than the machine. */
const MAX_REPLACEMENTS = 16;

export const kernelTransport: Transport = {
  name: 'kernel',
  async mount(request: MountRequest): Promise<Mount> {
    try {
      const mounted = mountDevice(request);
      try {
        const { minor } = shakeHands(mounted.device);
        request.log.debug(`FUSE protocol 7.${minor}, ${request.threads} workers`);
        raiseReadAhead(request.mountpoint);
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
  /** Fulfilled when every worker is about to read the device. */
  readonly serving: Promise<void>;
  readonly #mounted: MountedDevice;
  readonly #request: MountRequest;
  readonly #status: SharedArrayBuffer;
  /** Each worker tells a damage once: so many times it comes here. */
  readonly #damaged: Report;
  readonly #devices: readonly number[];
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
  }

  unmount(how: 'clean' | 'force'): number {
    return this.#mounted.unmount(how);
  }

  #start(index: number): void {
    const { tree, trace, log } = this.#request;
    const worker: Worker = takeWorker();
    const device = this.#devices[index]!;
    const input: WorkerInput = { index, device, tree, status: this.#status, trace };
    let done = false;
    let fault = 'it ended without a word';
    this.#running += 1;
    worker.on('message', (message: WorkerMessage) => {
      if (message.kind === 'serving') {
        this.#waiting -= 1;
        if (this.#waiting === 0) this.#begin();
      } else if (message.kind === 'damage') this.#damaged(message.text);
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
      this.#running -= 1;
      if (!done) this.#replace(index, fault);
      if (this.#running === 0) this.#finish();
    });
    worker.postMessage(input);
  }

  /** Answers for a worker that died, and puts another in its place. */
  #replace(index: number, fault: string): void {
    const { log } = this.#request;
    const status = new WorkerStatus(this.#status, index);
    const left = status.unanswered();
    log.error(`worker ${index} died: ${fault}`);
    if (left !== undefined) {
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
    this.#refuse(new ImageError('bug', reason));
    this.#mounted.unmount('force');
  }

  #finish(): void {
    for (const device of new Set(this.#devices)) closeSync(device);
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
