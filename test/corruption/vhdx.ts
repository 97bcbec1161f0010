/** What can be wrong with a VHDX. */

import type { CorruptionTable } from './corruption.ts';

export const vhdxCorruptions: CorruptionTable = { format: 'vhdx', corruptions: [] };
