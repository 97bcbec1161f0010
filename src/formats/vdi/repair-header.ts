/** Fields of a VDI's header that are mended: without them the disk reads as before. */

import { isZero } from '../../base/guid.ts';
import { type ByteCount, hex } from '../../base/units.ts';
import type { VdiHeader } from './header.ts';
import { FLAG_ZERO_EXPAND, HEADER_AT, header0, header1 } from './structs.ts';
import type { HeaderChange } from './whole.ts';

/** Takes what was mended, and how many bytes of the disk read otherwise than before. */
export type Tell = (text: string, lostBytes?: ByteCount) => void;

/**
 * What is to be changed. With `isAll` also what only the user can know to be of no use: flags that nobody knows, and a
 * part of a sector at the end of the disk.
 */
export function mendedFields(
  header: VdiHeader,
  isAll: boolean,
  guid: () => Uint8Array,
  tell: Tell,
): HeaderChange {
  const change: { -readonly [K in keyof HeaderChange]: HeaderChange[K] } = {};
  const { at } = header.version === '0.2' ? header0 : header1;
  const place = (field: keyof typeof at): string => `VDI header at ${hex(HEADER_AT + at[field])}`;
  if (header.version !== '0.2' && header.headerSize < header1.size) {
    change.headerSize = header1.size;
    tell(`VDI header at 0x48: header size was ${hex(header.headerSize)}, now ${hex(header1.size)}`);
  }
  if (isZero(header.createUuid)) {
    change.createUuid = guid();
    tell(`${place('createUuid')}: the create UUID was null; it has one now`);
  }
  if (isZero(header.modifyUuid)) {
    change.modifyUuid = guid();
    tell(`${place('modifyUuid')}: the modify UUID was null; it has one now`);
  }
  if (!isAll) return change;
  const { flags } = header;
  if ((flags & ~FLAG_ZERO_EXPAND) !== 0) {
    change.flags = flags & FLAG_ZERO_EXPAND;
    tell(`${place('flags')}: flags were ${hex(flags)}, now ${hex(change.flags)}`);
  }
  if (header.recordedSize !== header.virtualSize) {
    change.diskSize = BigInt(header.virtualSize);
    tell(`${place('diskSize')}: disk size was ${header.recordedSize} bytes, now ${header.virtualSize}`);
  }
  return change;
}
