/**
 * Changing raw images as a whole: there is nothing but their size. Compacting them is what the caller has done before:
 * zeros became holes of the file, and there is nothing to move.
 */

import { EFBIG, EINVAL } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import { type ByteCount, formatSize } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { Reshaper, Reshaping } from '../../image/reshape.ts';
import type { BlockSource } from '../../source/block-source.ts';

export const rawReshaper: Reshaper = { resize, compact };

// biome-ignore lint/correctness/useYield: the size changes in one step
function* resize(source: BlockSource, size: ByteCount): Reshaping {
  if (!Number.isSafeInteger(size) || size <= 0) {
    throw new ImageError('usage', `a raw disk of ${formatSize(size)}: expected at least 1 byte`);
  }
  const status = source.setSize(size);
  if (status === -EINVAL) {
    throw new ImageError('usage', `${source.label}: is a block device, which has the size that it has`);
  }
  if (status === -EFBIG) {
    const text = `${source.label}: a file of ${formatSize(size)} is more than its file system, or a limit of this process, allows`;
    throw new ImageError('io', text);
  }
  must(status, source, 'its size cannot be changed');
  must(source.flush(), source, 'its size cannot be made stable');
}

// biome-ignore lint/correctness/useYield: there is nothing to do
function* compact(source: BlockSource): Reshaping {
  must(source.flush(), source, 'it cannot be made stable');
}
