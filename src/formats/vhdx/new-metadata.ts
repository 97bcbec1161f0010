/** The metadata region of a new image: what the disk is, and which parent it has ([MS-VHDX] 2.6). */

import { ImageError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import { type CreateRequest, markOf, type NewParent, windowsPath } from '../../image/create.ts';
import { encodeLocator, LINK } from './locator.ts';
import { DATA_WRITE } from './parent.ts';
import { guidOf } from './read.ts';
import {
  FILE_PARAMETERS,
  fileParameters,
  HAS_PARENT,
  LEAVE_BLOCK_ALLOCATED,
  LOGICAL_SECTOR_SIZE,
  METADATA_IS_REQUIRED,
  metadataEntry,
  metadataTableHeader,
  PARENT_LOCATOR,
  PHYSICAL_SECTOR_SIZE,
  TABLE_BYTES,
  VIRTUAL_DISK_ID,
  VIRTUAL_DISK_SIZE,
} from './structs.ts';

/** Flag of metadata that describes the disk, and not the file ([MS-VHDX] 2.6.1.2). */
const OF_DISK = 2;

/** What a new image is to be like, checked. */
export interface Shape {
  readonly fixed: boolean;
  readonly blockSize: ByteCount;
  readonly logicalSectorSize: number;
  readonly physicalSectorSize: number;
  readonly logSize: ByteCount;
}

/** The table and the items behind it, to the end of the last one. */
export function newMetadata({ virtualSize, options, parent, guid }: CreateRequest, shape: Shape): Uint8Array {
  const parameters = new Uint8Array(fileParameters.size);
  const kind = parent !== undefined ? HAS_PARENT : shape.fixed ? LEAVE_BLOCK_ALLOCATED : 0;
  fileParameters.encode({ blockSize: shape.blockSize, flags: kind }, parameters);
  const given = options.guid('disk-id');
  if (given !== undefined && parent !== undefined) {
    throw new ImageError(
      'usage',
      '-o disk-id: the disk of a child is that of its parent, and so is its identity',
    );
  }
  const diskId = parent === undefined ? (given ?? guid()) : guidOf(markOf(parent, 'virtual-disk-id'));
  const items: (readonly [id: string, flags: number, bytes: Uint8Array])[] = [
    [FILE_PARAMETERS, 0, parameters],
    [VIRTUAL_DISK_SIZE, OF_DISK, number(virtualSize, 8)],
    [VIRTUAL_DISK_ID, OF_DISK, diskId],
    [LOGICAL_SECTOR_SIZE, OF_DISK, number(shape.logicalSectorSize, 4)],
    [PHYSICAL_SECTOR_SIZE, OF_DISK, number(shape.physicalSectorSize, 4)],
  ];
  if (parent !== undefined) items.push([PARENT_LOCATOR, 0, newLocator(parent)]);
  const bytes = new Uint8Array(items.reduce((sum, [, , item]) => sum + item.length, TABLE_BYTES));
  metadataTableHeader.encode(
    {
      signature: new TextEncoder().encode('metadata'),
      reserved: 0,
      entryCount: items.length,
      reserved2: new Uint8Array(0),
    },
    bytes,
  );
  let offset = TABLE_BYTES;
  items.forEach(([id, flags, item], n) => {
    metadataEntry.encode(
      { itemId: guidOf(id), offset, length: item.length, flags: flags | METADATA_IS_REQUIRED, reserved: 0 },
      bytes,
      metadataTableHeader.size + n * metadataEntry.size,
    );
    bytes.set(item, offset);
    offset += item.length;
  });
  return bytes;
}

function number(value: number, length: 4 | 8): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes.subarray(0, length);
}

/**
 * Which parent, and where. The GUID in small letters: libvhdi knows no others. The absolute path has no drive, as paths
 * here have none: libvhdi insists on one, and takes its last name; Windows tries the relative path before it.
 * Throws ImageError('usage') where a path cannot be written.
 */
export function newLocator(parent: NewParent): Uint8Array {
  const path = windowsPath(parent.relative);
  return encodeLocator([
    [LINK, `{${markOf(parent, DATA_WRITE)}}`],
    ['relative_path', path.startsWith('..\\') ? path : `.\\${path}`],
    ['absolute_win32_path', windowsPath(parent.absolute)],
  ]);
}
