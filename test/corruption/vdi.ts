/** What can be wrong with a VDI: names as in formats/vdi.md, 5 and 8. Offsets are written down, not taken from the driver. */

import { encodeVdi, FREE, type VdiDescription, ZERO } from '../support/encoders/vdi.ts';
import { random } from '../support/random.ts';
import type { Corruption, CorruptionTable, DamagedImage } from './corruption.ts';

const K = 4096;
const MAP = 0x200;
const OLD = 2;

interface Made extends DamagedImage {
  readonly disk: Uint8Array;
}

/** A sound image, then changed by `damage`. */
function damaged(vdi: VdiDescription, damage: (view: DataView) => void = () => {}): Made {
  const { file, disk } = encodeVdi(vdi, random(17));
  damage(new DataView(file.buffer));
  return { file, disk };
}

const entry = (block: number, number: number) => (view: DataView) =>
  view.setUint32(MAP + 4 * block, number, true);

/** The disk where block `to` reads as block `from`, or as zeros. */
function withBlock(disk: Uint8Array, to: number, from?: number): Uint8Array {
  const other = disk.slice();
  if (from === undefined) other.fill(0, to * K, (to + 1) * K);
  else other.copyWithin(to * K, from * K, (from + 1) * K);
  return other;
}

function shortened({ file, disk }: Made, bytes: number): Made {
  return { file: file.subarray(0, file.length - bytes), disk };
}

function lengthened({ file, disk }: Made, bytes: number, fill = 7): Made {
  const more = new Uint8Array(file.length + bytes).fill(fill);
  more.set(file);
  return { file: more, disk };
}

const three: VdiDescription = { map: [1, FREE, 0, 2], blockSize: K };
const sound = damaged(three);
const MISSING = 'VDI block map entry 3 at 0x20c: physical block 2 is at';

/** Two entries for one block. */
const shared = damaged(three, entry(1, 1));
const sharedDisk = withBlock(sound.disk, 1, 0);

const corruptions: Corruption[] = [
  {
    name: 'two entries name one block',
    make: () => ({ file: shared.file, disk: sharedDisk }),
    found: { as: 'error', text: /entry 1 at 0x204: physical block 1 is in use by another entry/ },
    mendedBy: 'lossless',
  },
  {
    name: 'four entries name one block',
    make: () => {
      const { file, disk } = damaged({ map: [1, 2, 0, 3, FREE], blockSize: K }, (view) => {
        for (const block of [0, 1, 3]) entry(block, 0)(view);
      });
      return { file, disk: [0, 1, 3].reduce((made, block) => withBlock(made, block, 2), disk) };
    },
    found: { as: 'error', text: /physical block 0 is in use by another entry/ },
    mendedBy: 'lossless',
  },
  {
    name: 'two entries name one block, extra bytes, version 1.2',
    make: () => {
      const vdi = { map: [0, FREE, 1], blockSize: K, extra: 100, version: 0x10002 };
      const { file, disk } = damaged(vdi, entry(1, 1));
      return { file, disk: withBlock(disk, 1, 2) };
    },
    found: { as: 'error', text: /in use by another entry/ },
    mendedBy: 'lossless',
  },
  {
    name: 'an entry beyond the image, in the file',
    make: () => {
      const made = lengthened(damaged({ map: [1, 0, FREE], blockSize: K }, entry(2, 5)), 4 * K);
      return { file: made.file };
    },
    found: { as: 'error', text: /entry 2 at 0x208: physical block is 5, the image has 3 blocks/ },
    mendedBy: 'lossless',
    mended: (() => {
      const { disk } = damaged({ map: [1, 0, FREE], blockSize: K });
      return disk.fill(7, 2 * K);
    })(),
  },
  {
    name: 'an entry beyond the image and the file',
    make: () => ({ file: damaged(three, entry(1, 0xfffffffd)).file }),
    found: { as: 'error', text: /entry 1 at 0x204: physical block is 4294967293, the image has 4 blocks/ },
    mendedBy: 'all',
    mended: sound.disk,
    lostBytes: K,
  },
  {
    name: 'an entry beyond the end of the file',
    make: () => ({ file: shortened(sound, K).file }),
    found: { as: 'error', text: new RegExp(`${MISSING} 0x2400 to 0x3400, the file ends at 0x2400`) },
    mendedBy: 'all',
    mended: withBlock(sound.disk, 3),
    lostBytes: K,
  },
  {
    name: 'a child, an entry beyond the end of the file',
    make: () => {
      const create = new Uint8Array(16).fill(0x77);
      const base = encodeVdi({ map: [0, 1, 2, 3], blockSize: K, create }, random(5));
      const child = encodeVdi({ ...three, type: 4, linkage: create }, random(17));
      return {
        file: child.file.subarray(0, child.file.length - K),
        parent: { name: 'base', format: 'vdi', ...base },
      };
    },
    found: { as: 'error', text: new RegExp(MISSING) },
    mendedBy: 'all',
    // Not the parent's bytes.
    mended: (() => {
      const base = encodeVdi({ map: [0, 1, 2, 3], blockSize: K }, random(5));
      const disk = withBlock(sound.disk, 3);
      disk.set(base.disk.subarray(K, 2 * K), K);
      return disk;
    })(),
    lostBytes: K,
  },
  {
    name: 'two entries name one block, another what is right behind the end of the file',
    make: () => {
      const { file } = damaged({ map: [1, FREE, 0, FREE, FREE], blockSize: K }, (view) => {
        entry(1, 1)(view);
        entry(4, 2)(view);
      });
      return { file };
    },
    found: { as: 'error', text: /entry 4 at 0x210: physical block 2 is at/ },
    mendedBy: 'all',
    mended: (() => {
      const { disk } = damaged({ map: [1, FREE, 0, FREE, FREE], blockSize: K });
      return withBlock(disk, 1, 0);
    })(),
    lostBytes: K,
  },
  {
    name: 'the file ends within a block',
    make: () => ({ file: shortened(sound, 100).file }),
    found: { as: 'error', text: new RegExp(`${MISSING} 0x2400 to 0x3400, the file ends at 0x339c`) },
    mendedBy: 'all',
    mended: (() => sound.disk.slice().fill(0, 4 * K - 100))(),
    lostBytes: 100,
  },
  {
    name: 'a counter behind the map',
    make: () => damaged({ ...three, allocated: 1 }),
    found: {
      as: 'error',
      text: /header at 0x184: 1 blocks are said to be allocated, but physical block 2 is in use/,
    },
    mendedBy: 'lossless',
  },
  {
    name: 'a counter behind the map, version 0.2',
    make: () => damaged({ ...three, allocated: 0, version: OLD }),
    found: { as: 'error', text: /header at 0x170: 0 blocks are said to be allocated/ },
    mendedBy: 'lossless',
  },
  {
    name: 'a counter beyond the file',
    make: () => damaged({ ...three, allocated: 4 }),
    found: { as: 'warning', text: /header at 0x184: 4 blocks are said to be allocated, the file has 3/ },
    mendedBy: 'lossless',
  },
  {
    name: 'a counter beyond the image',
    make: () => damaged({ ...three, allocated: 0xffffffff }),
    found: { as: 'warning', text: /4294967295 blocks are said to be allocated, the image has 4/ },
    mendedBy: 'lossless',
  },
  {
    name: 'leaks in the middle',
    make: () => damaged({ map: [5, FREE, 1, 3, ZERO, FREE, FREE], blockSize: K }),
    found: { as: 'leak', text: /data area at 0x400: no entry names physical block 0/ },
    mendedBy: 'leaks',
  },
  {
    name: 'leaks at the end',
    make: () => lengthened(damaged({ ...three, map: [1, FREE, 0, FREE], allocated: 4 }), 2 * K),
    found: { as: 'leak', text: /no entry names physical blocks 2 to 3/ },
    mendedBy: 'leaks',
  },
  {
    name: 'a tail',
    make: () => lengthened(damaged(three), 1000),
    found: { as: 'leak', text: /data area at 0x3400: 1000 bytes follow the last block/ },
    mendedBy: 'leaks',
  },
  {
    name: 'entries behind the end of the disk',
    make: () => damaged({ map: [1, FREE, 0, 2], blockSize: K, diskSize: 3 * K }),
    found: { as: 'warning', text: /1 entries behind the end of the disk name physical blocks/ },
    mendedBy: 'lossless',
  },
  {
    name: 'an entry behind the end of the disk names a block of the disk',
    make: () => damaged({ map: [1, FREE, 0, FREE], blockSize: K, diskSize: 3 * K }, entry(3, 1)),
    found: { as: 'error', text: /entry 3 at 0x20c: physical block 1 is in use by another entry/ },
    mendedBy: 'lossless',
  },
  {
    name: 'fixed, but not all blocks have a place',
    make: () => damaged({ map: [1, FREE, 0, ZERO], blockSize: K, type: 2 }),
    found: { as: 'warning', text: /2 of 4 blocks have no place, though the image is fixed/ },
    mendedBy: 'lossless',
  },
  {
    name: 'null create UUID',
    make: () => damaged({ ...three, create: new Uint8Array(16) }),
    found: { as: 'warning', text: /header at 0x188: the create UUID is null/ },
    mendedBy: 'lossless',
  },
  {
    name: 'null modify UUID, version 0.2',
    make: () => damaged({ ...three, modify: new Uint8Array(16), version: OLD }),
    found: { as: 'warning', text: /header at 0x184: the modify UUID is null/ },
    mendedBy: 'lossless',
  },
  {
    name: 'header size 0',
    make: () => ({ file: damaged({ ...three, headerSize: 0 }).file }),
    found: { as: 'refused', text: /header at 0x48: header size is 0x0, expected at least 0x180/ },
    mendedBy: 'lossless',
    mended: sound.disk,
  },
  {
    name: 'unknown flags',
    make: () => damaged({ ...three, flags: 0x40000001 }),
    found: { as: 'warning', text: /header at 0x50: flags are 0x40000001, only bit 0 is known/ },
    mendedBy: 'all',
  },
  {
    name: 'a size that is no multiple of 512',
    make: () => damaged({ ...three, diskSize: 4 * K - 100 }),
    found: { as: 'warning', text: /header at 0x170: disk size is 16284 bytes, not a multiple of 512/ },
    mendedBy: 'all',
  },
  {
    name: 'wrong signature',
    make: () => ({ file: damaged(three, (view) => view.setUint32(0x40, 1, true)).file }),
    found: { as: 'refused', text: /signature is 0x1, expected 0xbeda107f/ },
    mendedBy: 'never',
  },
  {
    name: 'a version of the future',
    make: () => ({ file: damaged(three, (view) => view.setUint32(0x44, 0x20000, true)).file }),
    found: { as: 'refused', text: /version is 2\.0/ },
    mendedBy: 'never',
  },
  {
    name: 'block size that is no power of two',
    make: () => ({ file: damaged(three, (view) => view.setUint32(0x178, K + 1, true)).file }),
    found: { as: 'refused', text: /block size is 4097, expected a power of two/ },
    mendedBy: 'never',
  },
  {
    name: 'too few blocks for the disk',
    make: () => ({ file: damaged(three, (view) => view.setUint32(0x180, 3, true)).file }),
    found: { as: 'refused', text: /3 blocks of 4096 bytes, 4 are needed/ },
    mendedBy: 'never',
  },
  {
    name: 'the map overlaps the header',
    make: () => ({ file: damaged(three, (view) => view.setUint32(0x154, 0x100, true)).file }),
    found: { as: 'refused', text: /block map at 0x100: it overlaps the header/ },
    mendedBy: 'never',
  },
  {
    name: 'the data overlap the map',
    make: () => ({ file: damaged(three, (view) => view.setUint32(0x158, MAP + 8, true)).file }),
    found: { as: 'refused', text: /data area at 0x208: it overlaps the block map/ },
    mendedBy: 'never',
  },
  {
    name: 'the map is beyond the file',
    make: () => ({ file: damaged(three).file.subarray(0, MAP + 8) }),
    found: { as: 'refused', text: /its 4 entries end at 0x210, the file ends at 0x208/ },
    mendedBy: 'never',
  },
  {
    name: 'wrong sector size',
    make: () => ({ file: damaged({ ...three, sectorSize: 4096 }).file }),
    found: { as: 'refused', text: /sector size is 4096, supported is 512/ },
    mendedBy: 'never',
  },
  {
    name: 'differencing, but no parent is named',
    make: () => damaged({ ...three, type: 4 }),
    found: { as: 'warning', text: /image type is differencing, but no parent is named/ },
    mendedBy: 'never',
  },
];

export const vdiCorruptions: CorruptionTable = { format: 'vdi', corruptions };
