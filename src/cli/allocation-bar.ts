/** What a disk holds and where, as one line of a terminal. */

import type { ByteCount } from '../base/units.ts';

/** From empty to full; what has anything at all is not shown as empty, what lacks anything not as full. */
const BLOCKS = ['·', '░', '▒', '▓', '█'];
const PLAIN = ['.', '-', '+', '*', '#'];

/** Whether the terminal is said to show what is not ASCII, in the order in which the C library asks. */
export function showsUnicode(environment: NodeJS.ProcessEnv): boolean {
  const locale = environment['LC_ALL'] || environment['LC_CTYPE'] || environment['LANG'] || '';
  return /utf-?8/i.test(locale);
}

export class AllocationBar {
  readonly #cells: Float64Array;
  readonly #size: ByteCount;

  /** Of `width` cells, at least 1, for a disk of `size` bytes. */
  constructor(size: ByteCount, width: number) {
    this.#size = size;
    this.#cells = new Float64Array(Math.max(1, width));
  }

  /** There is data in `length` bytes from `at` on, which are within the disk and were not added before. */
  add(at: number, length: ByteCount): void {
    const cells = this.#cells;
    const per = this.#size / cells.length;
    const end = at + length;
    for (let cell = Math.min(cells.length - 1, Math.floor(at / per)); cell < cells.length; cell += 1) {
      const [from, to] = [cell * per, (cell + 1) * per];
      if (from >= end) break;
      cells[cell]! += Math.max(0, Math.min(end, to) - Math.max(at, from));
    }
  }

  text(unicode: boolean): string {
    const signs = unicode ? BLOCKS : PLAIN;
    const per = this.#size / this.#cells.length;
    const full = signs.length - 1;
    return Array.from(this.#cells, (bytes) => {
      const share = bytes / per;
      if (bytes === 0) return signs[0];
      // Sums of fractions of bytes are not exact.
      if (share > 1 - 1e-9) return signs[full];
      return signs[1 + Math.min(full - 2, Math.floor(share * (full - 1)))];
    }).join('');
  }
}
