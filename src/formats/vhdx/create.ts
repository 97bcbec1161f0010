/**
 * New VHDXs, in the order in which Windows lays them out: log, metadata, BAT, blocks. Block sizes are by default those of
 * Windows: 32 MiB where blocks come as they are written, 2 MiB where all are there or a parent shows.
 */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, hostOffset, MIB, roundUp, TIB } from '../../base/units.ts';
import {
  bytesAt,
  type CreateRequest,
  type Creator,
  checkDiskSize,
  checkPower,
  type ImagePlan,
  type NewParent,
  type Piece,
  PREALLOCATION,
  tableAt,
  utf16,
} from '../../image/create.ts';
import { bitmapEntryOf, entryOf, isBitmapEntry } from './bat.ts';
import { checksumOf } from './headers.ts';
import { newMetadata, type Shape } from './new-metadata.ts';
import { guidOf } from './read.ts';
import {
  BAT_ENTRY_BYTES,
  BAT_REGION,
  FILE_SIGNATURE,
  FULLY_PRESENT,
  HEADER_BYTES,
  HEADER_OFFSETS,
  HEADER_SIGNATURE,
  header,
  METADATA_REGION,
  REGION_SIGNATURE,
  REGION_TABLE_OFFSETS,
  regionEntry,
  regionTableHeader,
  TABLE_BYTES,
} from './structs.ts';

const CREATOR = 'vdisk-mount';
const MAX_DISK_SIZE = 64 * TIB;
const MIN_BLOCK_SIZE = MIB;
const MAX_BLOCK_SIZE = 256 * MIB;
const DYNAMIC_BLOCK_SIZE = 32 * MIB;
const BLOCK_SIZE = 2 * MIB;
const LOG_AT = MIB;
const LOG_SIZE = MIB;
/** The field has 32 bits, and the length is in whole MiB. */
const MAX_LOG_SIZE = 2 ** 32 - MIB;
const METADATA_SIZE = MIB;
/** Logical sectors that a sector bitmap block stands for ([MS-VHDX] 2.4). */
const CHUNK_SECTORS = 2 ** 23;

const usage = (message: string, hint?: string): ImageError => new ImageError('usage', message, { hint });

export const vhdxCreator: Creator = {
  options: [
    { name: 'subformat', values: ['dynamic', 'fixed'], doc: 'Kind of image; dynamic (default) grows.' },
    {
      name: 'block-size',
      values: 'size',
      doc: 'From 1M to 256M; 32M for a dynamic image, 2M for a fixed or differencing one.',
    },
    {
      name: 'logical-sector-size',
      values: ['512', '4096'],
      doc: '512 by default: QEMU opens no other. A child has that of its parent.',
    },
    {
      name: 'physical-sector-size',
      values: ['512', '4096'],
      doc: 'What the guest aligns to: 4096 by default. A child has that of its parent.',
    },
    {
      name: 'disk-id',
      values: 'uuid',
      doc: 'Of the virtual disk, which is that of its children too; a random one by default.',
    },
    { name: 'log-size', values: 'size', doc: 'Whole MiB, 1M by default.' },
    PREALLOCATION,
  ],
  parents: ['vhdx'],
  sizeUnit: 512,
  plan,
};

function shapeOf({ options, parent }: CreateRequest): Shape {
  const fixed = options.word('subformat') === 'fixed';
  if (fixed && parent !== undefined) throw usage('a fixed VHDX cannot have a parent');
  const byDefault = fixed || parent !== undefined ? BLOCK_SIZE : DYNAMIC_BLOCK_SIZE;
  const blockSize = options.size('block-size') ?? byDefault;
  checkPower('block-size', blockSize, MIN_BLOCK_SIZE, MAX_BLOCK_SIZE);
  const logSize = options.size('log-size') ?? LOG_SIZE;
  if (logSize < MIB || logSize > MAX_LOG_SIZE || logSize % MIB !== 0) {
    throw usage(`-o log-size=${logSize}: expected a multiple of ${MIB} from ${MIB} to ${MAX_LOG_SIZE}`);
  }
  return {
    fixed,
    blockSize,
    logSize,
    logicalSectorSize: sectorSize('logical', options.word('logical-sector-size'), 512, parent),
    physicalSectorSize: sectorSize('physical', options.word('physical-sector-size'), 4096, parent),
  };
}

/** A child has its parent's: they are metadata of the disk. */
function sectorSize(
  which: 'logical' | 'physical',
  word: string | undefined,
  byDefault: number,
  parent: NewParent | undefined,
): number {
  const inherited = parent?.image[`${which}SectorSize`];
  const wanted = word === undefined ? (inherited ?? byDefault) : Number(word);
  if (inherited === undefined || wanted === inherited) return wanted;
  throw usage(`-o ${which}-sector-size=${wanted}: a child has its parent's, which is ${inherited}`);
}

function plan(request: CreateRequest): ImagePlan {
  const { virtualSize, parent } = request;
  const shape = shapeOf(request);
  const { fixed, blockSize, logSize } = shape;
  checkDiskSize('VHDX', virtualSize, shape.logicalSectorSize, MAX_DISK_SIZE);
  const blocks = Math.ceil(virtualSize / blockSize);
  const chunkShift = Math.log2((CHUNK_SECTORS * shape.logicalSectorSize) / blockSize);
  const lastEntry =
    parent === undefined ? entryOf(blocks - 1, chunkShift) : bitmapEntryOf(blocks - 1, chunkShift);
  const entries = lastEntry + 1;
  const metadataAt = LOG_AT + logSize;
  const batAt = metadataAt + METADATA_SIZE;
  const dataAt = batAt + roundUp(entries * BAT_ENTRY_BYTES, MIB);
  const length = fixed ? blocks * blockSize : 0;
  const table = regionTable([
    [BAT_REGION, batAt, dataAt - batAt],
    [METADATA_REGION, metadataAt, METADATA_SIZE],
  ]);
  const bat = tableAt(batAt, entries, BAT_ENTRY_BYTES, (view, offset, entry) => {
    if (isBitmapEntry(entry, chunkShift)) return;
    const block = entry - Math.floor(entry / (2 ** chunkShift + 1));
    view.setBigUint64(offset, BigInt(dataAt + block * blockSize) | BigInt(FULLY_PRESENT), true);
  });
  return {
    pieces: [
      bytesAt(0, identifier()),
      ...headers(request, logSize),
      ...REGION_TABLE_OFFSETS.map((at) => bytesAt(at, table)),
      bytesAt(metadataAt, newMetadata(request, shape)),
      ...(fixed ? [bat] : []),
    ],
    size: dataAt + length,
    data: fixed ? { at: hostOffset(dataAt), length } : undefined,
  };
}

function identifier(): Uint8Array {
  const creator = utf16(CREATOR, 'little');
  const bytes = new Uint8Array(FILE_SIGNATURE.length + creator.length);
  bytes.set(new TextEncoder().encode(FILE_SIGNATURE));
  bytes.set(creator, FILE_SIGNATURE.length);
  return bytes;
}

/** Both the same but for their numbers: the second is current. */
function headers({ guid }: CreateRequest, logLength: ByteCount): Piece[] {
  const [fileWriteGuid, dataWriteGuid] = [guid(), guid()];
  return HEADER_OFFSETS.map((at, n) => {
    const bytes = new Uint8Array(HEADER_BYTES);
    header.encode(
      {
        signature: HEADER_SIGNATURE,
        checksum: 0,
        sequenceNumber: BigInt(n + 1),
        fileWriteGuid,
        dataWriteGuid,
        logGuid: new Uint8Array(16),
        logVersion: 0,
        version: 1,
        logLength,
        logOffset: BigInt(LOG_AT),
      },
      bytes,
    );
    seal(bytes, header.at.checksum);
    return bytesAt(at, bytes);
  });
}

function seal(bytes: Uint8Array, checksumAt: number): void {
  new DataView(bytes.buffer).setUint32(checksumAt, checksumOf(bytes, checksumAt), true);
}

function regionTable(
  regions: readonly (readonly [guid: string, at: number, length: ByteCount])[],
): Uint8Array {
  const bytes = new Uint8Array(TABLE_BYTES);
  const { length: entryCount } = regions;
  regionTableHeader.encode({ signature: REGION_SIGNATURE, checksum: 0, entryCount, reserved: 0 }, bytes);
  regions.forEach(([guid, at, length], n) => {
    const entry = { guid: guidOf(guid), fileOffset: BigInt(at), length, required: 1 };
    regionEntry.encode(entry, bytes, regionTableHeader.size + n * regionEntry.size);
  });
  seal(bytes, regionTableHeader.at.checksum);
  return bytes;
}
