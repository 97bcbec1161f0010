/** VHD: the disk images of Virtual PC, Hyper-V, Azure and XenServer. */

import type { FormatDriver } from '../../image/driver.ts';
import { probeFooter } from './footer.ts';
import { SIZE_OPTION } from './geometry.ts';
import { BITMAP_OPTION, openVhd, type VhdState } from './open.ts';
import { DynamicTranslator, FixedTranslator } from './translator.ts';

export const vhdDriver: FormatDriver = Object.freeze({
  id: 'vhd',
  title: 'Virtual Hard Disk (Virtual PC, Hyper-V, Azure, XenServer)',
  suffixes: ['.vhd', '.avhd', '.vud'],
  options: [SIZE_OPTION, BITMAP_OPTION],
  probe: probeFooter,
  open: openVhd,
  attach: (shared, source, context) => {
    const state = shared.state as VhdState;
    return state.kind === 'fixed'
      ? new FixedTranslator(shared.virtualSize)
      : new DynamicTranslator(state, source, context);
  },
} satisfies FormatDriver);
