/**
 * Results on the data plane: 0 or a count on success, a negative errno on failure. The data plane throws
 * nothing, because an exception costs more than several good requests.
 *
 * Numbers: <asm-generic/errno-base.h> and <asm-generic/errno.h>, the same on every Linux architecture that
 * Node supports but alpha, mips, parisc and sparc.
 */

export const EPERM = 1;
export const ENOENT = 2;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const E2BIG = 7;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EBUSY = 16;
export const ENODEV = 19;
export const ENOTDIR = 20;
export const EISDIR = 21;
export const EINVAL = 22;
export const EFBIG = 27;
export const ENOSPC = 28;
export const EROFS = 30;
export const EPIPE = 32;
export const ERANGE = 34;
export const ENAMETOOLONG = 36;
export const ENOSYS = 38;
export const ENODATA = 61;
export const EPROTO = 71;
export const EOPNOTSUPP = 95;
export const ECONNABORTED = 103;
export const ENOTCONN = 107;
export const ESTALE = 116;
export const EDQUOT = 122;

/** 0, or -errno. */
export type Status = number;

/** A count of bytes (0 or more), or -errno. */
export type Moved = number;

/**
 * The positive errno of an exception thrown by Node's `fs` functions; EIO for anything else, so that every
 * failure has an answer.
 */
export function errnoOf(problem: unknown): number {
  if (problem instanceof Error && 'errno' in problem && typeof problem.errno === 'number') {
    return Math.abs(problem.errno);
  }
  return EIO;
}
