/** The threads of a conversion: started early, since loading them takes as long as opening the images. */

import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { ImageError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { ConvertInput, ConvertMessage } from './convert-thread.ts';
import { Work } from './work.ts';

const LIMITS = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64 };

const BUILT = new URL('./convert-thread.cjs', import.meta.url);

/** More of them wait for one another: writes to one file take turns. */
export const DEFAULT_THREADS: number = Math.max(2, Math.min(4, availableParallelism()));

/** How often the progress is told. */
const PROGRESS_MS = 200;

/** `T` without the members `K`, for each member of a union. */
type Without<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

/** One pass; the crew adds the thread. */
export type Task = Without<ConvertInput, 'thread' | 'work'>;

export interface PassOptions {
  readonly signal: AbortSignal;
  readonly progress?: ((done: ByteCount, total: ByteCount) => void) | undefined;
  /** What was copied below is stable. */
  readonly stable?: ((upTo: number) => void) | undefined;
}

let early: Worker[] = [];

/** Starts what the next crew will need, before it is known of how many threads it is to be. */
export function startEarly(script: URL = BUILT): void {
  early = Array.from({ length: DEFAULT_THREADS }, () => started(script));
}

function started(script: URL): Worker {
  const worker = new Worker(script, { resourceLimits: LIMITS, trackUnmanagedFds: false });
  // Until it is told what to do it keeps nobody from ending.
  worker.unref();
  // One that cannot be started says so again when it is wanted.
  worker.on('error', () => {});
  return worker;
}

export class Crew {
  readonly #threads: number;
  readonly #script: URL;
  #waiting: Worker[];

  /** `script`: the built convert-thread; for tests, which run unbuilt. */
  constructor(threads: number, script: URL = BUILT) {
    this.#threads = threads;
    this.#script = script;
    const ready = early.splice(0, threads);
    this.#waiting = [...ready, ...this.#start(threads - ready.length)];
  }

  #start(count: number): Worker[] {
    return Array.from({ length: Math.max(0, count) }, () => started(this.#script));
  }

  /**
   * Does `task` over a disk of `size` bytes, `from` there on, with all threads. Returns how it ended, also where the
   * signal came first. Throws ImageError where it failed; `ended` is told before in any case.
   */
  async run(
    task: Task,
    size: ByteCount,
    from: number,
    options: PassOptions,
    ended: (work: Work) => void = () => {},
  ): Promise<Work> {
    const seed = Work.seed(this.#threads, size, from);
    const work = new Work(seed);
    const workers = this.#waiting.length > 0 ? this.#waiting : this.#start(this.#threads);
    this.#waiting = [];
    const stop = (): void => work.stop();
    options.signal.addEventListener('abort', stop);
    if (options.signal.aborted) stop();
    const timer = setInterval(() => options.progress?.(work.claimed, size), PROGRESS_MS);
    let problem: ImageError | undefined;
    const fail = (error: ImageError): void => {
      problem ??= error;
      work.stop();
    };
    try {
      await Promise.all(
        workers.map((worker, thread) => {
          worker.ref();
          const over = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
          worker.on('error', (error) => fail(ImageError.from(error, 'bug')));
          worker.on('message', (message: ConvertMessage) => {
            if (message.kind === 'failed') fail(ImageError.fromWire(message.error));
            else options.stable?.(message.upTo);
          });
          worker.postMessage({ ...task, work: seed, thread } satisfies ConvertInput);
          return over;
        }),
      );
    } finally {
      clearInterval(timer);
      options.signal.removeEventListener('abort', stop);
    }
    options.progress?.(work.claimed, size);
    try {
      ended(work);
    } catch (error) {
      fail(ImageError.from(error, 'bug'));
    }
    if (problem !== undefined) throw problem;
    if (!work.isDone && !options.signal.aborted) {
      throw new ImageError('bug', 'the threads of the conversion ended without a word');
    }
    return work;
  }

  /** Ends threads that were never told anything: they are in no native call. */
  async dismiss(): Promise<void> {
    const idle = [...this.#waiting, ...early];
    this.#waiting = [];
    early = [];
    await Promise.all(idle.map((worker) => worker.terminate()));
  }
}
