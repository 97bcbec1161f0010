/** What can be wrong with a QED. */

import type { CorruptionTable } from './corruption.ts';

export const qedCorruptions: CorruptionTable = { format: 'qed', corruptions: [] };
