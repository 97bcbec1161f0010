/** How far a command is, and its end by a signal: for every command that may take longer than a moment. */

import type { Argv } from 'yargs';
import type { ByteCount } from '../base/units.ts';
import { progressText } from '../evidence/progress.ts';
import { ProgressLine } from './progress-line.ts';

/** Five of them in a second are enough for the eye. */
const PROGRESS_MS = 200;

const MODES = ['auto', 'json', 'none'] as const;
/**
 * - auto: a line on a terminal, nothing elsewhere.
 * - json: lines of JSON on standard error.
 */
export type ProgressMode = (typeof MODES)[number];

/** Adds --progress to a command. */
export function takeProgress(command: Argv): Argv {
  return command.option('progress', {
    choices: MODES,
    default: 'auto',
    describe: 'how far it is: a line on a terminal (auto), JSON lines on stderr, or nothing',
  });
}

export const progressMode = (parsed: Record<string, unknown>): ProgressMode =>
  (parsed['progress'] ?? 'auto') as ProgressMode;

/** Tells how far one thing is. */
export class Progress {
  readonly #line: ProgressLine | undefined;
  readonly #json: boolean;
  readonly #doing: string;
  readonly #begun = performance.now();
  #told = this.#begun;
  #last = { done: 0, total: 0 };

  /** `doing`: "converting". */
  constructor(mode: ProgressMode, doing: string) {
    this.#json = mode === 'json';
    this.#line = mode === 'auto' && process.stderr.isTTY === true ? new ProgressLine('vdisk') : undefined;
    this.#doing = doing;
  }

  /** Whether anybody is told anything. */
  get isShown(): boolean {
    return this.#json || this.#line !== undefined;
  }

  /** As often as one likes; bound to this. */
  readonly update = (done: ByteCount, total: ByteCount): void => {
    this.#last = { done, total };
    const now = performance.now();
    if (now < this.#told + PROGRESS_MS) return;
    this.#told = now;
    this.#tell(now - this.#begun);
  };

  #tell(elapsed: number): void {
    const { done, total } = this.#last;
    this.#line?.show(progressText(done, total, elapsed, this.#doing));
    if (!this.#json) return;
    const rate = elapsed <= 0 ? 0 : (done * 1000) / elapsed;
    const progress = {
      doing: this.#doing,
      done,
      total,
      'bytes-per-second': Math.round(rate),
      'seconds-left': rate === 0 ? null : Math.ceil(Math.max(0, total - done) / rate),
    };
    process.stderr.write(`${JSON.stringify({ progress })}\n`);
  }

  /** Before anything else is said. Programs are told the last state too. */
  end(): void {
    this.#line?.clear();
    if (this.#json) this.#tell(performance.now() - this.#begun);
  }
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs `work` with a signal that is aborted, the name of the signal as reason, where the user wants it to end. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const onSignal = (signal: string): void => stop.abort(signal);
  for (const signal of SIGNALS) process.once(signal, onSignal);
  try {
    return await work(stop.signal);
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal);
  }
}
