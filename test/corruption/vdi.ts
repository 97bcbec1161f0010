/** What can be wrong with a VDI. */

import type { CorruptionTable } from './corruption.ts';

export const vdiCorruptions: CorruptionTable = { format: 'vdi', corruptions: [] };
