/** An image with its parents, opened for reading by a command that looks at the disk which they show. */

import { openParents, unusedParents } from '../chain/chain.ts';
import { type Layer, type LayerContext, openLayer } from '../chain/layer.ts';
import { holdersOfFile } from '../daemon/holders.ts';
import { readerOf } from '../daemon/partitions.ts';
import type { Disk } from '../disk/disk.ts';
import type { FormatId, Report } from '../image/driver.ts';
import { reportOnce } from '../image/report-once.ts';
import { PagePool } from '../shared/page-pool.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import type { ImageArguments } from './image-arguments.ts';

/** Of the tables of one chain; memory is touched as it is used. */
const POOL_BYTES = 64 << 20;

/** The image, then its parents, nearest first. */
export type ChainLayers = readonly [Layer, ...Layer[]];

export type ChainArguments = Pick<ImageArguments, 'formatOptions' | 'lock' | 'chain'>;

export function closeChain(layers: readonly Layer[]): void {
  for (const { source } of layers) source.close();
}

/**
 * Opens the image at `path`, which is absolute, and its parents too unless `alone`. `report` gets notices, each
 * beginning with the path of its file. Throws ImageError, with nothing left open.
 */
export function openChain(
  path: string,
  format: FormatId | undefined,
  request: ChainArguments,
  report: Report,
  alone = false,
): ChainLayers {
  const context: LayerContext = {
    tables: new TableAllocator(),
    formatOptions: request.formatOptions,
    lock: request.lock,
    report: reportOnce(report),
    holders: holdersOfFile,
  };
  const top = openLayer(path, 'read', format, context);
  if (alone) return [top];
  try {
    return [top, ...openParents(top, request.chain, context).layers];
  } catch (problem) {
    top.source.close();
    throw problem;
  }
}

/** Says which of the files that --parent named are a parent in none of the chains. */
export function reportUnusedParents(
  { chain }: ChainArguments,
  chains: readonly ChainLayers[],
  report: Report,
): void {
  for (const path of unusedParents(
    chain,
    chains.flatMap(([, ...parents]) => parents),
  )) {
    report(`--parent=${path}: no image has this file as a parent`);
  }
}

/** The disk that the layers show. `report` gets damage that is met, each beginning with the path of its file. */
export function diskOfChain([top, ...parents]: ChainLayers, report: Report): Disk {
  const seed = ({ image, source }: Layer) => ({ image: image.share(), source: source.share() });
  const size = top.image.virtualSize;
  return readerOf([seed(top), ...parents.map(seed)], size, PagePool.seed(POOL_BYTES), reportOnce(report));
}
