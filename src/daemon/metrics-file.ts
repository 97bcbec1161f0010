/** `-o metrics=PATH`: a file that always holds whole, recent statistics, for the node exporter's text collector. */

import { renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { ImageError } from '../base/errors.ts';

const EVERY_MS = 15_000;

export class MetricsFile {
  readonly #path: string;
  readonly #text: () => string;
  readonly #warn: (text: string) => void;
  readonly #timer: NodeJS.Timeout;
  #failing = false;

  /** Writes `text` now and every 15 s, until `close`. Failures are told of once, until one succeeds. */
  constructor(path: string, text: () => string, warn: (text: string) => void) {
    this.#path = path;
    this.#text = text;
    this.#warn = warn;
    this.#timer = setInterval(() => this.#write(), EVERY_MS);
    this.#timer.unref();
    this.#write();
  }

  /** Under another name first (the collector reads "*.prom"): nobody ever reads half of it. */
  #write(): void {
    const draft = `${this.#path}.${process.pid}.tmp`;
    try {
      writeFileSync(draft, this.#text(), { mode: 0o644 });
      renameSync(draft, this.#path);
      this.#failing = false;
    } catch (problem) {
      removeIfThere(draft);
      if (!this.#failing) this.#warn(ImageError.from(problem, 'io', 'metrics cannot be written').message);
      this.#failing = true;
    }
  }

  /** The mount has ended: what was counted is nobody's any more. */
  close(): void {
    clearInterval(this.#timer);
    removeIfThere(this.#path);
  }
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It never was, or somebody else removed it.
  }
}
