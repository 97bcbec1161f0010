/** What the main thread does with a device that the workers serve. It never reads it. */

import { closeSync, openSync, writeSync } from 'node:fs';
import { EIO } from '../../base/errno.ts';
import { DEVICE_CLONE, ReplyHeader, ROOT_NODE } from '../../fuse/abi.ts';
import { ioctlWord } from '../../source/syscalls.ts';
import { attributesNotice } from './notices.ts';

/** Another descriptor of the same connection, with a queue of its own; the same one where that is not to be had. */
export function cloneDevice(device: number): number {
  let clone: number;
  try {
    clone = openSync('/dev/fuse', 'r+');
  } catch {
    return device;
  }
  if (ioctlWord(clone, DEVICE_CLONE, device) === 0) return clone;
  closeSync(clone);
  return device;
}

/** Answers one request with EIO, for a worker that cannot any more. `low` and `high`: the halves of its `unique`. */
export function answerFailure(device: number, low: number, high: number): void {
  const reply = Buffer.alloc(ReplyHeader.size);
  reply.writeUInt32LE(reply.length, ReplyHeader.at.len);
  reply.writeInt32LE(-EIO, ReplyHeader.at.error);
  reply.writeUInt32LE(low, ReplyHeader.at.unique);
  reply.writeUInt32LE(high, ReplyHeader.at.unique + 4);
  try {
    writeSync(device, reply);
  } catch {
    // The caller is gone: nobody waits for it.
  }
}

/** Whether the kernel still has the file system, also where nobody can use it: a notification says so, and waits for nobody. */
export function hasFileSystem(device: number): boolean {
  try {
    writeSync(device, attributesNotice(ROOT_NODE));
    return true;
  } catch {
    return false;
  }
}
