/**
 * What a mount shows, as plain data: every thread builds its own FileSystem from it. Names, numbers and
 * attributes are fixed when the mount is made; what changes while it serves (allocation counts, times, who is
 * inside an operation) is in shared memory.
 */

import type { ByteCount } from '../base/units.ts';
import { Disk } from '../disk/disk.ts';
import { driverOf } from '../formats/registry.ts';
import type { Report, SharedImage } from '../image/driver.ts';
import { IoGate } from '../shared/io-gate.ts';
import { PagePool, type PagePoolSeed } from '../shared/page-pool.ts';
import type { SharedSource } from '../source/block-source.ts';
import { attachSource } from '../source/file.ts';
import { Counters } from './counters.ts';
import { Members, SPARE_SLOTS } from './members.ts';
import type { Time } from './times.ts';

/** One image of a chain. */
export interface LayerSeed {
  readonly image: SharedImage;
  readonly source: SharedSource;
}

/** One raw file in the mount. */
export interface FileSeed {
  /** "disk.raw" */
  readonly name: string;
  /** Bytes of the file. */
  readonly size: ByteCount;
  /** The image, then its parents, nearest first. The first carries `edit` where the file is writable. */
  readonly layers: readonly [LayerSeed, ...LayerSeed[]];
  readonly writable: boolean;
  /** Those of the image file. */
  readonly times: { readonly atime: Time; readonly mtime: Time; readonly ctime: Time };
  /** st_blksize. */
  readonly blockSize: number;
  /** `user.vdisk.…` attributes: full name → value. */
  readonly attributes: readonly (readonly [string, string])[];
}

/** A partition as a file: a part of the disk of another one. Owner, times and what it takes are that file's. */
export interface Part {
  /** "disk.p1" */
  readonly name: string;
  /** Bytes; `start + size` is within the disk. */
  readonly start: number;
  readonly size: ByteCount;
  readonly attributes: FileSeed['attributes'];
}

export interface WindowSeed extends Part {
  /** Number of the file in TreeSeed.files. */
  readonly of: number;
}

export interface TreeSeed {
  /** 'file': the mountpoint is a regular file and is itself the only raw file. */
  readonly shape: 'directory' | 'file';
  readonly files: readonly FileSeed[];
  /** Shown behind the files: entry n has the number `files.length + n`. None where `shape` is 'file'. */
  readonly windows: readonly WindowSeed[];
  /** Files that join may bring windows, whatever is there now. */
  readonly partitions: boolean;
  readonly pool: PagePoolSeed;
  /** Allocated bytes of each file: one 64-bit float per file, written by the main thread. */
  readonly allocated: SharedArrayBuffer;
  /**
   * IoGate.seed(threads + 2): worker n is thread n of the gate, `threads` is the thread that flushes from time to
   * time, `threads + 1` the main thread where it serves the files itself (fuse-native).
   */
  readonly gate: SharedArrayBuffer;
  /** Each write is stable when it returns (`-o sync`). */
  readonly sync: boolean;
  /** FileTimes.seed(files): see times.ts. */
  readonly times: SharedArrayBuffer;
  /** Counters.seed(threads + 2, slots): see counters.ts. */
  readonly counters: SharedArrayBuffer;
  /** Members.seed(files and windows, slots): see members.ts. Where slots are spare, `times` and `allocated` have as many. */
  readonly members: SharedArrayBuffer;
  readonly uid: number;
  readonly gid: number;
  /** Permission bits that are taken away. */
  readonly umask: number;
  /** When the mount was made: the times of the directory. */
  readonly mounted: Time;
}

/** A file joins a mount that serves, or files leave it. */
export type TreeChange =
  | {
      readonly kind: 'join';
      readonly slot: number;
      readonly node: number;
      /** Its number in `times` and `allocated`. */
      readonly number: number;
      readonly file: FileSeed;
      /** Parts of its disk, which join with it, and leave with it. */
      readonly windows: readonly { readonly slot: number; readonly node: number; readonly part: Part }[];
    }
  | { readonly kind: 'leave'; readonly slots: readonly number[] };

/** What a tree has for each slot: `shown` of them taken by files and windows, and spare ones. */
export function slotsFor(threads: number, shown: number): Pick<TreeSeed, 'counters' | 'members'> {
  const slots = shown + SPARE_SLOTS;
  return { counters: Counters.seed(threads + 2, slots), members: Members.seed(shown, slots) };
}

/** Whether any file can be written; else the mount is read-only. */
export function isWritable(seed: TreeSeed): boolean {
  return seed.files.some(({ writable }) => writable);
}

/** Names of all files and windows, by their numbers. */
export function namesOf({ files, windows }: Pick<TreeSeed, 'files' | 'windows'>): string[] {
  return [...files, ...windows].map(({ name }) => name);
}

/** Whether a file can be changed through another one too, so that the kernel must not keep its bytes. */
export function isShared({ files, windows }: TreeSeed, file: number): boolean {
  return files[file]?.writable === true && windows.some(({ of }) => of === file);
}

/** Whether that holds for any file. */
export function hasShared(tree: TreeSeed): boolean {
  return tree.files.some((_, file) => isShared(tree, file));
}

/** What a thread attaches disks with. */
export interface AttachThread {
  readonly pool: PagePool;
  readonly gate: IoGate;
  readonly report: Report;
}

/** What thread `thread` of the gate attaches the disks of a tree with. */
export function attachThread(seed: TreeSeed, report: Report, thread: number): AttachThread {
  return { pool: new PagePool(seed.pool, thread), gate: new IoGate(seed.gate, thread), report };
}

/** The disk of `size` bytes that the layers show, the first on top, attached in this thread. */
export function attachLayers(
  [top, ...parents]: FileSeed['layers'],
  size: ByteCount,
  thread: AttachThread,
): Disk {
  let disk: Disk | undefined;
  for (const layer of parents.toReversed()) disk = attachLayer(layer, layer.image.virtualSize, disk, thread);
  return attachLayer(top, size, disk, thread);
}

function attachLayer(
  { image, source: shared }: LayerSeed,
  size: ByteCount,
  parent: Disk | undefined,
  { pool, gate, report }: AttachThread,
): Disk {
  const source = attachSource(shared);
  const context = { pool, gate, report: (notice: string) => report(`${shared.label}: ${notice}`) };
  const driver = driverOf(image.format);
  const translator = driver.attach(image, source, context);
  if (image.edit === undefined) return new Disk(size, translator, source, { parent });
  const editor = driver.attachEditor(image, source, context, translator);
  return new Disk(size, translator, source, { edit: { editor, gate }, parent });
}
