/**
 * From the bytes of one request to the bytes of its reply: the protocol without the device, so that it can be
 * tested as bytes. One responder per worker; both buffers are reused for every request, and nothing is
 * allocated on the way of a READ or a WRITE.
 *
 * The reply's payload starts on a page, its header just before: the image is read straight to its place, and
 * one write sends both. What a WRITE brings goes to the image straight from the request.
 */

import { constants } from 'node:fs';
import { E2BIG, EINVAL, EIO, ENODATA, ENOSPC, ENOSYS, ERANGE } from '../../base/errno.ts';
import { roundUp } from '../../base/units.ts';
import {
  AttrOut,
  Dirent,
  EntryOut,
  FATTR_ATIME,
  FATTR_ATIME_NOW,
  FATTR_CTIME,
  FATTR_GID,
  FATTR_MODE,
  FATTR_MTIME,
  FATTR_MTIME_NOW,
  FATTR_SIZE,
  FATTR_UID,
  FallocateIn,
  FOPEN_CACHE_DIR,
  FOPEN_DIRECT_IO,
  FOPEN_KEEP_CACHE,
  FOPEN_PARALLEL_DIRECT_WRITES,
  FsyncIn,
  FUSE_GETATTR_FH,
  FUSE_WRITE_CACHE,
  GetattrIn,
  LseekIn,
  MAX_REQUEST,
  Opcode,
  OpenOut,
  ReadIn,
  ReplyHeader,
  RequestHeader,
  SetattrIn,
  StatfsOut,
  WriteIn,
  WriteOut,
} from '../../fuse/abi.ts';
import { Attributes, type FileSystem, O_ACCMODE, S_IFDIR, S_IFREG } from '../../fuse/filesystem.ts';
import type { Time } from '../../fuse/tree.ts';
import { LARGEST_PAGE, putStore, STORE_BYTES } from './notices.ts';
import { PastEnd } from './past-end.ts';

/** Where the payload of a reply starts in the reply buffer. */
export const PAYLOAD_AT = 4096;
/** Where its header starts. */
export const REPLY_AT = PAYLOAD_AT - ReplyHeader.size;

/** Of a read-only mount: the header and names; 8 KiB is the kernel's minimum. */
export const REQUEST_BYTES = 64 * 1024;
/** Of a writable one: the kernel asks for the largest write and its headers. */
const WRITE_REQUEST_BYTES = MAX_REQUEST + 4096;

const { O_DIRECT } = constants;

/** Marks the handles of files that are open for writing: bit 31, which no node number reaches. */
const OPEN_TO_WRITE = 1 << 31;
const OPEN_TO_WRITE_VALUE = 2 ** 31;

const BODY_AT = RequestHeader.size;
const BODY = BODY_AT >> 2;
const TWO_32 = 2 ** 32;

/** Seconds for which the kernel may keep names and attributes. */
const VALID_SECONDS = 1;
const DIRECTORY_TYPE = S_IFDIR >> 12;
const FILE_TYPE = S_IFREG >> 12;
/** What a handler returns when the request wants no reply. */
const SILENT = -65536;
const DOTS = [Buffer.from('.'), Buffer.from('..')] as const;

interface OpcodeEntry {
  readonly name: string;
  /** Least bytes after the request header. */
  readonly body: number;
  /** Payload bytes written, -errno, or SILENT. */
  readonly run: (responder: Responder) => number;
}

/** Every opcode that is answered with more than ENOSYS. */
export const OPCODES: ReadonlyMap<number, OpcodeEntry> = new Map<number, OpcodeEntry>([
  [Opcode.LOOKUP, { name: 'LOOKUP', body: 1, run: (r) => r.lookup() }],
  [Opcode.FORGET, { name: 'FORGET', body: 8, run: (r) => r.forget() }],
  [Opcode.BATCH_FORGET, { name: 'BATCH_FORGET', body: 8, run: (r) => r.batchForget() }],
  [Opcode.GETATTR, { name: 'GETATTR', body: GetattrIn.size, run: (r) => r.getattr() }],
  [Opcode.SETATTR, { name: 'SETATTR', body: SetattrIn.size, run: (r) => r.setattr() }],
  [Opcode.SYMLINK, { name: 'SYMLINK', body: 2, run: (r) => r.fs.refuse() }],
  [Opcode.MKNOD, { name: 'MKNOD', body: 17, run: (r) => r.fs.refuse() }],
  [Opcode.MKDIR, { name: 'MKDIR', body: 9, run: (r) => r.fs.refuse() }],
  [Opcode.UNLINK, { name: 'UNLINK', body: 1, run: (r) => r.fs.refuse() }],
  [Opcode.RMDIR, { name: 'RMDIR', body: 1, run: (r) => r.fs.refuse() }],
  [Opcode.RENAME, { name: 'RENAME', body: 10, run: (r) => r.fs.refuse() }],
  [Opcode.LINK, { name: 'LINK', body: 9, run: (r) => r.fs.refuse() }],
  [Opcode.OPEN, { name: 'OPEN', body: 8, run: (r) => r.open() }],
  [Opcode.READ, { name: 'READ', body: ReadIn.size, run: (r) => r.read() }],
  [Opcode.WRITE, { name: 'WRITE', body: WriteIn.size, run: (r) => r.write() }],
  [Opcode.STATFS, { name: 'STATFS', body: 0, run: (r) => r.statfs() }],
  [Opcode.RELEASE, { name: 'RELEASE', body: 24, run: (r) => r.release() }],
  [Opcode.FSYNC, { name: 'FSYNC', body: FsyncIn.size, run: (r) => r.fsync() }],
  [Opcode.GETXATTR, { name: 'GETXATTR', body: 9, run: (r) => r.getxattr() }],
  [Opcode.LISTXATTR, { name: 'LISTXATTR', body: 8, run: (r) => r.listxattr() }],
  [Opcode.FLUSH, { name: 'FLUSH', body: 24, run: (r) => r.flush() }],
  [Opcode.OPENDIR, { name: 'OPENDIR', body: 8, run: (r) => r.opendir() }],
  [Opcode.READDIR, { name: 'READDIR', body: ReadIn.size, run: (r) => r.readdir(false) }],
  [Opcode.READDIRPLUS, { name: 'READDIRPLUS', body: ReadIn.size, run: (r) => r.readdir(true) }],
  [Opcode.RELEASEDIR, { name: 'RELEASEDIR', body: 24, run: () => 0 }],
  [Opcode.FSYNCDIR, { name: 'FSYNCDIR', body: 16, run: () => 0 }],
  [Opcode.ACCESS, { name: 'ACCESS', body: 8, run: (r) => r.access() }],
  [Opcode.CREATE, { name: 'CREATE', body: 17, run: (r) => r.fs.refuse() }],
  [Opcode.FALLOCATE, { name: 'FALLOCATE', body: FallocateIn.size, run: (r) => r.fallocate() }],
  [Opcode.LSEEK, { name: 'LSEEK', body: LseekIn.size, run: (r) => r.lseek() }],
  // Requests are short: ENOSYS tells the kernel to send no more interrupts for the life of the mount.
  [Opcode.INTERRUPT, { name: 'INTERRUPT', body: 8, run: () => -ENOSYS }],
  [Opcode.DESTROY, { name: 'DESTROY', body: 0, run: () => 0 }],
]);

export class Responder {
  readonly fs: FileSystem;
  /** The request is read to its start. */
  readonly request: Buffer;
  /** The reply stands at REPLY_AT. */
  readonly reply: Buffer = Buffer.allocUnsafeSlow(PAYLOAD_AT + MAX_REQUEST);
  /** A notification stands at its start. */
  readonly notice: Buffer = Buffer.alloc(STORE_BYTES);
  /** Bytes of a notification that the kernel must have before the reply; 0 where there is none. */
  noticeLength = 0;
  /** A file whose name the kernel is to forget after the reply (see past-end.ts), by somebody who serves no request; or 0. */
  outgrown = 0;
  readonly #pastEnd: PastEnd;
  readonly #in: Uint32Array;
  readonly #out: Uint32Array;
  readonly #attr = new Attributes();
  readonly #entries: (OpcodeEntry | undefined)[] = [];
  #length = 0;

  /** `pastEnd` is PastEnd.seed for the nodes of `fs`, the same for all threads of a mount. */
  constructor(fs: FileSystem, pastEnd: SharedArrayBuffer = PastEnd.seed(fs.lastNode)) {
    this.fs = fs;
    this.#pastEnd = new PastEnd(pastEnd);
    this.request = Buffer.allocUnsafeSlow(fs.writable ? WRITE_REQUEST_BYTES : REQUEST_BYTES);
    this.#in = new Uint32Array(this.request.buffer, this.request.byteOffset, this.request.length >> 2);
    this.#out = new Uint32Array(this.reply.buffer, this.reply.byteOffset, (PAYLOAD_AT + MAX_REQUEST) >> 2);
    for (let opcode = 0; opcode <= Opcode.LSEEK; opcode += 1) this.#entries.push(OPCODES.get(opcode));
  }

  get opcode(): number {
    return this.#in[1]!;
  }

  /** The number of the request: its halves, low first. */
  get uniqueLow(): number {
    return this.#in[2]!;
  }

  get uniqueHigh(): number {
    return this.#in[3]!;
  }

  get node(): number {
    return this.#in[4]! + this.#in[5]! * TWO_32;
  }

  /** The signed status of the reply that was made last. */
  get status(): number {
    return this.#out[(REPLY_AT >> 2) + 1]! | 0;
  }

  /**
   * Answers the request of `length` bytes in `request`. Returns the bytes of the reply at REPLY_AT, or 0 where
   * none is wanted. Whatever a request holds, it is answered.
   */
  answer(length: number): number {
    if (length < RequestHeader.size) return 0;
    this.#length = Math.min(length, this.#in[0]!);
    this.noticeLength = 0;
    this.outgrown = 0;
    const entry = this.#entries[this.opcode];
    let outcome: number;
    if (entry === undefined) outcome = -ENOSYS;
    else if (this.#length < BODY_AT + entry.body) outcome = -EINVAL;
    else outcome = entry.run(this);
    return outcome === SILENT ? 0 : this.#finish(outcome);
  }

  /** Makes the reply "EIO" for the request at hand, after a handler threw. */
  answerFailure(): number {
    return this.#finish(-EIO);
  }

  #finish(outcome: number): number {
    const payload = Math.max(outcome, 0);
    const header = REPLY_AT >> 2;
    this.#out[header] = ReplyHeader.size + payload;
    this.#out[header + 1] = Math.min(outcome, 0);
    this.#out[header + 2] = this.#in[2]!;
    this.#out[header + 3] = this.#in[3]!;
    return ReplyHeader.size + payload;
  }

  /** The u64 at byte `at` of the body as a number; beyond 2^53 it is inexact but still large. */
  #in64(at: number): number {
    const word = BODY + (at >> 2);
    return this.#in[word]! + this.#in[word + 1]! * TWO_32;
  }

  /** The time at the i64 seconds and the u32 nanoseconds given, in ms. */
  #inTime(secondsAt: number, nanosecondsAt: number): number {
    const word = BODY + (secondsAt >> 2);
    const seconds = this.#in[word]! + (this.#in[word + 1]! | 0) * TWO_32;
    return seconds * 1000 + this.#in32(nanosecondsAt) / 1_000_000;
  }

  /** The handle at byte `at` of the body, as the file system gave it out. */
  #handle(at: number): number {
    const word = BODY + (at >> 2);
    return this.#in[word + 1] === 0 ? this.#in[word]! & ~OPEN_TO_WRITE : -1;
  }

  #in32(at: number): number {
    return this.#in[BODY + (at >> 2)]!;
  }

  #out64(at: number, value: number): void {
    const word = at >> 2;
    this.#out[word] = value >>> 0;
    this.#out[word + 1] = Math.floor(value / TWO_32);
  }

  #zero(at: number, length: number): void {
    this.#out.fill(0, at >> 2, (at + length) >> 2);
  }

  read(): number {
    const length = Math.min(this.#in32(ReadIn.at.size), MAX_REQUEST);
    return this.fs.read(
      this.#handle(ReadIn.at.fh),
      this.reply,
      PAYLOAD_AT,
      length,
      this.#in64(ReadIn.at.offset),
    );
  }

  write(): number {
    const length = this.#in32(WriteIn.at.size);
    if (length > this.#length - BODY_AT - WriteIn.size) return -EINVAL;
    const flags = this.#in32(WriteIn.at.flags);
    const cached = (this.#in32(WriteIn.at.writeFlags) & FUSE_WRITE_CACHE) !== 0;
    const moved = this.fs.write(
      this.#handle(WriteIn.at.fh),
      this.request,
      BODY_AT + WriteIn.size,
      length,
      this.#in64(WriteIn.at.offset),
      flags,
      cached,
    );
    if (moved === -ENOSPC && this.#in64(WriteIn.at.offset) + length > this.fs.sizeOf(this.node)) {
      return this.#noSpace(cached);
    }
    if (moved < 0) return moved;
    // From the page cache, fewer bytes would count as written; past it, they would become EIO (FUSE_ASYNC_DIO).
    if (moved < length && (cached || (flags & O_DIRECT) !== 0)) return this.#noSpace(cached);
    this.#out64(PAYLOAD_AT, moved);
    return WriteOut.size;
  }

  /** A write reached past the end of the disk. */
  #noSpace(cached: boolean): number {
    if (cached) this.#pastEnd.refused(this.node);
    return -ENOSPC;
  }

  fsync(): number {
    return this.fs.fsync(this.#handle(FsyncIn.at.fh));
  }

  fallocate(): number {
    return this.fs.allocate(
      this.#handle(FallocateIn.at.fh),
      this.#in32(FallocateIn.at.mode),
      this.#in64(FallocateIn.at.offset),
      this.#in64(FallocateIn.at.length),
    );
  }

  setattr(): number {
    const { at } = SetattrIn;
    const valid = this.#in32(at.valid);
    const has = (flag: number): boolean => (valid & flag) !== 0;
    const time = (flag: number, now: number, secondsAt: number, nanosecondsAt: number) => {
      if (!has(flag)) return undefined;
      return has(now) ? Date.now() : this.#inTime(secondsAt, nanosecondsAt);
    };
    const size = has(FATTR_SIZE) ? this.#in64(at.size) : undefined;
    const status = this.fs.setattr(this.node, {
      size,
      mode: has(FATTR_MODE) ? this.#in32(at.mode) : undefined,
      uid: has(FATTR_UID) ? this.#in32(at.uid) : undefined,
      gid: has(FATTR_GID) ? this.#in32(at.gid) : undefined,
      atime: time(FATTR_ATIME, FATTR_ATIME_NOW, at.atime, at.atimensec),
      mtime: time(FATTR_MTIME, FATTR_MTIME_NOW, at.mtime, at.mtimensec),
      ctime: time(FATTR_CTIME, 0, at.ctime, at.ctimensec),
    });
    if (status < 0) return status;
    const length = this.#putAttrOut();
    if (size !== undefined) {
      this.#pastEnd.settled(this.node);
      if (size < this.#attr.size) this.#forgetPages();
    }
    return length;
  }

  /**
   * A notification that makes the kernel drop the file's pages when it gets the reply to the cut at hand. It
   * does so only where the file's size changes, and our reply says that it does not. So it becomes longer first,
   * by a page behind its end, which nobody can be waiting for. (An INVAL_INODE here would wait for pages whose
   * readers may wait for this thread.)
   */
  #forgetPages(): void {
    putStore(this.notice, this.node, roundUp(this.#attr.size, LARGEST_PAGE));
    this.noticeLength = STORE_BYTES;
  }

  lookup(): number {
    const end = this.request.indexOf(0, BODY_AT);
    if (end < 0 || end >= this.#length) return -EINVAL;
    const node = this.fs.lookup(this.node, this.request.toString('latin1', BODY_AT, end));
    if (node < 0) return node;
    this.#putEntry(PAYLOAD_AT, node);
    return EntryOut.size;
  }

  forget(): number {
    this.#pastEnd.settled(this.node);
    return SILENT;
  }

  /** fuse_batch_forget_in: a count and padding; then nodes, each with how many times it is forgotten. */
  batchForget(): number {
    const held = Math.floor((this.#length - BODY_AT - 8) / 16);
    const count = Math.min(this.#in32(0), held);
    for (let index = 0; index < count; index += 1) this.#pastEnd.settled(this.#in64(8 + index * 16));
    return SILENT;
  }

  /** With a handle that is open for writing, it is asked by write(2), and by what needs to know where the file ends. */
  getattr(): number {
    const byHandle = (this.#in32(GetattrIn.at.getattrFlags) & FUSE_GETATTR_FH) !== 0;
    const writer = byHandle && (this.#in32(GetattrIn.at.fh) & OPEN_TO_WRITE) !== 0;
    return writer && this.#pastEnd.owes(this.node) ? -ENOSPC : this.#putAttrOut();
  }

  #putAttrOut(): number {
    const status = this.fs.getattr(this.node, this.#attr);
    if (status < 0) return status;
    this.#zero(PAYLOAD_AT, AttrOut.size);
    this.#out64(PAYLOAD_AT, VALID_SECONDS);
    this.#putAttributes(PAYLOAD_AT + AttrOut.at.attr);
    return AttrOut.size;
  }

  open(): number {
    const flags = this.#in32(0);
    const handle = this.fs.open(this.node, flags);
    if (handle < 0) return handle;
    this.#pastEnd.opened(this.node);
    const cache = this.fs.isShared(this.node) ? FOPEN_DIRECT_IO : FOPEN_KEEP_CACHE;
    const writes = (flags & O_ACCMODE) !== 0;
    return writes
      ? this.#putOpen(handle + OPEN_TO_WRITE_VALUE, cache | FOPEN_PARALLEL_DIRECT_WRITES)
      : this.#putOpen(handle, cache);
  }

  release(): number {
    if (this.#pastEnd.closed(this.node)) this.outgrown = this.node;
    return 0;
  }

  opendir(): number {
    const status = this.fs.opendir(this.node);
    return status < 0 ? status : this.#putOpen(0, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR);
  }

  readdir(plus: boolean): number {
    const size = Math.min(this.#in32(ReadIn.at.size), MAX_REQUEST);
    const extra = plus ? EntryOut.size : 0;
    const entries = this.fs.entries;
    const last = entries.length + DOTS.length;
    let used = 0;
    for (let cookie = this.#in64(ReadIn.at.offset); cookie < last; cookie += 1) {
      const entry = entries[cookie - DOTS.length];
      const name = entry === undefined ? DOTS[cookie]! : entry.name;
      const bytes = extra + roundUp(Dirent.size + name.length, 8);
      if (used + bytes > size) break;
      const at = PAYLOAD_AT + used;
      this.#zero(at, bytes);
      if (plus && entry !== undefined) this.#putEntry(at, entry.node);
      const dirent = at + extra;
      this.#out64(dirent, entry === undefined ? this.node : entry.node);
      this.#out64(dirent + Dirent.at.off, cookie + 1);
      this.#out[(dirent + Dirent.at.namelen) >> 2] = name.length;
      this.#out[(dirent + Dirent.at.type) >> 2] = entry === undefined ? DIRECTORY_TYPE : FILE_TYPE;
      this.reply.set(name, dirent + Dirent.size);
      used += bytes;
    }
    return used;
  }

  statfs(): number {
    const size = this.fs.size();
    this.#zero(PAYLOAD_AT, StatfsOut.size);
    this.#out64(PAYLOAD_AT, Math.ceil(size.bytes / 4096));
    this.#out64(PAYLOAD_AT + StatfsOut.at.files, size.files);
    this.#out[(PAYLOAD_AT + StatfsOut.at.bsize) >> 2] = 4096;
    this.#out[(PAYLOAD_AT + StatfsOut.at.frsize) >> 2] = 4096;
    this.#out[(PAYLOAD_AT + StatfsOut.at.namelen) >> 2] = 255;
    return StatfsOut.size;
  }

  access(): number {
    return this.fs.access(this.node, this.#in32(0));
  }

  lseek(): number {
    const found = this.fs.seek(
      this.#handle(LseekIn.at.fh),
      this.#in64(LseekIn.at.offset),
      this.#in32(LseekIn.at.whence),
    );
    if (found < 0) return found;
    this.#out64(PAYLOAD_AT, found);
    return 8;
  }

  /** Who only reads is not told of what others could not write. */
  flush(): number {
    return (this.#in32(0) & OPEN_TO_WRITE) === 0 ? 0 : this.fs.closing(this.#handle(0));
  }

  getxattr(): number {
    const end = this.request.indexOf(0, BODY_AT + 8);
    if (end < 0 || end >= this.#length) return -EINVAL;
    const name = this.request.toString('utf8', BODY_AT + 8, end);
    const value = this.fs.attribute(this.node, name);
    return value === undefined ? -ENODATA : this.#putSized(Buffer.from(value));
  }

  listxattr(): number {
    const names = this.fs.attributes(this.node).map(([name]) => `${name}\0`);
    return this.#putSized(Buffer.from(names.join('')));
  }

  /** The reply of GETXATTR and LISTXATTR: only the size where the caller gave no room. */
  #putSized(value: Buffer): number {
    const room = this.#in32(0);
    if (value.length > 65536) return -E2BIG;
    if (room === 0) {
      this.#out64(PAYLOAD_AT, value.length);
      return 8;
    }
    if (value.length > room) return -ERANGE;
    this.reply.set(value, PAYLOAD_AT);
    return value.length;
  }

  #putOpen(handle: number, flags: number): number {
    this.#out64(PAYLOAD_AT, handle);
    this.#out64(PAYLOAD_AT + OpenOut.at.openFlags, flags);
    return OpenOut.size;
  }

  #putEntry(at: number, node: number): void {
    this.#zero(at, EntryOut.size);
    this.fs.getattr(node, this.#attr);
    this.#out64(at, node);
    this.#out64(at + EntryOut.at.entryValid, VALID_SECONDS);
    this.#out64(at + EntryOut.at.attrValid, VALID_SECONDS);
    this.#putAttributes(at + EntryOut.at.attr);
  }

  #putAttributes(at: number): void {
    const attr = this.#attr;
    const word = at >> 2;
    this.#out64(at, attr.node);
    this.#out64(at + 8, attr.size);
    this.#out64(at + 16, attr.blocks);
    this.#putTime(at + 24, at + 48, attr.atime);
    this.#putTime(at + 32, at + 52, attr.mtime);
    this.#putTime(at + 40, at + 56, attr.ctime);
    this.#out[word + 15] = attr.mode;
    this.#out[word + 16] = attr.links;
    this.#out[word + 17] = attr.uid;
    this.#out[word + 18] = attr.gid;
    this.#out[word + 19] = 0;
    this.#out[word + 20] = attr.blockSize;
    this.#out[word + 21] = 0;
  }

  #putTime(secondsAt: number, nanosecondsAt: number, time: Time): void {
    this.#out64(secondsAt, time.seconds);
    this.#out[nanosecondsAt >> 2] = time.nanoseconds;
  }
}
