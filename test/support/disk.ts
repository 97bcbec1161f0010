/** Opening an image in one thread, as a worker would see it. */

import { guestOffset } from '../../src/base/units.ts';
import { Disk } from '../../src/disk/disk.ts';
import { driverOf } from '../../src/formats/registry.ts';
import type { FormatDriver, Image } from '../../src/image/driver.ts';
import { IoGate } from '../../src/shared/io-gate.ts';
import { PagePool } from '../../src/shared/page-pool.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { MemorySource } from './memory-source.ts';
import type { SampleImage } from './sample.ts';

export interface OpenedDisk {
  readonly image: Image;
  readonly disk: Disk;
  /** Notices given at open and damage met while reading, in order. */
  readonly notices: string[];
}

/**
 * Opens `source` with `driver` and attaches a disk to a clone of what it shares, as another thread would.
 * `poolBytes` bounds the table pages (small values exercise eviction). `parent` shows in the image's holes.
 */
export function openDisk(
  driver: FormatDriver,
  source: BlockSource,
  options: Readonly<Record<string, string>> = {},
  poolBytes = 1 << 20,
  parent?: Disk,
): OpenedDisk {
  const notices: string[] = [];
  const report = (notice: string) => notices.push(notice);
  const tables = new TableAllocator();
  const image = driver.open(source, { tables, report, options: new Map(Object.entries(options)) });
  const pool = new PagePool(PagePool.seed(poolBytes));
  const shared = structuredClone(image.share());
  const translator = driver.attach(shared, source, { pool, report });
  return { image, disk: new Disk(image.virtualSize, translator, source, { parent }), notices };
}

export interface EditableDisk extends OpenedDisk {
  readonly pool: PagePool;
}

/**
 * The same for writing, with an editor: as the only thread of a mount. Throws what `prepareEdit` throws. The
 * caller closes the disk.
 */
export function openEditable(
  driver: FormatDriver,
  source: BlockSource,
  options: Readonly<Record<string, string>> = {},
  poolBytes = 1 << 20,
  parent?: Disk,
): EditableDisk {
  const notices: string[] = [];
  const report = (notice: string) => notices.push(notice);
  const context = { tables: new TableAllocator(), report, options: new Map(Object.entries(options)) };
  const image = driver.open(source, context);
  const pool = new PagePool(PagePool.seed(poolBytes));
  const gate = new IoGate(IoGate.seed(1), 0);
  const shared = structuredClone({ ...image.share(), edit: image.prepareEdit(context) });
  const translator = driver.attach(shared, source, { pool, report });
  const editor = driver.attachEditor(shared, source, { pool, report, gate }, translator);
  const disk = new Disk(image.virtualSize, translator, source, { edit: { editor, gate }, parent });
  return { image, disk, notices, pool };
}

/** The disk beneath a sample, down the whole chain: opened for reading, each image in memory of its own. */
export function parentDisk({ parent }: { readonly parent?: SampleImage | undefined }): Disk | undefined {
  if (parent === undefined) return undefined;
  const source = new MemorySource(parent.file, parent.name);
  return openDisk(driverOf(parent.format), source, parent.options, 1 << 18, parentDisk(parent)).disk;
}

/** A sample, opened for reading by its driver, with its parents beneath. */
export function openSample(sample: SampleImage, poolBytes = 1 << 20): OpenedDisk {
  const source = new MemorySource(sample.file);
  return openDisk(driverOf(sample.format), source, sample.options, poolBytes, parentDisk(sample));
}

/** Bytes `at` to `at + length` of the disk. Throws with the errno where they cannot be read. */
export function readDisk(disk: Disk, at = 0, length = disk.size): Uint8Array {
  const target = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const moved = disk.read(target, done, Math.min(1 << 20, length - done), guestOffset(at + done));
    if (moved <= 0) throw new Error(`read at ${at + done}: errno ${-moved}`);
    done += moved;
  }
  return target;
}
