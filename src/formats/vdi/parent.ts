/**
 * What a differencing image says of its parent: two UUIDs and no path (VirtualBox keeps the paths in its registry).
 * Create UUID: which image; modify UUID: in which state (formats/vdi.md 6).
 */

import { ImageError } from '../../base/errors.ts';
import { formatGuid, formatUuid, isZero, parseGuid } from '../../base/guid.ts';
import { markOf as markOfParent, type NewParent } from '../../image/create.ts';
import type { Image } from '../../image/driver.ts';
import type { IdentityMark, ParentLink, ParentMismatch } from '../../image/parent.ts';
import type { VdiHeader } from './header.ts';

const CREATE = 'uuid-create';
const MODIFY = 'uuid-modify';
/** Of a VHD. */
const VHD_ID = 'unique-id';

export function identityOf({ createUuid, modifyUuid }: VdiHeader): IdentityMark[] {
  return [
    { name: CREATE, text: formatGuid(createUuid) },
    { name: MODIFY, text: formatGuid(modifyUuid) },
  ];
}

/** Undefined where the image stands alone. */
export function parentOf({ linkageUuid, parentModifyUuid }: VdiHeader): ParentLink | undefined {
  if (isZero(linkageUuid) && isZero(parentModifyUuid)) return undefined;
  const create = formatGuid(linkageUuid);
  const modify = formatGuid(parentModifyUuid);
  return {
    places: [],
    identity: `create UUID ${create}${isZero(parentModifyUuid) ? '' : `, modify UUID ${modify}`}`,
    format: undefined,
    compare: (parent) => {
      // VirtualBox puts a VDI on a VHD as well, whose only mark are the same 16 bytes, shown in the other order.
      if (markOf(parent, VHD_ID) === formatUuid(linkageUuid)) return undefined;
      const found = markOf(parent, CREATE) ?? markOf(parent, VHD_ID);
      if (found !== create) return mismatch('other', 'create UUID', create, found);
      const state = markOf(parent, MODIFY);
      if (isZero(parentModifyUuid) || state === modify) return undefined;
      return mismatch('changed', 'modify UUID', modify, state);
    },
  };
}

const markOf = ({ identity }: Image, name: string): string | undefined =>
  identity.find((mark) => mark.name === name)?.text;

function mismatch(
  severity: ParentMismatch['severity'],
  name: string,
  wanted: string,
  found: string | undefined,
): ParentMismatch {
  return { severity, wanted: `${name} ${wanted}`, found: found === undefined ? 'none' : `${name} ${found}` };
}

/**
 * What a child of `parent` records; null UUIDs where there is none. Throws ImageError('usage') for a parent that no child could
 * know.
 */
export function parentUuids(parent: NewParent | undefined) {
  const none = new Uint8Array(16);
  if (parent === undefined) return { linkageUuid: none, parentModifyUuid: none };
  if (parent.image.format === 'vhd') {
    // The same bytes, which the two formats show in different orders; a VHD records nothing of its state.
    const id = markOfParent(parent, VHD_ID).replaceAll('-', '');
    return { linkageUuid: Uint8Array.from(Buffer.from(id, 'hex')), parentModifyUuid: none };
  }
  const linkageUuid = parseGuid(markOfParent(parent, CREATE));
  const parentModifyUuid = parseGuid(markOfParent(parent, MODIFY));
  if (
    linkageUuid === undefined ||
    parentModifyUuid === undefined ||
    linkageUuid.every((byte) => byte === 0)
  ) {
    throw new ImageError(
      'usage',
      `${parent.absolute}: its create UUID is null, so that no child could know it`,
    );
  }
  return { linkageUuid, parentModifyUuid };
}
