/** Hashing files and disks: each in two threads of its own (hash-thread.ts), several of them at once. */

import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { ImageError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { Algorithm, Digests } from './algorithms.ts';
import type { HashInput, HashMessage, HashTask } from './hash-thread.ts';
import { Pipe } from './pipe.ts';

const LIMITS = { maxYoungGenerationSizeMb: 8, maxOldGenerationSizeMb: 256 };

/** How often the progress is told. */
const PROGRESS_MS = 250;

/** The digests of one task, or why there are none. */
export type HashOutcome =
  | { readonly digests: Digests; readonly problem?: undefined }
  | { readonly digests?: undefined; readonly problem: ImageError };

export interface HashOptions {
  readonly algorithms: readonly Algorithm[];
  /** Ends it: 'interrupted' is thrown. */
  readonly signal?: AbortSignal | undefined;
  /** Bytes hashed so far, of so many in all. */
  readonly progress?: ((done: ByteCount, total: ByteCount) => void) | undefined;
  /** The built hash-thread; for tests, which run unbuilt. */
  readonly script?: URL | undefined;
}

/** Bytes that go into the hash of a task. */
const sizeOf = (task: HashTask): ByteCount =>
  task.kind === 'disk' ? task.size : new Float64Array(task.source.size)[0]!;

/**
 * Hashes every task, as many at once as there are cores. One that fails does not keep the others from their end.
 * Throws ImageError('interrupted') where the signal comes first: no thread is left then.
 */
export async function hashAll(tasks: readonly HashTask[], options: HashOptions): Promise<HashOutcome[]> {
  const total = tasks.reduce((sum, task) => sum + sizeOf(task), 0);
  const outcomes: HashOutcome[] = [];
  const jobs: Job[] = [];
  const tell = (): void =>
    options.progress?.(
      jobs.reduce((sum, job) => sum + job.hashed, 0),
      total,
    );
  const stop = (): void => {
    for (const job of jobs) job.stop();
  };
  options.signal?.addEventListener('abort', stop);
  const timer = setInterval(tell, PROGRESS_MS);
  const lane = async (): Promise<void> => {
    while (jobs.length < tasks.length && options.signal?.aborted !== true) {
      const index = jobs.length;
      const job = new Job(tasks[index]!, options);
      jobs.push(job);
      outcomes[index] = await job.outcome;
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(tasks.length, availableParallelism()) }, lane));
  } finally {
    clearInterval(timer);
    options.signal?.removeEventListener('abort', stop);
  }
  if (options.signal?.aborted === true) throw new ImageError('interrupted', 'interrupted while hashing');
  tell();
  return outcomes;
}

/** One task and its two threads. */
class Job {
  /** Settled when both threads have ended. Never rejects. */
  readonly outcome: Promise<HashOutcome>;
  readonly #pipe: Pipe;
  readonly #workers: readonly Worker[];
  #digests: Digests | undefined;
  #problem: ImageError | undefined;

  constructor(task: HashTask, { algorithms, script }: HashOptions) {
    const seed = Pipe.seed();
    this.#pipe = new Pipe(seed);
    const size = sizeOf(task);
    this.#workers = (
      [
        { role: 'read', pipe: seed, task },
        { role: 'hash', pipe: seed, algorithms },
      ] satisfies HashInput[]
    ).map((input) => this.#start(input, size, script));
    this.outcome = Promise.all(this.#workers.map((worker) => ended(worker))).then(() => this.#conclude());
  }

  get hashed(): ByteCount {
    return this.#pipe.hashed;
  }

  stop(): void {
    this.#pipe.cut();
  }

  #start(input: HashInput, size: ByteCount, script: URL | undefined): Worker {
    const worker = new Worker(script ?? new URL('./hash-thread.cjs', import.meta.url), {
      resourceLimits: LIMITS,
      trackUnmanagedFds: false,
    });
    const fail = (problem: ImageError): void => {
      this.#problem ??= problem;
      // The other one waits for what will not come.
      this.stop();
    };
    worker.on('error', (problem) => fail(ImageError.from(problem, 'bug')));
    worker.on('message', (message: HashMessage) => {
      if (message.kind === 'failed') fail(ImageError.fromWire(message.error));
      else if (message.bytes === size) this.#digests = message.digests;
      else fail(new ImageError('bug', `${message.bytes} of ${size} bytes were hashed`));
    });
    worker.postMessage(input);
    return worker;
  }

  #conclude(): HashOutcome {
    if (this.#problem !== undefined) return { problem: this.#problem };
    if (this.#digests !== undefined) return { digests: this.#digests };
    return { problem: new ImageError('bug', 'the threads that hash ended without a word') };
  }
}

const ended = (worker: Worker): Promise<void> =>
  new Promise((resolve) => {
    worker.once('exit', () => resolve());
  });
