/**
 * Requests that take long: each is told when it has taken longer than a limit, with what it waits for, and again when
 * it is over. It is seen from outside, in what the workers write down anyway (status.ts).
 */

import type { Report } from '../../image/driver.ts';
import { OPCODES } from './responder.ts';
import type { WorkerStatus } from './status.ts';

export interface Watched {
  readonly status: WorkerStatus;
  /** What the worker waits for: "waits in pread of …". */
  readonly wait: () => string;
}

interface Seen {
  readonly stage: string;
  /** When it was first seen, on the clock of `look`, in milliseconds. */
  readonly at: number;
  /** "disk.raw: READ", once it was told. */
  told?: string;
}

export class SlowRequests {
  readonly #workers: readonly Watched[];
  readonly #nameOf: (node: number) => string;
  readonly #limitMs: number;
  readonly #warn: Report;
  readonly #seen: (Seen | undefined)[] = [];

  /** `nameOf` gives what a node is called, for people. */
  constructor(workers: readonly Watched[], limitMs: number, nameOf: (node: number) => string, warn: Report) {
    this.#workers = workers;
    this.#limitMs = limitMs;
    this.#nameOf = nameOf;
    this.#warn = warn;
  }

  /**
   * To be called a few times in each limit: a request has taken as long as it was seen, which is up to the time between
   * two looks less than it really took. `now` is in milliseconds.
   */
  look(now: number): void {
    for (const [index, { status, wait }] of this.#workers.entries()) {
      const { stage } = status;
      const before = this.#seen[index];
      if (stage === before?.stage) {
        if (before !== undefined && before.told === undefined && now - before.at >= this.#limitMs) {
          before.told = this.#nameOfRequest(status);
          this.#warn(`${before.told} takes longer than ${seconds(this.#limitMs)}: worker ${index} ${wait()}`);
        }
        continue;
      }
      if (before?.told !== undefined) this.#warn(`${before.told} is over, after ${seconds(now - before.at)}`);
      this.#seen[index] = stage === undefined ? undefined : { stage, at: now };
    }
  }

  #nameOfRequest(status: WorkerStatus): string {
    const request = status.unanswered();
    if (request === undefined) return 'a request';
    const { opcode, node } = request;
    return `${this.#nameOf(node)}: ${OPCODES.get(opcode)?.name ?? `opcode ${opcode}`}`;
  }
}

const seconds = (ms: number): string => `${Math.round(ms / 1000)} s`;
