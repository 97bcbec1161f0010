/**
 * Entry of a worker thread: waits for what to serve, builds its own file system from the seed, and serves the
 * device until the end. It is started before any of that is known, so that loading costs no time later.
 */

import { writeSync } from 'node:fs';
import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import { collectAfterLeave } from '../../base/collect.ts';
import { FileSystem } from '../../fuse/filesystem.ts';
import type { TreeChange, TreeSeed } from '../../fuse/tree.ts';
import { reportOnce } from '../../image/report-once.ts';
import { becomeIoFlusher } from '../../source/syscalls.ts';
import { serve } from './loop.ts';
import { Responder } from './responder.ts';
import { WorkerStatus } from './status.ts';
import { threadNumber } from './wait.ts';

/** The first message that a worker gets; then changes of the tree come; */
export interface WorkerInput {
  readonly index: number;
  readonly device: number;
  readonly tree: TreeSeed;
  /** What has changed since `tree` was made, up to this generation of it. */
  readonly changes: readonly TreeChange[];
  readonly generation: number;
  readonly status: SharedArrayBuffer;
  /** See past-end.ts. */
  readonly pastEnd: SharedArrayBuffer;
  readonly trace: boolean;
}

/** or only such: it has nothing to do but to send notifications that may have to wait for the other workers. */
export interface NoticeInput {
  readonly device: number;
  readonly notice: Uint8Array;
}

export type WorkerMessage =
  /** It is about to read the device, as this thread of the process (`threadNumber`). */
  | { readonly kind: 'serving'; readonly thread: number | undefined }
  /** Damage of an image, met while serving. */
  | { readonly kind: 'damage'; readonly text: string }
  /** A defect of this program: a handler threw. */
  | { readonly kind: 'defect'; readonly text: string }
  /** The kernel should forget the name of a file: its size is wrong. */
  | { readonly kind: 'outgrown'; readonly node: number }
  /** A notification was sent, or could not be. */
  | { readonly kind: 'notified' }
  /** The mount has. */
  | { readonly kind: 'ended' };

const port = parentPort!;
const tell = (message: WorkerMessage): void => port.postMessage(message);

function notify({ device, notice }: NoticeInput): void {
  try {
    writeSync(device, notice);
  } catch {
    // The kernel knows nothing of the name, or the mount has ended.
  }
  tell({ kind: 'notified' });
}

function run(input: WorkerInput): void {
  const fs = new FileSystem(
    input.tree,
    reportOnce((text) => tell({ kind: 'damage', text })),
    input.index,
  );
  const status = new WorkerStatus(input.status, input.index);
  for (const change of input.changes) fs.listing.change(change);
  let seen = input.generation;
  status.follow(seen);
  const failed = (problem: unknown): void => {
    const text = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
    tell({ kind: 'defect', text });
  };
  // This thread never comes back to its event loop: messages wait until they are fetched.
  const refresh = (): void => {
    const generation = fs.listing.members.generation;
    if (generation === seen) return;
    for (;;) {
      const change = receiveMessageOnPort(port)?.message as TreeChange | undefined;
      if (change === undefined) break;
      try {
        fs.listing.change(change);
      } catch (problem) {
        // That file is not shown; whoever waits for this thread to follow waits no longer for that.
        failed(problem);
      }
      if (change.kind === 'leave') collectAfterLeave();
    }
    seen = generation;
    status.follow(seen);
  };
  // Where it is not permitted, the mount's own limit on dirty pages keeps us from the worst.
  if (fs.writable) becomeIoFlusher();
  tell({ kind: 'serving', thread: threadNumber() });
  serve(input.device, new Responder(fs, input.pastEnd), {
    status,
    failed,
    refresh,
    outgrown: (node) => tell({ kind: 'outgrown', node }),
    trace: input.trace ? (line) => writeSync(2, `[${input.index}] ${line}\n`) : undefined,
  });
  tell({ kind: 'ended' });
}

port.once('message', (input: WorkerInput | NoticeInput) => {
  if ('notice' in input) {
    notify(input);
    port.on('message', notify);
  } else run(input);
});
