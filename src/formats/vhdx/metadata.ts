/** The metadata region: what the disk is ([MS-VHDX] 2.6). */

import { corrupt, unsupported } from '../../base/errors.ts';
import { formatGuid } from '../../base/guid.ts';
import { type ByteCount, hex, isPowerOfTwo, MIB, TIB } from '../../base/units.ts';
import type { Report } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type Locator, readLocator } from './locator.ts';
import { readObject } from './read.ts';
import type { Region } from './regions.ts';
import {
  FILE_PARAMETERS,
  fileParameters,
  HAS_PARENT,
  LEAVE_BLOCK_ALLOCATED,
  LOGICAL_SECTOR_SIZE,
  MAX_TABLE_ENTRIES,
  METADATA_IS_REQUIRED,
  METADATA_IS_USER,
  metadataEntry,
  metadataTableHeader,
  PARENT_LOCATOR,
  PHYSICAL_SECTOR_SIZE,
  TABLE_BYTES,
  VIRTUAL_DISK_ID,
  VIRTUAL_DISK_SIZE,
} from './structs.ts';

export interface Metadata {
  /** All blocks stay in the file. Never with a parent, where the flag has no meaning ([MS-VHDX] 2.6.2.1). */
  readonly fixed: boolean;
  /** Undefined where the image stands alone. */
  readonly parent: Locator | undefined;
  readonly blockSize: ByteCount;
  readonly virtualSize: ByteCount;
  readonly virtualDiskId: Uint8Array;
  readonly logicalSectorSize: number;
  readonly physicalSectorSize: number;
}

const MAX_ITEM_BYTES = MIB;
const MAX_USER_ITEMS = 1024;
const MAX_DISK_BYTES = 64 * TIB;
const MAX_BLOCK_BYTES = 256 * MIB;

/** Bytes of each item that must be there; the parent locator's length is its own. */
const ITEMS: ReadonlyMap<string, { readonly title: string; readonly size: number | undefined }> = new Map([
  [FILE_PARAMETERS, { title: 'file parameters', size: fileParameters.size }],
  [VIRTUAL_DISK_SIZE, { title: 'virtual disk size', size: 8 }],
  [VIRTUAL_DISK_ID, { title: 'virtual disk id', size: 16 }],
  [LOGICAL_SECTOR_SIZE, { title: 'logical sector size', size: 4 }],
  [PHYSICAL_SECTOR_SIZE, { title: 'physical sector size', size: 4 }],
  [PARENT_LOCATOR, { title: 'parent locator', size: undefined }],
]);

interface Item {
  readonly name: string;
  /** From the start of the region. */
  readonly offset: number;
  readonly length: number;
}

/** Reads and checks all items. Throws ImageError. */
export function readMetadata(source: BlockSource, region: Region, report: Report): Metadata {
  const items = readItems(source, region);
  const read = (id: string): Uint8Array => {
    const item = items.get(id);
    if (item === undefined) {
      throw corrupt(`VHDX metadata table at ${hex(region.at)}: has no ${ITEMS.get(id)!.title} item`);
    }
    return readObject(source, item.name, region.at + item.offset, item.length);
  };
  const view = (id: string): DataView => {
    const bytes = read(id);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };

  const { blockSize, flags } = fileParameters.decode(read(FILE_PARAMETERS));
  if (!isPowerOfTwo(blockSize) || blockSize < MIB || blockSize > MAX_BLOCK_BYTES) {
    throw corrupt(
      `VHDX file parameters: the block size is ${blockSize}, expected a power of two from 1 MiB to 256 MiB`,
    );
  }
  const logicalSectorSize = view(LOGICAL_SECTOR_SIZE).getUint32(0, true);
  const physicalSectorSize = view(PHYSICAL_SECTOR_SIZE).getUint32(0, true);
  for (const [title, size] of [
    ['logical', logicalSectorSize],
    ['physical', physicalSectorSize],
  ] as const) {
    if (size !== 512 && size !== 4096) {
      throw corrupt(`VHDX ${title} sector size item: is ${size}, expected 512 or 4096`);
    }
  }
  const recorded = view(VIRTUAL_DISK_SIZE).getBigUint64(0, true);
  const virtualSize = safeNumber(recorded);
  if (virtualSize === undefined || virtualSize > MAX_DISK_BYTES || virtualSize % logicalSectorSize !== 0) {
    throw corrupt(
      `VHDX virtual disk size item: is ${recorded}, expected at most 64 TiB and a multiple of the ` +
        `logical sector size ${logicalSectorSize}`,
    );
  }
  const virtualDiskId = read(VIRTUAL_DISK_ID);

  if ((flags & ~(LEAVE_BLOCK_ALLOCATED | HAS_PARENT)) !== 0) {
    report(`VHDX file parameters: reserved flags are set (${hex(flags)})`);
  }
  const hasParent = (flags & HAS_PARENT) !== 0;
  if (!hasParent && items.has(PARENT_LOCATOR)) {
    report('VHDX parent locator item: is there although the image says that it has no parent; ignored');
  }
  return {
    fixed: (flags & LEAVE_BLOCK_ALLOCATED) !== 0 && !hasParent,
    parent: hasParent ? readLocator(read(PARENT_LOCATOR), report) : undefined,
    blockSize,
    virtualSize,
    virtualDiskId,
    logicalSectorSize,
    physicalSectorSize,
  };
}

/** The items of this program's concern, by GUID; all entries are checked. */
function readItems(source: BlockSource, region: Region): Map<string, Item> {
  const place = `VHDX metadata table at ${hex(region.at)}`;
  if (region.length < TABLE_BYTES) {
    throw corrupt(`${place}: the region has ${region.length} bytes, expected at least ${TABLE_BYTES}`);
  }
  const table = readObject(source, 'VHDX metadata table', region.at, TABLE_BYTES);
  const { signature, entryCount } = metadataTableHeader.decode(table);
  const found = String.fromCharCode(...signature);
  if (found !== 'metadata') {
    throw corrupt(`${place}: expected signature "metadata", found ${JSON.stringify(found)}`);
  }
  if (entryCount > MAX_TABLE_ENTRIES) {
    throw corrupt(`${place}: has ${entryCount} entries, expected at most ${MAX_TABLE_ENTRIES}`);
  }
  const items = new Map<string, Item>();
  const seen = new Set<string>();
  const placed: Item[] = [];
  let users = 0;
  for (let index = 0; index < entryCount; index += 1) {
    const entry = metadataEntry.decode(table, metadataTableHeader.size + index * metadataEntry.size);
    const guid = formatGuid(entry.itemId);
    const user = (entry.flags & METADATA_IS_USER) !== 0;
    const known = user ? undefined : ITEMS.get(guid);
    const name = known === undefined ? `VHDX metadata item ${guid}` : `VHDX ${known.title} item`;
    const key = `${guid} ${user}`;
    if (seen.has(key)) throw corrupt(`${place}: entry ${index} repeats the ${name}`);
    seen.add(key);
    users += user ? 1 : 0;
    if (known === undefined && (entry.flags & METADATA_IS_REQUIRED) !== 0) {
      throw unsupported(`${place}: the ${name} is marked as required and not known`);
    }
    checkPlace(place, name, entry, region);
    if (known?.size !== undefined && entry.length !== known.size) {
      throw corrupt(`${name}: has ${entry.length} bytes, expected ${known.size}`);
    }
    const item = { name, offset: entry.offset, length: entry.length };
    if (item.length > 0) placed.push(item);
    if (known !== undefined) items.set(guid, item);
  }
  if (users > MAX_USER_ITEMS) {
    throw corrupt(`${place}: has ${users} user items, expected at most ${MAX_USER_ITEMS}`);
  }
  placed.sort((a, b) => a.offset - b.offset);
  for (let index = 1; index < placed.length; index += 1) {
    const [before, after] = [placed[index - 1]!, placed[index]!];
    if (before.offset + before.length > after.offset) {
      throw corrupt(`${place}: the ${after.name} at ${hex(after.offset)} overlaps the ${before.name}`);
    }
  }
  return items;
}

function checkPlace(
  place: string,
  name: string,
  entry: { readonly offset: number; readonly length: number },
  region: Region,
): void {
  const { offset, length } = entry;
  const legal =
    length === 0
      ? offset === 0
      : length <= MAX_ITEM_BYTES && offset >= TABLE_BYTES && offset + length <= region.length;
  if (!legal) {
    throw corrupt(
      `${place}: the ${name} has ${length} bytes at ${hex(offset)}, expected at most 1 MiB within ` +
        `${hex(TABLE_BYTES)} to ${hex(region.length)} of the region`,
    );
  }
}
