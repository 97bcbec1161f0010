/** Entry of a worker thread: builds its own file system from the seed and serves the device until the end. */

import { writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { FileSystem } from '../../fuse/filesystem.ts';
import type { TreeSeed } from '../../fuse/tree.ts';
import { type LoopEnd, serve } from './loop.ts';
import { Responder } from './responder.ts';
import { WorkerStatus } from './status.ts';

export interface WorkerInput {
  readonly index: number;
  readonly device: number;
  readonly tree: TreeSeed;
  readonly status: SharedArrayBuffer;
  readonly trace: boolean;
}

export type WorkerMessage =
  | { readonly kind: 'ready' }
  /** Damage of an image, met while serving. */
  | { readonly kind: 'damage'; readonly text: string }
  /** A defect of this program: a handler threw. */
  | { readonly kind: 'defect'; readonly text: string }
  | { readonly kind: 'ended'; readonly how: LoopEnd };

const input = workerData as WorkerInput;
const port = parentPort!;
const tell = (message: WorkerMessage): void => port.postMessage(message);

const told = new Set<string>();
const fs = new FileSystem(input.tree, (text) => {
  if (told.has(text) || told.size >= 1000) return;
  told.add(text);
  tell({ kind: 'damage', text });
});
tell({ kind: 'ready' });
const how = serve(input.device, new Responder(fs), {
  status: new WorkerStatus(input.status, input.index),
  failed: (problem) => {
    tell({
      kind: 'defect',
      text: problem instanceof Error ? (problem.stack ?? problem.message) : `${problem}`,
    });
  },
  trace: input.trace ? (line) => writeSync(2, `[${input.index}] ${line}\n`) : undefined,
});
tell({ kind: 'ended', how });
