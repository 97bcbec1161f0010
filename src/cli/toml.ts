/**
 * The part of TOML 1.0 that a flat list of settings needs: keys, texts of all four kinds, integers, booleans, and
 * arrays of them. Tables, dates and floats are refused by name. Everything keeps its place, so that what is wrong with a value
 * can be told with its line and column: a parser that gives values alone could not.
 */

export type TomlValue =
  | { readonly kind: 'text'; readonly text: string; readonly at: number }
  /** `text` is as it was written, without underscores: "0o022". */
  | { readonly kind: 'integer'; readonly text: string; readonly value: bigint; readonly at: number }
  | { readonly kind: 'boolean'; readonly value: boolean; readonly at: number }
  | { readonly kind: 'array'; readonly items: readonly TomlValue[]; readonly at: number };

export interface TomlEntry {
  readonly key: string;
  /** Offset of the key in the text. */
  readonly at: number;
  readonly value: TomlValue;
}

/** What is wrong, and at which offset of the text. */
export class TomlError extends Error {
  readonly at: number;
  constructor(message: string, at: number) {
    super(message);
    this.at = at;
  }
}

/** Line and column of an offset, from 1; the column counts letters. */
export function placeIn(text: string, at: number): { readonly line: number; readonly column: number } {
  const before = text.slice(0, at).split('\n');
  return { line: before.length, column: [...before.at(-1)!].length + 1 };
}

const ESCAPES: Readonly<Record<string, string>> = {
  b: '\b',
  t: '\t',
  n: '\n',
  f: '\f',
  r: '\r',
  '"': '"',
  '\\': '\\',
};

/** An array in an array has no use here: this bounds the recursion. */
const MAX_DEPTH = 4;

const CONTROL = /(?![\t\n\r\u0080-\u009f])\p{Cc}|\r(?!\n)/u;

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  entries(): TomlEntry[] {
    const entries: TomlEntry[] = [];
    const control = this.#text.search(CONTROL);
    if (control >= 0) throw new TomlError('a control character', control);
    for (;;) {
      this.#skip(true);
      if (this.#at >= this.#text.length) return entries;
      const at = this.#at;
      if (this.#text[at] === '[') throw new TomlError('there are no tables here, only "key = value"', at);
      const key = this.#key();
      if (entries.some((entry) => entry.key === key)) throw new TomlError(`"${key}" was set before`, at);
      this.#skip(false);
      if (this.#text[this.#at] === '.') throw new TomlError('there are no dotted keys here', this.#at);
      if (this.#text[this.#at] !== '=') throw new TomlError('expected "=" behind the key', this.#at);
      this.#at += 1;
      this.#skip(false);
      entries.push({ key, at, value: this.#value(0) });
      this.#skip(false);
      if (this.#at < this.#text.length && !/^\r?\n/.test(this.#text.slice(this.#at, this.#at + 2))) {
        throw new TomlError('expected the end of the line', this.#at);
      }
    }
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  /** Blanks and a comment; with `lines` any number of them, over lines. */
  #skip(lines: boolean): void {
    this.#match(lines ? /(?:[ \t]|\r?\n|#[^\n]*)*/y : /[ \t]*(?:#[^\r\n]*)?/y);
  }

  #key(): string {
    const at = this.#at;
    const bare = this.#match(/[A-Za-z0-9_-]+/y);
    if (bare !== undefined) return bare;
    const quote = this.#text[at];
    if (quote === '"' || quote === "'") return this.#quoted(quote);
    throw new TomlError('expected a key', at);
  }

  #value(depth: number): TomlValue {
    const at = this.#at;
    const letter = this.#text[at];
    if (letter === '"' || letter === "'") {
      const long = letter.repeat(3);
      const text = this.#text.startsWith(long, at) ? this.#long(long) : this.#quoted(letter);
      return { kind: 'text', text, at };
    }
    if (letter === '[') return this.#array(depth);
    const word = this.#match(/[^\s,\]#]+/y);
    if (word === undefined) throw new TomlError('expected a value', at);
    if (word === 'true' || word === 'false') return { kind: 'boolean', value: word === 'true', at };
    const digits = '(?:0|[1-9](?:_?\\d)*)';
    const integer = new RegExp(
      `^(?:[+-]?${digits}|0x[\\da-f](?:_?[\\da-f])*|0o[0-7](?:_?[0-7])*|0b[01](?:_?[01])*)$`,
      'i',
    );
    if (!integer.test(word)) {
      throw new TomlError(`expected a text in quotes, an integer, true, false or a list, found ${word}`, at);
    }
    const text = word.replaceAll('_', '').replace('+', '');
    const value = text.startsWith('-') ? -BigInt(text.slice(1)) : BigInt(text);
    return { kind: 'integer', text, value, at };
  }

  #array(depth: number): TomlValue {
    const at = this.#at;
    if (depth >= MAX_DEPTH) throw new TomlError('lists in lists, too deep', at);
    const items: TomlValue[] = [];
    this.#at += 1;
    for (;;) {
      this.#skip(true);
      if (this.#text[this.#at] === ']') break;
      if (this.#at >= this.#text.length) throw new TomlError('a list without its "]"', at);
      items.push(this.#value(depth + 1));
      this.#skip(true);
      if (this.#text[this.#at] === ',') this.#at += 1;
      else if (this.#at < this.#text.length && this.#text[this.#at] !== ']')
        throw new TomlError('expected "," or "]"', this.#at);
    }
    this.#at += 1;
    return { kind: 'array', items, at };
  }

  /** A text on one line. */
  #quoted(quote: '"' | "'"): string {
    const start = this.#at;
    this.#at += 1;
    let text = '';
    for (;;) {
      const letter = this.#text[this.#at];
      if (letter === undefined || letter === '\n' || letter === '\r') {
        throw new TomlError(`a text without its closing ${quote}`, start);
      }
      if (letter === quote) break;
      if (letter === '\\' && quote === '"') text += this.#escape();
      else {
        text += letter;
        this.#at += 1;
      }
    }
    this.#at += 1;
    return text;
  }

  /** A text in three quotes, over lines. */
  #long(quotes: string): string {
    const start = this.#at;
    this.#at += 3;
    this.#match(/\r?\n/y);
    let text = '';
    while (!this.#text.startsWith(quotes, this.#at)) {
      const letter = this.#text[this.#at];
      if (letter === undefined) throw new TomlError(`a text without its closing ${quotes}`, start);
      if (letter !== '\\' || quotes === "'''") {
        text += letter;
        this.#at += 1;
      } else if (this.#match(/\\[ \t]*\r?\n\s*/y) === undefined) text += this.#escape();
    }
    this.#at += 3;
    // Up to two quotes may stand before the closing ones.
    return text + (this.#match(quotes === "'''" ? /'{1,2}/y : /"{1,2}/y) ?? '');
  }

  #escape(): string {
    const at = this.#at;
    const code = this.#match(/\\(?:u[\da-fA-F]{4}|U[\da-fA-F]{8})/y);
    if (code !== undefined) {
      const point = Number.parseInt(code.slice(2), 16);
      if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
        throw new TomlError(`${code} is no character`, at);
      }
      return String.fromCodePoint(point);
    }
    const plain = ESCAPES[this.#text[at + 1] ?? ''];
    if (plain === undefined) throw new TomlError('an escape that does not exist (a backslash is \\\\)', at);
    this.#at += 2;
    return plain;
  }
}

/** The settings in `text`, in their order. Throws TomlError for the first that cannot be read. */
export function readToml(text: string): TomlEntry[] {
  return new Reader(text).entries();
}
