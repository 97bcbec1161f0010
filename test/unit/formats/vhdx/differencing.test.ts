/** Reading VHDX images that have a parent. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { GIB, type GuestOffset, guestOffset, MIB } from '../../../../src/base/units.ts';
import type { Disk } from '../../../../src/disk/disk.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { DATA, Extent, HOLE, ZERO } from '../../../../src/image/extent.ts';
import { PagePool } from '../../../../src/shared/page-pool.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import type { BlockSource } from '../../../../src/source/block-source.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import { locatorOf } from '../../../support/encoders/vhdx-chains.ts';
import {
  BAT,
  batEntry,
  bitmapIndex,
  buildVhdx,
  chunkRatio,
  expectedDisk,
  LOG_GUID,
  putBatEntry,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import { random, randomBytes } from '../../../support/random.ts';

const TINY_POOL = 16 * 4120;
const next = random(4711);
const own = randomBytes(next, MIB);
const below = randomBytes(next, 9 * MIB);
const locator = locatorOf(LOG_GUID, 'base');

/** Blocks 0 to 8, one of each state; the parent has bytes everywhere. */
const plan: VhdxPlan = {
  size: 9 * MIB,
  locator,
  blocks: new Map([
    [1, { state: 1, mib: 4 }],
    [2, { state: 2 }],
    [3, { state: 3, mib: 4 }],
    [5, { state: 5 }],
    [6, { state: 6, data: own }],
    [
      7,
      {
        state: 7,
        data: own,
        present: [
          [0, 1],
          [3, 9],
          [31, 65],
          [200, 1500],
          [2047, 2048],
        ],
      },
    ],
  ]),
};

const base = (size = 9 * MIB): Disk => {
  const blocks = Array.from({ length: Math.ceil(size / MIB) }, (_, n) => {
    return [n, { state: 6, data: below.subarray(n * MIB, (n + 1) * MIB) }] as const;
  });
  return openDisk(vhdxDriver, buildVhdx({ size, blocks: new Map(blocks) })).disk;
};

function translator(source: BlockSource) {
  const notices: string[] = [];
  const report = (notice: string) => notices.push(notice);
  const image = vhdxDriver.open(source, { tables: new TableAllocator(), report, options: new Map() });
  const pool = new PagePool(PagePool.seed(TINY_POOL));
  const attached = vhdxDriver.attach(structuredClone(image.share()), source, { pool, report });
  const extent = new Extent();
  const locate = (at: number, length: number) => {
    const status = attached.locate(guestOffset(at), length, extent);
    return status < 0 ? status : [extent.kind, extent.host as number, extent.length];
  };
  return { image, locate, notices };
}

describe('block states', () => {
  test('what each reads as, and the bits of the one that is partially present', () => {
    const { disk, notices } = openDisk(vhdxDriver, buildVhdx(plan), {}, TINY_POOL, base());
    expect(Buffer.compare(readDisk(disk), expectedDisk(plan, below))).toBe(0);
    const small = new Uint8Array(1);
    for (let at = 7 * MIB - 3; at < 7 * MIB + 70 * 512; at += 199) {
      expect(disk.read(small, 0, 1, guestOffset(at))).toBe(1);
      expect(small[0]).toBe(expectedDisk(plan, below)[at]);
    }
    expect(notices).toEqual([]);
  });

  test('as extents', () => {
    const { locate } = translator(buildVhdx(plan));
    expect(locate(5, 9 * MIB)).toEqual([HOLE, 0, MIB - 5]);
    expect(locate(MIB, 9 * MIB)).toEqual([ZERO, 0, 3 * MIB]);
    expect(locate(4 * MIB, 9 * MIB)).toEqual([HOLE, 0, MIB]);
    expect(locate(6 * MIB, 9 * MIB)).toEqual([DATA, 4 * MIB, MIB]);
    // Lowest bit first; runs within a word, over words, up to the end of the block.
    expect(locate(7 * MIB, MIB)).toEqual([DATA, 5 * MIB, 512]);
    expect(locate(7 * MIB + 513, MIB)).toEqual([HOLE, 0, 2 * 512 - 1]);
    expect(locate(7 * MIB + 3 * 512 + 7, MIB)).toEqual([DATA, 5 * MIB + 3 * 512 + 7, 6 * 512 - 7]);
    expect(locate(7 * MIB + 9 * 512, MIB)).toEqual([HOLE, 0, 22 * 512]);
    expect(locate(7 * MIB + 31 * 512, MIB)).toEqual([DATA, 5 * MIB + 31 * 512, 34 * 512]);
    expect(locate(7 * MIB + 65 * 512, 2 * MIB)).toEqual([HOLE, 0, 135 * 512]);
    expect(locate(7 * MIB + 200 * 512, 2 * MIB)).toEqual([DATA, 5 * MIB + 200 * 512, 1300 * 512]);
    expect(locate(7 * MIB + 2047 * 512, 2 * MIB)).toEqual([DATA, 5 * MIB + 2047 * 512, 512]);
    // No further than asked, to a sector's end.
    expect(locate(7 * MIB + 1000 * 512, 700)).toEqual([DATA, 5 * MIB + 1000 * 512, 1024]);
  });

  test('a parent that is shorter shows zeros behind its end, a longer one is cut', () => {
    const short = openDisk(vhdxDriver, buildVhdx(plan), {}, TINY_POOL, base(4 * MIB + 512));
    const cut = below.slice();
    cut.fill(0, 4 * MIB + 512);
    expect(Buffer.compare(readDisk(short.disk), expectedDisk(plan, cut))).toBe(0);
    const small: VhdxPlan = { size: 512, locator };
    const { disk } = openDisk(vhdxDriver, buildVhdx(small), {}, TINY_POOL, base());
    expect(Buffer.compare(readDisk(disk), below.subarray(0, 512))).toBe(0);
  });

  test('"leave blocks allocated" has no meaning with a parent', () => {
    const { image } = translator(buildVhdx({ ...plan, flags: 3 }));
    expect(image.variant).toBe('differencing');
  });

  test('partially present blocks count as allocated', () => {
    let sum = 0;
    let from: GuestOffset | undefined = guestOffset(0);
    const { image } = translator(buildVhdx(plan));
    while (from !== undefined) {
      from = image.countAllocated(from, (bytes) => {
        sum += bytes;
      });
    }
    expect(sum).toBe(2 * MIB);
  });
});

describe('chunks', () => {
  test.each<[string, Partial<VhdxPlan>, number]>([
    ['1 MiB blocks', {}, 4096],
    ['256 MiB blocks', { blockSize: 256 * MIB }, 16],
    ['4096-byte sectors, 256 MiB blocks', { blockSize: 256 * MIB, logical: 4096 }, 128],
  ])('%s: each has its own bitmap, the last one too', (_name, kind, ratio) => {
    const sector = kind.logical ?? 512;
    const blockSize = kind.blockSize ?? MIB;
    const last = 2 * ratio + 3;
    const sectors = blockSize / sector;
    const file: VhdxPlan = {
      ...kind,
      locator,
      size: last * blockSize + 10 * sector,
      blocks: new Map(
        [0, ratio - 1, ratio, 2 * ratio + 1, last].map((block, n) => {
          const present: [number, number][] =
            block === last
              ? [[2, 5]]
              : [
                  [n, n + 1],
                  [sectors - 7 - n, sectors - 2],
                ];
          return [block, { state: 7, data: own.subarray(0, 64 * 1024), present }];
        }),
      ),
    };
    expect(chunkRatio(file)).toBe(ratio);
    const { image, locate, notices } = translator(buildVhdx(file));
    expect(image.facts.get('bat-entries')).toBe(String(3 * (ratio + 1)));
    let place = 4;
    for (const [block, { present }] of file.blocks!) {
      const start = block * blockSize;
      const end = Math.min(start + blockSize, file.size);
      const wanted: number[][] = [];
      const found: number[][] = [];
      let at = start;
      for (const [from, to] of present!) {
        if (start + from * sector > at) wanted.push([HOLE, 0, start + from * sector - at]);
        wanted.push([DATA, place * MIB + from * sector, (to - from) * sector]);
        at = start + to * sector;
      }
      if (at < end) wanted.push([HOLE, 0, end - at]);
      for (at = start; at < end; at += found.at(-1)![2]!) {
        const extent = locate(at, end - at);
        if (typeof extent === 'number') throw new Error(`block ${block}: errno ${-extent}`);
        found.push(extent);
      }
      expect([block, found]).toEqual([block, wanted]);
      place += blockSize / MIB;
    }
    expect(notices).toEqual([]);
  });
});

describe('damage', () => {
  const broken = (change: (file: ReturnType<typeof buildVhdx>) => void) => {
    const file = buildVhdx(plan);
    change(file);
    const { disk, notices } = openDisk(vhdxDriver, file, {}, TINY_POOL, base());
    const byte = new Uint8Array(1);
    const failures = Array.from({ length: 9 }, (_, block) =>
      disk.read(byte, 0, 1, guestOffset(block * MIB + 70_000)),
    ).flatMap((moved, block) => (moved === 1 ? [] : [[block, moved]]));
    return { failures, notices };
  };
  const entry = bitmapIndex(plan, 0);
  const place = `VHDX BAT entry ${entry} at 0x${(BAT.at * MIB + entry * 8).toString(16)} (sector bitmap)`;
  const because = ', but payload block 7 is partially present';

  test.each<[string, Uint8Array, string]>([
    ['not there', batEntry(0, 0), `${place}: state is 0 (not present)${because}`],
    ['in a reserved state', batEntry(3, 6), `${place}: state is 3, expected 0 or 6${because}`],
    [
      'behind the end of the file',
      batEntry(6, 7),
      `${place}: the bitmap is 1048576 bytes at 0x700000, beyond the end of the file at 0x700000${because}`,
    ],
    [
      'over a region',
      batEntry(6, 2),
      `${place}: the bitmap at 0x200000 overlaps the header section, the log or a region${because}`,
    ],
  ])('a sector bitmap %s: only blocks that need it cannot be read', (_name, raw, text) => {
    const { failures, notices } = broken((file) => file.put(BAT.at * MIB + entry * 8, raw));
    expect(failures).toEqual([[7, -EIO]]);
    expect(notices).toEqual([text]);
  });

  test('a partially present block behind the end of the file', () => {
    const { failures, notices } = broken((file) => putBatEntry(file, plan, 7, batEntry(7, 99)));
    expect(failures).toEqual([[7, -EIO]]);
    expect(notices).toEqual([
      'VHDX BAT entry 7 at 0x300038 (payload block 7): the block is 1048576 bytes at 0x6300000, ' +
        'beyond the end of the file at 0x700000',
    ]);
  });

  test('a reserved state', () => {
    const { failures, notices } = broken((file) => putBatEntry(file, plan, 4, batEntry(4, 0)));
    expect(failures).toEqual([[4, -EIO]]);
    expect(notices).toEqual([
      'VHDX BAT entry 4 at 0x300020 (payload block 4): state is 4 (reserved), expected 0 to 3 or 5 to 7',
    ]);
  });

  test('entries of blocks behind the end of the disk have no meaning', () => {
    const { failures, notices } = broken((file) => putBatEntry(file, plan, 9, batEntry(7, 99)));
    expect([failures, notices]).toEqual([[], []]);
  });

  test('a BAT region that has no room for the last chunk', () => {
    // 1 MiB holds 131072 entries; 31 chunks of 4097 and 4065 blocks, but the bitmap of the last chunk does not fit.
    const long: VhdxPlan = { size: (31 * 4096 + 4065) * MIB, locator };
    expect(() => translator(buildVhdx(long))).toThrow(
      'VHDX BAT region at 0x300000: 131104 entries need 1048832 bytes, the region has 1048576',
    );
    const { locator: _, ...alone } = long;
    expect(translator(buildVhdx(alone)).image.virtualSize).toBeGreaterThan(100 * GIB);
  });
});
