/** Reads a descriptor as a worker does, until something comes, and counts how often the read was interrupted. */

import { parentPort, workerData } from 'node:worker_threads';
import { EINTR } from '../../../../src/base/errno.ts';
import { directIo } from '../../../../src/source/syscalls.ts';
import { threadNumber } from '../../../../src/transport/kernel/wait.ts';

const { descriptor, count } = workerData as { descriptor: number; count: Int32Array };
const direct = directIo()!;
const bytes = new Uint8Array(4096);
parentPort!.postMessage(threadNumber());
while (direct.read(descriptor, direct.addressOf(bytes), 1) === -EINTR) Atomics.add(count, 0, 1);
