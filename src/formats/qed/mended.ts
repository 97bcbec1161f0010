/** What a repair has mended, told in bounded memory. */

import type { ByteCount } from '../../base/units.ts';
import type { Repair } from '../../image/reshape.ts';

/** Told one by one; the rest in one sum. */
const MAX_TOLD = 1000;

export class Mended {
  readonly #repairs: Repair[] = [];
  #more = 0;
  #moreLost = 0;

  add(text: string, lostBytes: ByteCount = 0): void {
    if (this.#repairs.length < MAX_TOLD) this.#repairs.push({ text, lostBytes });
    else {
      this.#more += 1;
      this.#moreLost += lostBytes;
    }
  }

  repairs(): readonly Repair[] {
    if (this.#more === 0) return this.#repairs;
    return [...this.#repairs, { text: `QED tables: ${this.#more} more entries`, lostBytes: this.#moreLost }];
  }
}
