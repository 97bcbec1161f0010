/** The names of the raw files in a mount. */

import { describe, expect, it } from 'vitest';
import { exposedFiles, exposedNames, type OpenedImage } from '../../../src/daemon/images.ts';

describe('exposedNames', () => {
  it.each([
    ['one image', ['/a/disk.vhdx'], ['disk.raw']],
    ['several', ['/a/one.vhd', '/b/two.vdi'], ['one.raw', 'two.raw']],
    ['several dots', ['/a/disk.2024.vhdx'], ['disk.2024.raw']],
    ['no suffix', ['/dev/sda'], ['sda.raw']],
    ['a raw image', ['/a/disk.raw'], ['disk.raw']],
    ['a hidden file', ['/a/.hidden'], ['.hidden.raw']],
    // Two of the same stem keep their suffixes, wherever they are.
    ['the same stem', ['/a/disk.vhd', '/b/disk.vdi'], ['disk.vhd.raw', 'disk.vdi.raw']],
    [
      'the same stem among others',
      ['/a/disk.vhd', '/a/c.vhd', '/a/disk.qed'],
      ['disk.vhd.raw', 'c.raw', 'disk.qed.raw'],
    ],
    // Where that is not enough they are numbered.
    ['the same name', ['/a/d.vhd', '/b/d.vhd', '/c/d.vhd'], ['d.vhd.raw', 'd.vhd-2.raw', 'd.vhd-3.raw']],
    ['the same image twice', ['/a/d.vhd', '/a/d.vhd'], ['d.vhd.raw', 'd.vhd-2.raw']],
    [
      'a name that a number leads to',
      ['/a/d.vhd', '/b/d.vhd', '/c/d.vhd-2.img'],
      ['d.vhd.raw', 'd.vhd-2.raw', 'd.vhd-2-2.raw'],
    ],
    [
      'a stem that is the other one with its suffix',
      ['/a/d.vhd', '/b/d.vdi', '/c/d.vhd.img'],
      ['d.vhd.raw', 'd.vdi.raw', 'd.vhd-2.raw'],
    ],
  ])('%s', (_, paths, names) => {
    expect(exposedNames(paths)).toEqual(names);
    expect(new Set(exposedNames(paths)).size).toBe(paths.length);
  });

  it('never gives a name twice', () => {
    const parts = ['a', 'a.vhd', 'a.vhd-2', 'a.raw', 'a-2', 'a.vhd.raw', 'a.vhd.vhd'];
    const paths = parts.flatMap((part) => [`/x/${part}`, `/y/${part}`, `/z/${part}.vhd`]);
    expect(new Set(exposedNames(paths)).size).toBe(paths.length);
  });
});

describe('exposedFiles', () => {
  // Only their paths are looked at.
  const image = (path: string, ...parents: string[]) =>
    ({ path, edit: path, parents: parents.map((parent) => ({ path: parent })) }) as unknown as OpenedImage;
  const shown = (opened: OpenedImage[], layers: boolean) =>
    exposedFiles(opened, layers).map(({ name, layers, edit }) => [
      name,
      layers.map(({ path }) => path).join(' '),
      edit !== undefined,
    ]);

  it('shows only the disks, with what is below them, unless asked for layers', () => {
    const opened = [image('/a.vdi', '/b.vdi', '/c.vdi'), image('/d.vdi')];
    expect(shown(opened, false)).toEqual([
      ['a.raw', '/a.vdi /b.vdi /c.vdi', true],
      ['d.raw', '/d.vdi', true],
    ]);
    expect(shown(opened, true)).toEqual([
      ['a.raw', '/a.vdi /b.vdi /c.vdi', true],
      ['a.parent1.raw', '/b.vdi /c.vdi', false],
      ['a.parent2.raw', '/c.vdi', false],
      ['d.raw', '/d.vdi', true],
    ]);
  });

  it('gives no name twice', () => {
    const opened = [
      image('/x/a.vdi', '/b'),
      image('/y/a.vdi', '/b'),
      image('/a.vdi.parent1.vhd', '/b', '/c'),
    ];
    expect(shown(opened, true).map(([name]) => name)).toEqual([
      'a.vdi.raw',
      'a.vdi.parent1-2.raw',
      'a.vdi-2.raw',
      'a.vdi-2.parent1.raw',
      'a.vdi.parent1.raw',
      'a.vdi.parent1.parent1.raw',
      'a.vdi.parent1.parent2.raw',
    ]);
  });
});
