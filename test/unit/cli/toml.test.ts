/** Places in TOML documents, and what is no TOML. */

import { describe, expect, it } from 'vitest';
import { endOf, readToml, TomlError } from '../../../src/cli/toml.ts';

describe('places', () => {
  it('of keys and values', () => {
    const text = '# images = 1\nimages = [\n  "mountpoint = 2",\n]\n  "mountpoint" = \'/m\'\n[more]\nx = 1\n';
    expect(readToml(text)).toEqual([
      {
        key: 'images',
        value: ['mountpoint = 2'],
        keyAt: { line: 2, column: 1 },
        valueAt: { line: 2, column: 10 },
      },
      { key: 'mountpoint', value: '/m', keyAt: { line: 5, column: 3 }, valueAt: { line: 5, column: 18 } },
      { key: 'more', value: { x: 1 }, keyAt: { line: 6, column: 1 }, valueAt: { line: 6, column: 6 } },
    ]);
  });

  it('of the end', () => {
    expect([endOf(''), endOf('a\nbc')]).toEqual([
      { line: 1, column: 1 },
      { line: 2, column: 3 },
    ]);
  });

  it.each([
    ['a = 1\nb = ', { line: 2, column: 5 }],
    ['a = 1\na = 2', { line: 2, column: 1 }],
    ['x = "open', { line: 1, column: 5 }],
    ['__proto__', { line: 1, column: 1 }],
  ])('of what is no TOML: %j', (text, place) => {
    let thrown: unknown;
    try {
      readToml(text);
    } catch (problem) {
      thrown = problem;
    }
    expect(thrown).toBeInstanceOf(TomlError);
    expect((thrown as TomlError).message).not.toContain('\n');
    expect((thrown as TomlError).place).toMatchObject(place);
  });
});
