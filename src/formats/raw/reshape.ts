/** Changing raw images as a whole: there is nothing but their size. */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, formatSize } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { Reshaper, Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';

export const rawReshaper: Reshaper = { resize };

// biome-ignore lint/correctness/useYield: the size changes in one step
function* resize(source: BlockSource, size: ByteCount): Reshaping {
  if (!Number.isSafeInteger(size) || size <= 0) {
    throw new ImageError('usage', `a raw disk of ${formatSize(size)}: expected at least 1 byte`);
  }
  must(source.setSize(size), source, 'its size cannot be changed');
  must(source.flush(), source, 'its size cannot be made stable');
}
