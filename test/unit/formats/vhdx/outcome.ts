/** What comes of opening a VHDX, in words. */

import { ImageError } from '../../../../src/base/errors.ts';
import { MIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { openDisk } from '../../../support/disk.ts';
import type { VhdxPlan } from '../../../support/encoders/vhdx-image.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';

/** A small image with one block. */
export const plan: VhdxPlan = {
  size: 4 * MIB,
  blocks: new Map([[0, { state: 6, data: Uint8Array.of(1, 2, 3) }]]),
};

/** "opened" and the notices, or the kind of the error and its text. */
export function outcome(file: SparseSource): string {
  try {
    const { notices } = openDisk(vhdxDriver, file);
    return ['opened', ...notices].join('; ');
  } catch (problem) {
    if (problem instanceof ImageError) return `${problem.kind}: ${problem.message}`;
    throw problem;
  }
}
