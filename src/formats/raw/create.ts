/** New raw files: nothing but the disk. */

import { hostOffset } from '../../base/units.ts';
import { type Creator, checkDiskSize, PREALLOCATION } from '../../image/create.ts';

export const rawCreator: Creator = {
  options: [PREALLOCATION],
  parents: [],
  sizeUnit: 1,
  plan: ({ virtualSize }) => {
    checkDiskSize('raw', virtualSize, 1, Number.MAX_SAFE_INTEGER);
    return { pieces: [], size: virtualSize, data: { at: hostOffset(0), length: virtualSize } };
  },
};
