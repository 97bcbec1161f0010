/** The keeper thread (keeper-thread.ts), seen from the main thread. */

import { Worker } from 'node:worker_threads';
import type { TreeSeed } from '../fuse/tree.ts';
import { reportOnce } from '../image/report-once.ts';
import type { KeeperInput, KeeperMessage } from './keeper-thread.ts';
import type { Log } from './log.ts';

const LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 256 };

export class Keeper {
  readonly #worker: Worker;
  readonly #ended: Promise<boolean>;
  #dismissed = false;

  /**
   * `thread` is the keeper's number among the threads of the mount. `died` is called, once, where it ends before it
   * is told to: it may have held locks.
   */
  constructor(tree: TreeSeed, thread: number, log: Log, died: (reason: string) => void) {
    const label = (file: number): string => tree.files[file]!.layers[0].source.label;
    const damaged = reportOnce((text) => log.warn(text));
    this.#worker = new Worker(new URL('./keeper-thread.js', import.meta.url), {
      resourceLimits: LIMITS,
      trackUnmanagedFds: false,
    });
    let clean = false;
    this.#ended = new Promise((resolve) => {
      this.#worker.on('exit', () => {
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
      } else {
        for (const { file, errno } of message.failures) {
          log.error(`${label(file)}: was not left clean (errno ${errno}): what was not flushed may be lost`);
        }
        clean = message.failures.length === 0;
      }
    });
    this.#worker.postMessage({ tree, thread } satisfies KeeperInput);
  }

  /**
   * When no worker serves any more: writes out what is left and leaves the images clean. False where that
   * failed; it was logged.
   */
  close(): Promise<boolean> {
    this.#dismissed = true;
    this.#worker.postMessage('close');
    return this.#ended;
  }

  /** Ends it as it is: the images are not to be touched any more. */
  async abandon(): Promise<void> {
    this.#dismissed = true;
    await this.#worker.terminate();
  }
}
