/**
 * The reply to the request at hand, as the device takes it. Its payload starts on a page, its header just before: an
 * image is read straight to its place, and one write sends both. Nothing is allocated.
 */

import {
  Attr,
  AttrOut,
  Dirent,
  EntryOut,
  MAX_REQUEST,
  OpenOut,
  ReplyHeader,
  StatfsOut,
  WriteOut,
} from '../../fuse/abi.ts';
import type { Attributes } from '../../fuse/attributes.ts';
import type { FileSystemSize } from '../../fuse/filesystem.ts';
import { NAME_BYTES } from '../../fuse/listing.ts';
import type { Time } from '../../fuse/times.ts';
import type { RequestBuffer } from './request.ts';

/** Where the payload of a reply starts in the reply buffer. */
export const PAYLOAD_AT = 4096;
/** Where its header starts. */
export const REPLY_AT = PAYLOAD_AT - ReplyHeader.size;

const HEADER = REPLY_AT >> 2;
const TWO_32 = 2 ** 32;

/** Seconds for which the kernel may keep names and attributes. */
const VALID_SECONDS = 1;
/** In which statfs(2) counts. */
const STATFS_BLOCK = 4096;

/** One per thread, reused for every reply. Where a call takes a place, it is a byte of the payload. */
export class ReplyBuffer {
  /** The reply stands at REPLY_AT. */
  readonly bytes: Buffer = Buffer.allocUnsafeSlow(PAYLOAD_AT + MAX_REQUEST);
  readonly #words = new Uint32Array(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length >> 2);

  /** The signed status of the reply that was made last. */
  get status(): number {
    return this.#words[HEADER + 1]! | 0;
  }

  /** The header: `outcome` is -errno, or the bytes of the payload. Returns the bytes of the reply. */
  finish(outcome: number, request: RequestBuffer): number {
    const size = ReplyHeader.size + Math.max(outcome, 0);
    this.#words[HEADER] = size;
    this.#words[HEADER + 1] = Math.min(outcome, 0);
    this.#words[HEADER + 2] = request.uniqueLow;
    this.#words[HEADER + 3] = request.uniqueHigh;
    return size;
  }

  #u32(at: number, value: number): void {
    this.#words[(PAYLOAD_AT + at) >> 2] = value;
  }

  #u64(at: number, value: number): void {
    const word = (PAYLOAD_AT + at) >> 2;
    this.#words[word] = value >>> 0;
    this.#words[word + 1] = Math.floor(value / TWO_32);
  }

  zero(at: number, length: number): void {
    this.#words.fill(0, (PAYLOAD_AT + at) >> 2, (PAYLOAD_AT + at + length) >> 2);
  }

  // Each of these returns the bytes of what it puts.

  /** A count, an offset or a size, all of the reply: a u64, or a u32 and padding, which are the same below 2^32. */
  putNumber(value: number): number {
    this.#u64(0, value);
    return WriteOut.size;
  }

  putBytes(value: Uint8Array): number {
    this.bytes.set(value, PAYLOAD_AT);
    return value.length;
  }

  putOpen(handle: number, flags: number): number {
    this.#u64(OpenOut.at.fh, handle);
    this.#u64(OpenOut.at.openFlags, flags);
    return OpenOut.size;
  }

  /** What GETATTR and SETATTR want. */
  putAttrOut(attr: Attributes): number {
    this.zero(0, AttrOut.size);
    this.#u64(AttrOut.at.attrValid, VALID_SECONDS);
    this.#putAttr(AttrOut.at.attr, attr);
    return AttrOut.size;
  }

  /** What LOOKUP wants, and READDIRPLUS of each name. */
  putEntry(at: number, attr: Attributes): number {
    this.zero(at, EntryOut.size);
    this.#u64(at + EntryOut.at.nodeid, attr.node);
    this.#u64(at + EntryOut.at.entryValid, VALID_SECONDS);
    this.#u64(at + EntryOut.at.attrValid, VALID_SECONDS);
    this.#putAttr(at + EntryOut.at.attr, attr);
    return EntryOut.size;
  }

  /** The fixed part and the name; `next` is the cookie of the entry behind it. What pads it is not touched. */
  putDirent(at: number, node: number, next: number, type: number, name: Uint8Array): number {
    this.#u64(at + Dirent.at.ino, node);
    this.#u64(at + Dirent.at.off, next);
    this.#u32(at + Dirent.at.namelen, name.length);
    this.#u32(at + Dirent.at.type, type);
    this.bytes.set(name, PAYLOAD_AT + at + Dirent.size);
    return Dirent.size + name.length;
  }

  putStatfs({ bytes, files }: FileSystemSize): number {
    this.zero(0, StatfsOut.size);
    this.#u64(StatfsOut.at.blocks, Math.ceil(bytes / STATFS_BLOCK));
    this.#u64(StatfsOut.at.files, files);
    this.#u32(StatfsOut.at.bsize, STATFS_BLOCK);
    this.#u32(StatfsOut.at.frsize, STATFS_BLOCK);
    this.#u32(StatfsOut.at.namelen, NAME_BYTES);
    return StatfsOut.size;
  }

  /** rdev and flags are left as zeros. */
  #putAttr(start: number, attr: Attributes): void {
    const { at } = Attr;
    this.#u64(start + at.ino, attr.node);
    this.#u64(start + at.size, attr.size);
    this.#u64(start + at.blocks, attr.blocks);
    this.#putTime(start + at.atime, start + at.atimensec, attr.atime);
    this.#putTime(start + at.mtime, start + at.mtimensec, attr.mtime);
    this.#putTime(start + at.ctime, start + at.ctimensec, attr.ctime);
    this.#u32(start + at.mode, attr.mode);
    this.#u32(start + at.nlink, attr.links);
    this.#u32(start + at.uid, attr.uid);
    this.#u32(start + at.gid, attr.gid);
    this.#u32(start + at.blksize, attr.blockSize);
  }

  #putTime(secondsAt: number, nanosecondsAt: number, time: Time): void {
    this.#u64(secondsAt, time.seconds);
    this.#u32(nanosecondsAt, time.nanoseconds);
  }
}
