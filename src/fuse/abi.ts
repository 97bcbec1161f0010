/**
 * The FUSE wire protocol, as <linux/fuse.h> (package linux-libc-dev) declares it: numbers, flags, and the
 * structures of the requests that this file system answers. Integers are in the machine's order; Node runs on
 * little-endian Linux only (s390x, the exception, is refused at start).
 */

import { bytes, struct, u16, u32, u64 } from '../layout/struct.ts';

const HEADER = '<linux/fuse.h>';

/** The oldest minor version of protocol 7 that is spoken: 2020's Linux 5.4, with all that is used here. */
export const OLDEST_MINOR = 31;
/** The newest minor version whose structures are declared here; newer kernels speak it with us. */
export const NEWEST_MINOR = 38;
export const MAJOR = 7;

/** Largest read or write: 256 pages, the kernel's own limit. */
export const MAX_PAGES = 256;
export const MAX_REQUEST = 1024 * 1024;

export const ROOT_NODE = 1;

export const Opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  GETXATTR: 22,
  LISTXATTR: 23,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  LSEEK: 46,
} as const;

export const FUSE_ASYNC_READ = 1 << 0;
export const FUSE_BIG_WRITES = 1 << 5;
export const FUSE_DO_READDIRPLUS = 1 << 13;
export const FUSE_READDIRPLUS_AUTO = 1 << 14;
export const FUSE_ASYNC_DIO = 1 << 15;
/** Writes stay in the page cache until the kernel writes them back; it then keeps size, mtime and ctime itself. */
export const FUSE_WRITEBACK_CACHE = 1 << 16;
export const FUSE_PARALLEL_DIROPS = 1 << 18;
export const FUSE_MAX_PAGES = 1 << 22;
export const FUSE_EXPLICIT_INVAL_DATA = 1 << 25;
/** Set-user-ID bits and capabilities are our business: without it, each write asks for `security.capability` first. */
export const FUSE_HANDLE_KILLPRIV_V2 = 1 << 28;
/** `flags2` is there, on both sides. */
export const FUSE_INIT_EXT = 1 << 30;
/** Bit 36, in `flags2`: files opened with FOPEN_DIRECT_IO may be mapped as shared. Linux 6.6 and later. */
export const FUSE_DIRECT_IO_ALLOW_MMAP = 1 << 4;

/** Reads and writes go past the page cache. */
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;
export const FOPEN_CACHE_DIR = 1 << 3;
/** Linux 6.2 and later; older kernels do not look at it. */
export const FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6;

/** fuse_getattr_in.getattr_flags: `fh` counts. */
export const FUSE_GETATTR_FH = 1 << 0;

/** fuse_write_in.write_flags: from the page cache; the handle is any that is open for writing. */
export const FUSE_WRITE_CACHE = 1 << 0;

/** fuse_setattr_in.valid: which fields count. */
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;
export const FATTR_CTIME = 1 << 10;

/** FUSE_DEV_IOC_CLONE: _IOR(229, 0, u32). */
export const DEVICE_CLONE = 0x8004e500;

export const RequestHeader = struct(
  'fuse_in_header',
  { size: 40, endian: 'little', spec: HEADER },
  {
    len: u32('Bytes of the whole request'),
    opcode: u32('What is asked'),
    unique: u64('Number of the request, repeated in the reply'),
    nodeid: u64('The node that it is about'),
    uid: u32('The caller'),
    gid: u32("The caller's group"),
    pid: u32('The calling thread'),
    totalExtlen: u16('Extensions after the body, in 8-byte units'),
    padding: u16('0'),
  },
);

export const ReplyHeader = struct(
  'fuse_out_header',
  { size: 16, endian: 'little', spec: HEADER },
  {
    len: u32('Bytes of the whole reply'),
    error: u32('0 or -errno (signed)'),
    unique: u64('Number of the request'),
  },
);

export const InitIn = struct(
  'fuse_init_in',
  { size: 64, endian: 'little', spec: HEADER },
  {
    major: u32('Protocol version of the kernel'),
    minor: u32(''),
    maxReadahead: u32('Bytes that the kernel would read ahead'),
    flags: u32('What the kernel can do'),
    flags2: u32('Flags 32 to 63 (7.36 and later)'),
    unused: bytes(44, ''),
  },
);

export const InitOut = struct(
  'fuse_init_out',
  { size: 64, endian: 'little', spec: HEADER },
  {
    major: u32('Protocol version of the daemon'),
    minor: u32(''),
    maxReadahead: u32('Bytes of read-ahead, at most what was offered'),
    flags: u32('What is to be used'),
    maxBackground: u16('Requests that may wait in the background'),
    congestionThreshold: u16('From how many on the mount counts as congested'),
    maxWrite: u32('Largest write, at least 4096'),
    timeGran: u32('Granularity of time stamps in ns'),
    maxPages: u16('Largest request in pages'),
    mapAlignment: u16('DAX only'),
    flags2: u32(''),
    unused: bytes(28, ''),
  },
);

export const GetattrIn = struct(
  'fuse_getattr_in',
  { size: 16, endian: 'little', spec: HEADER },
  {
    getattrFlags: u32('FUSE_GETATTR_…'),
    dummy: u32(''),
    fh: u64('Handle'),
  },
);

export const ReadIn = struct(
  'fuse_read_in',
  { size: 40, endian: 'little', spec: HEADER },
  {
    fh: u64('Handle'),
    offset: u64('Guest offset; of a directory: the cookie'),
    size: u32('Bytes'),
    readFlags: u32(''),
    lockOwner: u64(''),
    flags: u32("The file's open flags"),
    padding: u32(''),
  },
);

/** The payload follows. */
export const WriteIn = struct(
  'fuse_write_in',
  { size: 40, endian: 'little', spec: HEADER },
  {
    fh: u64('Handle'),
    offset: u64('Guest offset'),
    size: u32('Bytes'),
    writeFlags: u32('FUSE_WRITE_…'),
    lockOwner: u64(''),
    flags: u32("The file's open flags"),
    padding: u32(''),
  },
);

export const WriteOut = struct(
  'fuse_write_out',
  { size: 8, endian: 'little', spec: HEADER },
  {
    size: u32('Bytes written'),
    padding: u32(''),
  },
);

export const FsyncIn = struct(
  'fuse_fsync_in',
  { size: 16, endian: 'little', spec: HEADER },
  {
    fh: u64('Handle'),
    fsyncFlags: u32('1: only data'),
    padding: u32(''),
  },
);

export const FallocateIn = struct(
  'fuse_fallocate_in',
  { size: 32, endian: 'little', spec: HEADER },
  {
    fh: u64('Handle'),
    offset: u64('Guest offset'),
    length: u64('Bytes'),
    mode: u32('FALLOC_FL_…'),
    padding: u32(''),
  },
);

export const SetattrIn = struct(
  'fuse_setattr_in',
  { size: 88, endian: 'little', spec: HEADER },
  {
    valid: u32('FATTR_…: the fields that count'),
    padding: u32(''),
    fh: u64('Handle'),
    size: u64(''),
    lockOwner: u64(''),
    atime: u64('s, signed'),
    mtime: u64('s, signed'),
    ctime: u64('s, signed'),
    atimensec: u32('ns'),
    mtimensec: u32('ns'),
    ctimensec: u32('ns'),
    mode: u32('st_mode'),
    unused4: u32(''),
    uid: u32(''),
    gid: u32(''),
    unused5: u32(''),
  },
);

export const LseekIn = struct(
  'fuse_lseek_in',
  { size: 24, endian: 'little', spec: HEADER },
  {
    fh: u64('Handle'),
    offset: u64(''),
    whence: u32('SEEK_DATA 3, SEEK_HOLE 4'),
    padding: u32(''),
  },
);

export const Attr = struct(
  'fuse_attr',
  { size: 88, endian: 'little', spec: HEADER },
  {
    ino: u64('st_ino'),
    size: u64('st_size'),
    blocks: u64('st_blocks, 512 bytes each'),
    atime: u64('s'),
    mtime: u64('s'),
    ctime: u64('s'),
    atimensec: u32('ns'),
    mtimensec: u32('ns'),
    ctimensec: u32('ns'),
    mode: u32('st_mode'),
    nlink: u32(''),
    uid: u32(''),
    gid: u32(''),
    rdev: u32(''),
    blksize: u32('st_blksize'),
    flags: u32(''),
  },
);

export const AttrOut = struct(
  'fuse_attr_out',
  { size: 16 + Attr.size, endian: 'little', spec: HEADER },
  {
    attrValid: u64('s that the attributes may be kept'),
    attrValidNsec: u32(''),
    dummy: u32(''),
    attr: bytes(Attr.size, 'fuse_attr'),
  },
);

export const EntryOut = struct(
  'fuse_entry_out',
  { size: 40 + Attr.size, endian: 'little', spec: HEADER },
  {
    nodeid: u64('The node; 0 with status 0: there is none, and that may be kept'),
    generation: u64(''),
    entryValid: u64('s that the name may be kept'),
    attrValid: u64('s that the attributes may be kept'),
    entryValidNsec: u32(''),
    attrValidNsec: u32(''),
    attr: bytes(Attr.size, 'fuse_attr'),
  },
);

export const OpenOut = struct(
  'fuse_open_out',
  { size: 16, endian: 'little', spec: HEADER },
  {
    fh: u64('Handle'),
    openFlags: u32('FOPEN_…'),
    padding: u32(''),
  },
);

export const StatfsOut = struct(
  'fuse_statfs_out',
  { size: 80, endian: 'little', spec: HEADER },
  {
    blocks: u64('f_blocks'),
    bfree: u64(''),
    bavail: u64(''),
    files: u64(''),
    ffree: u64(''),
    bsize: u32(''),
    namelen: u32(''),
    frsize: u32(''),
    padding: u32(''),
    spare: bytes(24, ''),
  },
);

/**
 * A notification is a reply to no request: unique 0, and this number in the place of the error. STORE puts bytes
 * into the page cache; where they lie behind the file's end as the kernel knows it, the file becomes longer.
 */
export const NOTIFY_STORE = 4;
/** Pages of a file are forgotten, the changed ones written back before; waits for those that are being read or written. */
export const NOTIFY_INVAL_INODE = 2;

export const NotifyInvalInodeOut = struct(
  'fuse_notify_inval_inode_out',
  { size: 24, endian: 'little', spec: HEADER },
  {
    ino: u64('Node'),
    off: u64('From where'),
    len: u64('Bytes; 0: to the end'),
  },
);

/** A name is gone from its directory, and who watches it is told; waits as the next one. */
export const NOTIFY_DELETE = 6;

/** The name and a NUL follow. */
export const NotifyDeleteOut = struct(
  'fuse_notify_delete_out',
  { size: 24, endian: 'little', spec: HEADER },
  {
    parent: u64('The directory'),
    child: u64('Node that the name must have'),
    namelen: u32('Bytes, without the NUL'),
    padding: u32('0'),
  },
);

/** A name is forgotten; waits for lookups in the directory, so that whoever answers those must not send it. */
export const NOTIFY_INVAL_ENTRY = 3;

/** The name and a NUL follow. */
export const NotifyInvalEntryOut = struct(
  'fuse_notify_inval_entry_out',
  { size: 16, endian: 'little', spec: HEADER },
  {
    parent: u64('The directory'),
    namelen: u32('Bytes, without the NUL'),
    flags: u32('0'),
  },
);

/** The bytes follow. */
export const NotifyStoreOut = struct(
  'fuse_notify_store_out',
  { size: 24, endian: 'little', spec: HEADER },
  {
    nodeid: u64('The node'),
    offset: u64('Guest offset'),
    size: u32('Bytes'),
    padding: u32(''),
  },
);

/** Fixed part of a directory entry; the name follows, padded to 8 bytes. */
export const Dirent = struct(
  'fuse_dirent',
  { size: 24, endian: 'little', spec: HEADER },
  {
    ino: u64(''),
    off: u64('Cookie of the next entry'),
    namelen: u32('Bytes'),
    type: u32('DT_…'),
  },
);
