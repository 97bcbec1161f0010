/** FUSE_INIT: the first request of a connection, answered by the main thread before any worker starts. */

import { readSync, writeSync } from 'node:fs';
import { EPROTO } from '../../base/errno.ts';
import { ImageError } from '../../base/errors.ts';
import {
  FUSE_ASYNC_DIO,
  FUSE_ASYNC_READ,
  FUSE_BIG_WRITES,
  FUSE_DIRECT_IO_ALLOW_MMAP,
  FUSE_DO_READDIRPLUS,
  FUSE_EXPLICIT_INVAL_DATA,
  FUSE_HANDLE_KILLPRIV_V2,
  FUSE_INIT_EXT,
  FUSE_MAX_PAGES,
  FUSE_PARALLEL_DIROPS,
  FUSE_READDIRPLUS_AUTO,
  FUSE_WRITEBACK_CACHE,
  InitIn,
  InitOut,
  MAJOR,
  MAX_PAGES,
  MAX_REQUEST,
  NEWEST_MINOR,
  OLDEST_MINOR,
  Opcode,
  ReplyHeader,
  RequestHeader,
  ROOT_NODE,
} from '../../fuse/abi.ts';
import { hasShared, isWritable, type TreeSeed } from '../../fuse/tree.ts';
import { SMALLEST_PAGE, storeNotice } from './notices.ts';
import { REQUEST_BYTES } from './request.ts';

const WANTED =
  FUSE_ASYNC_READ |
  FUSE_DO_READDIRPLUS |
  FUSE_READDIRPLUS_AUTO |
  FUSE_ASYNC_DIO |
  FUSE_PARALLEL_DIROPS |
  FUSE_MAX_PAGES |
  FUSE_EXPLICIT_INVAL_DATA;

/** What a mount is for. */
export interface MountUse {
  readonly writable: boolean;
  /** Writes may wait in the page cache. */
  readonly cached: boolean;
  /** Files are opened with FOPEN_DIRECT_IO: they are to be mapped all the same. */
  readonly direct: boolean;
}

/**
 * What is wanted of the kernel for a tree. Where files share a disk, or may do so later, no writes wait: what goes past the page cache
 * would not change the times that the kernel keeps by itself with FUSE_WRITEBACK_CACHE.
 */
export function useOf(tree: TreeSeed): MountUse {
  const writable = isWritable(tree);
  const direct = hasShared(tree) || (writable && tree.partitions);
  const waits = writable && !tree.sync && !direct;
  return { writable, cached: waits && (tree.shape === 'directory' || rootHasSize(tree)), direct };
}

function wantedFor({ writable, cached }: MountUse): number {
  if (!writable) return WANTED;
  const wanted = WANTED | FUSE_BIG_WRITES | FUSE_HANDLE_KILLPRIV_V2;
  return cached ? wanted | FUSE_WRITEBACK_CACHE : wanted;
}

/**
 * Whether the kernel can be told the size of a root that is a file. It makes the root's inode by itself, with
 * size 0, and asks for the size no more where it caches writes (see past-end.ts). So the file's last byte is
 * stored in its page cache, whatever that is: of a page that is there in part, the kernel reads the rest, and this
 * byte with it. But not where the page has no other bytes.
 */
function rootHasSize({ files }: TreeSeed): boolean {
  const size = files[0]?.size ?? 0;
  return size > 0 && size % SMALLEST_PAGE !== 1;
}

/** The notification for that. To be sent before anybody answers a request: so nobody has written anything yet. */
function sizeOfRoot({ files }: TreeSeed): Uint8Array {
  return storeNotice(ROOT_NODE, files[0]!.size - 1);
}

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
export function answerInit(request: Buffer, use: MountUse): InitVerdict {
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
    maxWrite: use.writable ? MAX_REQUEST : 4096,
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
  const extended = kernel.flags & FUSE_INIT_EXT;
  const flags = kernel.flags & wantedFor(use);
  const flags2 = use.direct && extended !== 0 ? kernel.flags2 & FUSE_DIRECT_IO_ALLOW_MMAP : 0;
  InitOut.encode({ ...out, minor, flags: flags2 === 0 ? flags : flags | extended, flags2 }, payload);
  return { verdict: 'agreed', minor, reply: replyTo(request, 0, payload) };
}

/**
 * Reads INIT from a device that has just been mounted and answers it. Blocks until the kernel has sent it,
 * which it does as part of mounting. Throws ImageError('mount') where the versions do not fit.
 */
export function shakeHands(device: number, tree: TreeSeed): { readonly minor: number } {
  const use = useOf(tree);
  const buffer = Buffer.alloc(REQUEST_BYTES);
  for (;;) {
    const length = readSync(device, buffer, 0, buffer.length, null);
    const request = buffer.subarray(0, length);
    if (length < RequestHeader.size || request.readUInt32LE(RequestHeader.at.opcode) !== Opcode.INIT) {
      throw new ImageError('mount', 'the FUSE device sent something else than INIT as its first request');
    }
    const answer = answerInit(request, use);
    writeSync(device, answer.reply);
    if (answer.verdict === 'agreed') {
      if (use.cached && tree.shape === 'file') writeSync(device, sizeOfRoot(tree));
      return { minor: answer.minor };
    }
    if (answer.verdict === 'refused') throw new ImageError('mount', answer.reason);
  }
}
