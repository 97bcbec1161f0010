/** The answer to "where": one run of the disk with one answer. */

import type { ByteCount, HostOffset } from '../base/units.ts';

/** Not allocated in this image: the parent shows, or zeros where there is none. */
export const HOLE = 0;
/** Explicitly zero, whatever a parent holds. */
export const ZERO = 1;
/** The bytes are in the source at `host`. */
export const DATA = 2;

export type ExtentKind = typeof HOLE | typeof ZERO | typeof DATA;

/** Owned by the caller and reused for every request; a translator fills it and never keeps it. */
export class Extent {
  kind: ExtentKind = HOLE;
  /** Where the run starts in the image's source; 0 unless `kind` is DATA. */
  host: HostOffset = 0 as HostOffset;
  /** Bytes with this answer from the asked offset on: at least 1; may exceed what was asked. */
  length: ByteCount = 0;

  get isData(): boolean {
    return this.kind === DATA;
  }

  set(kind: ExtentKind, host: number, length: ByteCount): 0 {
    this.kind = kind;
    this.host = host as HostOffset;
    this.length = length;
    return 0;
  }
}
