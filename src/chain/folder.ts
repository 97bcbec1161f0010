/** What directories hold, listed once for a chain. */

import { type Dirent, opendirSync } from 'node:fs';
import { join } from 'node:path';

/** Names looked at in one directory. */
const MAX_ENTRIES = 65_536;

/** As Windows compares names: without a difference of case, letter by letter. */
export const foldedName = (name: string): string => name.normalize('NFC').toUpperCase();

export class Folders {
  readonly #listed = new Map<string, readonly Dirent[]>();

  /** The first entries of a directory, in the order of their names; none where it cannot be read. */
  list(directory: string): readonly Dirent[] {
    const known = this.#listed.get(directory);
    if (known !== undefined) return known;
    const entries = readEntries(directory).sort((a, b) => (a.name < b.name ? -1 : 1));
    this.#listed.set(directory, entries);
    return entries;
  }

  /**
   * The paths that `parts` lead to from `directory`, names compared as Windows does: those written in the same way
   * first. Directories are listed only as the caller asks for more.
   */
  *folded(directory: string, parts: readonly string[]): Generator<string> {
    const [name, ...rest] = parts;
    if (name === undefined) {
      yield directory;
      return;
    }
    const entries = this.list(directory);
    const wanted = foldedName(name);
    const exact = entries.filter((entry) => entry.name === name);
    const others = entries.filter((entry) => entry.name !== name && foldedName(entry.name) === wanted);
    for (const entry of [...exact, ...others]) yield* this.folded(join(directory, entry.name), rest);
  }
}

function readEntries(directory: string): Dirent[] {
  const entries: Dirent[] = [];
  try {
    const open = opendirSync(directory, { bufferSize: 1024 });
    try {
      while (entries.length < MAX_ENTRIES) {
        const entry = open.readSync();
        if (entry === null) break;
        entries.push(entry);
      }
    } finally {
      open.closeSync();
    }
  } catch {
    // Not there, no directory, not ours to read: nothing is found in it.
  }
  return entries;
}
