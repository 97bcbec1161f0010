/** Changing VHDX images as a whole: session.ts has the order of writes. */

import type { Reshaper } from '../../image/reshape.ts';
import { resize } from './resize.ts';

export const vhdxReshaper: Reshaper = { resize };
