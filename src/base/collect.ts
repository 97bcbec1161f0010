/**
 * Collecting what images leave behind that come and go. What an image holds is mostly shared memory, which counts for
 * nothing in V8's heap; a thread that serves requests makes next to no garbage otherwise. So V8 would see no reason to
 * collect for hours, and one thread that has not collected keeps the memory of all.
 */

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** One collection takes some milliseconds, and an image that left holds some hundred KiB. */
const LEAVES = 16;

let collect: (() => void) | undefined;
let left = 0;

/** An image has left this thread: every 16th time, garbage is collected. */
export function collectAfterLeave(): void {
  left += 1;
  if (left % LEAVES !== 0) return;
  if (collect === undefined) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as () => void;
  }
  collect();
}
