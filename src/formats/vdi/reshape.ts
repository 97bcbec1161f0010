/** Changing VDI images as a whole: one file per subject. */

import type { Reshaper } from '../../image/reshape.ts';
import { compact } from './compact.ts';
import { empty } from './empty.ts';
import { expectParent, rebase } from './rebase.ts';
import { repair } from './repair.ts';
import { resize } from './resize.ts';

export const vdiReshaper: Reshaper = { resize, compact, repair, rebase, expectParent, empty };
