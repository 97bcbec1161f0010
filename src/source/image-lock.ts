/**
 * QEMU's image locks, so that a running VM and a mount exclude each other as two QEMUs would: shared OFD locks
 * on single bytes of the image file. Byte 100 + p says "I use permission p", byte 200 + p says "nobody else
 * may use permission p"; whoever comes checks the opposite byte. (QEMU's file driver; the byte numbers are
 * part of its interface between processes.)
 */

import { ImageError } from '../base/errors.ts';
import { isByteLocked, lockByteShared } from './syscalls.ts';

const USES = 100;
const FORBIDS = 200;

const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;

/**
 * Locks an image for reading: others may read it too, nobody may write or resize it. The locks last as long as
 * the descriptor. Throws ImageError('in-use') where somebody writes to it; returns a notice where the file
 * system knows no locks.
 */
export function lockForReading(fd: number, path: string, holders: () => string): string | undefined {
  for (const byte of [USES + CONSISTENT_READ, FORBIDS + WRITE, FORBIDS + RESIZE]) {
    const status = lockByteShared(fd, byte);
    if (status < 0) return `${path}: is not locked against writers: fcntl failed with errno ${-status}`;
  }
  for (const byte of [FORBIDS + CONSISTENT_READ, USES + WRITE, USES + RESIZE]) {
    if (isByteLocked(fd, byte) !== 1) continue;
    const who = holders();
    throw new ImageError('in-use', `${path}: is in use for writing${who === '' ? '' : ` by ${who}`}`, {
      hint: 'Stop the virtual machine first, or use -o lock=off and accept that what is read may be torn.',
    });
  }
  return undefined;
}
