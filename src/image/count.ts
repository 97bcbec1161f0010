/** Adding up what a table of 32-bit words allocates, in slices: the common half of `Image.countAllocated`. */

import { ImageError } from '../base/errors.ts';
import { PAGE_WORDS } from '../shared/page-pool.ts';
import type { LoadPage } from '../shared/paged-table.ts';

/**
 * Tables of more words than this are not looked through before an image is written, because it would take longer
 * than a user waits for a mount. It is enough for every VHDX (64 TiB in blocks of 1 MiB, and the entries of sector
 * bitmaps between them).
 */
export const MAX_SCANNED_WORDS = 2 ** 27;

/** Pages per slice: 64 Ki entries. */
const SLICE_PAGES = 64;

/**
 * Reads the pages of a table from word `from` on (rounded down to its page), a slice of them, and calls `each`
 * with the index and value of every word below `words`. Returns the first word not looked at, or undefined
 * at the end. Throws ImageError('io') where a page cannot be read; `label` is the image's name.
 */
export function scanTable(
  load: LoadPage,
  words: number,
  from: number,
  label: string,
  each: (index: number, value: number) => void,
): number | undefined {
  const page = new Uint32Array(PAGE_WORDS);
  const first = Math.floor(from / PAGE_WORDS);
  for (let number = first; number < first + SLICE_PAGES; number += 1) {
    const base = number * PAGE_WORDS;
    if (base >= words) return undefined;
    const status = load(number, page, 0);
    if (status < 0)
      throw new ImageError('io', `${label}: table page ${number} cannot be read (errno ${-status})`);
    const end = Math.min(PAGE_WORDS, words - base);
    for (let at = 0; at < end; at += 1) each(base + at, page[at]!);
  }
  const next = (first + SLICE_PAGES) * PAGE_WORDS;
  return next < words ? next : undefined;
}
