/** Changing QED images as a whole. */

import type { Reshaper } from '../../image/reshape.ts';

export const qedReshaper: Reshaper = {};
