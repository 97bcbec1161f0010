/** What is said of a node, and what is asked to be changed of it. */

import { EPOCH } from './times.ts';

export const S_IFDIR = 0o040000;
export const S_IFREG = 0o100000;

/** Attributes of a node. Owned and reused by the caller. */
export class Attributes {
  node = 0;
  size = 0;
  /** Allocated, in 512-byte units. */
  blocks = 0;
  mode = 0;
  links = 1;
  uid = 0;
  gid = 0;
  blockSize = 4096;
  atime = EPOCH;
  mtime = EPOCH;
  ctime = EPOCH;
}

/** What SETATTR asks for; what is not there stays as it is. */
export interface AttributeChange {
  /** Bytes. */
  readonly size?: number | undefined;
  /** Permission bits; others are not looked at. */
  readonly mode?: number | undefined;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  /** ms since 1970. */
  readonly atime?: number | undefined;
  readonly mtime?: number | undefined;
  readonly ctime?: number | undefined;
}
