/** Changing VHDX images as a whole: session.ts has the order of writes. */

import type { Reshaper } from '../../image/reshape.ts';
import { compact } from './compact.ts';
import { empty } from './empty.ts';
import { expectParent, rebase } from './rebase.ts';
import { repair } from './repair.ts';
import { resize } from './resize.ts';

export const vhdxReshaper: Reshaper = { resize, compact, repair, rebase, expectParent, empty };
