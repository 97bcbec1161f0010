/** Files that a test shall find as they were. */

import { closeSync, fsyncSync, openSync, utimesSync } from 'node:fs';

/**
 * Dates a file back, and before its last change: reading would set its access time, also where that is lazy. And has it
 * written to the medium: until then the host may still be deciding how many blocks it takes, and stat(2) changes by itself.
 */
export function age(path: string): void {
  utimesSync(path, 1_500_000_000, 1_550_000_000);
  const file = openSync(path, 'r');
  fsyncSync(file);
  closeSync(file);
}
