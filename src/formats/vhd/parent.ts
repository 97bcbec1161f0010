/**
 * What a differencing image says of its parent: its unique id and time in the header, its name there, and its paths in
 * the locators. And by what a VHD is known to its children.
 */

import { formatUuid, isZero } from '../../base/guid.ts';
import { quoted } from '../../base/text.ts';
import { type HostOffset, hex } from '../../base/units.ts';
import type { Image, Report } from '../../image/driver.ts';
import type { IdentityMark, ParentLink, ParentMismatch, ParentPlace } from '../../image/parent.ts';
import { safeNumber } from '../../layout/struct.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { timeText } from './footer.ts';
import { type DynamicHeader, type Footer, LOCATOR_COUNT, locatorStruct, SECTOR } from './structs.ts';

/** More than any path takes; a longer text is none. */
const MAX_LOCATOR_BYTES = 64 * 1024;
/** Characters of a path that a message shows. */
const MAX_SHOWN = 1024;

const UNIQUE_ID = 'unique-id';
const TIME = 'time-stamp';

type Encoding = 'utf-16le' | 'utf-16be' | 'utf-8' | 'latin1';

/**
 * What the data of a locator is, by platform code (VHD 1.0, "Parent Locator Entries"), in the order in which the places
 * are tried.
 */
const LOCATORS: ReadonlyMap<string, { readonly title: string; readonly encoding: Encoding | 'blob' }> =
  new Map([
    ['W2ru', { title: 'relative path', encoding: 'utf-16le' }],
    ['W2ku', { title: 'absolute path', encoding: 'utf-16le' }],
    ['MacX', { title: 'file URL', encoding: 'utf-8' }],
    ['Wi2r', { title: 'relative path (ANSI)', encoding: 'latin1' }],
    ['Wi2k', { title: 'absolute path (ANSI)', encoding: 'latin1' }],
    ['Mac ', { title: 'Mac alias', encoding: 'blob' }],
  ]);

/** One entry of the header, as far as it is inside the file. */
export interface Locator {
  readonly code: string;
  /** The path that it holds; undefined where none can be read from it. */
  readonly path: string | undefined;
  /** Host range of its data, and where the space that belongs to it ends. */
  readonly at: number;
  readonly end: number;
  readonly spaceEnd: number;
}

/** All that a differencing image records of its parent. */
export interface ParentRecord {
  readonly link: ParentLink;
  readonly facts: readonly (readonly [string, string])[];
  readonly locators: readonly Locator[];
}

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

const shown = (text: string): string => quoted(text, MAX_SHOWN);

/** The locators that are inside the file, in the order of the header; what is wrong with one is reported. */
export function readLocators(source: BlockSource, header: DynamicHeader, report: Report): Locator[] {
  const found: Locator[] = [];
  const seen = new Set<string>();
  for (let number = 0; number < LOCATOR_COUNT; number += 1) {
    const entry = locatorStruct.decode(header.parentLocators, number * locatorStruct.size);
    const { code, length } = entry;
    if (code === '\0\0\0\0') continue;
    const place = `VHD parent locator ${number + 1} (${quoted(code)})`;
    if (!LOCATORS.has(code)) report(`${place}: the platform code is not known; it is ignored`);
    if (seen.has(code)) report(`${place}: a second one with this platform code`);
    seen.add(code);
    const at = safeNumber(entry.offset);
    if (at === undefined || at + length > source.size) {
      report(`${place}: ${length} bytes at ${hex(entry.offset)} are not inside the file; it is ignored`);
      continue;
    }
    // The specification counts the space in sectors, most producers in bytes; libvhd tells them apart so.
    const space = entry.space < SECTOR ? entry.space * SECTOR : entry.space;
    const fits = space % SECTOR === 0 && length <= space && length <= MAX_LOCATOR_BYTES;
    if (!fits) report(`${place}: ${length} bytes do not fit a space of ${space}; it is ignored`);
    const path = fits ? readPath(source, code, at, length, place, report) : undefined;
    const spaceEnd = Math.min(source.size, at + Math.max(space, length));
    found.push({ code, path, at, end: at + length, spaceEnd });
  }
  return found;
}

function readPath(
  source: BlockSource,
  code: string,
  at: number,
  length: number,
  place: string,
  report: Report,
): string | undefined {
  const encoding = LOCATORS.get(code)?.encoding;
  if (encoding === undefined || encoding === 'blob') return undefined;
  if (encoding === 'utf-16le' && length % 2 !== 0) {
    report(`${place}: ${length} bytes are no UTF-16 text; it is ignored`);
    return undefined;
  }
  const data = new Uint8Array(length);
  const moved = source.readAt(data, 0, length, at as HostOffset);
  if (moved === length) return trimmed(decodeText(data, encoding), place, report);
  report(`${place}: its data at ${hex(at)} cannot be read (${moved}); it is ignored`);
  return undefined;
}

/**
 * The name in the header, up to its first NUL: some producers leave old text behind it. `hostOrder`: tapdisk 0.1 wrote
 * it little-endian.
 */
function readName(header: DynamicHeader, hostOrder: boolean, report: Report): string | undefined {
  const text = decodeText(header.parentName, hostOrder ? 'utf-16le' : 'utf-16be');
  return trimmed(text.split('\0', 1)[0]!, 'VHD parent name', report);
}

/** VirtualBox and tapdisk write paths of their hosts under the codes of Windows. */
const styleOf = (path: string): ParentPlace['style'] => (path.startsWith('/') ? 'posix' : 'windows');

function placesOf(locators: readonly Locator[], name: string | undefined): ParentPlace[] {
  const places: ParentPlace[] = [];
  for (const code of LOCATORS.keys()) {
    for (const locator of locators) {
      if (locator.code !== code || locator.path === undefined) continue;
      const style = code === 'MacX' ? 'url' : styleOf(locator.path);
      places.push({ path: locator.path, style, origin: `locator ${code}` });
    }
  }
  if (name !== undefined) places.push({ path: name, style: styleOf(name), origin: 'name in the header' });
  return places;
}

/** What the header of a differencing image says. Damage in it is reported: the parent may be found all the same. */
export function readParent(
  source: BlockSource,
  header: DynamicHeader,
  hostOrder: boolean,
  report: Report,
): ParentRecord {
  const name = readName(header, hostOrder, report);
  const locators = readLocators(source, header, report);
  const raw = isZero(header.parentUniqueId);
  const id = formatUuid(header.parentUniqueId);
  const facts = new Map([['parent-unique-id', raw ? 'none (a raw image)' : id]]);
  if (header.parentTimestamp !== 0) facts.set('parent-time-stamp', timeText(header.parentTimestamp));
  if (name !== undefined) facts.set('parent-name', shown(name));
  for (const { code, path } of locators) {
    const fact = `parent-locator-${code.toLowerCase()}`;
    if (path !== undefined && !facts.has(fact)) {
      facts.set(fact, `${LOCATORS.get(code)!.title} ${shown(path)}`);
    }
  }
  const link: ParentLink = {
    places: placesOf(locators, name),
    identity: raw ? undefined : `unique id ${id}`,
    format: raw ? 'raw' : undefined,
    compare: (parent) => {
      if (raw) return undefined;
      const found = markOf(parent, UNIQUE_ID);
      if (found !== id) return mismatch(id, found);
      compareTimes(parent, header.parentTimestamp, report);
      return undefined;
    },
  };
  return { link, facts: [...facts], locators };
}

/**
 * The child records when its parent's file was changed last, and copying changes that: so it decides nothing. What the
 * parent says of itself is another matter: a footer that was written later means that the disk may have been.
 */
function compareTimes(parent: Image, recorded: number, report: Report): void {
  const written = markOf(parent, TIME);
  if (recorded === 0 || written === undefined || written <= timeText(recorded)) return;
  report(
    `VHD dynamic header: the parent was last changed at ${timeText(recorded)} when this image was made, ` +
      `its footer is of ${written}; if its disk was written to since, this one is not what it was`,
  );
}

/** The time is none by which an image can be told; but children record one. */
export function identityOf({ uniqueId, timestamp }: Footer): IdentityMark[] {
  if (isZero(uniqueId)) return [];
  return [
    { name: UNIQUE_ID, text: formatUuid(uniqueId) },
    { name: TIME, text: timeText(timestamp) },
  ];
}

const markOf = ({ identity }: Image, name: string): string | undefined =>
  identity.find((mark) => mark.name === name)?.text;

function mismatch(wanted: string, found: string | undefined): ParentMismatch {
  return {
    severity: 'other',
    wanted: `unique id ${wanted}`,
    found: found === undefined ? 'none' : `unique id ${found}`,
  };
}
