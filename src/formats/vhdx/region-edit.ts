/** Where the BAT region is, in both region tables: in a patch, so that it changes at once ([MS-VHDX] 2.2.3). */

import { formatGuid } from '../../base/guid.ts';
import type { ByteCount } from '../../base/units.ts';
import { checksumOf } from './headers.ts';
import type { Patch } from './patch.ts';
import type { Region } from './regions.ts';
import { BAT_REGION, REGION_TABLE_OFFSETS, regionEntry, regionTableHeader, TABLE_BYTES } from './structs.ts';

/** Both tables say what the one in use says, and that the BAT is at `at`. */
export function moveBatRegion(patch: Patch, table: Region, at: number, length: ByteCount): void {
  const bytes = patch.get(table.at, TABLE_BYTES);
  const { entryCount } = regionTableHeader.decode(bytes);
  for (let index = 0; index < entryCount; index += 1) {
    const place = regionTableHeader.size + index * regionEntry.size;
    const entry = regionEntry.decode(bytes, place);
    if (formatGuid(entry.guid) !== BAT_REGION) continue;
    regionEntry.encode({ ...entry, fileOffset: BigInt(at), length }, bytes, place);
  }
  putBothTables(patch, bytes);
}

/** Seals `bytes` and puts them in both places. */
export function putBothTables(patch: Patch, bytes: Uint8Array): void {
  const { checksum } = regionTableHeader.at;
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(checksum, checksumOf(bytes, checksum), true);
  for (const at of REGION_TABLE_OFFSETS) patch.put(at, bytes);
}
