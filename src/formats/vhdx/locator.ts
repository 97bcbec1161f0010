/** The parent locator: which parent a differencing image wants ([MS-VHDX] 2.6.2.6). */

import { corrupt, unsupported } from '../../base/errors.ts';
import { formatGuid, parseGuid } from '../../base/guid.ts';
import { utf16 } from '../../image/create.ts';
import type { Report } from '../../image/driver.ts';
import { decodeText, guidOf } from './read.ts';
import { locatorEntry, locatorHeader, VHDX_LOCATOR_TYPE } from './structs.ts';

/** In the order in which they are to be tried ([MS-VHDX] 2.6.2.6.3). */
const PATHS = ['relative_path', 'volume_path', 'absolute_win32_path'] as const;
export const LINK = 'parent_linkage';
/** While a merge runs, the parent may already have its new identity: either counts. */
export const SECOND_LINK = 'parent_linkage2';
const NONE = formatGuid(new Uint8Array(16));
const NAME = 'VHDX parent locator item';

export interface Locator {
  /** DataWriteGuids of which the parent must have one, as `formatGuid` gives them: one or two. */
  readonly linkages: readonly string[];
  /** At least one. */
  readonly paths: readonly { readonly key: string; readonly path: string }[];
}

/** The keys and values of the item. Throws ImageError where it breaks its rules or is of another type. */
export function parseLocator(item: Uint8Array): Map<string, string> {
  if (item.length < locatorHeader.size) {
    throw corrupt(`${NAME}: has ${item.length} bytes, expected at least ${locatorHeader.size}`);
  }
  const { locatorType, keyValueCount } = locatorHeader.decode(item);
  const type = formatGuid(locatorType);
  if (type !== VHDX_LOCATOR_TYPE) {
    throw unsupported(`${NAME}: the locator type is ${type}, only ${VHDX_LOCATOR_TYPE} (VHDX) is known`);
  }
  const end = locatorHeader.size + keyValueCount * locatorEntry.size;
  if (end > item.length) {
    throw corrupt(`${NAME}: ${keyValueCount} entries need ${end} bytes, the item has ${item.length}`);
  }
  const pairs = new Map<string, string>();
  for (let index = 0; index < keyValueCount; index += 1) {
    const entry = locatorEntry.decode(item, locatorHeader.size + index * locatorEntry.size);
    const key = text(item, index, entry.keyOffset, entry.keyLength);
    if (pairs.has(key)) throw corrupt(`${NAME}: entry ${index} repeats the key "${key}"`);
    pairs.set(key, text(item, index, entry.valueOffset, entry.valueLength));
  }
  return pairs;
}

/** The item with these keys and values, none of which is empty. */
export function encodeLocator(texts: Iterable<readonly [key: string, value: string]>): Uint8Array {
  const pairs = [...texts].map(
    (pair) => pair.map((text) => utf16(text, 'little')) as [Uint8Array, Uint8Array],
  );
  const entriesEnd = locatorHeader.size + pairs.length * locatorEntry.size;
  const size = pairs.flat().reduce((sum, text) => sum + text.length, entriesEnd);
  const bytes = new Uint8Array(size);
  const locatorType = guidOf(VHDX_LOCATOR_TYPE);
  locatorHeader.encode({ locatorType, reserved: 0, keyValueCount: pairs.length }, bytes);
  let at = entriesEnd;
  pairs.forEach(([key, value], n) => {
    const entry = {
      keyOffset: at,
      valueOffset: at + key.length,
      keyLength: key.length,
      valueLength: value.length,
    };
    locatorEntry.encode(entry, bytes, locatorHeader.size + n * locatorEntry.size);
    bytes.set(key, entry.keyOffset);
    bytes.set(value, entry.valueOffset);
    at += key.length + value.length;
  });
  return bytes;
}

/** Throws ImageError where the item does not say which parent is meant, or where it may be. */
export function readLocator(item: Uint8Array, report: Report): Locator {
  const pairs = parseLocator(item);
  const first = linkage(pairs, LINK);
  if (first === undefined) {
    const value = pairs.get(LINK);
    throw corrupt(
      value === undefined
        ? `${NAME}: has no ${LINK}`
        : `${NAME}: ${LINK} is ${JSON.stringify(value)}, expected a GUID in braces`,
    );
  }
  const second = linkage(pairs, SECOND_LINK);
  if (second === undefined && pairs.has(SECOND_LINK)) {
    report(
      `${NAME}: ${SECOND_LINK} is ${JSON.stringify(pairs.get(SECOND_LINK))}, expected a GUID in braces; ignored`,
    );
  }
  const paths = PATHS.flatMap((key) => {
    const path = pairs.get(key);
    return path === undefined ? [] : [{ key, path }];
  });
  if (paths.length === 0) throw corrupt(`${NAME}: names no path, expected one of ${PATHS.join(', ')}`);
  // Windows writes a second one of zeros while no merge runs.
  return { linkages: second === undefined || second === NONE ? [first] : [first, second], paths };
}

/** Writers differ in the case of the digits. */
function linkage(pairs: ReadonlyMap<string, string>, key: string): string | undefined {
  const bytes = parseGuid(pairs.get(key) ?? '');
  return bytes === undefined ? undefined : formatGuid(bytes);
}

function text(item: Uint8Array, index: number, offset: number, length: number): string {
  if (length === 0 || length % 2 !== 0 || offset + length > item.length) {
    throw corrupt(
      `${NAME}: entry ${index} has ${length} bytes of text at ${offset}, ` +
        `expected whole UTF-16 units within ${item.length} bytes`,
    );
  }
  return decodeText(item.subarray(offset, offset + length));
}
