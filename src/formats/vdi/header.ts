/** Reading and judging the header, both versions. Everything here runs once, at open. */

import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { isZero } from '../../base/guid.ts';
import { plain } from '../../base/text.ts';
import { hex, isPowerOfTwo, MIB, roundDown } from '../../base/units.ts';
import type { OpenContext, Report } from '../../image/driver.ts';
import { type Decoded, safeNumber } from '../../layout/struct.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import {
  FLAG_ZERO_EXPAND,
  HEADER_AT,
  header0,
  header1,
  logicalGeometry,
  preHeader,
  SIGNATURE,
  TYPE_DIFFERENCING,
  TYPE_DYNAMIC,
  TYPE_FIXED,
  TYPE_UNDO,
} from './structs.ts';

const SECTOR = 512;
/** Above what any producer makes (VirtualBox opens up to 128 MiB). */
const MAX_BLOCK_SIZE = 256 * MIB;
/** From this size on the 1.1 header has the logical geometry. */
const SIZE_WITH_LOGICAL_GEOMETRY = 0x190;

type Geometry = Decoded<typeof logicalGeometry>;

/** The header in one shape for both versions, every range checked against the file. */
export interface VdiHeader {
  readonly version: string;
  readonly creator: string;
  readonly comment: string;
  /** Bytes from 0x48 on; 0.2 records none. */
  readonly headerSize: number;
  readonly type: number;
  readonly variant: string;
  readonly flags: number;
  readonly mapOffset: number;
  readonly dataOffset: number;
  /** As recorded, in bytes. */
  readonly recordedSize: number;
  /** `recordedSize` in whole sectors, in bytes. */
  readonly virtualSize: number;
  readonly blockSize: number;
  readonly blockExtra: number;
  readonly blocks: number;
  readonly blocksAllocated: number;
  readonly createUuid: Uint8Array;
  readonly modifyUuid: Uint8Array;
  /** Create and modify UUID of the parent; null where there is none (0.2 records no modify UUID). */
  readonly linkageUuid: Uint8Array;
  readonly parentModifyUuid: Uint8Array;
  readonly geometry: Geometry;
  readonly logicalGeometry: Geometry | undefined;
}

const VARIANTS = new Map([
  [TYPE_DYNAMIC, 'dynamic'],
  [TYPE_FIXED, 'fixed'],
  [TYPE_UNDO, 'undo'],
  [TYPE_DIFFERENCING, 'differencing'],
]);

/** "dynamic" for 1; undefined for a type that VDI does not know. */
export const variantOf = (type: number): string | undefined => VARIANTS.get(type);

/** Whether the user wants a header size below 0x180 to be let pass. */
export const anyHeaderSize = ({ options }: OpenContext): boolean => options.get('vdi-header-size') === 'any';

/**
 * Reads the pre-header and the header and checks all that must hold before the block map can be used. Throws
 * ImageError; says through `report` what is wrong but keeps nobody from reading. With `anySize` a header
 * size below 0x180 is let pass.
 */
export function readHeader(source: BlockSource, anySize: boolean, report: Report): VdiHeader {
  const pre = preHeader.decode(readPart(source, 'pre-header', 0, preHeader.size));
  if (pre.signature !== SIGNATURE) {
    throw corrupt(`VDI pre-header at 0x40: signature is ${hex(pre.signature)}, expected ${hex(SIGNATURE)}`);
  }
  const major = pre.version >>> 16;
  const minor = pre.version & 0xffff;
  const old = major === 0 && minor === 2;
  if (major !== 1 && !old) {
    throw unsupported(`VDI pre-header at 0x44: version is ${major}.${minor}, supported are 1.1 and 0.2`);
  }
  if (major === 1 && minor !== 1) {
    report(`VDI pre-header at 0x44: version is ${major}.${minor}; the header is read as that of 1.1`);
  }
  const layout = old ? header0 : header1;
  const raw = old ? readOld(source) : readCurrent(source);
  const place = (field: keyof typeof header0.at) => `VDI header at ${hex(HEADER_AT + layout.at[field])}`;

  if (!old && raw.headerSize < header1.size && !anySize) {
    throw new ImageError(
      'corrupt',
      `VDI header at 0x48: header size is ${hex(raw.headerSize)}, expected at least ${hex(header1.size)}`,
      { hint: 'If all else in the header is right, -o vdi-header-size=any ignores this field.' },
    );
  }
  const variant = variantOf(raw.type);
  if (variant === undefined) {
    throw unsupported(`${place('type')}: image type is ${raw.type}, known are 1 to 4`);
  }
  // VirtualBox goes by the UUID, not by the type.
  const alone = isZero(raw.linkageUuid) && isZero(raw.parentModifyUuid);
  if (alone && (raw.type === TYPE_UNDO || raw.type === TYPE_DIFFERENCING)) {
    report(`${place('type')}: image type is ${variant}, but no parent is named; free blocks read as zeros`);
  }

  if (raw.blockSize < SECTOR || !isPowerOfTwo(raw.blockSize)) {
    throw corrupt(
      `${place('blockSize')}: block size is ${raw.blockSize}, expected a power of two from ${SECTOR} on`,
    );
  }
  if (raw.blockSize > MAX_BLOCK_SIZE) {
    throw unsupported(
      `${place('blockSize')}: block size is ${raw.blockSize}, at most ${MAX_BLOCK_SIZE} is supported`,
    );
  }
  const recordedSize = safeNumber(raw.diskSize);
  if (recordedSize === undefined) {
    throw unsupported(
      `${place('diskSize')}: disk size is ${raw.diskSize} bytes, at most 2^53 - 1 are supported`,
    );
  }
  const virtualSize = roundDown(recordedSize, SECTOR);
  if (raw.blocks * raw.blockSize < virtualSize) {
    throw corrupt(
      `${place('blocks')}: the image has ${raw.blocks} blocks of ${raw.blockSize} bytes, ` +
        `${Math.ceil(virtualSize / raw.blockSize)} are needed for the disk size of ${recordedSize} bytes`,
    );
  }

  const headerEnd = HEADER_AT + Math.max(layout.size, raw.headerSize);
  if (raw.mapOffset < headerEnd) {
    throw corrupt(
      `VDI block map at ${hex(raw.mapOffset)}: it overlaps the header, which ends at ${hex(headerEnd)}`,
    );
  }
  const mapEnd = raw.mapOffset + raw.blocks * 4;
  if (raw.dataOffset < mapEnd) {
    throw corrupt(
      `VDI data area at ${hex(raw.dataOffset)}: it overlaps the block map, which ends at ${hex(mapEnd)}`,
    );
  }
  if (mapEnd > source.size) {
    throw corrupt(
      `VDI block map at ${hex(raw.mapOffset)}: its ${raw.blocks} entries end at ${hex(mapEnd)}, ` +
        `the file ends at ${hex(source.size)}`,
    );
  }

  checkSectorSize(place('sectorSize'), raw.sectorSize);
  let lchs: Geometry | undefined;
  if (!old && raw.headerSize >= SIZE_WITH_LOGICAL_GEOMETRY) {
    const at = HEADER_AT + header1.size;
    lchs = logicalGeometry.decode(readPart(source, 'logical geometry', at, logicalGeometry.size));
    checkSectorSize(`VDI logical geometry at ${hex(at + logicalGeometry.at.sectorSize)}`, lchs.sectorSize);
  }

  if ((raw.flags & ~FLAG_ZERO_EXPAND) !== 0) {
    report(`${place('flags')}: flags are ${hex(raw.flags)}, only bit 0 is known`);
  }
  if (raw.blocksAllocated > raw.blocks) {
    report(
      `${place('blocksAllocated')}: ${raw.blocksAllocated} blocks are said to be allocated, ` +
        `the image has ${raw.blocks}`,
    );
  }
  if (isZero(raw.createUuid)) report(`${place('createUuid')}: the create UUID is null`);
  if (isZero(raw.modifyUuid)) report(`${place('modifyUuid')}: the modify UUID is null`);
  if (recordedSize === 0) report(`${place('diskSize')}: disk size is 0`);
  if (recordedSize !== virtualSize) {
    report(
      `${place('diskSize')}: disk size is ${recordedSize} bytes, not a multiple of ${SECTOR}; ` +
        `the last ${recordedSize - virtualSize} bytes were visible to no guest and are left out`,
    );
  }
  if (!raw.comment.includes(0)) report(`${place('comment')}: the comment has no terminating NUL`);

  return {
    version: `${major}.${minor}`,
    creator: printable(pre.text.replaceAll(/<<<|>>>/g, ' ')),
    comment: printable(textOf(raw.comment)),
    headerSize: raw.headerSize,
    type: raw.type,
    variant,
    flags: raw.flags,
    mapOffset: raw.mapOffset,
    dataOffset: raw.dataOffset,
    recordedSize,
    virtualSize,
    blockSize: raw.blockSize,
    blockExtra: raw.blockExtra,
    blocks: raw.blocks,
    blocksAllocated: raw.blocksAllocated,
    createUuid: raw.createUuid,
    modifyUuid: raw.modifyUuid,
    linkageUuid: raw.linkageUuid,
    parentModifyUuid: raw.parentModifyUuid,
    geometry: raw,
    logicalGeometry: lchs,
  };
}

type RawHeader = Omit<Decoded<typeof header1>, 'unused'>;

function readCurrent(source: BlockSource): RawHeader {
  return header1.decode(readPart(source, 'header', HEADER_AT, header1.size));
}

/** 0.2 has no offsets: the map follows the header, the data follow the map. */
function readOld(source: BlockSource): RawHeader {
  const raw = header0.decode(readPart(source, 'header', HEADER_AT, header0.size));
  const mapOffset = HEADER_AT + header0.size;
  return {
    ...raw,
    headerSize: header0.size,
    mapOffset,
    dataOffset: mapOffset + raw.blocks * 4,
    blockExtra: 0,
    parentModifyUuid: new Uint8Array(16),
  };
}

function readPart(source: BlockSource, name: string, at: number, length: number): Uint8Array {
  return readExactly(source, at, length, (outcome) =>
    outcome < 0
      ? new ImageError('io', `VDI ${name} at ${hex(at)}: it cannot be read (errno ${-outcome})`)
      : corrupt(`VDI ${name} at ${hex(at)}: it takes ${length} bytes, the file has ${outcome} of them`),
  );
}

function checkSectorSize(place: string, value: number): void {
  if (value !== 0 && value !== SECTOR) {
    throw unsupported(`${place}: sector size is ${value}, supported is ${SECTOR}`);
  }
}

function textOf(padded: Uint8Array): string {
  const end = padded.indexOf(0);
  return new TextDecoder().decode(end < 0 ? padded : padded.subarray(0, end));
}

/** One line without control characters: the text is shown on terminals and comes from a stranger. */
function printable(text: string): string {
  return plain(text, ' ').replaceAll(/\s+/g, ' ').trim();
}
