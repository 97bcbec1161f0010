/** What a child is to record of its parent: for those that are made, and those that get another. */

import { ImageError } from '../../base/errors.ts';
import { isZero } from '../../base/guid.ts';
import { hostOffset, roundUp } from '../../base/units.ts';
import { bytesAt, markOf, type NewParent, type Piece, utf16, windowsPath } from '../../image/create.ts';
import { LOCATOR_COUNT, locatorStruct, SECTOR, VHD_EPOCH } from './structs.ts';

/** UTF-16 units of the parent's name, its NUL left out. */
const MAX_NAME = 255;

export interface NewLocator {
  readonly code: string;
  readonly data: Uint8Array;
  readonly piece: Piece;
}

/**
 * The locators and their data, from host offset `at` on, each in sectors of its own. Windows wants both, and tapdisk the
 * dot before the relative one. Paths of Linux are written as VirtualBox does. Throws ImageError('usage') for a path that
 * cannot be written.
 */
export function locatorsOf({ relative, absolute }: NewParent, at: number): NewLocator[] {
  let next = at;
  return [['W2ku', absolute] as const, ['W2ru', `.\\${windowsPath(relative)}`] as const].map(
    ([code, path]) => {
      const data = utf16(path, 'little');
      const piece = bytesAt(next, data);
      next += roundUp(data.length, SECTOR);
      return { code, data, piece };
    },
  );
}

/** Host offset behind the locators' data, or `at` where there are none. */
export const endOfLocators = (locators: readonly NewLocator[], at: number): number =>
  locators.reduce((end, { data }) => end + roundUp(data.length, SECTOR), at);

/** The fields of the header that are about the parent. `order`: of the name, which tapdisk 0.1 wrote little-endian. */
export function parentFields(
  parent: NewParent | undefined,
  locators: readonly NewLocator[],
  order: 'little' | 'big' = 'big',
) {
  const parentLocators = new Uint8Array(LOCATOR_COUNT * locatorStruct.size);
  if (parent === undefined) {
    const parentName = new Uint8Array(0);
    return { parentUniqueId: new Uint8Array(16), parentTimestamp: 0, parentName, parentLocators };
  }
  const name = parent.relative.split('/').at(-1)!;
  if (name.length > MAX_NAME) {
    throw new ImageError(
      'usage',
      `the parent's name has ${name.length} UTF-16 units: a VHD records at most ${MAX_NAME}`,
    );
  }
  locators.forEach(({ code, data, piece }, n) => {
    const space = roundUp(data.length, SECTOR);
    const entry = { code, space, length: data.length, reserved: 0, offset: BigInt(hostOffset(piece.at)) };
    locatorStruct.encode(entry, parentLocators, n * locatorStruct.size);
  });
  return {
    parentUniqueId: uniqueIdOf(parent),
    parentTimestamp: Math.max(0, parent.modified - VHD_EPOCH),
    parentName: utf16(name, order),
    parentLocators,
  };
}

/** Of a raw parent none: so tapdisk marks it. */
function uniqueIdOf(parent: NewParent): Uint8Array {
  if (parent.image.format === 'raw') return new Uint8Array(16);
  const id = Uint8Array.from(Buffer.from(markOf(parent, 'unique-id').replaceAll('-', ''), 'hex'));
  if (id.length === 16 && !isZero(id)) return id;
  throw new ImageError('bug', `${parent.absolute}: its unique id cannot be read`);
}
