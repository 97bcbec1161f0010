/** From the data plane's statuses to the control plane's errors. */

import { ENOSPC, type Status } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import type { BlockSource } from '../source/block-source.ts';

/** Throws ImageError('io') where `status` is -errno: "/vm/disk.vhdx: its size cannot be changed (errno 28)". */
export function must(status: Status, { label }: Pick<BlockSource, 'label'>, failure: string): void {
  if (status >= 0) return;
  const hint = status === -ENOSPC ? 'No space is left on the file system, or in the image.' : undefined;
  throw new ImageError('io', `${label}: ${failure} (errno ${-status})`, { hint });
}
