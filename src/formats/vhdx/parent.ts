/**
 * What a differencing image says of its parent: its DataWriteGuid, which changes whenever somebody writes to it, and up
 * to three paths ([MS-VHDX] 2.6.2.6.3).
 */

import { formatGuid } from '../../base/guid.ts';
import type { Image } from '../../image/driver.ts';
import type { IdentityMark, ParentLink, ParentMismatch } from '../../image/parent.ts';
import type { CurrentHeader } from './headers.ts';
import type { Metadata } from './metadata.ts';

/** The mark that changes with every writer. */
export const DATA_WRITE = 'data-write-guid';

/** That of the current header: QEMU gives the other one a DataWriteGuid of its own. */
export function identityOf({ dataWriteGuid }: CurrentHeader, { virtualDiskId }: Metadata): IdentityMark[] {
  return [
    { name: DATA_WRITE, text: formatGuid(dataWriteGuid) },
    { name: 'virtual-disk-id', text: formatGuid(virtualDiskId) },
  ];
}

/** Undefined where the image stands alone. */
export function parentOf({ parent: locator, logicalSectorSize }: Metadata): ParentLink | undefined {
  if (locator === undefined) return undefined;
  const { linkages, paths } = locator;
  const wanted = `${DATA_WRITE} ${linkages.join(' or ')}`;
  return {
    places: paths.map(({ key, path }) => ({ path, style: 'windows', origin: key })),
    identity: wanted,
    format: undefined,
    // The virtual disk id is no help: all images of a chain, and all children of one parent, have the same.
    compare: (parent) => unfit(parent, logicalSectorSize) ?? other(parent, linkages, wanted),
  };
}

/** A bit of a sector bitmap stands for a sector of both. */
function unfit(parent: Image, logicalSectorSize: number): ParentMismatch | undefined {
  if (parent.logicalSectorSize === logicalSectorSize) return undefined;
  return {
    severity: 'unfit',
    wanted: `logical sectors of ${logicalSectorSize} bytes`,
    found: `${parent.logicalSectorSize} bytes`,
  };
}

function other(parent: Image, linkages: readonly string[], wanted: string): ParentMismatch | undefined {
  const found = parent.identity.find(({ name }) => name === DATA_WRITE)?.text;
  if (found !== undefined && linkages.includes(found)) return undefined;
  return { severity: 'other', wanted, found: found === undefined ? 'none' : `${DATA_WRITE} ${found}` };
}
