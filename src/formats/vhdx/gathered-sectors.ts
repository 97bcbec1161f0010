/** The changed sectors of the BAT in a commit: words of the table, copied while nobody changes them. */

import { EIGHTH_WORDS } from '../../shared/paged-table.ts';
import { putEntry } from './bat.ts';
import { BAT_ENTRY_BYTES, LOG_SECTOR } from './structs.ts';

/** A 4 KiB sector of the BAT has half the entries of a page of the table. */
const SECTOR_WORDS = LOG_SECTOR / BAT_ENTRY_BYTES;
const SECTOR_EIGHTHS = SECTOR_WORDS / EIGHTH_WORDS;
const SECTORS_PER_PAGE = 8 / SECTOR_EIGHTHS;
const EIGHTHS_MASK = (1 << SECTOR_EIGHTHS) - 1;

/** Memory of the thread, kept for the next commit. */
export class GatheredSectors {
  count = 0;
  #sectors = new Int32Array(16);
  #masks = new Uint8Array(16);
  #words = new Uint32Array(16 * SECTOR_WORDS);

  clear(): void {
    this.count = 0;
  }

  /** A page of the table, with a bit mask of its changed eighths, whose words are at words[start]. */
  addPage(page: number, eighths: number, words: Uint32Array, start: number): void {
    for (let half = 0; half < SECTORS_PER_PAGE; half += 1) {
      const mask = (eighths >>> (half * SECTOR_EIGHTHS)) & EIGHTHS_MASK;
      if (mask !== 0) this.#add(page * SECTORS_PER_PAGE + half, mask, words, start + half * SECTOR_WORDS);
    }
  }

  #add(sector: number, mask: number, words: Uint32Array, start: number): void {
    if (this.count === this.#sectors.length) this.#grow();
    this.#sectors[this.count] = sector;
    this.#masks[this.count] = mask;
    this.#words.set(words.subarray(start, start + SECTOR_WORDS), this.count * SECTOR_WORDS);
    this.count += 1;
  }

  /** Number of the nth sector, from the start of the BAT. */
  sector(n: number): number {
    return this.#sectors[n]!;
  }

  /** Puts the changed entries of the nth sector into the bytes of it that begin at `at`. */
  put(n: number, view: DataView, at: number, entries: number): void {
    const limit = Math.min(SECTOR_WORDS, entries - this.#sectors[n]! * SECTOR_WORDS);
    for (let word = 0; word < limit; word += 1) {
      if ((this.#masks[n]! & (1 << Math.floor(word / EIGHTH_WORDS))) === 0) continue;
      putEntry(view, at + word * BAT_ENTRY_BYTES, this.#words[n * SECTOR_WORDS + word]!);
    }
  }

  #grow(): void {
    const size = this.#sectors.length * 2;
    const [sectors, masks, words] = [this.#sectors, this.#masks, this.#words];
    this.#sectors = new Int32Array(size);
    this.#sectors.set(sectors);
    this.#masks = new Uint8Array(size);
    this.#masks.set(masks);
    this.#words = new Uint32Array(size * SECTOR_WORDS);
    this.#words.set(words);
  }
}
