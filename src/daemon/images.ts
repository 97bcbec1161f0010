/** Opening the images of a mount, and what the mount shows of them. */

import { fstatSync } from 'node:fs';
import { basename, extname } from 'node:path';
import { guestOffset } from '../base/units.ts';
import { DRIVERS } from '../formats/registry.ts';
import { NAME_BYTES } from '../fuse/filesystem.ts';
import { type FileSeed, timeOf } from '../fuse/tree.ts';
import type { Image, Report } from '../image/driver.ts';
import { openImage } from '../image/open.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import type { FileSource } from '../source/file.ts';
import { openFile } from '../source/file.ts';
import { lockForReading } from '../source/image-lock.ts';
import type { MountConfig } from './config.ts';
import { holdersOfFile } from './holders.ts';

export interface OpenedImage {
  readonly path: string;
  readonly source: FileSource;
  readonly image: Image;
}

export type OpenConfig = Pick<MountConfig, 'images' | 'format' | 'formatOptions' | 'lock'>;

/** Opens every image, or none: throws ImageError for the first that fails, with all others closed. */
export function openImages(config: OpenConfig, report: Report): OpenedImage[] {
  const tables = new TableAllocator();
  const options = new Map(config.formatOptions);
  const opened: OpenedImage[] = [];
  try {
    for (const path of config.images) {
      const source = openFile(path);
      try {
        const fd = source.share().fd;
        if (config.lock) {
          const notice = lockForReading(fd, path, () => holdersOfFile(fd).join(', '));
          if (notice !== undefined) report(notice);
        }
        const context = { tables, options, report: (notice: string) => report(`${path}: ${notice}`) };
        const device = fstatSync(fd).isBlockDevice();
        const image = openImage(source, { drivers: DRIVERS, format: config.format, device, context });
        opened.push({ path, source, image });
      } catch (problem) {
        source.close();
        throw problem;
      }
    }
    return opened;
  } catch (problem) {
    for (const { source } of opened) source.close();
    throw problem;
  }
}

/** `base` with `end` behind it, `base` cut to what a name may be. */
function fitted(base: string, end: string): string {
  let cut = base;
  while (Buffer.byteLength(cut + end) > NAME_BYTES) cut = cut.slice(0, -1);
  return cut + end;
}

/**
 * The names in the mount: "disk.raw" for disk.vhdx. Where two images would have the same name, each keeps its
 * suffix ("disk.vhd.raw"), and where that is not enough it gets a number ("disk.vhd-2.raw").
 */
export function exposedNames(paths: readonly string[]): string[] {
  const stem = (path: string) => basename(path, extname(path)) || basename(path);
  const stems = paths.map(stem);
  const taken = new Set<string>();
  return paths.map((path, index) => {
    const shared = stems.filter((other) => other === stems[index]).length > 1;
    const base = shared ? basename(path) : stems[index]!;
    let name = fitted(base, '.raw');
    for (let number = 2; taken.has(name); number += 1) name = fitted(base, `-${number}.raw`);
    taken.add(name);
    return name;
  });
}

export function fileSeeds(opened: readonly OpenedImage[]): FileSeed[] {
  const names = exposedNames(opened.map(({ path }) => path));
  return opened.map(({ path, source, image }, index) => {
    const shared = source.share();
    const stat = fstatSync(shared.fd, { bigint: true });
    return {
      name: names[index]!,
      image: image.share(),
      source: shared,
      times: { atime: timeOf(stat.atimeNs), mtime: timeOf(stat.mtimeNs), ctime: timeOf(stat.ctimeNs) },
      blockSize: 4096,
      attributes: attributesOf(path, image),
    };
  });
}

function attributesOf(path: string, image: Image): [string, string][] {
  const pairs: [string, string][] = [
    ['format', image.format],
    ['variant', image.variant],
    ['virtual-size', `${image.virtualSize}`],
    ['logical-sector-size', `${image.logicalSectorSize}`],
    ['physical-sector-size', `${image.physicalSectorSize}`],
    ['block-size', `${image.blockSize}`],
    ['source', path],
    ...image.facts,
  ];
  return pairs.map(([name, value]) => [`user.vdisk.${name}`, value]);
}

/** How long the start of a mount may wait for exact allocation counts. */
const COUNT_BUDGET_MS = 20;

/** How long counting one image may take in all: a forged table may name the same blocks again and again. */
const COUNT_LIMIT_MS = 10_000;

/**
 * Counts what each image allocates into `allocated` (st_blocks), and no more than the image file itself takes:
 * blocks have holes where it is sparse. Small images are counted before this returns, large ones in the
 * background, in slices; until then what the image file takes stands for it.
 * Returns a function that stops the counting.
 */
export function countAllocation(
  opened: readonly OpenedImage[],
  allocated: SharedArrayBuffer,
  report: Report,
): () => void {
  const counts = new Float64Array(allocated);
  opened.forEach(({ source }, index) => {
    counts[index] = source.allocated;
  });
  const steps = opened.map(({ image, source }, index) =>
    counter(image, (bytes) => {
      counts[index] = Math.min(bytes, source.allocated);
    }),
  );
  let stopped = false;
  const run = (deadline: number): void => {
    while (!stopped && steps.length > 0 && performance.now() < deadline) {
      try {
        if (steps[0]!()) steps.shift();
      } catch (problem) {
        report(`st_blocks is an estimate: ${problem instanceof Error ? problem.message : problem}`);
        steps.shift();
      }
    }
    if (!stopped && steps.length > 0) setImmediate(() => run(performance.now() + 5));
  };
  run(performance.now() + COUNT_BUDGET_MS);
  return () => {
    stopped = true;
  };
}

/** One slice per call; true when done, with the total given to `publish`. */
function counter(image: Image, publish: (bytes: number) => void): () => boolean {
  let total = 0;
  let spent = 0;
  let next = guestOffset(0);
  return () => {
    if (spent > COUNT_LIMIT_MS) throw new Error(`counting ${image.format} blocks takes too long`);
    const started = performance.now();
    const after = image.countAllocated(next, (bytes) => {
      total += bytes;
    });
    if (after === undefined) {
      publish(total);
      return true;
    }
    spent += performance.now() - started;
    next = after;
    return false;
  };
}
