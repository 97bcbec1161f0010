/** Changing QED images as a whole: one file for each change. */

import type { Reshaper } from '../../image/reshape.ts';
import { compactImage } from './compact.ts';
import { emptyImage } from './empty.ts';
import { rebaseImage } from './rebase.ts';
import { repairImage } from './repair.ts';
import { resizeImage } from './resize.ts';

/** What a QED child knows of its parent is a name: a write to the parent changes none. */
export const qedReshaper: Reshaper = {
  resize: resizeImage,
  compact: compactImage,
  repair: repairImage,
  rebase: rebaseImage,
  empty: emptyImage,
};
