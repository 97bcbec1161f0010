/** What looking an image through for damage finds: the collector that every format's `check` fills. */

import type { ByteCount } from '../base/units.ts';

/**
 * - error: reading gives wrong data or none, or writing would destroy something.
 * - leak: host space that nothing uses; harmless.
 * - warning: against the letter of the format, without consequence for the data.
 */
export type Severity = 'error' | 'leak' | 'warning';

export interface Finding {
  readonly severity: Severity;
  /** The object, the place, what is expected and what was found. */
  readonly text: string;
}

export interface CheckReport {
  /** The first MAX_FINDINGS of them. */
  readonly findings: readonly Finding[];
  readonly errors: number;
  readonly leaks: number;
  readonly leakedBytes: ByteCount;
  readonly warnings: number;
  /** Bytes of the disk that the image's tables allocate. */
  readonly allocatedBytes: ByteCount;
}

/** Findings kept in words; all are counted. */
const MAX_FINDINGS = 1000;

export class CheckCollector {
  readonly #findings: Finding[] = [];
  readonly #counts = { error: 0, leak: 0, warning: 0 };
  #leakedBytes = 0;
  #allocatedBytes = 0;

  error(text: string): void {
    this.#add('error', text);
  }

  leak(text: string, bytes: ByteCount): void {
    this.#leakedBytes += bytes;
    this.#add('leak', text);
  }

  warning(text: string): void {
    this.#add('warning', text);
  }

  allocated(bytes: ByteCount): void {
    this.#allocatedBytes += bytes;
  }

  report(): CheckReport {
    const { error, leak, warning } = this.#counts;
    return {
      findings: this.#findings,
      errors: error,
      leaks: leak,
      leakedBytes: this.#leakedBytes,
      warnings: warning,
      allocatedBytes: this.#allocatedBytes,
    };
  }

  #add(severity: Severity, text: string): void {
    this.#counts[severity] += 1;
    if (this.#findings.length < MAX_FINDINGS) this.#findings.push({ severity, text });
  }
}
