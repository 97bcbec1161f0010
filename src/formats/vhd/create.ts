/**
 * New VHDs. The geometry is always the largest one, by which every reader goes by the size that is recorded: a geometry
 * that fits can say only some sizes, and readers differ in whom they believe (formats/vhd.md 5).
 */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, GIB, hostOffset, KIB, MIB, roundUp } from '../../base/units.ts';
import {
  bytesAt,
  type CreateRequest,
  type Creator,
  checkDiskSize,
  checkPower,
  filledAt,
  type ImagePlan,
  type NewParent,
  PREALLOCATION,
} from '../../image/create.ts';
import { checksumOf, stampFooter } from './footer.ts';
import { LARGEST } from './geometry.ts';
import { endOfLocators, locatorsOf, parentFields } from './new-parent.ts';
import {
  FOOTER_COOKIE,
  footerStruct,
  HEADER_COOKIE,
  headerStruct,
  SECTOR,
  TYPE_DIFFERENCING,
  TYPE_DYNAMIC,
  TYPE_FIXED,
  UNALLOCATED,
  VERSION_1_0,
} from './structs.ts';

/** Of Microsoft's tools and of QEMU, which opens none that is larger. */
export const MAX_DISK_SIZE = 2040 * GIB;
/** What Microsoft's tools make. XenServer opens none above 2 MiB. */
const MIN_BLOCK_SIZE = 512 * KIB;
const MAX_BLOCK_SIZE = 2 * MIB;
const CREATOR = 'vdsk';
const SYSTEM = 'Wi2k';
const NO_OFFSET = 0xffffffffffffffffn;
const HEADER_AT = SECTOR;
const TABLE_AT = SECTOR + headerStruct.size;

const usage = (message: string, hint?: string): ImageError => new ImageError('usage', message, { hint });

export const vhdCreator: Creator = {
  options: [
    { name: 'subformat', values: ['dynamic', 'fixed'], doc: 'Kind of image; dynamic (default) grows.' },
    {
      name: 'block-size',
      values: 'size',
      doc: 'Of a dynamic image: 512K, 1M or 2M (default; the one that all readers take).',
    },
    { name: 'unique-id', values: 'uuid', doc: 'By which children know it; a random one by default.' },
    { name: 'azure', values: ['on', 'off'], doc: 'As Azure takes it: fixed, of whole MiB.' },
    PREALLOCATION,
  ],
  parents: ['vhd', 'raw'],
  sizeUnit: SECTOR,
  plan,
};

function plan(request: CreateRequest): ImagePlan {
  const { virtualSize, options, parent } = request;
  const azure = options.word('azure') === 'on';
  const kind = options.word('subformat') ?? (azure ? 'fixed' : 'dynamic');
  checkDiskSize('VHD', virtualSize, azure ? MIB : SECTOR, MAX_DISK_SIZE);
  if (azure && kind !== 'fixed') throw usage('-o azure: Azure takes fixed images only');
  if (kind === 'fixed') {
    if (parent !== undefined) throw usage('a fixed VHD cannot have a parent');
    if (options.size('block-size') !== undefined) throw usage('-o block-size: a fixed VHD has no blocks');
    const footer = footerOf(request, TYPE_FIXED, NO_OFFSET);
    return {
      pieces: [bytesAt(virtualSize, footer)],
      size: virtualSize + SECTOR,
      data: { at: hostOffset(0), length: virtualSize },
    };
  }
  return planDynamic(request);
}

function planDynamic(request: CreateRequest): ImagePlan {
  const { virtualSize, options, parent } = request;
  const blockSize = options.size('block-size') ?? blockSizeOf(parent);
  checkPower('block-size', blockSize, MIN_BLOCK_SIZE, MAX_BLOCK_SIZE);
  const entries = Math.ceil(virtualSize / blockSize);
  const tableBytes = roundUp(entries * 4, SECTOR);
  const tableEnd = TABLE_AT + tableBytes;
  const locators = parent === undefined ? [] : locatorsOf(parent, tableEnd);
  const end = endOfLocators(locators, tableEnd);
  const type = parent === undefined ? TYPE_DYNAMIC : TYPE_DIFFERENCING;
  const footer = footerOf(request, type, BigInt(HEADER_AT));
  const header = new Uint8Array(headerStruct.size);
  headerStruct.encode(
    {
      cookie: HEADER_COOKIE,
      dataOffset: NO_OFFSET,
      tableOffset: BigInt(TABLE_AT),
      version: VERSION_1_0,
      maxTableEntries: entries,
      blockSize,
      checksum: 0,
      reserved: 0,
      reserved2: new Uint8Array(0),
      ...parentFields(parent, locators),
    },
    header,
  );
  const { checksum } = headerStruct.at;
  new DataView(header.buffer).setUint32(checksum, checksumOf(header, checksum));
  return {
    pieces: [
      bytesAt(0, footer),
      bytesAt(HEADER_AT, header),
      filledAt(TABLE_AT, tableBytes, UNALLOCATED & 0xff),
      ...locators.map(({ piece }) => piece),
      bytesAt(end, footer),
    ],
    size: end + SECTOR,
    data: undefined,
  };
}

/** As the parent's, so that blocks cover each other. */
function blockSizeOf(parent: NewParent | undefined): ByteCount {
  const size = parent?.image.blockSize ?? 0;
  return size >= MIN_BLOCK_SIZE && size <= MAX_BLOCK_SIZE ? size : MAX_BLOCK_SIZE;
}

function footerOf(
  { virtualSize, options, guid, now }: CreateRequest,
  type: number,
  dataOffset: bigint,
): Uint8Array {
  const footer = new Uint8Array(SECTOR);
  footerStruct.encode(
    {
      ...footerStruct.decode(footer),
      cookie: FOOTER_COOKIE,
      // Bit 1 is always set.
      features: 2,
      version: VERSION_1_0,
      dataOffset,
      creator: CREATOR,
      creatorVersion: VERSION_1_0,
      creatorSystem: SYSTEM,
      originalSize: BigInt(virtualSize),
      currentSize: BigInt(virtualSize),
      ...LARGEST,
      type,
      uniqueId: options.uuid('unique-id') ?? guid(),
    },
    footer,
  );
  stampFooter(footer, now);
  return footer;
}
