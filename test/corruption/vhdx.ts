/** What can be wrong with a VHDX. */

import { MIB } from '../../src/base/units.ts';
import { link } from '../support/encoders/vhdx-chains.ts';
import {
  BAT,
  type BlockPlan,
  batEntry,
  bitmapIndex,
  buildVhdx,
  encodeHeader,
  expectedDisk,
  fileBytes,
  guid,
  LOG_GUID,
  little,
  putBatEntry,
  standardHeader,
  type VhdxPlan,
} from '../support/encoders/vhdx-image.ts';
import { intoLog, markDirty, putEntries } from '../support/encoders/vhdx-log.ts';
import { random, randomBytes } from '../support/random.ts';
import type { SparseSource } from '../support/sparse-source.ts';
import type { Corruption, CorruptionTable, DamagedImage } from './corruption.ts';

const next = random(77);
const block = (mib?: number): BlockPlan => ({
  state: 6,
  data: randomBytes(next, MIB),
  ...(mib === undefined ? {} : { mib }),
});

/** Blocks 0 and 2 are there, at 4 and 5 MiB. */
const plan: VhdxPlan = {
  size: 3 * MIB,
  blocks: new Map([
    [0, block()],
    [2, block()],
  ]),
};
const disk = expectedDisk(plan);

type Damage = (file: SparseSource) => void;

const damaged = (damage: Damage, image = plan): Uint8Array => {
  const file = buildVhdx(image);
  damage(file);
  return fileBytes(file);
};

/** An image that shows the same before and after. */
const readable = (damage: Damage) => (): DamagedImage => ({ file: damaged(damage), disk });
/** One whose disk cannot be read as a whole. */
const broken = (damage: Damage) => (): DamagedImage => ({ file: damaged(damage) });

const entry = (number: number, low: number, mib = 0): Damage => {
  return (file) => putBatEntry(file, plan, number, batEntry(low, mib));
};

/** The disk with zeros in a range. */
function without(at: number, length: number): Uint8Array {
  const bytes = disk.slice();
  bytes.fill(0, at, at + length);
  return bytes;
}

const base = link('base', { size: 3 * MIB, blocks: new Map([0, 1, 2].map((n) => [n, block()])) });
const partial: BlockPlan = { state: 7, data: randomBytes(next, MIB), present: [[3, 700]] };
const childPlan: VhdxPlan = { size: 3 * MIB, blocks: new Map([[1, partial]]), bitmaps: new Map([[0, 5]]) };
const bitmapAt = BAT.at * MIB + bitmapIndex(childPlan, 0) * 8;

/** A child of `base` with one block that is partially there. */
function child(damage: Damage, image = childPlan): DamagedImage {
  const { file } = link('child', image, base, damage);
  return { file, parent: base };
}

const dirty: Damage = (file) => {
  const update = intoLog(file, BAT.at * MIB);
  markDirty(file, plan);
  putEntries(file, plan, [{ sequence: 41, updates: [update] }]);
};

const corruptions: readonly Corruption[] = [
  {
    name: 'header damaged, the older one',
    make: readable((file) => file.put(0x10010, randomBytes(next, 16))),
    found: { as: 'warning', text: /VHDX header 1 at 0x10000: checksum/ },
    mendedBy: 'lossless',
  },
  {
    name: 'header damaged, the current one',
    make: readable((file) => file.put(0x20010, randomBytes(next, 16))),
    found: { as: 'warning', text: /VHDX header 2 at 0x20000: checksum/ },
    mendedBy: 'lossless',
  },
  {
    name: 'headers the same, with one sequence number',
    make: readable((file) => {
      for (const at of [0x10000, 0x20000])
        file.put(at, encodeHeader({ ...standardHeader(plan), sequence: 3 }));
    }),
    found: { as: 'warning', text: /are the same, with sequence number 3/ },
    mendedBy: 'lossless',
  },
  {
    name: 'header stale: the older one names a log',
    make: readable((file) => {
      file.put(0x10000, encodeHeader({ ...standardHeader(plan), sequence: 6, logGuid: LOG_GUID }));
    }),
    found: { as: 'warning', text: /header 1 .* older than header 2, and names another log/ },
    mendedBy: 'lossless',
  },
  {
    name: 'headers differ with one sequence number',
    make: broken((file) => {
      file.put(0x10000, encodeHeader({ ...standardHeader(plan), sequence: 7, logGuid: LOG_GUID }));
    }),
    found: { as: 'refused', text: /none is current/ },
    mendedBy: 'never',
  },
  {
    name: 'region table damaged, the first',
    make: readable((file) => file.put(0x30008, randomBytes(next, 64))),
    found: { as: 'warning', text: /region table 1 at 0x30000: checksum/ },
    mendedBy: 'lossless',
  },
  {
    name: 'region table damaged, the second',
    make: readable((file) => file.put(0x40000, new Uint8Array(4096))),
    found: { as: 'warning', text: /region table 2 at 0x40000: signature/ },
    mendedBy: 'lossless',
  },
  {
    name: 'log to be replayed',
    make: readable(dirty),
    found: { as: 'warning', text: /1 entry waits to be replayed/ },
    mendedBy: 'lossless',
  },
  {
    name: 'log without a valid sequence',
    make: broken((file) => markDirty(file, plan)),
    found: { as: 'refused', text: /expected a valid sequence of its entries, found none/ },
    mendedBy: 'all',
    mended: disk,
  },
  {
    name: 'BAT entry: reserved bits',
    make: readable((file) => putBatEntry(file, plan, 0, little(8, 6n | 0x5a8n | (4n << 20n)))),
    found: { as: 'warning', text: /entry 0 .* reserved bits are set \(0x5a8\)/ },
    mendedBy: 'lossless',
  },
  {
    name: 'BAT entry: offset of a block in state 0',
    make: readable(entry(1, 0, 77)),
    found: { as: 'warning', text: /entry 1 .* state is 0, but the offset is 0x4d MiB/ },
    mendedBy: 'lossless',
  },
  {
    name: 'BAT entry: offset of a block in state 2',
    make: readable(entry(1, 2, 4)),
    found: { as: 'warning', text: /entry 1 .* state is 2, but the offset is 0x4 MiB/ },
    mendedBy: 'lossless',
  },
  {
    name: 'BAT entry: state 5',
    make: readable(entry(1, 5)),
    found: { as: 'warning', text: /entry 1 .* state is 5, that of an old draft/ },
    mendedBy: 'lossless',
  },
  {
    name: 'BAT entry: state 4',
    make: broken(entry(0, 4)),
    found: { as: 'error', text: /entry 0 .* state is 4 \(reserved\)/ },
    mendedBy: 'all',
    mended: without(0, MIB),
    lostBytes: MIB,
  },
  {
    name: 'BAT entry beyond the end of the file',
    make: broken(entry(2, 6, 900)),
    found: { as: 'error', text: /entry 2 .* beyond the end of the file/ },
    mendedBy: 'all',
    mended: without(2 * MIB, MIB),
    lostBytes: MIB,
  },
  {
    name: 'BAT entry over a region',
    make: broken(entry(0, 6, 3)),
    found: { as: 'error', text: /entry 0 .* overlaps the header section, the log or a region/ },
    mendedBy: 'all',
    mended: without(0, MIB),
    lostBytes: MIB,
  },
  {
    name: 'BAT entries: two of one place',
    make: () => {
      const file = damaged(entry(1, 6, 5));
      const both = disk.slice();
      both.copyWithin(MIB, 2 * MIB, 3 * MIB);
      return { file, disk: both };
    },
    found: { as: 'error', text: /entry 2 .* overlaps another one/ },
    mendedBy: 'lossless',
  },
  {
    name: 'BAT entries: two of one place, another right behind the end of the file',
    make: broken((file) => {
      entry(1, 6, 4)(file);
      entry(2, 6, 5)(file);
      file.size = 5 * MIB;
    }),
    found: { as: 'error', text: /entry 2 .* beyond the end of the file/ },
    mendedBy: 'all',
    mended: without(2 * MIB, MIB).copyWithin(MIB, 0, MIB),
    lostBytes: MIB,
  },
  {
    name: 'BAT entries: two of one place, the file cut short in another',
    make: broken((file) => {
      entry(1, 6, 4)(file);
      file.size = 5 * MIB + 8192;
    }),
    found: { as: 'error', text: /entry 2 .* beyond the end of the file/ },
    mendedBy: 'all',
    mended: without(2 * MIB + 8192, MIB - 8192).copyWithin(MIB, 0, MIB),
    lostBytes: MIB - 8192,
  },
  {
    name: 'BAT entries: two of one place, another partially present without a parent',
    make: broken((file) => {
      entry(1, 6, 4)(file);
      entry(2, 7, 5)(file);
    }),
    found: { as: 'error', text: /entry 2 .* state is 7/ },
    mendedBy: 'all',
    mended: disk.slice().copyWithin(MIB, 0, MIB),
    lostBytes: MIB,
  },
  {
    name: 'BAT entry: partially present without a parent',
    make: broken(entry(0, 7, 4)),
    found: { as: 'error', text: /entry 0 .* state is 7/ },
    mendedBy: 'all',
    mended: disk,
    lostBytes: MIB,
  },
  {
    name: 'sector bitmap without a parent',
    make: () => {
      const image: VhdxPlan = { ...plan, size: 4097 * MIB };
      return {
        file: damaged((file) => file.put(BAT.at * MIB + bitmapIndex(image, 0) * 8, batEntry(6, 4)), image),
      };
    },
    found: { as: 'error', text: /sector bitmap\): state is 6, expected 0 in an image without a parent/ },
    mendedBy: 'lossless',
  },
  {
    name: 'sector bitmap in state 3, needed by no block',
    make: () => {
      const image: VhdxPlan = { ...childPlan, blocks: new Map([[1, block()]]) };
      const { disk: shown } = link('child', image, base);
      return { ...child((file) => file.put(bitmapAt, batEntry(3, 0)), image), disk: shown };
    },
    found: { as: 'error', text: /sector bitmap\): state is 3, expected 0 or 6/ },
    mendedBy: 'lossless',
  },
  {
    name: 'sector bitmap missing, needed by a block',
    make: () => child((file) => file.put(bitmapAt, batEntry(0, 0))),
    found: { as: 'error', text: /is partially present, but its sector bitmap .* is not/ },
    mendedBy: 'all',
    mended: ((): Uint8Array => {
      const whole: BlockPlan = { ...partial, state: 6 };
      return link('child', { ...childPlan, blocks: new Map([[1, whole]]) }, base).disk;
    })(),
    lostBytes: MIB,
  },
  {
    name: 'leak in the middle',
    make: () => {
      const image: VhdxPlan = {
        ...plan,
        blocks: new Map([
          [0, block(4)],
          [2, block(7)],
        ]),
      };
      return { file: damaged(() => {}, image), disk: expectedDisk(image) };
    },
    found: { as: 'leak', text: /2 MiB .* between what is in use/ },
    mendedBy: 'leaks',
  },
  {
    name: 'leak at the end',
    make: readable((file) => {
      file.size += 3 * MIB;
    }),
    found: { as: 'leak', text: /3 MiB .* at the end of the file/ },
    mendedBy: 'leaks',
  },
  {
    name: 'file no multiple of 1 MiB',
    make: () => {
      const image: VhdxPlan = { ...plan, size: 2 * MIB + 4096, cutTail: true };
      return { file: damaged(() => {}, image), disk: expectedDisk(image) };
    },
    found: { as: 'warning', text: /bytes long, expected a multiple of 1 MiB/ },
    mendedBy: 'lossless',
  },
  {
    name: 'file cut short in a block',
    make: broken((file) => {
      file.size = 5 * MIB + 8192;
    }),
    found: { as: 'error', text: /entry 2 .* beyond the end of the file/ },
    mendedBy: 'all',
    mended: without(2 * MIB + 8192, MIB - 8192),
    lostBytes: MIB - 8192,
  },
  {
    name: 'metadata without a virtual disk id',
    make: broken((file) => file.put(2 * MIB + 32 + 2 * 32, guid('12345678-0000-0000-0000-000000000000'))),
    found: { as: 'refused', text: /marked as required and not known/ },
    mendedBy: 'never',
  },
];

export const vhdxCorruptions: CorruptionTable = { format: 'vhdx', corruptions };
