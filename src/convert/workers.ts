/**
 * The workers of a conversion, which are started early: loading what they run takes as long as opening the images. So this
 * file imports nothing of that.
 */

import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';

const LIMITS = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64 };

export const BUILT: URL = new URL('./convert-thread.cjs', import.meta.url);

/** More of them wait for one another: writes to one file take turns. */
export const DEFAULT_THREADS: number = Math.max(2, Math.min(4, availableParallelism()));

/**
 * Workers among `threads`: the main thread is one of them. A crew of one is a worker: the main thread may wait for no
 * medium, so that it can be told to stop.
 */
export const workersOf = (threads: number): number => Math.max(1, threads - 1);

let early: Worker[] = [];

/** Starts what the next crew will need, before it is known of how many threads it is to be. */
export function startEarly(script: URL = BUILT): void {
  early = Array.from({ length: workersOf(DEFAULT_THREADS) }, () => started(script));
}

/** So many that wait for what they are told, those first that were started early. */
export function takeWorkers(count: number, script: URL): Worker[] {
  const ready = early.splice(0, count);
  return [...ready, ...Array.from({ length: count - ready.length }, () => started(script))];
}

/** Ends those that nobody took. */
export async function dismissEarly(): Promise<void> {
  const idle = early;
  early = [];
  await Promise.all(idle.map((worker) => worker.terminate()));
}

function started(script: URL): Worker {
  const worker = new Worker(script, { resourceLimits: LIMITS, trackUnmanagedFds: false });
  // Until it is told what to do it keeps nobody from ending.
  worker.unref();
  // One that cannot be started says so again when it is wanted.
  worker.on('error', () => {});
  return worker;
}
