/** One line on a terminal that says how far something is, over and over. */

const TO_LINE_END = '\x1b[K';

export class ProgressLine {
  readonly #program: string;
  #shown = false;

  constructor(program: string) {
    this.#program = program;
  }

  /** Shows `text` in the place of the last one. Nothing where standard error is no terminal. */
  show(text: string): void {
    if (!process.stderr.isTTY) return;
    this.#shown = true;
    // A terminal that does not know its width says 0.
    const width = process.stderr.columns || text.length + 80;
    process.stderr.write(`\r${`${this.#program}: ${text}`.slice(0, width - 1)}${TO_LINE_END}`);
  }

  /** Takes it away, before anything else is said. */
  clear(): void {
    if (this.#shown) process.stderr.write(`\r${TO_LINE_END}`);
    this.#shown = false;
  }
}
