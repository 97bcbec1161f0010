import { expect, test } from 'vitest';
import { TIB } from '../../../src/base/units.ts';
import { AllocationBar, showsUnicode } from '../../../src/cli/allocation-bar.ts';

test('what has anything is not empty, what lacks anything not full', () => {
  const bar = new AllocationBar(1000, 10);
  bar.add(0, 100);
  bar.add(100, 1);
  bar.add(230, 40);
  bar.add(300, 99);
  bar.add(450, 100);
  bar.add(599, 1);
  bar.add(800, 200);
  expect(bar.text(false)).toBe('#-+*++..##');
  expect(bar.text(true)).toBe('█░▒▓▒▒··██');
});

test('any number of cells, more than bytes too', () => {
  const bar = new AllocationBar(3, 7);
  bar.add(1, 1);
  expect(bar.text(false)).toHaveLength(7);
  // Cells of 3/7 bytes: the second byte is in the third to the fifth.
  expect(bar.text(false)).toMatch(/^\.\.[*+-]#[*+-]\.\.$/);
  const large = new AllocationBar(64 * TIB, 80);
  large.add(0, 64 * TIB);
  expect(large.text(false)).toBe('#'.repeat(80));
  const pieces = new AllocationBar(1003, 17);
  for (let at = 0; at < 1003; at += 59) pieces.add(at, 59);
  expect(pieces.text(false)).toBe('#'.repeat(17));
});

test('the locale as the C library finds it', () => {
  expect(showsUnicode({ LANG: 'de_DE.UTF-8' })).toBe(true);
  expect(showsUnicode({ LANG: 'C.utf8', LC_ALL: '' })).toBe(true);
  expect(showsUnicode({ LANG: 'de_DE.UTF-8', LC_ALL: 'C' })).toBe(false);
  expect(showsUnicode({ LANG: 'de_DE.UTF-8', LC_CTYPE: 'POSIX' })).toBe(false);
  expect(showsUnicode({})).toBe(false);
});
