/** The threads of a conversion: this one and its workers. */

import { setImmediate } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { ImageError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import { type ConvertInput, type ConvertMessage, passOf } from './pass.ts';
import { Work } from './work.ts';
import { BUILT, dismissEarly, takeWorkers, workersOf } from './workers.ts';

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

/** This thread's part: between two chunks it does what else it has to, as being told to stop. */
async function takePart(input: ConvertInput): Promise<void> {
  // What may wait for the medium is for the workers.
  const mine = input.kind === 'copy' ? { ...input, writeback: false, stableSeconds: 0 } : input;
  const pass = passOf(mine, () => {});
  while (pass.step()) await setImmediate();
}

export class Crew {
  readonly #threads: number;
  readonly #script: URL;
  #waiting: Worker[];

  /** `script`: the built convert-thread; for tests, which run unbuilt. */
  constructor(threads: number, script: URL = BUILT) {
    this.#threads = threads;
    this.#script = script;
    this.#waiting = takeWorkers(workersOf(threads), script);
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
    const workers =
      this.#waiting.length > 0 ? this.#waiting : takeWorkers(workersOf(this.#threads), this.#script);
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
    const over = workers.map((worker, thread) => {
      worker.ref();
      worker.on('error', (error) => fail(ImageError.from(error, 'bug')));
      worker.postMessage({ ...task, work: seed, thread } satisfies ConvertInput);
      return new Promise<void>((resolve) => {
        worker.on('message', (message: ConvertMessage) => {
          if (message.kind === 'failed') fail(ImageError.fromWire(message.error));
          else if (message.kind === 'stable') options.stable?.(message.upTo);
          else resolve();
        });
        worker.once('exit', () => resolve());
      });
    });
    try {
      if (workers.length < this.#threads) await takePart({ ...task, work: seed, thread: workers.length });
    } catch (error) {
      fail(ImageError.from(error, 'bug'));
    }
    await Promise.all(over);
    clearInterval(timer);
    options.signal.removeEventListener('abort', stop);
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
    const idle = this.#waiting;
    this.#waiting = [];
    await Promise.all([dismissEarly(), ...idle.map((worker) => worker.terminate())]);
  }
}
