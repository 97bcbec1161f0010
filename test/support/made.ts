/** Small images and children of them, made by the formats' own creators, in memory. */

import { randomGuid } from '../../src/base/guid.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { driverOf } from '../../src/formats/registry.ts';
import { CreateOptions, type NewParent } from '../../src/image/create.ts';
import type { FormatDriver, FormatId, OpenContext } from '../../src/image/driver.ts';
import { EditedDisk } from '../../src/reshape/disk.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { openDisk } from './disk.ts';
import { MemorySource } from './memory-source.ts';
import { between, type Random, randomBytes } from './random.ts';

export const context = (): OpenContext => ({
  tables: new TableAllocator(),
  report: () => {},
  options: new Map(),
});

/** The smallest units that each has: images are small, and blocks many. */
const OPTIONS: Record<FormatId, readonly string[]> = {
  raw: [],
  vhd: ['block-size=512K'],
  vhdx: ['block-size=1M'],
  vdi: ['block-size=1M'],
  qed: ['cluster-size=16K', 'table-size=2'],
};

/** How `source` is told to a child. */
export function newParent(driver: FormatDriver, source: BlockSource, name = 'base'): NewParent {
  const image = driver.open(source, context());
  return { image, relative: name, absolute: `/images/${name}`, modified: 1_700_000_000 };
}

/** The file of a new image. */
export function makeImage(
  driver: FormatDriver,
  virtualSize: number,
  parent?: NewParent,
  options = OPTIONS[driver.id],
): Uint8Array {
  const plan = driver.create.plan({
    virtualSize,
    options: CreateOptions.parse(driver.id, driver.create.options, options),
    parent,
    guid: randomGuid,
    now: 1_700_000_000,
  });
  const file = new Uint8Array(plan.size);
  for (const { at, length, fill } of plan.pieces) fill(file.subarray(at, at + length), 0);
  return file;
}

/** What happens to a range of a disk: random bytes, zeros, or nothing. */
export interface Stroke {
  readonly at: number;
  readonly length: number;
  readonly kind: 'bytes' | 'zeros';
}

/** Random strokes, many of them over bounds of blocks. */
export function strokes(next: Random, size: number, count: number): Stroke[] {
  return Array.from({ length: count }, () => {
    const length = between(next, 1, 64) * 4096 + between(next, 0, 1) * 512;
    const at = between(next, 0, Math.max(0, Math.floor((size - length) / 512))) * 512;
    return { at, length: Math.min(length, size - at), kind: next() < 0.7 ? 'bytes' : 'zeros' };
  });
}

/** Writes to the image in `source` over `parent`. */
export function paint(
  driver: FormatDriver,
  source: BlockSource,
  parent: Disk | undefined,
  next: Random,
  list: readonly Stroke[],
): void {
  const edited = new EditedDisk({ driver, source, context: context() }, parent);
  for (const { at, length, kind } of list) {
    if (kind === 'zeros') edited.zero(at, length);
    else edited.write(randomBytes(next, length), 0, length, at);
  }
  edited.close();
}

/** What the image in `source` shows over `parent`. */
export const shown = (driver: FormatDriver, source: BlockSource, parent?: Disk): Disk =>
  openDisk(driver, source, {}, 1 << 18, parent).disk;

/** An image in memory, painted. */
export function paintedImage(
  format: FormatId,
  size: number,
  next: Random,
  count: number,
  below?: {
    readonly driver: FormatDriver;
    readonly source: BlockSource;
    readonly disk: Disk;
    readonly name: string;
  },
): MemorySource {
  const driver = driverOf(format);
  const parent = below === undefined ? undefined : newParent(below.driver, below.source, below.name);
  const source = new MemorySource(makeImage(driver, size, parent), format, true);
  paint(driver, source, below?.disk, next, strokes(next, size, count));
  return source;
}
