/** Mending what a check finds. */

import { ImageError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { FormatDriver, OpenContext } from '../image/driver.ts';
import type { Repair, RepairScope } from '../image/reshape.ts';
import type { BlockSource } from '../source/block-source.ts';
import { type ReshapeControl, runSteps } from './image.ts';

export interface Repaired {
  readonly repairs: readonly Repair[];
  /** Bytes of the disk that read otherwise than before. */
  readonly lost: ByteCount;
}

/** Throws ImageError; what was mended until then is. */
export async function repairImage(
  driver: FormatDriver,
  source: BlockSource,
  scope: RepairScope,
  context: OpenContext,
  control: ReshapeControl,
): Promise<Repaired> {
  const { repair } = driver.reshape;
  if (repair === undefined) {
    const title = driver.id.toUpperCase();
    throw new ImageError('unsupported', `${source.label}: is a ${title} image, which vdisk cannot repair`);
  }
  const repairs = await runSteps(repair(source, scope, context), source.label, control);
  return { repairs, lost: repairs.reduce((sum, { lostBytes }) => sum + lostBytes, 0) };
}
