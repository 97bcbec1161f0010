/** Changing VHDX images as a whole. */

import type { Reshaper } from '../../image/reshape.ts';

export const vhdxReshaper: Reshaper = {};
