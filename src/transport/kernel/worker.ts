/**
 * Entry of a worker thread: builds its own file system from the seed, waits for the device, and serves it until
 * the end. It is started before the mount is made, so that both happen at once.
 */

import { writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { FileSystem } from '../../fuse/filesystem.ts';
import type { TreeSeed } from '../../fuse/tree.ts';
import { type LoopEnd, serve } from './loop.ts';
import { Responder } from './responder.ts';
import { WorkerStatus } from './status.ts';

export interface WorkerInput {
  readonly index: number;
  readonly tree: TreeSeed;
  readonly status: SharedArrayBuffer;
  readonly trace: boolean;
}

/** The one message that a worker gets: the device to serve. */
export interface WorkerStart {
  readonly device: number;
}

export type WorkerMessage =
  /** It is about to read the device. */
  | { readonly kind: 'serving' }
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
const responder = new Responder(fs);

port.once('message', ({ device }: WorkerStart) => {
  tell({ kind: 'serving' });
  const how = serve(device, responder, {
    status: new WorkerStatus(input.status, input.index),
    failed: (problem) => {
      const text = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
      tell({ kind: 'defect', text });
    },
    trace: input.trace ? (line) => writeSync(2, `[${input.index}] ${line}\n`) : undefined,
  });
  tell({ kind: 'ended', how });
});
