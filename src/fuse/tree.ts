/**
 * What a mount shows, as plain data: every thread builds its own FileSystem from it. Names, numbers and
 * attributes are fixed when the mount is made; what changes while it serves (allocation counts) is in shared
 * memory, written by the main thread.
 */

import { Disk } from '../disk/disk.ts';
import { driverOf } from '../formats/registry.ts';
import type { Report, SharedImage } from '../image/driver.ts';
import { PagePool, type PagePoolSeed } from '../shared/page-pool.ts';
import type { SharedSource } from '../source/block-source.ts';
import { attachSource } from '../source/file.ts';

/** Since 1970. Milliseconds in a double would not be exact. */
export interface Time {
  readonly seconds: number;
  readonly nanoseconds: number;
}

export function timeOf(nanoseconds: bigint): Time {
  const rest = ((nanoseconds % BILLION) + BILLION) % BILLION;
  return { seconds: Number((nanoseconds - rest) / BILLION), nanoseconds: Number(rest) };
}

const BILLION = 1_000_000_000n;

/** One raw file in the mount. */
export interface FileSeed {
  /** "disk.raw" */
  readonly name: string;
  readonly image: SharedImage;
  readonly source: SharedSource;
  /** Those of the image file. */
  readonly times: { readonly atime: Time; readonly mtime: Time; readonly ctime: Time };
  /** st_blksize. */
  readonly blockSize: number;
  /** `user.vdisk.…` attributes: full name → value. */
  readonly attributes: readonly (readonly [string, string])[];
}

export interface TreeSeed {
  /** 'file': the mountpoint is a regular file and is itself the only raw file. */
  readonly shape: 'directory' | 'file';
  readonly files: readonly FileSeed[];
  readonly pool: PagePoolSeed;
  /** Allocated bytes of each file: one 64-bit float per file, written by the main thread. */
  readonly allocated: SharedArrayBuffer;
  readonly uid: number;
  readonly gid: number;
  /** Permission bits that are taken away. */
  readonly umask: number;
  /** When the mount was made: the times of the directory. */
  readonly mounted: Time;
}

/** The disks of a tree, in the order of its files, attached in this thread. */
export function attachDisks(seed: TreeSeed, report: Report): Disk[] {
  const pool = new PagePool(seed.pool);
  return seed.files.map((file) => {
    const source = attachSource(file.source);
    const context = { pool, report: (notice: string) => report(`${file.source.label}: ${notice}`) };
    const translator = driverOf(file.image.format).attach(file.image, source, context);
    return new Disk(file.image.virtualSize, translator, source);
  });
}
