/** Partitions of the images of a mount as files of their own, beside the disks that they are parts of. */

import { ImageError } from '../base/errors.ts';
import type { Disk } from '../disk/disk.ts';
import {
  attachLayers,
  type FileSeed,
  type Part,
  slotsFor,
  type TreeSeed,
  type WindowSeed,
} from '../fuse/tree.ts';
import type { Image, Report } from '../image/driver.ts';
import { reportOnce } from '../image/report-once.ts';
import { contentOf, diskAttributes, partitionAttributes, withoutTable } from '../partitions/content.ts';
import { IoGate } from '../shared/io-gate.ts';
import { PagePool, type PagePoolSeed } from '../shared/page-pool.ts';
import { unusedName } from './images.ts';

/** What is known of the image whose partitions are wanted. */
export interface PartitionedImage {
  readonly image: Pick<Image, 'logicalSectorSize'>;
  /** The image's path, with which notices begin. */
  readonly path: string;
}

/** A disk of a mount whose partitions are wanted. */
export interface PartitionedFile extends PartitionedImage {
  /** Its number in TreeSeed.files. */
  readonly file: number;
}

/**
 * `tree` with a window for each partition of the `disks`, and with what those hold in the attributes. Reads the
 * disks, and is for the main thread before the mount. Throws ImageError('usage') where the mount has no place for
 * more than one file; a disk that cannot be read is shown without partitions, with a notice.
 */
export function withPartitions(
  tree: TreeSeed,
  disks: readonly PartitionedFile[],
  threads: number,
  report: Report,
): TreeSeed {
  if (tree.shape === 'file') {
    throw new ImageError('usage', '--partitions: the mountpoint is a file, which shows the disk alone', {
      hint: 'Mount on a directory instead.',
    });
  }
  const files = [...tree.files];
  const taken = new Set(files.map(({ name }) => name));
  const windows: WindowSeed[] = [];
  for (const disk of disks) {
    const found = partitionsOf(files[disk.file]!, disk, tree.pool, taken, report);
    files[disk.file] = found.file;
    windows.push(...found.parts.map((part) => ({ ...part, of: disk.file })));
  }
  const slots = slotsFor(threads, files.length + windows.length);
  return { ...tree, files, windows, partitions: true, ...slots };
}

/**
 * The partitions of the disk of `seed`, which nobody writes to, and the seed with what it holds in its attributes. `pool` is
 * the mount's where nobody serves yet, else one of the caller's own: the main thread waits for no lock of others. (What a
 * table then says of the place of its pages, the other pool does not confirm, and they are read again.) `taken`: names that
 * are in use; those of the partitions are added.
 */
export function partitionsOf(
  seed: FileSeed,
  { image, path }: PartitionedImage,
  pool: PagePoolSeed,
  taken: Set<string>,
  report: Report,
): { readonly file: FileSeed; readonly parts: Part[] } {
  const notice = (text: string): void => report(`${path}: ${text}`);
  const disk = readerOf(seed.layers, seed.size, pool, reportOnce(report));
  const content = contentOf(disk, image.logicalSectorSize, notice);
  if (content.table === 'none') notice(withoutTable(content));
  const stem = seed.name.replace(/\.raw$/, '');
  return {
    file: { ...seed, attributes: [...seed.attributes, ...named(diskAttributes(content))] },
    parts: content.partitions
      .filter(({ container }) => !container)
      .map((partition) => ({
        name: unusedName(stem, `.p${partition.number}`, taken),
        start: partition.start,
        size: partition.length,
        attributes: named(partitionAttributes(partition)),
      })),
  };
}

function named(pairs: readonly (readonly [string, string])[]): [string, string][] {
  return pairs.map(([name, value]) => [`user.vdisk.${name}`, value]);
}

/** The disk that the layers show, for reading in this thread: nobody may be writing to it. */
export function readerOf(
  [{ image, source }, ...parents]: FileSeed['layers'],
  size: number,
  pool: PagePoolSeed,
  report: Report,
): Disk {
  const top = { image: { ...image, edit: undefined }, source };
  // Only who writes looks at the gate.
  return attachLayers([top, ...parents], size, {
    pool: new PagePool(pool),
    gate: new IoGate(IoGate.seed(1), 0),
    report,
  });
}
