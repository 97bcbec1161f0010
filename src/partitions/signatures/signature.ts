/** What a signature tells. */

import type { DiskRange } from '../range.ts';

export interface Signature {
  /** As blkid and mount(8) call it: "ext4", "vfat", "crypto_LUKS". */
  readonly type: string;
  /** Where there are several: "FAT32", "1.2". */
  readonly version?: string | undefined;
  /** '' or undefined where there is none. */
  readonly label?: string | undefined;
  /** As blkid writes it for this type. */
  readonly uuid?: string | undefined;
  /** A file system lies inside of it that is not looked for: it is encrypted, or spread over several devices. */
  readonly container?: true;
}

/**
 * Looks for one signature: undefined where it is not there. Believes nothing of what it reads, and reads a bounded
 * amount. Throws ImageError('io') where the disk cannot be read.
 */
export type Probe = (range: DiskRange) => Signature | undefined;
