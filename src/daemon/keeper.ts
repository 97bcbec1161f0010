/** The keeper thread (keeper-thread.ts), seen from the main thread. */

import { Worker } from 'node:worker_threads';
import { EIO } from '../base/errno.ts';
import type { FileSeed, TreeSeed } from '../fuse/tree.ts';
import { reportOnce } from '../image/report-once.ts';
import type { KeeperFailure, KeeperInput, KeeperMessage, KeeperOrder } from './keeper-thread.ts';
import type { Log } from './log.ts';

const LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 256 };

const labelOf = ({ layers: [{ source }] }: FileSeed): string => source.label;

const firstErrno = (failures: readonly KeeperFailure[] | undefined): number =>
  failures === undefined ? EIO : (failures[0]?.errno ?? 0);

export class Keeper {
  readonly #worker: Worker;
  readonly #ended: Promise<boolean>;
  #dismissed = false;
  readonly #labels: Map<number, string>;
  /** Who waits for an answer, in the order of the questions. */
  readonly #waiting: ((failures: readonly KeeperFailure[] | undefined) => void)[] = [];

  /**
   * `thread` is the keeper's number among the threads of the mount. `died` is called, once, where it ends before it
   * is told to: it may have held locks.
   */
  constructor(tree: TreeSeed, thread: number, log: Log, died: (reason: string) => void) {
    this.#labels = new Map(tree.files.map((file, number) => [number, labelOf(file)]));
    const label = (file: number): string => this.#labels.get(file) ?? `file ${file}`;
    const damaged = reportOnce((text) => log.warn(text));
    this.#worker = new Worker(new URL('./keeper-thread.cjs', import.meta.url), {
      resourceLimits: LIMITS,
      trackUnmanagedFds: false,
    });
    let clean = false;
    this.#ended = new Promise((resolve) => {
      this.#worker.on('exit', () => {
        for (const answer of this.#waiting.splice(0)) answer(undefined);
        if (!this.#dismissed) died(`the keeper died: ${fault}`);
        resolve(clean);
      });
    });
    let fault = 'it ended without a word';
    this.#worker.on('error', (problem) => {
      fault = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
      if (this.#dismissed) log.error(`the keeper died: ${fault}`);
    });
    this.#worker.on('message', (message: KeeperMessage) => {
      if (message.kind === 'damage') damaged(message.text);
      else if (message.kind === 'flush-failed') {
        log.error(
          `${label(message.file)}: metadata cannot be written (errno ${message.errno}); trying again`,
        );
      } else if (message.kind !== 'closed') this.#waiting.shift()?.(message.failures);
      else {
        for (const { file, errno } of message.failures) {
          log.error(`${label(file)}: was not left clean (errno ${errno}): what was not flushed may be lost`);
        }
        clean = message.failures.length === 0;
      }
    });
    this.#worker.postMessage({ tree, thread } satisfies KeeperInput);
  }

  #order(order: KeeperOrder): void {
    this.#worker.postMessage(order);
  }

  /** Orders, and waits for the answer: undefined where the thread ended before. */
  #ask(order: KeeperOrder): Promise<readonly KeeperFailure[] | undefined> {
    if (this.#dismissed) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#order(order);
    });
  }

  /** A file joins the mount. */
  join(number: number, file: FileSeed): void {
    this.#labels.set(number, labelOf(file));
    this.#order({ order: 'join', number, file });
  }

  /** Files have left, and nobody works on them any more: leaves their images clean. The errno of the first that is not, or 0. */
  async leave(numbers: readonly number[]): Promise<number> {
    return firstErrno(await this.#ask({ order: 'leave', numbers }));
  }

  /** Makes stable what was written to the files, all of them by default. The errno of the first that failed, or 0. */
  async flush(numbers?: readonly number[]): Promise<number> {
    return firstErrno(await this.#ask({ order: 'flush', numbers }));
  }

  /**
   * When no worker serves any more: writes out what is left and leaves the images clean. False where that
   * failed; it was logged.
   */
  close(): Promise<boolean> {
    this.#dismissed = true;
    this.#order({ order: 'close' });
    return this.#ended;
  }

  /** Ends it as it is: the images are not to be touched any more. */
  async abandon(): Promise<void> {
    this.#dismissed = true;
    await this.#worker.terminate();
  }
}
