import { describe, expect, it } from 'vitest';
import { plain, quoted, shownPath } from '../../../src/base/text.ts';

/** One of each kind: what moves a cursor, breaks a line or turns the direction of writing. */
const HARMFUL = [
  '\0',
  '\n',
  '\x1b',
  '\x7f',
  '\x9b',
  '\u061c',
  '\u200e',
  '\u202e',
  '\u2028',
  '\u2029',
  '\u2066',
];

describe('text from strangers', () => {
  it.each(HARMFUL)('%j is escaped in quotes, and replaced without', (letter) => {
    expect(quoted(`a${letter}b`)).toMatch(/^"a\\(n|u[0-9a-f]{4})b"$/);
    expect(JSON.parse(quoted(`a${letter}b`))).toBe(`a${letter}b`);
    expect(plain(`${letter}a${letter}`, '?')).toBe('?a?');
    expect(shownPath(`/a${letter}`)).toBe(quoted(`/a${letter}`));
  });

  it('joiners and letters of a private font do no harm to a name, and are seen in quotes', () => {
    const name = 'نامه\u200cها 👩\u200d💻 \uf8ff';
    expect(plain(name, '?')).toBe(name);
    expect(quoted(name)).toBe('"نامه\\u200cها 👩\\u200d💻 \\uf8ff"');
  });

  it('half of a surrogate pair is escaped, a letter of two words as a whole', () => {
    expect(quoted('\ud83d')).toBe('"\\ud83d"');
    expect(quoted('\u{e0001}')).toBe('"\\udb40\\udc01"');
    expect(quoted('👩')).toBe('"👩"');
  });

  it('is cut where it is too long, and says so', () => {
    expect(quoted('x'.repeat(300))).toBe(`"${'x'.repeat(300)}"`);
    expect(quoted('x'.repeat(301))).toBe(`"${'x'.repeat(300)}…"`);
    expect(quoted('x'.repeat(301), 1024)).toBe(`"${'x'.repeat(301)}"`);
    expect(quoted('xyz', 2)).toBe('"xy…"');
  });
});
