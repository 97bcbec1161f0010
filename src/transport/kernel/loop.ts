/** The loop of a worker: read a request from the device, answer it, write the reply. It blocks in the read. */

import { readSync, writeSync } from 'node:fs';
import { EAGAIN, ECONNABORTED, EINTR, EINVAL, ENODEV, ENOENT, errnoOf } from '../../base/errno.ts';
import { directIo } from '../../source/syscalls.ts';
import { REPLY_AT } from './reply.ts';
import { OPCODES, type Responder } from './responder.ts';
import type { WorkerStatus } from './status.ts';

export interface LoopHooks {
  readonly status: WorkerStatus;
  /** A handler threw: a defect of this program. The request was answered with EIO. */
  readonly failed: (problem: unknown) => void;
  /** The kernel should forget the name of this node. */
  readonly outgrown: (node: number) => void;
  /** Called before each request, and when the thread was woken: reads what the main thread has to say. */
  readonly refresh: () => void;
  /** Called with each request and its outcome while tracing, else undefined. */
  readonly trace: ((line: string) => void) | undefined;
}

/** The device, with the buffers of a responder: counts, or -errno. */
interface Device {
  /** One request into the request buffer. */
  receive(): number;
  /** The first `size` bytes of the reply. */
  send(size: number): number;
  /** The first `size` bytes of the notification. */
  notify(size: number): number;
}

function openDevice(device: number, responder: Responder): Device {
  const { notice } = responder;
  const request = responder.request.bytes;
  const reply = responder.reply.bytes;
  const direct = directIo();
  if (direct !== undefined) {
    const requestAt = direct.addressOf(request);
    const replyAt = direct.addressOf(reply) + REPLY_AT;
    const noticeAt = direct.addressOf(notice);
    return {
      receive: () => direct.read(device, requestAt, request.length),
      send: (size) => direct.write(device, replyAt, size),
      notify: (size) => direct.write(device, noticeAt, size),
    };
  }
  const attempt = (call: () => number): number => {
    try {
      return call();
    } catch (problem) {
      return -errnoOf(problem);
    }
  };
  return {
    receive: () => attempt(() => readSync(device, request, 0, request.length, null)),
    send: (size) => attempt(() => writeSync(device, reply, REPLY_AT, size, null)),
    notify: (size) => attempt(() => writeSync(device, notice, 0, size, null)),
  };
}

/**
 * Serves requests until the mount ends, or this worker is stopped. Throws only what the device itself says that is
 * neither a retry nor an end.
 */
export function serve(fd: number, responder: Responder, hooks: LoopHooks): void {
  const { status, trace } = hooks;
  const { request } = responder;
  const device = openDevice(fd, responder);
  while (!status.isStopped) {
    const length = device.receive();
    if (length < 0) {
      // It was woken.
      if (length === -EINTR) hooks.refresh();
      // ENOENT: the request was interrupted before it was read.
      if (length === -ENOENT || length === -EINTR || length === -EAGAIN) continue;
      // The second where the end met this read with a request in hand, a release most of the time: fuse_dev_do_read() of the
      // kernel. Neither says whether it was unmounted or cut.
      if (length === -ENODEV || length === -ECONNABORTED) return;
      throw new Error(`reading the FUSE device failed (errno ${-length})`);
    }
    status.begin(request.opcode, request.uniqueLow, request.uniqueHigh, request.node);
    let size: number;
    try {
      hooks.refresh();
      size = responder.answer(length);
    } catch (problem) {
      size = responder.answerFailure();
      hooks.failed(problem);
    }
    if (trace !== undefined) trace(describe(responder, length, size));
    // Whether it went well is not looked at: the kernel may know nothing of the node any more.
    if (responder.noticeLength > 0) device.notify(responder.noticeLength);
    if (size > 0) send(device, size, responder, hooks);
    status.end();
    if (responder.outgrown !== 0) hooks.outgrown(responder.outgrown);
  }
}

function send(device: Device, size: number, responder: Responder, hooks: LoopHooks): void {
  let sent = device.send(size);
  while (sent === -EINTR || sent === -EAGAIN) sent = device.send(size);
  if (sent === size) return;
  // ENOENT: the caller was killed meanwhile. The others: the mount ended meanwhile, as the next read says too.
  if (sent === -ENOENT || sent === -ENODEV || sent === -ECONNABORTED) return;
  if (sent === -EINVAL) {
    device.send(responder.answerFailure());
    hooks.failed(new Error(`the kernel refused the reply to opcode ${responder.request.opcode}`));
    return;
  }
  throw new Error(
    `writing to the FUSE device failed (${sent < 0 ? `errno ${-sent}` : `${sent} of ${size} bytes`})`,
  );
}

/** "LOOKUP node=1 unique=4 47 bytes -> 128 bytes": one line per request. */
function describe({ request, reply }: Responder, received: number, sent: number): string {
  const { opcode, node, uniqueLow } = request;
  const name = OPCODES.get(opcode)?.name ?? `opcode ${opcode}`;
  const outcome =
    sent === 0 ? 'no reply' : reply.status < 0 ? `errno ${-reply.status}` : `${sent - 16} bytes`;
  return `${name} node=${node} unique=${uniqueLow} ${received} bytes -> ${outcome}`;
}
