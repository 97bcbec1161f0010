/**
 * New VDIs, as VirtualBox lays them out today: map and data on MiB bounds, the header with the logical geometry.
 * Geometries are left at 0: VirtualBox computes them.
 */

import { ImageError } from '../../base/errors.ts';
import { hostOffset, KIB, MIB, roundUp, TIB } from '../../base/units.ts';
import {
  bytesAt,
  type CreateRequest,
  type Creator,
  checkDiskSize,
  checkPower,
  filledAt,
  type ImagePlan,
  PREALLOCATION,
  tableAt,
} from '../../image/create.ts';
import { parentUuids } from './parent.ts';
import {
  HEADER_AT,
  header1,
  logicalGeometry,
  preHeader,
  SIGNATURE,
  TYPE_DIFFERENCING,
  TYPE_DYNAMIC,
  TYPE_FIXED,
} from './structs.ts';

const SECTOR = 512;
const VERSION = 0x00010001;
const TEXT = '<<< vdisk-mount Virtual Disk Image >>>\n';
/** What VirtualBox opens. */
const MIN_BLOCK_SIZE = 128 * KIB;
const MAX_BLOCK_SIZE = 128 * MIB;
/** The one that QEMU opens, and that VirtualBox makes. */
const BLOCK_SIZE = MIB;
/** VirtualBox opens none from here on. */
export const MAX_DISK_SIZE = 4096 * TIB - 3 * MIB - SECTOR;
const MAP_AT = MIB;

const usage = (message: string, hint?: string): ImageError => new ImageError('usage', message, { hint });

export const vdiCreator: Creator = {
  options: [
    { name: 'subformat', values: ['dynamic', 'fixed'], doc: 'Kind of image; dynamic (default) grows.' },
    {
      name: 'block-size',
      values: 'size',
      doc: 'From 128K to 128M; 1M (default) is the only one that QEMU opens.',
    },
    {
      name: 'uuid',
      values: 'uuid',
      doc: 'By which VirtualBox and children know it; a random one by default.',
    },
    PREALLOCATION,
  ],
  // VirtualBox puts a VDI on a VHD as well.
  parents: ['vdi', 'vhd'],
  sizeUnit: SECTOR,
  plan,
};

function plan({ virtualSize, options, parent, guid }: CreateRequest): ImagePlan {
  checkDiskSize('VDI', virtualSize, SECTOR, MAX_DISK_SIZE);
  const blockSize = options.size('block-size') ?? BLOCK_SIZE;
  checkPower('block-size', blockSize, MIN_BLOCK_SIZE, MAX_BLOCK_SIZE);
  const fixed = options.word('subformat') === 'fixed';
  if (fixed && parent !== undefined) throw usage('a fixed VDI cannot have a parent');
  const blocks = Math.ceil(virtualSize / blockSize);
  const dataOffset = roundUp(MAP_AT + blocks * 4, MIB);
  if (dataOffset > 0xffffffff) {
    throw usage(
      `a VDI disk of ${virtualSize} bytes in blocks of ${blockSize}: its map of ${blocks} entries does not fit below 4 GiB`,
      'Say a greater block size: -o block-size=SIZE.',
    );
  }
  const head = new Uint8Array(SECTOR);
  preHeader.encode({ text: TEXT, signature: SIGNATURE, version: VERSION }, head);
  header1.encode(
    {
      headerSize: header1.size + logicalGeometry.size,
      type: fixed ? TYPE_FIXED : parent === undefined ? TYPE_DYNAMIC : TYPE_DIFFERENCING,
      flags: 0,
      comment: new Uint8Array(0),
      mapOffset: MAP_AT,
      dataOffset,
      cylinders: 0,
      heads: 0,
      sectors: 0,
      sectorSize: SECTOR,
      unused: 0,
      diskSize: BigInt(virtualSize),
      blockSize,
      blockExtra: 0,
      blocks,
      blocksAllocated: fixed ? blocks : 0,
      createUuid: options.guid('uuid') ?? guid(),
      modifyUuid: guid(),
      ...parentUuids(parent),
    },
    head,
    HEADER_AT,
  );
  const geometry = { cylinders: 0, heads: 0, sectors: 0, sectorSize: SECTOR };
  logicalGeometry.encode(geometry, head, HEADER_AT + header1.size);
  // All ones: a block that was never written.
  const map = fixed
    ? tableAt(MAP_AT, blocks, 4, (view, offset, block) => view.setUint32(offset, block, true))
    : filledAt(MAP_AT, blocks * 4, 0xff);
  const length = fixed ? blocks * blockSize : 0;
  return {
    pieces: [bytesAt(0, head), map],
    size: dataOffset + length,
    data: fixed ? { at: hostOffset(dataOffset), length } : undefined,
  };
}
