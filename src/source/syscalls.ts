/**
 * The system calls that Node lacks, through koffi: plain synchronous calls only. The one module that declares
 * them, shared by the main thread and the workers. koffi is loaded on first use, and where it does not exist
 * (an architecture without a prebuilt binary) each function says what then holds.
 */

import { createRequire } from 'node:module';
import { EINTR, EINVAL, ENOSYS, ENXIO } from '../base/errno.ts';

type Koffi = typeof import('koffi');
type Library = ReturnType<Koffi['load']>;

interface Loaded {
  readonly koffi: Koffi;
  readonly libc: Library;
}

let loaded: Loaded | null | undefined;

function load(): Loaded | null {
  if (loaded === undefined) {
    try {
      const koffi = createRequire(import.meta.url)('koffi') as Koffi;
      loaded = { koffi, libc: koffi.load(null) };
    } catch {
      loaded = null;
    }
  }
  return loaded;
}

/** Whether the calls below can be made at all. */
export function haveSyscalls(): boolean {
  return load() !== null;
}

const functions = new Map<string, (...args: unknown[]) => unknown>();

/** Calls a libc function that returns -1 and sets errno. Returns its result, or -errno; -ENOSYS without koffi. */
function call(prototype: string, ...args: unknown[]): number {
  const library = load();
  if (library === null) return -ENOSYS;
  let target = functions.get(prototype);
  if (target === undefined) {
    target = library.libc.func(prototype) as (...args: unknown[]) => unknown;
    functions.set(prototype, target);
  }
  for (;;) {
    const result = Number(target(...args));
    if (result !== -1) return result;
    const errno = library.koffi.errno();
    if (errno !== EINTR) return -errno;
  }
}

/**
 * read(2), pread(2) and write(2) as the data path makes them: a count, or -errno. Against Node's own they save a
 * third of a microsecond per call and throw nothing. Buffers are named by address: `addressOf` gives that of an
 * array of at least 4 KiB (a smaller one may be moved), which the caller keeps alive as long as it uses it.
 */
export interface DirectIo {
  addressOf(target: Uint8Array): number;
  read(fd: number, address: number, length: number): number;
  pread(fd: number, address: number, length: number, at: number): number;
  write(fd: number, address: number, length: number): number;
  pwrite(fd: number, address: number, length: number, at: number): number;
}

/** Undefined without koffi: then Node's functions do. */
export function directIo(): DirectIo | undefined {
  const library = load();
  if (library === null) return undefined;
  const { koffi, libc } = library;
  type Call = (fd: number, address: number, length: number, at?: number) => number;
  const read = libc.func('long read(int fd, uintptr_t address, size_t length)') as unknown as Call;
  const write = libc.func('long write(int fd, uintptr_t address, size_t length)') as unknown as Call;
  const pread = libc.func(
    'long pread64(int fd, uintptr_t address, size_t length, int64_t at)',
  ) as unknown as Call;
  const pwrite = libc.func(
    'long pwrite64(int fd, uintptr_t address, size_t length, int64_t at)',
  ) as unknown as Call;
  return {
    addressOf: (target) => Number(koffi.address(target)),
    read: (fd, address, length) => {
      const moved = read(fd, address, length);
      return moved >= 0 ? moved : -koffi.errno();
    },
    pread: (fd, address, length, at) => {
      const moved = pread(fd, address, length, at);
      return moved >= 0 ? moved : -koffi.errno();
    },
    write: (fd, address, length) => {
      const moved = write(fd, address, length);
      return moved >= 0 ? moved : -koffi.errno();
    },
    pwrite: (fd, address, length, at) => {
      const moved = pwrite(fd, address, length, at);
      return moved >= 0 ? moved : -koffi.errno();
    },
  };
}

const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** lseek(2) SEEK_DATA, as a source defines it: `end` where no data follows, `at` where that cannot be told. */
export function seekData(fd: number, at: number, end: number): number {
  if (at >= end) return end;
  const found = call('long lseek(int fd, long offset, int whence)', fd, at, SEEK_DATA);
  if (found === -ENXIO) return end;
  return found < 0 ? at : Math.min(found, end);
}

/** lseek(2) SEEK_HOLE, as a source defines it: `end` where that cannot be told. */
export function seekHole(fd: number, at: number, end: number): number {
  if (at >= end) return end;
  const found = call('long lseek(int fd, long offset, int whence)', fd, at, SEEK_HOLE);
  return found < 0 ? end : Math.min(found, end);
}

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;

const FALLOCATE = 'int fallocate64(int fd, int mode, int64_t offset, int64_t length)';

/** fallocate(2), PUNCH_HOLE: the range reads as zeros and takes no space. Returns 0 or -errno. */
export function punchHole(fd: number, at: number, length: number): number {
  return call(FALLOCATE, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length);
}

/** fallocate(2), ZERO_RANGE: the range reads as zeros and keeps its space. Returns 0 or -errno. */
export function zeroRange(fd: number, at: number, length: number): number {
  return call(FALLOCATE, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, at, length);
}

/** fallocate(2): the range has space on the host, and keeps the bytes that it has. Returns 0 or -errno. */
export function reserveRange(fd: number, at: number, length: number): number {
  return call(FALLOCATE, fd, FALLOC_FL_KEEP_SIZE, at, length);
}

/** fdatasync(2). Returns 0 or -errno. */
export function dataSync(fd: number): number {
  return call('int fdatasync(int fd)', fd);
}

const SYNC_FILE_RANGE_WRITE = 2;

/**
 * sync_file_range(2): the host begins to write out what it holds of the range, and does not wait for it. It makes
 * nothing stable: the flush that does then has less to wait for. Returns 0 or -errno.
 */
export function beginWriteback(fd: number, at: number, length: number): number {
  const prototype = 'int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags)';
  return call(prototype, fd, at, length, SYNC_FILE_RANGE_WRITE);
}

const POSIX_FADV_DONTNEED = 4;

/** posix_fadvise(2): what is stable of the file is read from the medium next time, and not from memory. Advice only. */
export function forgetCached(fd: number): void {
  call(
    'int posix_fadvise64(int fd, int64_t offset, int64_t length, int advice)',
    fd,
    0,
    0,
    POSIX_FADV_DONTNEED,
  );
}

/** ftruncate(2). Returns 0 or -errno. */
export function truncateFile(fd: number, size: number): number {
  return call('int ftruncate64(int fd, int64_t size)', fd, size);
}

const PR_SET_IO_FLUSHER = 57;

/**
 * prctl(2), PR_SET_IO_FLUSHER: tells the kernel that the calling thread serves a file system that others write to,
 * so that it is not made to wait for dirty pages that only it can clean, nor for memory that it would have to free
 * itself. From Linux 5.6 on, with CAP_SYS_RESOURCE. Returns 0 or -errno.
 */
export function becomeIoFlusher(): number {
  return call('int prctl(int option, ulong a, ulong b, ulong c, ulong d)', PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

/** siginterrupt(3): calls that this signal meets end with EINTR, and are not restarted. It has a handler. Returns 0 or -errno. */
export function failCallsOn(signal: number): number {
  return call('int siginterrupt(int signal, int flag)', signal, 1);
}

/** As <asm/unistd.h> numbers it: the C library has a function for it only since 2.30. */
const TGKILL: Readonly<Record<string, number>> = { x64: 234, arm64: 131 };

/** tgkill(2): sends a signal to one thread of this process. Returns 0 or -errno. */
export function signalThread(thread: number, signal: number): number {
  const number = TGKILL[process.arch];
  if (number === undefined) return -ENOSYS;
  return call(
    'long syscall(long number, long process, long thread, long signal)',
    number,
    process.pid,
    thread,
    signal,
  );
}

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;

/** socketpair(2): two connected descriptors, close-on-exec; or -errno. */
export function socketPair(): readonly [number, number] | number {
  const pair = new Int32Array(2);
  const status = call(
    'int socketpair(int domain, int type, int protocol, int *pair)',
    AF_UNIX,
    SOCK_STREAM | SOCK_CLOEXEC,
    0,
    pair,
  );
  return status < 0 ? status : [pair[0]!, pair[1]!];
}

const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CMSG_CLOEXEC = 0x40000000;

/**
 * recvmsg(2): waits for one message with one descriptor in it (SCM_RIGHTS), as fusermount3 sends it. Returns
 * the descriptor, close-on-exec; -errno, or -EINVAL where the message holds none (the other end closed).
 * The structures are those of the 64-bit C library: msghdr 56 bytes, cmsghdr 16.
 */
export function receiveDescriptor(socket: number): number {
  const library = load();
  if (library === null) return -ENOSYS;
  const { koffi } = library;
  const payload = Buffer.alloc(8);
  const control = Buffer.alloc(64);
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(koffi.address(payload), 0);
  vector.writeBigUInt64LE(BigInt(payload.length), 8);
  const header = Buffer.alloc(56);
  header.writeBigUInt64LE(koffi.address(vector), 16);
  header.writeBigUInt64LE(1n, 24);
  header.writeBigUInt64LE(koffi.address(control), 32);
  header.writeBigUInt64LE(BigInt(control.length), 40);
  const moved = call('long recvmsg(int fd, void *message, int flags)', socket, header, MSG_CMSG_CLOEXEC);
  if (moved < 0) return moved;
  const found =
    header.readBigUInt64LE(40) >= 20n &&
    control.readInt32LE(8) === SOL_SOCKET &&
    control.readInt32LE(12) === SCM_RIGHTS;
  return found ? control.readInt32LE(16) : -EINVAL;
}

const SO_PEERCRED = 17;

/**
 * getsockopt(2), SO_PEERCRED: the effective user ID of who connected to the other end of a unix socket. -errno; -ENOSYS
 * without koffi.
 */
export function peerUser(socket: number): number {
  // struct ucred: pid, uid, gid.
  const credentials = new Uint32Array(3);
  const status = call(
    'int getsockopt(int fd, int level, int name, _Out_ uint32_t *value, _Inout_ uint32_t *length)',
    socket,
    SOL_SOCKET,
    SO_PEERCRED,
    credentials,
    new Uint32Array([credentials.byteLength]),
  );
  return status < 0 ? status : credentials[1]!;
}

/** ioctl(2) with a pointer to one u32. Returns its result, or -errno. */
export function ioctlWord(fd: number, request: number, word: number): number {
  return call('int ioctl(int fd, ulong request, uint32_t *argument)', fd, request, new Uint32Array([word]));
}

/** setsid(2): a session and a process group of its own for this process. Returns the session's ID, or -errno. */
export function newSession(): number {
  return call('int setsid()');
}

/** _exit(2): the process ends here, and nothing that waits for its end is run. Returns only without koffi. */
export function exitAtOnce(status: number): void {
  call('void _exit(int status)', status);
}

/** umount2(2). Returns 0 or -errno. */
export function umount(path: string, flags: number): number {
  return call('int umount2(const char *path, int flags)', path, flags);
}

/**
 * mount(2) with MS_REMOUNT: gives the mount at `path` these flags (`MS_…` of sys/mount.h), in place of those that it
 * has. Returns 0 or -errno.
 */
export function remount(path: string, flags: number): number {
  const prototype =
    'int mount(const char *source, const char *target, const char *type, ulong flags, const char *data)';
  return call(prototype, 'none', path, '', MS_REMOUNT | flags, '');
}

const MS_REMOUNT = 32;

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;

/** struct flock of the 64-bit C library: type, whence, start, length, pid. */
function flock(type: number, byte: number): Buffer {
  const lock = Buffer.alloc(32);
  lock.writeInt16LE(type, 0);
  lock.writeBigInt64LE(BigInt(byte), 8);
  lock.writeBigInt64LE(1n, 16);
  return lock;
}

const FCNTL = 'int fcntl(int fd, int command, _Inout_ uint8_t *lock)';

/** Takes a shared OFD lock on one byte (fcntl(2), F_OFD_SETLK), or -errno. It goes with the descriptor. */
export function lockByteShared(fd: number, byte: number): number {
  return call(FCNTL, fd, F_OFD_SETLK, flock(F_RDLCK, byte));
}

/** Whether somebody else holds any lock on one byte: 1 or 0, or -errno. */
export function isByteLocked(fd: number, byte: number): number {
  const lock = flock(F_WRLCK, byte);
  const status = call(FCNTL, fd, F_OFD_GETLK, lock);
  return status < 0 ? status : Number(lock.readInt16LE(0) !== F_UNLCK);
}

const SOCK_DGRAM = 2;

/** socket(2): an unconnected local datagram socket, close-on-exec; or -errno. */
export function datagramSocket(): number {
  return call('int socket(int domain, int type, int protocol)', AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

const MSG_DONTWAIT = 0x40;

/**
 * sendto(2): one datagram to the local socket at `path`, never waiting. Returns the bytes sent, or -errno.
 * struct sockaddr_un: a u16 family, then the path with its NUL; an abstract name, given as "@name", begins with a NUL
 * and has none at its end (unix(7)).
 */
export function sendDatagram(socket: number, path: string, message: Uint8Array): number {
  const abstract = path.startsWith('@');
  const address = Buffer.alloc(2 + Buffer.byteLength(path) + (abstract ? 0 : 1));
  address.writeUInt16LE(AF_UNIX, 0);
  address.write(path, 2);
  if (abstract) address[2] = 0;
  return call(
    'long sendto(int fd, const uint8_t *message, size_t length, int flags, const uint8_t *address, uint32_t size)',
    socket,
    message,
    message.length,
    MSG_DONTWAIT,
    address,
    address.length,
  );
}
