/** What a differencing image says of its parent: the name in the header and the paths of the locators. */

import { ImageError } from '../../base/errors.ts';
import { formatUuid, isZero } from '../../base/guid.ts';
import { hex } from '../../base/units.ts';
import type { Report } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { printable } from './footer.ts';
import { type DynamicHeader, LOCATOR_COUNT, locatorStruct, SECTOR } from './structs.ts';

/** More than any path takes; a longer text is none. */
const MAX_LOCATOR_BYTES = 64 * 1024;
/** Characters of a path that a message shows. */
const MAX_SHOWN = 1024;

type Encoding = 'utf-16le' | 'utf-16be' | 'utf-8' | 'latin1';

/** What the data of a locator is, by platform code (VHD 1.0, "Parent Locator Entries"). */
const LOCATORS: ReadonlyMap<string, { readonly title: string; readonly encoding: Encoding | 'blob' }> =
  new Map([
    ['W2ru', { title: 'relative path', encoding: 'utf-16le' }],
    ['W2ku', { title: 'absolute path', encoding: 'utf-16le' }],
    ['MacX', { title: 'file URL', encoding: 'utf-8' }],
    ['Mac ', { title: 'Mac alias', encoding: 'blob' }],
    ['Wi2r', { title: 'relative path (ANSI)', encoding: 'latin1' }],
    ['Wi2k', { title: 'absolute path (ANSI)', encoding: 'latin1' }],
  ]);

function decodeText(bytes: Uint8Array, encoding: Encoding): string {
  if (encoding === 'utf-8') return new TextDecoder().decode(bytes);
  let text = '';
  if (encoding === 'latin1') {
    for (const byte of bytes) text += String.fromCharCode(byte);
    return text;
  }
  const high = encoding === 'utf-16be' ? 0 : 1;
  for (let at = 0; at + 1 < bytes.length; at += 2) {
    text += String.fromCharCode((bytes[at + high]! << 8) | bytes[at + 1 - high]!);
  }
  return text;
}

/** The text up to its padding; undefined where a NUL is inside or nothing is left. */
function trimmed(text: string, place: string, report: Report): string | undefined {
  let end = text.length;
  while (end > 0 && text.charCodeAt(end - 1) === 0) end -= 1;
  const name = text.slice(0, end);
  if (name.includes('\0')) {
    report(`${place}: the text has a NUL inside; it is ignored`);
    return undefined;
  }
  if (/\p{Surrogate}/u.test(name)) report(`${place}: the text has a surrogate without its other half`);
  return name === '' ? undefined : name;
}

const shown = (text: string): string =>
  printable(text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text);

/** "relative path ".\\base.vhd"" for each locator that can be read; damaged ones are reported. */
function locatorTexts(source: BlockSource, header: DynamicHeader, report: Report): string[] {
  const found: string[] = [];
  const seen = new Set<string>();
  for (let number = 0; number < LOCATOR_COUNT; number += 1) {
    const entry = locatorStruct.decode(header.parentLocators, number * locatorStruct.size);
    if (entry.code === '\0\0\0\0') continue;
    const place = `VHD parent locator ${number + 1} (${printable(entry.code)})`;
    const kind = LOCATORS.get(entry.code);
    if (kind === undefined) {
      report(`${place}: the platform code is not known; it is ignored`);
      continue;
    }
    if (seen.has(entry.code)) report(`${place}: a second one with this platform code`);
    seen.add(entry.code);
    if (kind.encoding === 'blob') continue;
    // The specification counts the space in sectors, most producers in bytes; libvhd tells them apart so.
    const space = entry.space < SECTOR ? entry.space * SECTOR : entry.space;
    const at = safeNumber(entry.offset);
    if (at === undefined || at + entry.length > source.size) {
      report(
        `${place}: ${entry.length} bytes at ${hex(entry.offset)} are not inside the file; it is ignored`,
      );
      continue;
    }
    if (space % SECTOR !== 0 || entry.length > space || entry.length > MAX_LOCATOR_BYTES) {
      report(`${place}: ${entry.length} bytes do not fit a space of ${space}; it is ignored`);
      continue;
    }
    if (kind.encoding === 'utf-16le' && entry.length % 2 !== 0) {
      report(`${place}: ${entry.length} bytes are no UTF-16 text; it is ignored`);
      continue;
    }
    const data = readExactly(source, at, entry.length, (outcome) => {
      return new ImageError('io', `${place}: its data at ${hex(at)} cannot be read (${outcome})`);
    });
    const text = trimmed(decodeText(data, kind.encoding), place, report);
    if (text !== undefined) found.push(`${kind.title} ${shown(text)}`);
  }
  return found;
}

/** Reports what is wrong with the locators of an image, for `check`. */
export function checkLocators(source: BlockSource, header: DynamicHeader, report: Report): void {
  locatorTexts(source, header, report);
}

/**
 * The refusal of a differencing image, naming the parent as the image does. `hostOrder`: tapdisk 0.1 wrote
 * the name little-endian.
 */
export function missingParent(
  source: BlockSource,
  header: DynamicHeader,
  hostOrder: boolean,
  report: Report,
): ImageError {
  const encoding = hostOrder ? 'utf-16le' : 'utf-16be';
  // The name ends at the first NUL: some producers leave old text behind it.
  const text = decodeText(header.parentName, encoding).split('\0', 1)[0] ?? '';
  const name = trimmed(text, 'VHD parent name', report);
  const identity = isZero(header.parentUniqueId)
    ? 'a raw image'
    : `unique id ${formatUuid(header.parentUniqueId)}`;
  const places = locatorTexts(source, header, report);
  const where = places.length === 0 ? '' : `; ${places.join(', ')}`;
  return new ImageError(
    'missing',
    `differencing VHD: needs its parent ${name === undefined ? 'without a name' : shown(name)} (${identity}${where})`,
  );
}
