/** Opening the images of a mount, and what the mount shows of them. */

import { fstatSync } from 'node:fs';
import { basename, extname } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { guestOffset } from '../base/units.ts';
import { openParents, unusedParents } from '../chain/chain.ts';
import { type Layer, type LayerContext, openContextOf, openLayer } from '../chain/layer.ts';
import { openOverlay, sizeWithOverlay } from '../chain/overlay.ts';
import { NAME_BYTES } from '../fuse/listing.ts';
import { timeOf } from '../fuse/times.ts';
import type { FileSeed } from '../fuse/tree.ts';
import type { Image, Report } from '../image/driver.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import type { MountConfig } from './config.ts';
import { holdersOfFile } from './holders.ts';

export interface OpenedImage extends Layer {
  /** Nearest first. */
  readonly parents: readonly Layer[];
  /** What `Image.prepareEdit` gave; undefined where the image is only read. */
  readonly edit: unknown;
  /** Where this is an overlay: the image that the user named, the first of the parents. */
  readonly overlaid?: Layer;
}

export type OpenConfig = Pick<
  MountConfig,
  'images' | 'format' | 'formatOptions' | 'lock' | 'readOnly' | 'chain'
> & {
  /** See MountConfig. */
  readonly overlay?: string | undefined;
  /** See LayerContext. */
  readonly noAtime?: boolean;
};

export function closeImages(opened: readonly OpenedImage[]): void {
  for (const { source, parents } of opened) for (const file of [{ source }, ...parents]) file.source.close();
}

/**
 * Opens every image with its parents, or none: throws ImageError for the first that fails, with all others closed.
 * An image that may be read but not written is opened read-only, with a notice that says why. `tables` is the same for
 * all images of a mount.
 */
export function openImages(
  config: OpenConfig,
  report: Report,
  tables: TableAllocator = new TableAllocator(),
): OpenedImage[] {
  const opened: OpenedImage[] = [];
  try {
    for (const path of config.images) {
      const access = config.readOnly ? 'read' : 'write';
      opened.push(openOne(path, access, config, tables, report));
    }
    const parents = opened.flatMap((image) => image.parents);
    for (const path of unusedParents(config.chain, parents)) {
      report(`--parent=${shownPath(path)}: no image has this file as a parent`);
    }
    return opened;
  } catch (problem) {
    closeImages(opened);
    throw problem;
  }
}

function openOne(
  path: string,
  access: 'read' | 'write',
  config: OpenConfig,
  tables: TableAllocator,
  report: Report,
): OpenedImage {
  // Kept until the image is known to be one, and open.
  const notices: string[] = [];
  const { lock, formatOptions } = config;
  const context: LayerContext = {
    tables,
    formatOptions,
    lock,
    report: (text) => notices.push(text),
    holders: holdersOfFile,
    noAtime: config.noAtime === true,
  };
  let opened: OpenedImage;
  try {
    opened = openAs(access, path, config, context);
  } catch (problem) {
    if (access === 'read' || !(problem instanceof ReadOnlyImage)) throw problem;
    notices.splice(0);
    opened = openAs('read', path, config, context);
    notices.push(`${problem.message}; mounted read-only`);
  }
  for (const text of new Set(notices)) report(text);
  return opened;
}

/** The image can be read, but not written: the message says why. */
class ReadOnlyImage extends Error {}

function openAs(
  access: 'read' | 'write',
  path: string,
  config: OpenConfig,
  context: LayerContext,
): OpenedImage {
  if (config.overlay !== undefined) return openOverlaid(access, path, config.overlay, config, context);
  let top: Layer;
  try {
    top = openLayer(path, access, config.format, context);
  } catch (problem) {
    if (problem instanceof ImageError && problem.kind === 'denied' && access === 'write') {
      throw new ReadOnlyImage(`${path}: cannot be written (permission denied)`);
    }
    throw problem;
  }
  let parents: readonly Layer[] = [];
  try {
    const found = openParents(top, config.chain, context);
    parents = found.layers;
    if (access === 'read') return { ...top, parents, edit: undefined };
    const against = found.readOnly ?? reasonAgainst(top, config);
    if (against !== undefined) throw new ReadOnlyImage(`${path}: ${against}`);
    return { ...top, parents, edit: prepareEdit(top, context) };
  } catch (problem) {
    for (const { source } of [top, ...parents]) source.close();
    throw problem;
  }
}

/** The image read-only, and the overlay on it. */
function openOverlaid(
  access: 'read' | 'write',
  path: string,
  place: string,
  { format, chain }: OpenConfig,
  context: LayerContext,
): OpenedImage {
  const base = openLayer(path, 'read', format, context);
  const opened = [base];
  try {
    const { layers, readOnly: doubt } = openParents(base, chain, context);
    opened.push(...layers);
    if (doubt !== undefined && access === 'write') {
      throw new ImageError('mismatched', `${path}: ${doubt}: no overlay is built upon it`, {
        hint: 'It can be read: mount it with -o ro, without the overlay.',
      });
    }
    const parents = [...opened];
    const { layer, readOnly } = openOverlay(base, layers, { place, access, force: chain.force }, context);
    opened.push(layer);
    const overlay = { ...layer, parents, overlaid: base };
    if (access === 'read') return { ...overlay, edit: undefined };
    if (readOnly !== undefined) throw new ReadOnlyImage(`${path}: ${readOnly}`);
    return { ...overlay, edit: prepareEdit(layer, context) };
  } catch (problem) {
    for (const { source } of opened) source.close();
    throw problem;
  }
}

function prepareEdit({ path, image }: Layer, context: LayerContext): unknown {
  try {
    return image.prepareEdit(openContextOf(path, context));
  } catch (problem) {
    if (!(problem instanceof ImageError)) throw problem;
    throw new ReadOnlyImage(`${path}: cannot be written: ${problem.message}`, { cause: problem });
  }
}

/** A device that nothing recognizes may be anything: nobody writes to it without having said what it is. */
function reasonAgainst({ image, device }: Layer, config: OpenConfig): string | undefined {
  if (image.format !== 'raw' || !device || config.format !== undefined) return undefined;
  return 'a device without a known format is written to only with --format=raw';
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
    return unusedName(shared ? basename(path) : stems[index]!, '.raw', taken);
  });
}

/** "disk.raw", or "disk-2.raw" where that is taken; from now on it is. */
export function unusedName(base: string, suffix: string, taken: Set<string>): string {
  let name = fitted(base, suffix);
  for (let number = 2; taken.has(name); number += 1) name = fitted(base, `-${number}${suffix}`);
  taken.add(name);
  return name;
}

/** A raw file of the mount. */
export interface ExposedFile {
  readonly name: string;
  /** The image, then its parents, nearest first. */
  readonly layers: readonly [Layer, ...Layer[]];
  /** Whose disk it is to users: the first of the layers, or the image under the overlay. */
  readonly shown: Layer;
  /** See OpenedImage. */
  readonly edit: unknown;
}

/** What the mount shows of the images: each disk; with `layers` each of its parents as well, as "disk.parent1.raw". */
export function exposedFiles(opened: readonly OpenedImage[], layers: boolean): ExposedFile[] {
  const names = exposedNames(opened.map((top) => (top.overlaid ?? top).path));
  const taken = new Set(names);
  return opened.flatMap((top, index) => {
    const base = names[index]!.slice(0, -'.raw'.length);
    const disk: ExposedFile = {
      name: names[index]!,
      layers: [top, ...top.parents],
      shown: top.overlaid ?? top,
      edit: top.edit,
    };
    if (!layers) return [disk];
    const below = top.parents.map(
      (parent, at): ExposedFile => ({
        name: unusedName(`${base}.parent${at + 1}`, '.raw', taken),
        layers: [parent, ...top.parents.slice(at + 1)],
        shown: parent,
        edit: undefined,
      }),
    );
    return [disk, ...below];
  });
}

export function fileSeeds(files: readonly ExposedFile[]): FileSeed[] {
  return files.map(({ name, layers: [top, ...parents], shown, edit }) => {
    const { image, source } = top;
    const shared = source.share();
    const stat = fstatSync(shared.fd, { bigint: true });
    return {
      name,
      size: top === shown ? image.virtualSize : sizeWithOverlay(shown, top),
      layers: [
        { image: edit === undefined ? image.share() : { ...image.share(), edit }, source: shared },
        ...parents.map((parent) => ({ image: parent.image.share(), source: parent.source.share() })),
      ],
      writable: edit !== undefined,
      times: { atime: timeOf(stat.atimeNs), mtime: timeOf(stat.mtimeNs), ctime: timeOf(stat.ctimeNs) },
      blockSize: 4096,
      attributes:
        top === shown
          ? attributesOf(top, parents)
          : [...attributesOf(shown, parents.slice(1)), ['user.vdisk.overlay', top.path]],
    };
  });
}

function attributesOf({ path, image }: Layer, parents: readonly Layer[]): [string, string][] {
  const pairs: [string, string][] = [
    ['format', image.format],
    ['variant', image.variant],
    ['virtual-size', `${image.virtualSize}`],
    ['logical-sector-size', `${image.logicalSectorSize}`],
    ['physical-sector-size', `${image.physicalSectorSize}`],
    ['block-size', `${image.blockSize}`],
    ['source', path],
    ['chain-depth', `${1 + parents.length}`],
    ...parents.map((parent, at): [string, string] => [`parent${at + 1}`, parent.path]),
    ...image.facts,
  ];
  return pairs.map(([name, value]) => [`user.vdisk.${name}`, value]);
}

/** How long the start of a mount may wait for exact allocation counts. */
const COUNT_BUDGET_MS = 20;

/** How long counting one image may take in all: a forged table may name the same blocks again and again. */
const COUNT_LIMIT_MS = 10_000;

/**
 * Counts what the images of each file allocate into `allocated` (st_blocks), and no more than the image file itself
 * takes: blocks have holes where it is sparse. Small images are counted before this returns, large ones in the
 * background, in slices; until then what the image file takes stands for it. The first file has number `first`.
 * Returns a function that stops the counting.
 */
export function countAllocation(
  files: readonly ExposedFile[],
  allocated: SharedArrayBuffer,
  report: Report,
  first = 0,
): () => void {
  const counts = new Float64Array(allocated, first * Float64Array.BYTES_PER_ELEMENT);
  const showing = new Map<Layer, number[]>();
  files.forEach(({ layers }, index) => {
    for (const layer of layers) showing.set(layer, [...(showing.get(layer) ?? []), index]);
  });
  const steps = [...showing].map(([{ image, source }, indices]) => {
    const estimate = source.allocated;
    for (const index of indices) counts[index]! += estimate;
    return counter(image, (bytes) => {
      for (const index of indices) counts[index]! -= estimate - Math.min(bytes, source.allocated);
    });
  });
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
