/**
 * The files and disks of opened images, as evidence: what a record says of each, and how it is hashed. Custody holds
 * them; the commands that hash and compare without a mount make their tasks here too.
 */

import { readlinkSync } from 'node:fs';
import type { ByteCount } from '../base/units.ts';
import type { Layer } from '../chain/layer.ts';
import type { PagePoolSeed } from '../shared/page-pool.ts';
import { type FileState, stateNow, stateOf } from './file-state.ts';
import type { HashTask } from './hash-thread.ts';
import type { RecordedDisk, RecordedFile } from './record.ts';

/** One image with its parents, nearest first, and the name of its disk. */
export interface HeldImage {
  readonly name: string;
  readonly layers: readonly [Layer, ...Layer[]];
}

export interface HeldFile {
  readonly recorded: RecordedFile;
  readonly layer: Layer;
}

export interface HeldDisk {
  readonly recorded: RecordedDisk;
  readonly task: HashTask;
}

export const stateOfLayer = ({ source }: Pick<Layer, 'source'>): FileState =>
  stateNow(source.share().fd, source.size);

/** All bytes that the file has now. */
export function fileTask({ source }: Pick<Layer, 'source'>): HashTask {
  const size = new SharedArrayBuffer(8);
  new Float64Array(size)[0] = stateOfLayer({ source }).size;
  return { kind: 'file', source: { ...source.share(), size } };
}

/** The disk that a chain shows, only to be read; `layers` are the image and its parents. */
export function diskTask(layers: HeldImage['layers'], pool: PagePoolSeed): HashTask {
  const [top, ...parents] = layers;
  const seed = ({ image, source }: Layer) => ({ image: image.share(), source: source.share() });
  return { kind: 'disk', layers: [seed(top), ...parents.map(seed)], size: top.image.virtualSize, pool };
}

export function diskOf({ name, layers }: HeldImage, pool: PagePoolSeed): HeldDisk {
  const size: ByteCount = layers[0].image.virtualSize;
  const files = layers.map(({ path }) => path);
  return { recorded: { name, size, files }, task: diskTask(layers, pool) };
}

/** Each file once, however many chains it is in. */
export function filesOf(images: readonly HeldImage[]): HeldFile[] {
  const held = new Map<string, HeldFile>();
  for (const { layers } of images) {
    layers.forEach((layer, index) => {
      if (held.has(layer.path)) return;
      held.set(layer.path, { layer, recorded: recordedFile(layer, layers[index + 1]) });
    });
  }
  return [...held.values()];
}

function recordedFile({ path, source, image, device }: Layer, parent: Layer | undefined): RecordedFile {
  const { stat, noAtime } = source.found!;
  return {
    path,
    'real-path': readlinkSync(`/proc/self/fd/${source.share().fd}`),
    'block-device': device,
    ...stateOf(stat, source.size),
    'no-atime': noAtime,
    format: image.format,
    variant: image.variant,
    identity: Object.fromEntries(image.identity.map(({ name, text }) => [name, text])),
    parent: parent && { path: parent.path, wanted: image.parent?.identity },
  };
}
