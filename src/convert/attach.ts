/** Disks as the threads of a conversion attach them, from plain data and shared memory. */

import type { Status } from '../base/errno.ts';
import type { ByteCount } from '../base/units.ts';
import { Disk } from '../disk/disk.ts';
import { driverOf } from '../formats/registry.ts';
import { attachLayers, type FileSeed, type LayerSeed } from '../fuse/tree.ts';
import type { Report } from '../image/driver.ts';
import { IoGate } from '../shared/io-gate.ts';
import { PagePool, type PagePoolSeed } from '../shared/page-pool.ts';
import { attachSource } from '../source/file.ts';

/** A disk to read: an image with its parents, nearest first. */
export interface SourceSeed {
  readonly layers: FileSeed['layers'];
  readonly size: ByteCount;
  /** The one that all threads use with these images. */
  readonly pool: PagePoolSeed;
}

/** The disk to write. */
export interface TargetSeed {
  readonly layer: LayerSeed;
  readonly size: ByteCount;
  readonly pool: PagePoolSeed;
  readonly gate: SharedArrayBuffer;
  /**
   * Whether flushes reach the medium. Without it a file that nobody will go on with after a crash is spared those that
   * only keep it whole on the way.
   */
  readonly flushes: boolean;
}

export function attachForReading({ layers, size, pool }: SourceSeed, report: Report): Disk {
  // Only who writes looks at the gate.
  return attachLayers(layers, size, {
    pool: new PagePool(pool),
    gate: new IoGate(IoGate.seed(1), 0),
    report,
  });
}

/** `thread` is unique among those that attach it. */
export function attachForWriting(seed: TargetSeed, thread: number, report: Report): Disk {
  const { layer, size, flushes } = seed;
  const { image } = layer;
  const source = attachSource(layer.source);
  if (!flushes) source.flush = (): Status => 0;
  const gate = new IoGate(seed.gate, thread);
  const context = { pool: new PagePool(seed.pool), gate, report };
  const driver = driverOf(image.format);
  const translator = driver.attach(image, source, context);
  const editor = driver.attachEditor(image, source, context, translator);
  return new Disk(size, translator, source, { edit: { editor, gate } });
}
