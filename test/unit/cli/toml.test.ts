import { describe, expect, it } from 'vitest';
import { placeIn, readToml, TomlError, type TomlValue } from '../../../src/cli/toml.ts';
import { random } from '../../support/random.ts';

const plain = (value: TomlValue): unknown => {
  if (value.kind === 'array') return value.items.map(plain);
  return value.kind === 'text' ? value.text : value.value;
};
const read = (text: string): unknown =>
  Object.fromEntries(readToml(text).map(({ key, value }) => [key, plain(value)]));
const refused = (text: string): string => {
  try {
    readToml(text);
  } catch (problem) {
    if (!(problem instanceof TomlError)) throw problem;
    const { line, column } = placeIn(text, problem.at);
    return `${line}:${column} ${problem.message}`;
  }
  return 'nothing';
};

describe('what TOML 1.0 says', () => {
  it.each([
    ['key = "value" # comment', { key: 'value' }],
    ['bare_key-1 = 1\n"quoted key" = 2\n\'other\' = 3', { 'bare_key-1': 1n, 'quoted key': 2n, other: 3n }],
    [String.raw`s = "a\tb\"c\\d\u00e9\U0001F600"`, { s: 'a\tb"c\\dé😀' }],
    [String.raw`s = 'C:\no\escape "x"'`, { s: 'C:\\no\\escape "x"' }],
    ['s = """\nfirst\r\nsecond "quoted" \\\n   third"""""', { s: 'first\r\nsecond "quoted" third""' }],
    ["s = '''\nraw \\ it''s'''", { s: "raw \\ it''s" }],
    [
      'i = [+99, -17, 0, 1_000, 0xDEAD_beef, 0o755, 0b11]',
      { i: [99n, -17n, 0n, 1000n, 0xdeadbeefn, 0o755n, 3n] },
    ],
    ['a = [ # comment\n "x", # one\n\n true ,\n]\r\nb=false', { a: ['x', true], b: false }],
    ['a = [[1], ["b"]]\n\n\n', { a: [[1n], ['b']] }],
    ['', {}],
    ['# only a comment', {}],
  ])('%j', (text, values) => expect(read(text)).toEqual(values));
});

describe('what is refused, and where', () => {
  it.each([
    ['a = 1\nb', '2:2 expected "=" behind the key'],
    ['a = 1\n= 2', '2:1 expected a key'],
    ['a =', '1:4 expected a value'],
    ['a = 1 b = 2', '1:7 expected the end of the line'],
    ['a = 1\na = 2', '2:1 "a" was set before'],
    ['x = 1\n[table]', '2:1 there are no tables here, only "key = value"'],
    ['a.b = 1', '1:2 there are no dotted keys here'],
    ['ä = 1', '1:1 expected a key'],
    ['a = "é" x', '1:9 expected the end of the line'],
    ['a = "open\nb = 1', '1:5 a text without its closing "'],
    ["a = '''open", "1:5 a text without its closing '''"],
    ['a = [1, 2', '1:5 a list without its "]"'],
    ['a = [1 2]', '1:8 expected "," or "]"'],
    ['a = [[[[[1]]]]]', '1:9 lists in lists, too deep'],
    ['a = "\\x41"', '1:6 an escape that does not exist (a backslash is \\\\)'],
    ['a = "\\ud800"', '1:6 \\ud800 is no character'],
    ['a = "b\u0007"', '1:7 a control character'],
    ['a = 007', '1:5 expected a text in quotes, an integer, true, false or a list, found 007'],
    ['a = 1.5', '1:5 expected a text in quotes, an integer, true, false or a list, found 1.5'],
    ['a = yes', '1:5 expected a text in quotes, an integer, true, false or a list, found yes'],
    ['a = 2026-11-21', '1:5 expected a text in quotes, an integer, true, false or a list, found 2026-11-21'],
  ])('%j', (text, message) => expect(refused(text)).toBe(message));

  it('anything ends, in an answer or a TomlError', () => {
    const next = random(7);
    const letters = 'ab=".\'[],#\\u01\n\r \t{}-+_oxtruefals';
    for (let round = 0; round < 20_000; round += 1) {
      const length = Math.floor(next() * 30);
      const text = Array.from({ length }, () => letters[Math.floor(next() * letters.length)]).join('');
      refused(text);
    }
  });

  it('long texts take no longer than they must', () => {
    const begun = performance.now();
    refused(`a = "${'\\\\'.repeat(200_000)}`);
    refused(`${'# comment\n'.repeat(50_000)}a = [${'1,\n'.repeat(50_000)}`);
    expect(performance.now() - begun).toBeLessThan(5000);
  });
});
