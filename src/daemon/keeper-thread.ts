/**
 * Entry of the keeper: the thread for what must wait but belongs to no request. It writes out metadata that has
 * waited long enough, flushes when it is told to, and leaves every image clean: those that leave the mount, and at the
 * end all others. It may wait on the images' locks.
 */

import { parentPort } from 'node:worker_threads';
import { collectAfterLeave } from '../base/collect.ts';
import type { Disk } from '../disk/disk.ts';
import { attachLayers, attachThread, type FileSeed, type TreeSeed } from '../fuse/tree.ts';
import { reportOnce } from '../image/report-once.ts';
import { becomeIoFlusher } from '../source/syscalls.ts';

/** How long changed metadata stays in memory at most, while nobody asks for a flush. */
const FLUSH_MS = 5000;

/** The first message. */
export interface KeeperInput {
  readonly tree: TreeSeed;
  /** Its number among the threads of the mount. */
  readonly thread: number;
}

/** Those that follow. Files by their numbers in the tree (TreeChange.number). */
export type KeeperOrder =
  | { readonly order: 'join'; readonly number: number; readonly file: FileSeed }
  /** No worker works on them any more. Answered with 'left'. */
  | { readonly order: 'leave'; readonly numbers: readonly number[] }
  /** Answered with 'flushed'. */
  | { readonly order: 'flush'; readonly numbers: readonly number[] | undefined }
  /** The last one. Answered with 'closed'. */
  | { readonly order: 'close' };

export interface KeeperFailure {
  readonly file: number;
  readonly errno: number;
}

export type KeeperMessage =
  | { readonly kind: 'damage'; readonly text: string }
  /** A file's metadata could not be written; it is tried again. */
  | { readonly kind: 'flush-failed'; readonly file: number; readonly errno: number }
  /** Every file was left clean, or was flushed, but for these. */
  | { readonly kind: 'closed' | 'left' | 'flushed'; readonly failures: readonly KeeperFailure[] };

const port = parentPort!;
const tell = (message: KeeperMessage): void => port.postMessage(message);

/** Those of `disks` for which `work` gives an errno. */
function failuresOf(disks: Iterable<readonly [number, Disk]>, work: (disk: Disk) => number): KeeperFailure[] {
  return [...disks].map(([file, disk]) => ({ file, errno: -work(disk) })).filter(({ errno }) => errno !== 0);
}

port.once('message', ({ tree, thread }: KeeperInput) => {
  becomeIoFlusher();
  const report = reportOnce((text) => tell({ kind: 'damage', text }));
  const attach = attachThread(tree, report, thread);
  const attached = ({ layers, size }: FileSeed): Disk => attachLayers(layers, size, attach);
  const disks = new Map(tree.files.map((file, number) => [number, attached(file)]));
  const some = (numbers: readonly number[]): (readonly [number, Disk])[] =>
    numbers.flatMap((number) => {
      const disk = disks.get(number);
      return disk === undefined ? [] : [[number, disk] as const];
    });
  const failing = new Set<number>();
  const allocated = new Float64Array(tree.allocated);
  const timer = setInterval(() => {
    for (const [file, disk] of disks) {
      if (disk.isWritten) allocated[file] = disk.allocated;
      if (!disk.isDirty) continue;
      const status = disk.flush();
      if (status === 0) failing.delete(file);
      else if (!failing.has(file)) {
        failing.add(file);
        tell({ kind: 'flush-failed', file, errno: -status });
      }
    }
  }, FLUSH_MS);
  port.on('message', (message: KeeperOrder) => {
    if (message.order === 'join') disks.set(message.number, attached(message.file));
    else if (message.order === 'flush') {
      const wanted = message.numbers === undefined ? disks : some(message.numbers);
      tell({ kind: 'flushed', failures: failuresOf(wanted, (disk) => disk.flush()) });
    } else if (message.order === 'leave') {
      const failures = failuresOf(some(message.numbers), (disk) => disk.close());
      for (const number of message.numbers) {
        disks.delete(number);
        failing.delete(number);
      }
      tell({ kind: 'left', failures });
      collectAfterLeave();
    } else {
      clearInterval(timer);
      tell({ kind: 'closed', failures: failuresOf(disks, (disk) => disk.close()) });
      port.close();
    }
  });
});
