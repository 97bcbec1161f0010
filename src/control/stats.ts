/** What a daemon tells of its work since the mount was made. */

import type { Tally } from '../fuse/counters.ts';

export interface FileStats {
  /** In the mount: "disk.raw". */
  readonly name: string;
  /** Of the image. */
  readonly path: string;
  readonly format: string;
  readonly reads: Tally;
  readonly writes: Tally;
  /** Holes punched, ranges zeroed, the end cut off. */
  readonly zeroings: Tally;
  /** fsync(2), and closing by who may write, where metadata waited. */
  readonly flushes: Tally;
  /** Flushes that came to the image, the periodic ones included; those that found themselves done by another's commit. */
  readonly commits: { readonly asked: number; readonly shared: number; readonly run: number };
  /** Metadata waits in memory. */
  readonly dirty: boolean;
  /**
   * Pages of the image's block tables that were changed, and are not stable in it yet. 0 for a partition: its disk has
   * them.
   */
  readonly dirtyBytes: number;
}

export interface MountStats {
  readonly mountpoint: string;
  readonly pid: number;
  /** Seconds. */
  readonly uptime: number;
  readonly threads: number;
  readonly files: readonly FileStats[];
  /** Pages of block tables. */
  readonly cache: {
    readonly bytes: number;
    readonly usedBytes: number;
    /** Changed, and not yet in the images: those of all files together. */
    readonly dirtyBytes: number;
    readonly hits: number;
    readonly misses: number;
    readonly evictions: number;
  };
}
