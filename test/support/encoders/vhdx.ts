/** Small legal VHDX images of every kind. */

import { MIB } from '../../../src/base/units.ts';
import { between, type Random, random, randomBytes } from '../random.ts';
import type { SampleImage } from '../sample.ts';
import type { SparseSource } from '../sparse-source.ts';
import { chains } from './vhdx-chains.ts';
import {
  BAT,
  BLOCK,
  type BlockPlan,
  buildVhdx,
  encodeHeader,
  expectedDisk,
  fileBytes,
  ITEM_GUIDS,
  standardHeader,
  standardItems,
  standardRegions,
  type VhdxPlan,
} from './vhdx-image.ts';
import { intoLog, markDirty, putEntries } from './vhdx-log.ts';

function sample(name: string, plan: VhdxPlan, change: (file: SparseSource) => void = () => {}): SampleImage {
  const file = buildVhdx(plan);
  change(file);
  return { name, format: 'vhdx', file: fileBytes(file), disk: expectedDisk(plan) };
}

function scattered(next: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += between(next, 1, 200_000)) {
    bytes.set(randomBytes(next, Math.min(between(next, 1, 9000), length - at)), at);
  }
  return bytes;
}

/**
 * Legal images of every kind. The first MiB, the regions and the blocks of a VHDX are each 1 MiB at least, so
 * that 4 to 6 MiB is as small as they get.
 */
export function samples(seed: number): SampleImage[] {
  const next = random(seed);
  const full = (length = BLOCK): BlockPlan => ({ state: 6, data: scattered(next, length) });

  const states: VhdxPlan = {
    size: 9 * MIB,
    blocks: new Map<number, BlockPlan>([
      [0, full()],
      [1, { state: 1, mib: 4 }],
      [2, { state: 2 }],
      [3, { state: 3, mib: 1 }],
      [5, { state: 5 }],
      [6, { state: 0, mib: 77 }],
      [7, full()],
      [8, { state: 2, mib: 4 }],
    ]),
  };
  const cut: VhdxPlan = {
    size: 3 * 256 * 1024 + 512,
    blocks: new Map([[0, full(3 * 256 * 1024 + 512)]]),
    cutTail: true,
  };
  const fixed: VhdxPlan = {
    size: 2 * MIB + 4096,
    flags: 1,
    blocks: new Map([
      [0, full()],
      [1, full()],
      [2, full(4096)],
    ]),
    cutTail: true,
  };
  const large: VhdxPlan = {
    size: 9 * MIB,
    blockSize: 8 * MIB,
    blocks: new Map([[1, full(MIB)]]),
  };
  const sectors: VhdxPlan = {
    size: 2 * MIB + 8192,
    logical: 4096,
    physical: 512,
    blocks: new Map([
      [0, full()],
      [2, full(8192)],
    ]),
    cutTail: true,
  };
  const backwards: VhdxPlan = {
    size: 3 * MIB,
    blocks: new Map<number, BlockPlan>([
      [0, { ...full(), mib: 6 }],
      [1, { ...full(), mib: 5 }],
      [2, { ...full(), mib: 4 }],
    ]),
  };
  const dirty: VhdxPlan = { size: 3 * MIB, blocks: new Map([[2, full()]]) };
  return [
    sample('dynamic, every payload state', states),
    sample('dynamic, last block cut at the end of the disk', cut),
    sample('dynamic, empty', { size: 5 * MIB }),
    sample('fixed', fixed),
    sample('dynamic, 8 MiB blocks', { ...large, cutTail: true }),
    sample('dynamic, 4096-byte logical sectors', sectors),
    sample('dynamic, blocks in reverse order', backwards),
    sample('dynamic, no log area', {
      ...cut,
      log: { at: 0, length: 0 },
      metadata: { at: 1, length: 1 },
      bat: { at: 2, length: 1 },
    }),
    sample('dynamic, first header damaged', cut, (file) => file.put(0x10010, randomBytes(next, 16))),
    sample('dynamic, two identical headers', { ...cut, headers: [{ sequence: 3 }, { sequence: 3 }] }),
    sample('dynamic, header with sequence 0', cut, (file) => {
      file.put(0x10000, encodeHeader({ ...standardHeader(cut), sequence: 0 }));
      file.put(0x20000, new Uint8Array(4096));
    }),
    sample('dynamic, first region table damaged', cut, (file) => file.put(0x30008, randomBytes(next, 64))),
    sample('dynamic, unknown optional region and items', {
      ...cut,
      items: [
        { guid: '12345678-0000-0000-0000-000000000000', data: randomBytes(next, 100), flags: 0 },
        { guid: ITEM_GUIDS.size, data: randomBytes(next, 3), flags: 1 },
        { guid: '12345678-0000-0000-0000-000000000001', data: new Uint8Array(0), flags: 2 },
        standardItems(cut)[1]!,
      ],
      regions: [
        ...standardRegions(cut),
        { guid: '12345678-0000-0000-0000-000000000002', at: 900 * MIB, length: MIB, required: 0 },
      ],
    }),
    sample('dynamic, dirty log: BAT', dirty, (file) => {
      const update = intoLog(file, BAT.at * MIB);
      markDirty(file, dirty);
      putEntries(file, dirty, [{ sequence: 41, updates: [update] }]);
    }),
    sample('dynamic, dirty log: empty entry', dirty, (file) => {
      markDirty(file, dirty);
      putEntries(file, dirty, [{ sequence: 1 }], 8192);
    }),
    sample('dynamic, dirty log that wraps: metadata and region tables', dirty, (file) => {
      const updates = [0x30000, 0x40000, 2 * MIB, 2 * MIB + 65536].map((at) => intoLog(file, at));
      updates.push({ zero: BAT.at * MIB + 4096, length: 8192 });
      markDirty(file, dirty);
      const entries = updates.map((update, index) => ({ sequence: 90 + index, updates: [update] }));
      putEntries(file, dirty, entries, MIB - 12288);
    }),
    ...chains(next),
  ];
}
