/** Changing VDI images as a whole. */

import type { Reshaper } from '../../image/reshape.ts';

export const vdiReshaper: Reshaper = {};
