/** The parent locator: which parent a differencing image wants ([MS-VHDX] 2.6.2.6). */

import { corrupt, unsupported } from '../../base/errors.ts';
import { formatGuid } from '../../base/guid.ts';
import { decodeText } from './read.ts';
import { locatorEntry, locatorHeader, VHDX_LOCATOR_TYPE } from './structs.ts';

const PATHS = ['relative_path', 'volume_path', 'absolute_win32_path'] as const;
const LINKS = ['parent_linkage', 'parent_linkage2'] as const;
const NAME = 'VHDX parent locator item';

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

/** The sentence that says which parent is needed: paths in the order in which they are to be tried, identity. */
export function describeParent(item: Uint8Array): string {
  const pairs = parseLocator(item);
  const linkage = LINKS.flatMap((key) => (pairs.has(key) ? [`${key} ${pairs.get(key)}`] : []));
  if (!pairs.has('parent_linkage')) throw corrupt(`${NAME}: has no parent_linkage`);
  const paths = PATHS.flatMap((key) => (pairs.has(key) ? [`"${pairs.get(key)}" (${key})`] : []));
  if (paths.length === 0) throw corrupt(`${NAME}: names no path, expected one of ${PATHS.join(', ')}`);
  return `VHDX differencing image: needs its parent ${paths.join(' or ')}, ${linkage.join(', ')}`;
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
