/** Small chains of VHDX images. */

import { formatGuid } from '../../../src/base/guid.ts';
import { MIB } from '../../../src/base/units.ts';
import { between, type Random, randomBytes } from '../random.ts';
import type { SampleImage } from '../sample.ts';
import type { SparseSource } from '../sparse-source.ts';
import {
  BAT,
  type BlockPlan,
  buildVhdx,
  expectedDisk,
  fileBytes,
  guid,
  type VhdxPlan,
} from './vhdx-image.ts';
import { intoLog, markDirty, putEntries } from './vhdx-log.ts';

/** The DataWriteGuid of the image at `depth` of a chain, 0 being the one without a parent. */
const identity = (depth: number): Uint8Array => guid(`dddddddd-0000-4000-8000-00000000000${depth}`);

/** Pairs of a locator that names the image at `depth` as "NAME.vhdx" in the same directory. */
export function locatorOf(dataWriteGuid: Uint8Array, name: string): [string, string][] {
  return [
    ['parent_linkage', `{${formatGuid(dataWriteGuid)}}`],
    ['relative_path', `.\\${name}.vhdx`],
  ];
}

type Change = (file: SparseSource, plan: VhdxPlan) => void;
const nothing: Change = () => {};

/** An image of a chain: a child of `parent`, where there is one. */
export function link(
  name: string,
  plan: VhdxPlan,
  parent?: SampleImage,
  change: Change = nothing,
): SampleImage {
  let depth = 0;
  for (let below = parent; below !== undefined; below = below.parent) depth += 1;
  const locator = parent === undefined ? {} : { locator: locatorOf(identity(depth - 1), parent.name) };
  const whole: VhdxPlan = { ...plan, ...locator, dataWriteGuid: identity(depth) };
  const file = buildVhdx(whole);
  change(file, whole);
  const disk = expectedDisk(whole, parent?.disk);
  return { name, format: 'vhdx', file: fileBytes(file), disk, ...(parent === undefined ? {} : { parent }) };
}

/** Leaves 4 KiB sectors of the file to the log alone. */
const dirty =
  (...places: number[]): Change =>
  (file, plan) => {
    const updates = places.map((at) => intoLog(file, at));
    markDirty(file, plan);
    putEntries(file, plan, [{ sequence: 17, updates }]);
  };

/** Runs of sectors, some of one sector, some long, at random. */
function runs(next: Random, sectors: number): [number, number][] {
  const found: [number, number][] = [];
  for (let at = between(next, 0, 40); at < sectors; ) {
    const end = Math.min(sectors, at + (next() < 0.4 ? 1 : between(next, 1, 300)));
    found.push([at, end]);
    at = end + (next() < 0.4 ? 1 : between(next, 1, 300));
  }
  return found;
}

/**
 * Chains of three, each image with blocks of its own size; the disks grow, or shrink, from parent to child. In every
 * state, with logs that hold sector bitmaps, in a child and in a parent.
 */
export function chains(next: Random): SampleImage[] {
  const full = (length = MIB): BlockPlan => ({ state: 6, data: randomBytes(next, length) });
  const part = (length = MIB, sector = 512): BlockPlan => ({
    state: 7,
    data: randomBytes(next, length),
    present: runs(next, length / sector),
  });
  const blocks = (...list: (BlockPlan | undefined)[]): Map<number, BlockPlan> =>
    new Map(list.flatMap((block, n) => (block === undefined ? [] : [[n, block]])));
  const batSector = BAT.at * MIB;

  const base = link(
    'base',
    { size: 5 * MIB, blocks: blocks(full(), full(), undefined, full(), full()) },
    undefined,
    dirty(batSector),
  );
  // The bitmap of the only chunk has a place behind the blocks: its first sector is that of the first 16 MiB.
  const middle = link(
    'middle',
    {
      size: 6 * MIB,
      blockSize: 2 * MIB,
      blocks: blocks(undefined, part(2 * MIB), undefined),
      bitmaps: new Map([[0, 6]]),
    },
    base,
    dirty(6 * MIB),
  );
  const large = link('base', { size: 3 * MIB, logical: 4096, blocks: blocks(full(), undefined, full()) });
  const large2 = link(
    'middle',
    { size: 3 * MIB, logical: 4096, blocks: blocks(part(MIB, 4096), part(MIB, 4096)) },
    large,
  );
  return [
    link(
      'chain of three, every payload state, dirty log: bitmap and BAT',
      {
        size: 7 * MIB,
        blocks: blocks(part(), undefined, { state: 2 }, { state: 3, mib: 1 }, full(), part(), { state: 5 }),
        bitmaps: new Map([[0, 8]]),
      },
      middle,
      dirty(8 * MIB, batSector),
    ),
    link('chain of three, nothing there', { size: 5 * MIB + 512, blockSize: 2 * MIB }, middle),
    link(
      'child that is smaller, bits of absent blocks are garbage',
      { size: 2 * MIB + 1536, blocks: blocks(undefined, part()), bitmaps: new Map([[0, 4]]), firstBlock: 5 },
      middle,
    ),
    link(
      'chain of three, 4096-byte logical sectors',
      { size: 3 * MIB + 8192, logical: 4096, blocks: blocks(undefined, part(MIB, 4096), full()) },
      large2,
    ),
  ];
}
