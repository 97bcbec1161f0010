/**
 * A parent's path as an image records it, in the words of this machine. Windows paths: Microsoft, "Naming Files,
 * Paths, and Namespaces"; the forms that parent locators have: [MS-VHDX] 2.6.2.6.3. Pure: nothing is looked at.
 */

import type { ParentPlace } from '../image/parent.ts';

export type RecordedPath =
  /** A path that can lead to a file here. */
  | {
      readonly kind: 'here';
      /** From the root, not from the child's directory. */
      readonly absolute: boolean;
      /** Names, ".." among them. */
      readonly parts: readonly string[];
      /** Written by Windows, which takes upper and lower case for the same. */
      readonly fold: boolean;
    }
  /** A path of another machine or of a drive: what it ends with may be found here all the same. */
  | {
      readonly kind: 'elsewhere';
      readonly reason: string;
      readonly parts: readonly string[];
      readonly fold: boolean;
    }
  /** Nothing that is opened on the word of an image. */
  | { readonly kind: 'refused'; readonly reason: string };

/** Longest path of Linux (PATH_MAX); those of Windows have 32767 UTF-16 units, but no image that does so is known. */
const MAX_PATH = 4096;
const MAX_PARTS = 128;

const refused = (reason: string): RecordedPath => ({ kind: 'refused', reason });

/** What a recorded place means. Never throws. */
export function readRecorded({ path, style }: Pick<ParentPlace, 'path' | 'style'>): RecordedPath {
  if (path === '') return refused('it is empty');
  if (path.includes('\0')) return refused('it has a NUL inside');
  if (path.length > MAX_PATH)
    return refused(`it has ${path.length} characters, at most ${MAX_PATH} are looked at`);
  if (/^file:/i.test(path)) return readFileUrl(path.slice('file:'.length));
  if (style === 'windows' || /^[a-z]:[\\/]/i.test(path)) return readWindows(path);
  if (style === 'url' || isProtocol(path, /\//))
    return refused('it is a URL or names a protocol, which is never opened');
  return here(path.startsWith('/'), path.split('/'), false);
}

/** `name:` before the first separator. A file so named is recorded as "./name:…". */
function isProtocol(path: string, separator: RegExp): boolean {
  return path.split(separator, 1)[0]!.includes(':');
}

function here(absolute: boolean, names: readonly string[], fold: boolean): RecordedPath {
  const parts = partsOf(names);
  if (parts.length > MAX_PARTS)
    return refused(`it has ${parts.length} parts, at most ${MAX_PARTS} are looked at`);
  if (parts.length === 0 || parts.at(-1) === '..') return refused('it names no file');
  return { kind: 'here', absolute, parts, fold };
}

function elsewhere(reason: string, names: readonly string[], fold = true): RecordedPath {
  const parts = partsOf(names);
  if (parts.length === 0 || parts.length > MAX_PARTS || parts.at(-1) === '..') return refused(reason);
  return { kind: 'elsewhere', reason, parts, fold };
}

const partsOf = (names: readonly string[]): string[] => names.filter((name) => name !== '' && name !== '.');

/** What follows "file:". Hosts are never asked; "file://./x" and "file://../x" are tapdisk's, relative to the child. */
function readFileUrl(rest: string): RecordedPath {
  let path = rest;
  try {
    path = decodeURIComponent(rest);
  } catch {
    // Producers that do not encode write a "%" as it is.
  }
  if (path.includes('\0')) return refused('it has a NUL inside');
  if (!path.startsWith('//')) return here(path.startsWith('/'), path.split('/'), false);
  const [host, ...names] = path.slice(2).split('/') as [string, ...string[]];
  if (host === '.' || host === '..') return here(false, [host, ...names], false);
  if (host === '' || host.toLowerCase() === 'localhost') return here(true, names, false);
  return elsewhere('it is on another host', names, false);
}

function readWindows(path: string): RecordedPath {
  const names = path.split(/[\\/]/);
  const [, , first, second] = names;
  const prefixed = /^[\\/]{2}[?][\\/]/.test(path) || path.startsWith('\\??\\');
  if (prefixed) {
    const [root = '', ...rest] = names.slice(path.startsWith('\\??\\') ? 2 : 3);
    if (/^unc$/i.test(root)) return elsewhere('it is on a share of another host', rest.slice(1));
    if (/^volume\{[0-9a-f-]+\}$/i.test(root)) return elsewhere('it is on a volume of Windows', rest);
    if (/^[a-z]:$/i.test(root)) return elsewhere('it is on a drive of Windows', rest);
    return refused('it is a device or an object of Windows');
  }
  if (/^[\\/]{2}[.]([\\/]|$)/.test(path)) return refused('it is a device of Windows');
  if (/^[\\/]{2}/.test(path)) {
    return first === '' || second === undefined
      ? refused('it names no file')
      : elsewhere('it is on a share of another host', names.slice(3));
  }
  if (/^[a-z]:/i.test(path)) return elsewhere('it is on a drive of Windows', path.slice(2).split(/[\\/]/));
  if (isProtocol(path, /[\\/]/)) return refused('it is a URL or names a protocol, which is never opened');
  // VirtualBox records paths of Linux hosts under the codes of Windows.
  if (path.startsWith('/')) return here(true, path.split('/'), false);
  if (path.startsWith('\\')) return elsewhere('it is on a drive of Windows', names);
  return here(false, names, true);
}
