/** A flat TOML document with the place of each key: what is wrong with a value can then be told with line and column. */

import { parse, type TomlPrimitive, TomlError as Unreadable } from 'smol-toml';

export interface TomlEntry {
  readonly key: string;
  readonly value: TomlPrimitive;
  /** Where the key is. */
  readonly keyAt: Place;
  /** Where its value begins. */
  readonly valueAt: Place;
}

/** From 1. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

/** What is wrong, and where. */
export class TomlError extends Error {
  readonly place: Place;
  constructor(message: string, place: Place) {
    super(message);
    this.place = place;
  }
}

/** Where the text ends. */
export function endOf(text: string): Place {
  const lines = text.split('\n');
  return { line: lines.length, column: lines.at(-1)!.length + 1 };
}

/** The entries of the document. Throws TomlError for what is no TOML. */
export function readToml(text: string): TomlEntry[] {
  let document: Record<string, TomlPrimitive>;
  try {
    document = parse(text);
  } catch (problem) {
    if (!(problem instanceof Unreadable)) throw problem;
    // Its first line; a picture of the place follows.
    const [first = ''] = problem.message.split('\n');
    throw new TomlError(first.replace(/^Invalid TOML document: /, ''), problem);
  }
  const lines = text.split('\n');
  return Object.entries(document).map(([key, value]) => ({ key, value, ...placesOf(lines, key) }));
}

/** The parser tells no places of what it understood. A key is looked for at the beginning of a line, or of a table. */
function placesOf(lines: readonly string[], key: string): Pick<TomlEntry, 'keyAt' | 'valueAt'> {
  const name = key.replace(/[^\w-]/g, '\\$&');
  const pattern = new RegExp(`^[ \\t]*(?:(["']?)${name}\\1[ \\t]*[=.][ \\t]*|\\[+[ \\t]*(["']?)${name}\\2)`);
  for (const [at, line] of lines.entries()) {
    const found = pattern.exec(line)?.[0];
    if (found === undefined) continue;
    const before = found.length - found.trimStart().length;
    const keyAt = { line: at + 1, column: before + 1 };
    return { keyAt, valueAt: { line: at + 1, column: found.length + 1 } };
  }
  const start = { line: 1, column: 1 };
  return { keyAt: start, valueAt: start };
}
