/**
 * Entry of a worker thread: waits for what to serve, builds its own file system from the seed, and serves the
 * device until the end. It is started before any of that is known, so that loading costs no time later.
 */

import { writeSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { FileSystem } from '../../fuse/filesystem.ts';
import type { TreeSeed } from '../../fuse/tree.ts';
import { reportOnce } from '../../image/report-once.ts';
import { type LoopEnd, serve } from './loop.ts';
import { Responder } from './responder.ts';
import { WorkerStatus } from './status.ts';

/** The one message that a worker gets. */
export interface WorkerInput {
  readonly index: number;
  readonly device: number;
  readonly tree: TreeSeed;
  readonly status: SharedArrayBuffer;
  readonly trace: boolean;
}

export type WorkerMessage =
  /** It is about to read the device. */
  | { readonly kind: 'serving' }
  /** Damage of an image, met while serving. */
  | { readonly kind: 'damage'; readonly text: string }
  /** A defect of this program: a handler threw. */
  | { readonly kind: 'defect'; readonly text: string }
  | { readonly kind: 'ended'; readonly how: LoopEnd };

const port = parentPort!;
const tell = (message: WorkerMessage): void => port.postMessage(message);

function run(input: WorkerInput): void {
  const fs = new FileSystem(
    input.tree,
    reportOnce((text) => tell({ kind: 'damage', text })),
  );
  tell({ kind: 'serving' });
  const how = serve(input.device, new Responder(fs), {
    status: new WorkerStatus(input.status, input.index),
    failed: (problem) => {
      const text = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
      tell({ kind: 'defect', text });
    },
    trace: input.trace ? (line) => writeSync(2, `[${input.index}] ${line}\n`) : undefined,
  });
  tell({ kind: 'ended', how });
}

port.once('message', run);
