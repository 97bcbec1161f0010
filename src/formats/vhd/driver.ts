/** VHD: the disk images of Virtual PC, Hyper-V, Azure and XenServer. */

import type { FormatDriver } from '../../image/driver.ts';
import { FlatEditor } from '../../image/flat-editor.ts';
import { checkVhd } from './check.ts';
import { vhdCreator } from './create.ts';
import { DifferencingEditor } from './differencing-editor.ts';
import { DynamicEditor } from './dynamic-editor.ts';
import { probeFooter } from './footer.ts';
import { SIZE_OPTION } from './geometry.ts';
import type { VhdState } from './image.ts';
import { BITMAP_OPTION, openVhd } from './open.ts';
import { stampFixed, type VhdEdit } from './prepare.ts';
import { vhdReshaper } from './reshape.ts';
import { type DynamicState, DynamicTranslator, FixedTranslator } from './translator.ts';

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
  attachEditor: (shared, source, context, translator) => {
    const edit = shared.edit as VhdEdit;
    if (edit.kind === 'fixed') {
      return new FlatEditor(edit.commit, source, () => stampFixed(edit, source));
    }
    const state = shared.state as DynamicState;
    const tables = translator as DynamicTranslator;
    return edit.kind === 'dynamic'
      ? new DynamicEditor(state, edit, source, context, tables)
      : new DifferencingEditor(state, edit, source, context, tables);
  },
  check: checkVhd,
  create: vhdCreator,
  reshape: vhdReshaper,
} satisfies FormatDriver);
