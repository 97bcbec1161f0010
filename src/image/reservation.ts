/** A place for bytes that hide the parent's: reserved, filled, then published (Editor). */

import type { ByteCount, GuestOffset, HostOffset } from '../base/units.ts';

/** Owned by the caller and reused; an editor fills it and never keeps it. */
export class Reservation {
  /** The first byte of the disk that has its place here: at or before the one that was asked for. */
  at = 0 as GuestOffset;
  length: ByteCount = 0;
  /** Where these bytes go in the image's source, in one piece. */
  host = 0 as HostOffset;
  /** Whether the place reads as zeros: what shall be zero there need not be written. */
  zeros = false;
  /** The editor's own: what it gave out. */
  token = 0;

  set(at: number, length: ByteCount, host: number, zeros: boolean, token: number): 0 {
    this.at = at as GuestOffset;
    this.length = length;
    this.host = host as HostOffset;
    this.zeros = zeros;
    this.token = token;
    return 0;
  }
}
