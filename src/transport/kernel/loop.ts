/** The loop of a worker: read a request from the device, answer it, write the reply. It blocks in the read. */

import { readSync, writeSync } from 'node:fs';
import { EAGAIN, ECONNABORTED, EINTR, EINVAL, ENODEV, ENOENT, errnoOf } from '../../base/errno.ts';
import { OPCODES, REPLY_AT, type Responder } from './responder.ts';
import type { WorkerStatus } from './status.ts';

export type LoopEnd = 'unmounted' | 'aborted';

export interface LoopHooks {
  readonly status: WorkerStatus;
  /** A handler threw: a defect of this program. The request was answered with EIO. */
  readonly failed: (problem: unknown) => void;
  /** Called with each request and its outcome while tracing, else undefined. */
  readonly trace: ((line: string) => void) | undefined;
}

/**
 * Serves requests until the mount ends. Throws only what the device itself says that is neither a retry nor
 * an end.
 */
export function serve(device: number, responder: Responder, hooks: LoopHooks): LoopEnd {
  const { request, reply } = responder;
  const { status, trace } = hooks;
  for (;;) {
    let length: number;
    try {
      length = readSync(device, request, 0, request.length, null);
    } catch (problem) {
      const errno = errnoOf(problem);
      // ENOENT: the request was interrupted before it was read.
      if (errno === ENOENT || errno === EINTR || errno === EAGAIN) continue;
      if (errno === ENODEV) return 'unmounted';
      if (errno === ECONNABORTED) return 'aborted';
      throw problem;
    }
    status.begin(responder.opcode, responder.uniqueLow, responder.uniqueHigh);
    let size: number;
    try {
      size = responder.answer(length);
    } catch (problem) {
      size = responder.answerFailure();
      hooks.failed(problem);
    }
    if (trace !== undefined) trace(describe(responder, length, size));
    if (size > 0) {
      try {
        writeSync(device, reply, REPLY_AT, size, null);
      } catch (problem) {
        // ENOENT: the caller was killed meanwhile. ENODEV: unmounted meanwhile; the next read says so too.
        const errno = errnoOf(problem);
        if (errno === EINVAL) {
          writeSync(device, reply, REPLY_AT, responder.answerFailure(), null);
          hooks.failed(new Error(`the kernel refused the reply to opcode ${responder.opcode}`));
        } else if (errno !== ENOENT && errno !== ENODEV && errno !== ECONNABORTED) {
          throw problem;
        }
      }
    }
    status.end();
  }
}

/** "rx LOOKUP n1 41B", "tx READ u12 4096B" in the manner of FUSE debug logs: one line per request. */
function describe(responder: Responder, received: number, sent: number): string {
  const name = OPCODES.get(responder.opcode)?.name ?? `opcode ${responder.opcode}`;
  const outcome =
    sent === 0 ? 'no reply' : responder.status < 0 ? `errno ${-responder.status}` : `${sent - 16} bytes`;
  return `${name} node=${responder.node} unique=${responder.uniqueLow} ${received} bytes -> ${outcome}`;
}
