/**
 * Waking a worker that waits for requests: a signal ends its read of the device with EINTR. The signal is one that does
 * nothing by default, sent to that one thread; whatever else the thread may be in by then is begun again
 * (syscalls.ts, file.ts).
 */

import { constants } from 'node:os';
import { failCallsOn, signalThread } from '../../source/syscalls.ts';

const NAME = 'SIGURG';
const SIGNAL = constants.signals[NAME];

let prepared: boolean | undefined;

/** A handler, without which the signal would be dropped; and none that restarts the read, as Node's own do. */
function prepare(): boolean {
  process.on(NAME, () => {});
  return failCallsOn(SIGNAL) === 0;
}

/** Wakes a thread of this process (`threadNumber`). False where that cannot be done; true says not that it was waiting. */
export function wake(thread: number | undefined): boolean {
  if (thread === undefined) return false;
  prepared ??= prepare();
  return prepared && signalThread(thread, SIGNAL) === 0;
}
