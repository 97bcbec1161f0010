/**
 * Entry of the keeper: the thread for what must wait but belongs to no request. It writes out metadata that has
 * waited long enough, and at the end leaves every image clean. It may wait on the images' locks.
 */

import { parentPort } from 'node:worker_threads';
import { attachDisks, type TreeSeed } from '../fuse/tree.ts';
import { reportOnce } from '../image/report-once.ts';
import { becomeIoFlusher } from '../source/syscalls.ts';

/** How long changed metadata stays in memory at most, while nobody asks for a flush. */
const FLUSH_MS = 5000;

export interface KeeperInput {
  readonly tree: TreeSeed;
  /** Its number among the threads of the mount. */
  readonly thread: number;
}

export type KeeperMessage =
  | { readonly kind: 'damage'; readonly text: string }
  /** A file's metadata could not be written; it is tried again. */
  | { readonly kind: 'flush-failed'; readonly file: number; readonly errno: number }
  /** Every image was left clean, but for these. */
  | {
      readonly kind: 'closed';
      readonly failures: readonly { readonly file: number; readonly errno: number }[];
    };

const port = parentPort!;
const tell = (message: KeeperMessage): void => port.postMessage(message);

port.once('message', ({ tree, thread }: KeeperInput) => {
  becomeIoFlusher();
  const disks = attachDisks(
    tree,
    reportOnce((text) => tell({ kind: 'damage', text })),
    thread,
  );
  const failing = new Set<number>();
  const allocated = new Float64Array(tree.allocated);
  const timer = setInterval(() => {
    disks.forEach((disk, file) => {
      if (disk.isWritten) allocated[file] = disk.allocated;
      if (!disk.isDirty) return;
      const status = disk.flush();
      if (status === 0) failing.delete(file);
      else if (!failing.has(file)) {
        failing.add(file);
        tell({ kind: 'flush-failed', file, errno: -status });
      }
    });
  }, FLUSH_MS);
  port.once('message', () => {
    clearInterval(timer);
    const failures = disks
      .map((disk, file) => ({ file, errno: -disk.close() }))
      .filter(({ errno }) => errno !== 0);
    tell({ kind: 'closed', failures });
  });
});
