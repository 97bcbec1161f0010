/** Partitions of the images of a mount as files of their own, beside the disks that they are parts of. */

import { ImageError } from '../base/errors.ts';
import type { Disk } from '../disk/disk.ts';
import { attachLayers, type FileSeed, slotsFor, type TreeSeed, type WindowSeed } from '../fuse/tree.ts';
import type { Image, Report } from '../image/driver.ts';
import { reportOnce } from '../image/report-once.ts';
import { contentOf, diskAttributes, partitionAttributes, withoutTable } from '../partitions/content.ts';
import { IoGate } from '../shared/io-gate.ts';
import { PagePool, type PagePoolSeed } from '../shared/page-pool.ts';
import { unusedName } from './images.ts';

/** A disk of a mount whose partitions are wanted. */
export interface PartitionedFile {
  /** Its number in TreeSeed.files. */
  readonly file: number;
  readonly image: Pick<Image, 'logicalSectorSize'>;
  /** The image's path, with which notices begin. */
  readonly path: string;
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
  for (const { file, image, path } of disks) {
    const seed = files[file]!;
    const notice = (text: string): void => report(`${path}: ${text}`);
    const disk = readerOf(seed.layers, seed.size, tree.pool, reportOnce(report));
    const content = contentOf(disk, image.logicalSectorSize, notice);
    if (content.table === 'none') notice(withoutTable(content));
    files[file] = { ...seed, attributes: [...seed.attributes, ...named(diskAttributes(content))] };
    const stem = seed.name.replace(/\.raw$/, '');
    for (const partition of content.partitions.filter(({ container }) => !container)) {
      windows.push({
        name: unusedName(stem, `.p${partition.number}`, taken),
        of: file,
        start: partition.start,
        size: partition.length,
        attributes: named(partitionAttributes(partition)),
      });
    }
  }
  return { ...tree, files, windows, ...slotsFor(threads, files.length + windows.length) };
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
