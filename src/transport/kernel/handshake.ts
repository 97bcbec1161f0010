/** FUSE_INIT: the first request of a connection, answered by the main thread before any worker starts. */

import { readSync, writeSync } from 'node:fs';
import { EPROTO } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import {
  FUSE_ASYNC_DIO,
  FUSE_ASYNC_READ,
  FUSE_DO_READDIRPLUS,
  FUSE_EXPLICIT_INVAL_DATA,
  FUSE_MAX_PAGES,
  FUSE_PARALLEL_DIROPS,
  FUSE_READDIRPLUS_AUTO,
  InitIn,
  InitOut,
  MAJOR,
  MAX_PAGES,
  NEWEST_MINOR,
  OLDEST_MINOR,
  Opcode,
  ReplyHeader,
  RequestHeader,
} from '../../fuse/abi.ts';
import { REQUEST_BYTES } from './responder.ts';

const WANTED =
  FUSE_ASYNC_READ |
  FUSE_DO_READDIRPLUS |
  FUSE_READDIRPLUS_AUTO |
  FUSE_ASYNC_DIO |
  FUSE_PARALLEL_DIROPS |
  FUSE_MAX_PAGES |
  FUSE_EXPLICIT_INVAL_DATA;

/** Background requests (read-ahead, direct I/O) that the kernel keeps in flight. */
const MAX_BACKGROUND = 64;

export type InitVerdict =
  | { readonly verdict: 'agreed'; readonly minor: number; readonly reply: Buffer }
  /** The kernel's major version is newer: it asks again in ours. */
  | { readonly verdict: 'again'; readonly reply: Buffer }
  | { readonly verdict: 'refused'; readonly reason: string; readonly reply: Buffer };

function replyTo(request: Buffer, error: number, payload: Buffer): Buffer {
  const reply = Buffer.alloc(ReplyHeader.size + payload.length);
  reply.writeUInt32LE(reply.length, ReplyHeader.at.len);
  reply.writeInt32LE(-error, ReplyHeader.at.error);
  request.copy(reply, ReplyHeader.at.unique, RequestHeader.at.unique, RequestHeader.at.unique + 8);
  payload.copy(reply, ReplyHeader.size);
  return reply;
}

/**
 * The answer to an INIT request (`request` holds exactly its bytes). Pure: bytes in, bytes out.
 * See "FUSE_INIT negotiation" in <linux/fuse.h>.
 */
export function answerInit(request: Buffer): InitVerdict {
  const none = Buffer.alloc(0);
  const refuse = (reason: string): InitVerdict => ({
    verdict: 'refused',
    reason,
    reply: replyTo(request, EPROTO, none),
  });
  const body = request.subarray(RequestHeader.size);
  if (body.length < 16)
    return refuse(`the kernel's INIT request has ${body.length} bytes, expected 16 or 64`);
  const padded = Buffer.alloc(InitIn.size);
  body.copy(padded, 0, 0, InitIn.size);
  const kernel = InitIn.decode(padded);
  const out = {
    major: MAJOR,
    minor: NEWEST_MINOR,
    maxReadahead: kernel.maxReadahead,
    flags: 0,
    maxBackground: MAX_BACKGROUND,
    congestionThreshold: Math.floor((MAX_BACKGROUND * 3) / 4),
    maxWrite: 4096,
    timeGran: 1,
    maxPages: MAX_PAGES,
    mapAlignment: 0,
    flags2: 0,
    unused: Buffer.alloc(28),
  };
  if (kernel.major > MAJOR) {
    const versions = Buffer.alloc(InitOut.size);
    InitOut.encode(out, versions);
    return { verdict: 'again', reply: replyTo(request, 0, versions) };
  }
  if (kernel.major < MAJOR || kernel.minor < OLDEST_MINOR) {
    return refuse(
      `the kernel speaks FUSE ${kernel.major}.${kernel.minor}, needed is ${MAJOR}.${OLDEST_MINOR} (Linux 5.4) or newer`,
    );
  }
  const minor = Math.min(kernel.minor, NEWEST_MINOR);
  const payload = Buffer.alloc(InitOut.size);
  InitOut.encode({ ...out, minor, flags: kernel.flags & WANTED }, payload);
  return { verdict: 'agreed', minor, reply: replyTo(request, 0, payload) };
}

/**
 * Reads INIT from a device that has just been mounted and answers it. Blocks until the kernel has sent it,
 * which it does as part of mounting. Throws ImageError('mount') where the versions do not fit.
 */
export function shakeHands(device: number): { readonly minor: number } {
  const buffer = Buffer.alloc(REQUEST_BYTES);
  for (;;) {
    const length = readSync(device, buffer, 0, buffer.length, null);
    const request = buffer.subarray(0, length);
    if (length < RequestHeader.size || request.readUInt32LE(RequestHeader.at.opcode) !== Opcode.INIT) {
      throw new ImageError('mount', 'the FUSE device sent something else than INIT as its first request');
    }
    const answer = answerInit(request);
    writeSync(device, answer.reply);
    if (answer.verdict === 'agreed') return { minor: answer.minor };
    if (answer.verdict === 'refused') throw new ImageError('mount', answer.reason);
  }
}
