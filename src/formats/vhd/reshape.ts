/** Changing VHD images as a whole: what each operation does, and in which order, is told in its file. */

import type { Reshaper } from '../../image/reshape.ts';
import { compact } from './compact.ts';
import { empty } from './empty.ts';
import { rebase } from './rebase.ts';
import { repair } from './repair.ts';
import { resize } from './resize.ts';

export const vhdReshaper: Reshaper = { resize, compact, repair, rebase, empty };
