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

/** What is taken, and what must not be there: a reader lets others read, a writer is the only one. */
const LOCKS = {
  read: {
    take: [USES + CONSISTENT_READ, FORBIDS + WRITE, FORBIDS + RESIZE],
    refuse: [FORBIDS + CONSISTENT_READ, USES + WRITE, USES + RESIZE],
  },
  write: {
    take: [USES + CONSISTENT_READ, USES + WRITE, USES + RESIZE, FORBIDS + WRITE, FORBIDS + RESIZE],
    refuse: [FORBIDS + CONSISTENT_READ, FORBIDS + WRITE, FORBIDS + RESIZE, USES + WRITE, USES + RESIZE],
  },
} as const;

/**
 * Locks an image for reading (others may read it too, nobody may write or resize it) or for writing (nobody
 * else who minds may have it open). The locks last as long as the descriptor. Throws ImageError('in-use')
 * where somebody is in the way; returns a notice where the file system knows no locks.
 */
export function lockImage(
  fd: number,
  path: string,
  access: 'read' | 'write',
  holders: () => string,
): string | undefined {
  const { take, refuse } = LOCKS[access];
  for (const byte of take) {
    const status = lockByteShared(fd, byte);
    if (status < 0)
      return `${path}: is not locked against other programs: fcntl failed with errno ${-status}`;
  }
  for (const byte of refuse) {
    if (isByteLocked(fd, byte) !== 1) continue;
    const who = holders();
    const writer = byte < FORBIDS || access === 'read';
    throw new ImageError(
      'in-use',
      `${path}: is in use${writer ? ' for writing' : ''}${who === '' ? '' : ` by ${who}`}`,
      {
        hint: writer
          ? 'Stop the virtual machine or end the other mount first. With -o ro,lock=off it can be read meanwhile, but may be torn.'
          : 'Somebody reads it and wants nobody to write. To read it too, use -o ro.',
      },
    );
  }
  return undefined;
}
