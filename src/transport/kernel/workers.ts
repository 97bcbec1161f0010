/**
 * Worker threads, some of them ahead of their use: a daemon starts them while its parent still reads the
 * command line, because loading one takes as long as Node's own start.
 */

import { Worker } from 'node:worker_threads';

/** A request leaves next to nothing behind; the old generation holds the code. */
const LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 256 };

const spares: Worker[] = [];

function startWorker(): Worker {
  return new Worker(new URL('./worker.cjs', import.meta.url), {
    resourceLimits: LIMITS,
    trackUnmanagedFds: false,
  });
}

/** Starts `count` workers that wait for `takeWorker`. */
export function prestartWorkers(count: number): void {
  while (spares.length < count) spares.push(startWorker());
}

/** A worker that waits for its one message. */
export function takeWorker(): Worker {
  return spares.pop() ?? startWorker();
}

/** Ends the workers that nobody took. They wait in their event loop, so they can be ended. */
export function dismissSpares(): void {
  for (const worker of spares.splice(0)) void worker.terminate();
}
