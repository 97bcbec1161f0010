/** mount(8)'s exit codes. */

import type { ErrorKind } from '../base/errors.ts';
import type { MountEnd } from '../transport/transport.ts';

export const OK = 0;
/** Incorrect invocation or permissions. */
export const USAGE = 1;
/** System error. */
export const SYSTEM = 2;
/** Internal bug. */
export const INTERNAL = 4;
/** User interrupt. */
export const INTERRUPTED = 8;
/** Mount failure. */
export const MOUNT_FAILURE = 32;
/**
 * Ours: what was mounted as evidence has changed. No sum of mount(8)'s codes (at most 127), and nothing by which a
 * shell tells of a signal (129 to 192).
 */
export const EVIDENCE_CHANGED = 200;

export function exitCodeOf(kind: ErrorKind): number {
  switch (kind) {
    case 'usage':
    case 'denied':
      return USAGE;
    case 'io':
      return SYSTEM;
    case 'bug':
      return INTERNAL;
    case 'interrupted':
      return INTERRUPTED;
    case 'changed':
      return EVIDENCE_CHANGED;
    default:
      return MOUNT_FAILURE;
  }
}

export function exitCodeOfEnd(end: MountEnd): number {
  if (end.how === 'unmounted') return OK;
  return end.how === 'aborted' ? SYSTEM : INTERNAL;
}
