/** What can be wrong with a VHD. */

import type { CorruptionTable } from './corruption.ts';

export const vhdCorruptions: CorruptionTable = { format: 'vhd', corruptions: [] };
