/**
 * From the bytes of one request to the bytes of its reply: the protocol without the device, so that it can be
 * tested as bytes. One responder per worker; both buffers are reused for every request (request.ts, reply.ts), and
 * nothing is allocated on the way of a READ or a WRITE. What a WRITE brings goes to the image straight from the request.
 */

import { constants } from 'node:fs';
import { E2BIG, EINVAL, EIO, ENODATA, ENOENT, ENOSPC, ENOSYS, ERANGE } from '../../base/errno.ts';
import { roundUp } from '../../base/units.ts';
import {
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
  ReadIn,
  RequestHeader,
  SetattrIn,
  WriteIn,
} from '../../fuse/abi.ts';
import { Attributes, S_IFDIR, S_IFREG } from '../../fuse/attributes.ts';
import { type FileSystem, O_ACCMODE } from '../../fuse/filesystem.ts';
import { LARGEST_PAGE, putStore, STORE_BYTES } from './notices.ts';
import { PastEnd } from './past-end.ts';
import { PAYLOAD_AT, ReplyBuffer } from './reply.ts';
import { BODY_AT, handleToWrite, RequestBuffer } from './request.ts';

const { O_DIRECT } = constants;

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
  readonly request: RequestBuffer;
  readonly reply = new ReplyBuffer();
  /** A notification stands at its start. */
  readonly notice: Buffer = Buffer.alloc(STORE_BYTES);
  /** Bytes of a notification that the kernel must have before the reply; 0 where there is none. */
  noticeLength = 0;
  /** A file whose name the kernel is to forget after the reply (see past-end.ts), by somebody who serves no request; or 0. */
  outgrown = 0;
  readonly #pastEnd: PastEnd;
  readonly #attr = new Attributes();
  readonly #entries: (OpcodeEntry | undefined)[] = [];

  /** `pastEnd` is PastEnd.seed for the slots of `fs`, the same for all threads of a mount. */
  constructor(fs: FileSystem, pastEnd: SharedArrayBuffer = PastEnd.seed(fs.listing.members.capacity)) {
    this.fs = fs;
    this.#pastEnd = new PastEnd(pastEnd);
    this.request = new RequestBuffer(fs.writable);
    for (let opcode = 0; opcode <= Opcode.LSEEK; opcode += 1) this.#entries.push(OPCODES.get(opcode));
  }

  /**
   * Answers the request of `length` bytes in `request`. Returns the bytes of the reply at REPLY_AT, or 0 where
   * none is wanted. Whatever a request holds, it is answered.
   */
  answer(length: number): number {
    if (length < RequestHeader.size) return 0;
    this.request.begin(length);
    this.noticeLength = 0;
    this.outgrown = 0;
    const entry = this.#entries[this.request.opcode];
    let outcome: number;
    if (entry === undefined) outcome = -ENOSYS;
    else if (this.request.bodyLength < entry.body) outcome = -EINVAL;
    else outcome = entry.run(this);
    return outcome === SILENT ? 0 : this.reply.finish(outcome, this.request);
  }

  /** Makes the reply "EIO" for the request at hand, after a handler threw. */
  answerFailure(): number {
    return this.reply.finish(-EIO, this.request);
  }

  read(): number {
    const length = Math.min(this.request.u32(ReadIn.at.size), MAX_REQUEST);
    return this.fs.read(
      this.request.handle(ReadIn.at.fh),
      this.reply.bytes,
      PAYLOAD_AT,
      length,
      this.request.u64(ReadIn.at.offset),
    );
  }

  write(): number {
    const length = this.request.u32(WriteIn.at.size);
    if (length > this.request.bodyLength - WriteIn.size) return -EINVAL;
    const flags = this.request.u32(WriteIn.at.flags);
    const cached = (this.request.u32(WriteIn.at.writeFlags) & FUSE_WRITE_CACHE) !== 0;
    const moved = this.fs.write(
      this.request.handle(WriteIn.at.fh),
      this.request.bytes,
      BODY_AT + WriteIn.size,
      length,
      this.request.u64(WriteIn.at.offset),
      flags,
      cached,
    );
    if (
      moved === -ENOSPC &&
      this.request.u64(WriteIn.at.offset) + length > this.fs.sizeOf(this.request.node)
    ) {
      return this.#noSpace(cached);
    }
    if (moved < 0) return moved;
    // From the page cache, fewer bytes would count as written; past it, they would become EIO (FUSE_ASYNC_DIO).
    if (moved < length && (cached || (flags & O_DIRECT) !== 0)) return this.#noSpace(cached);
    return this.reply.putNumber(moved);
  }

  /** A write reached past the end of the disk. */
  #noSpace(cached: boolean): number {
    if (cached) this.#pastEnd.refused(this.fs.listing.slotOf(this.request.node));
    return -ENOSPC;
  }

  fsync(): number {
    return this.fs.fsync(this.request.handle(FsyncIn.at.fh));
  }

  fallocate(): number {
    return this.fs.allocate(
      this.request.handle(FallocateIn.at.fh),
      this.request.u32(FallocateIn.at.mode),
      this.request.u64(FallocateIn.at.offset),
      this.request.u64(FallocateIn.at.length),
    );
  }

  setattr(): number {
    const { at } = SetattrIn;
    const valid = this.request.u32(at.valid);
    const has = (flag: number): boolean => (valid & flag) !== 0;
    const time = (flag: number, now: number, secondsAt: number, nanosecondsAt: number) => {
      if (!has(flag)) return undefined;
      return has(now) ? Date.now() : this.request.time(secondsAt, nanosecondsAt);
    };
    const size = has(FATTR_SIZE) ? this.request.u64(at.size) : undefined;
    const status = this.fs.setattr(this.request.node, {
      size,
      mode: has(FATTR_MODE) ? this.request.u32(at.mode) : undefined,
      uid: has(FATTR_UID) ? this.request.u32(at.uid) : undefined,
      gid: has(FATTR_GID) ? this.request.u32(at.gid) : undefined,
      atime: time(FATTR_ATIME, FATTR_ATIME_NOW, at.atime, at.atimensec),
      mtime: time(FATTR_MTIME, FATTR_MTIME_NOW, at.mtime, at.mtimensec),
      ctime: time(FATTR_CTIME, 0, at.ctime, at.ctimensec),
    });
    if (status < 0) return status;
    const length = this.#putAttrOut();
    if (size !== undefined) {
      this.#pastEnd.settled(this.fs.listing.slotOf(this.request.node));
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
    putStore(this.notice, this.request.node, roundUp(this.#attr.size, LARGEST_PAGE));
    this.noticeLength = STORE_BYTES;
  }

  lookup(): number {
    const name = this.request.text(0, 'latin1');
    if (name === undefined) return -EINVAL;
    const node = this.fs.lookup(this.request.node, name);
    return node < 0 ? node : this.#putEntry(0, node);
  }

  forget(): number {
    this.#pastEnd.settled(this.fs.listing.slotOf(this.request.node));
    return SILENT;
  }

  /** fuse_batch_forget_in: a count and padding; then nodes, each with how many times it is forgotten. */
  batchForget(): number {
    const held = Math.floor((this.request.bodyLength - 8) / 16);
    const count = Math.min(this.request.u32(0), held);
    for (let index = 0; index < count; index += 1) {
      this.#pastEnd.settled(this.fs.listing.slotOf(this.request.u64(8 + index * 16)));
    }
    return SILENT;
  }

  /** With a handle that is open for writing, it is asked by write(2), and by what needs to know where the file ends. */
  getattr(): number {
    const byHandle = (this.request.u32(GetattrIn.at.getattrFlags) & FUSE_GETATTR_FH) !== 0;
    const writer = byHandle && this.request.isToWrite(GetattrIn.at.fh);
    return writer && this.#pastEnd.owes(this.fs.listing.slotOf(this.request.node))
      ? -ENOSPC
      : this.#putAttrOut();
  }

  #putAttrOut(): number {
    const status = this.fs.getattr(this.request.node, this.#attr);
    return status < 0 ? status : this.reply.putAttrOut(this.#attr);
  }

  open(): number {
    const flags = this.request.u32(0);
    const handle = this.fs.open(this.request.node, flags);
    if (handle < 0) return handle;
    // It leaves at this very moment.
    if (!this.fs.listing.members.open(this.fs.listing.slotOf(this.request.node))) return -ENOENT;
    const cache = this.fs.isShared(this.request.node) ? FOPEN_DIRECT_IO : FOPEN_KEEP_CACHE;
    const writes = (flags & O_ACCMODE) !== 0;
    return writes
      ? this.reply.putOpen(handleToWrite(handle), cache | FOPEN_PARALLEL_DIRECT_WRITES)
      : this.reply.putOpen(handle, cache);
  }

  release(): number {
    const slot = this.fs.listing.slotOf(this.request.node);
    if (slot < 0) return 0;
    this.fs.listing.members.close(slot);
    if (this.fs.listing.members.opens(slot) === 0 && this.#pastEnd.isOutgrown(slot))
      this.outgrown = this.request.node;
    return 0;
  }

  opendir(): number {
    const status = this.fs.opendir(this.request.node);
    // What the kernel has kept of the directory tells nothing of files that joined.
    const cache = this.fs.listing.hasChanged ? 0 : FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
    return status < 0 ? status : this.reply.putOpen(0, cache);
  }

  readdir(plus: boolean): number {
    const size = Math.min(this.request.u32(ReadIn.at.size), MAX_REQUEST);
    const extra = plus ? EntryOut.size : 0;
    const entries = this.fs.listing.entries;
    const last = entries.length + DOTS.length;
    let used = 0;
    for (let cookie = this.request.u64(ReadIn.at.offset); cookie < last; cookie += 1) {
      const entry = entries[cookie - DOTS.length];
      if (entry === undefined && cookie >= DOTS.length) continue;
      const name = entry === undefined ? DOTS[cookie]! : entry.name;
      const bytes = extra + roundUp(Dirent.size + name.length, 8);
      if (used + bytes > size) break;
      this.reply.zero(used, bytes);
      if (plus && entry !== undefined) this.#putEntry(used, entry.node);
      const node = entry === undefined ? this.request.node : entry.node;
      const type = entry === undefined ? DIRECTORY_TYPE : FILE_TYPE;
      this.reply.putDirent(used + extra, node, cookie + 1, type, name);
      used += bytes;
    }
    return used;
  }

  statfs(): number {
    return this.reply.putStatfs(this.fs.size());
  }

  access(): number {
    return this.fs.access(this.request.node, this.request.u32(0));
  }

  lseek(): number {
    const found = this.fs.seek(
      this.request.handle(LseekIn.at.fh),
      this.request.u64(LseekIn.at.offset),
      this.request.u32(LseekIn.at.whence),
    );
    return found < 0 ? found : this.reply.putNumber(found);
  }

  /** Who only reads is not told of what others could not write. */
  flush(): number {
    return this.request.isToWrite(0) ? this.fs.closing(this.request.handle(0)) : 0;
  }

  getxattr(): number {
    const name = this.request.text(8, 'utf8');
    if (name === undefined) return -EINVAL;
    const value = this.fs.attribute(this.request.node, name);
    return value === undefined ? -ENODATA : this.#putSized(Buffer.from(value));
  }

  listxattr(): number {
    const names = this.fs.attributes(this.request.node).map(([name]) => `${name}\0`);
    return this.#putSized(Buffer.from(names.join('')));
  }

  /** The reply of GETXATTR and LISTXATTR: only the size where the caller gave no room. */
  #putSized(value: Buffer): number {
    const room = this.request.u32(0);
    if (value.length > 65536) return -E2BIG;
    if (room === 0) return this.reply.putNumber(value.length);
    return value.length > room ? -ERANGE : this.reply.putBytes(value);
  }

  #putEntry(at: number, node: number): number {
    this.fs.getattr(node, this.#attr);
    return this.reply.putEntry(at, this.#attr);
  }
}
