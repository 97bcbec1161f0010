/** Where parents are found, and in which order. */

import { symlinkSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { ParentPlace } from '../../../src/image/parent.ts';
import { linkTo, Place, uuidText } from './support.ts';

const place = new Place();
const posix = (path: string): ParentPlace => ({ path, style: 'posix', origin: 'test' });

describe('by its identity', () => {
  it('VirtualBox: snapshots below the directory of the base, also where only one of them moved along', () => {
    place.put('vm/vm.vdi', { id: 1 });
    place.put('vm/Snapshots/{a}.vdi', { id: 2, parent: 1 });
    place.put('vm/Snapshots/{b}.vdi', { id: 3, parent: 2 });
    place.put('vm/Snapshots/{c}.vdi', { id: 4, parent: 2 });
    const { paths, readOnly, notices } = place.find('vm/Snapshots/{b}.vdi');
    expect(paths).toEqual(['vm/Snapshots/{a}.vdi', 'vm/vm.vdi']);
    expect({ readOnly, notices }).toEqual({ readOnly: undefined, notices: [] });
  });

  it('goes up from Snapshots by one directory, and not down from there', () => {
    place.put('vm/Snapshots/b.vdi', { id: 3, parent: 1 });
    place.put('vm/sub/base.vdi', { id: 1 });
    place.put('base.vdi', { id: 1 });
    const { kind, looked } = place.refused('vm/Snapshots/b.vdi');
    expect(kind).toBe('missing');
    expect(looked).toEqual([
      'vm/Snapshots: none of the images in it (1) is the one',
      'vm: no image is in it',
    ]);
  });

  it('does not go up from other directories', () => {
    place.put('vm/snaps/b.vdi', { id: 3, parent: 1 });
    place.put('vm/base.vdi', { id: 1 });
    expect(place.refused('vm/snaps/b.vdi').kind).toBe('missing');
  });

  it('in a directory that the user names, and in its Snapshots', () => {
    place.put('other/base.vdi', { id: 1 });
    place.put('other/Snapshots/middle.vdi', { id: 2, parent: 1 });
    place.put('clone/top.vdi', { id: 3, parent: 2 });
    expect(place.refused('clone/top.vdi').kind).toBe('missing');
    const { paths } = place.find('clone/top.vdi', { parentDirs: [place.path('other')] });
    expect(paths).toEqual(['other/Snapshots/middle.vdi', 'other/base.vdi']);
  });

  it('passes over what is no image, no file, or has another name', () => {
    place.put('vm/a.vdi', new Uint8Array(3));
    place.put('vm/b.vhd', new Uint8Array(100_000).fill(7));
    place.put('vm/c.vdi/d.vdi', { id: 1 });
    place.put('vm/base.bak', { id: 1 });
    place.put('vm/z.VDI', { id: 1 });
    place.put('vm/top.vdi', { id: 3, parent: 1 });
    const { paths, notices } = place.find('vm/top.vdi');
    expect(paths).toEqual(['vm/z.VDI']);
    expect(notices).toEqual([]);
  });

  it('is used where the recorded names have gone stale', () => {
    place.put('vm/renamed.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const link = linkTo(['.\\old.vdi', 'C:\\VMs\\old.vdi'], 1);
    expect(place.find('vm/top.vdi', {}, link).paths).toEqual(['vm/renamed.vdi']);
  });

  it('is not used where nothing is recorded to know it by', () => {
    place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const { looked, kind } = place.refused('vm/top.vdi', {}, linkTo([posix('old.vdi')]));
    expect(kind).toBe('missing');
    expect(looked).toEqual(['vm/old.vdi: there is no such file']);
  });
});

describe('where the image says', () => {
  it('relative to the child, as Windows writes it and compares names', () => {
    place.put('vm/Base/Disk One.VDI', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const link = linkTo(['.\\base\\DISK one.vdi'], 1);
    expect(place.find('vm/top.vdi', {}, link).paths).toEqual(['vm/Base/Disk One.VDI']);
  });

  it('the name written in the same way before the others', () => {
    place.put('vm/BASE.vdi', { id: 1 });
    place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    expect(place.find('vm/top.vdi', {}, linkTo(['base.vdi'], 1)).paths).toEqual(['vm/base.vdi']);
    // It is another image: the other spelling is the one.
    place.put('vm/base.vdi', { id: 5 });
    expect(place.find('vm/top.vdi', {}, linkTo(['base.vdi'], 1)).paths).toEqual(['vm/BASE.vdi']);
  });

  it('POSIX names as they are', () => {
    place.put('vm/Base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    expect(place.refused('vm/top.vdi', {}, linkTo([posix('base.vdi')])).kind).toBe('missing');
    expect(place.find('vm/top.vdi', {}, linkTo([posix('Base.vdi')])).paths).toEqual(['vm/Base.vdi']);
  });

  it('an absolute path that is allowed', () => {
    const base = place.put('vm/sub/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const found = place.find('vm/top.vdi', {}, linkTo([posix(base)]));
    expect(found).toMatchObject({ paths: ['vm/sub/base.vdi'], readOnly: undefined });
  });

  it('where the image really is, when it was named by a link', () => {
    place.put('store/base.vdi', { id: 1 });
    place.put('store/top.vdi', { id: 3, parent: 1 });
    place.put('links/base.vdi', { id: 5 });
    symlinkSync(place.path('store/top.vdi'), place.path('links/link.vdi'));
    expect(place.find('links/link.vdi').paths).toEqual(['store/base.vdi']);
  });

  it('through a link that stays inside', () => {
    place.put('vm/deep/real.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    symlinkSync('deep/real.vdi', place.path('vm/base.vdi'));
    expect(place.find('vm/top.vdi', {}, linkTo(['base.vdi'], 1)).paths).toEqual(['vm/deep/real.vdi']);
  });

  it('each place in turn, until one is the parent', () => {
    place.put('vm/a/base.vdi', { id: 8 });
    place.put('vm/b/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const link = linkTo(['gone.vdi', 'a\\base.vdi', 'b\\base.vdi'], 1);
    expect(place.find('vm/top.vdi', {}, link).paths).toEqual(['vm/b/base.vdi']);
  });
});

describe('by its name', () => {
  it('beside the child, whatever directory the image names', () => {
    place.put('vm/Base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    for (const path of ['C:\\VMs\\base.vdi', '\\\\host\\share\\base.vdi', '..\\..\\far\\base.vdi']) {
      const { paths, readOnly } = place.find('vm/top.vdi', {}, linkTo([path], 1));
      expect(paths, path).toEqual(['vm/Base.vdi']);
      expect(readOnly).toBeUndefined();
    }
  });

  it('only for reading where nothing but the name speaks for it', () => {
    place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const { paths, readOnly, notices } = place.find('vm/top.vdi', {}, linkTo([posix('/far/base.vdi')]));
    expect(paths).toEqual(['vm/base.vdi']);
    expect(readOnly).toContain('vm/base.vdi was found by its name alone');
    expect(notices.join()).toContain('is not where the image says');
    // The user says so.
    const parents = [place.path('vm/base.vdi')];
    const named = place.find('vm/top.vdi', { parents }, linkTo([posix('/far/base.vdi')]));
    expect(named).toMatchObject({ paths: ['vm/base.vdi'], readOnly: undefined, notices: [] });
  });

  it('in a directory that the user names: by the longest end of the path first', () => {
    place.put('drive/base.vdi', { id: 7 });
    place.put('drive/VMs/one/base.vdi', { id: 7 });
    place.put('drive/vms/TWO/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const parentDirs = [place.path('drive')];
    const link = linkTo(['C:\\VMs\\two\\base.vdi'], 1);
    expect(place.find('vm/top.vdi', { parentDirs }, link).paths).toEqual(['drive/vms/TWO/base.vdi']);
    const posixLink = linkTo([posix('/mnt/VMs/one/base.vdi')]);
    const found = place.find('vm/top.vdi', { parentDirs }, posixLink);
    expect(found).toMatchObject({ paths: ['drive/VMs/one/base.vdi'], readOnly: undefined });
  });

  it('a directory that is none is told', () => {
    place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3, parent: 1 });
    const parentDirs = [place.path('nowhere'), place.path('vm/base.vdi')];
    expect(place.find('vm/top.vdi', { parentDirs }).notices.map((text) => place.short(text))).toEqual([
      '--parent-dir=nowhere: is no directory',
      '--parent-dir=vm/base.vdi: is no directory',
    ]);
  });
});

describe('files that the user names', () => {
  it('may be anywhere, in any order, where they are known by their identity', () => {
    const base = place.put('far/base', { id: 1 });
    const middle = place.put('away/middle', { id: 2, parent: 1 });
    place.put('vm/top.vdi', { id: 3, parent: 2 });
    for (const parents of [
      [middle, base],
      [base, middle],
    ]) {
      expect(place.find('vm/top.vdi', { parents }).paths).toEqual(['away/middle', 'far/base']);
    }
  });

  it('do not make what lies beside them allowed', () => {
    place.put('away/base.vdi', { id: 1 });
    const middle = place.put('away/middle.vdi', { id: 2, parent: 1 });
    place.put('vm/top.vdi', { id: 3, parent: 2 });
    const { message } = place.refused('vm/top.vdi', { parents: [middle] });
    expect(place.short(message)).toBe(
      `away/middle.vdi: its parent with create UUID ${uuidText(1)}, ` +
        'modify UUID 00001001-4040-4040-4040-404040404040 was not found',
    );
    const parentDirs = [place.path('away')];
    expect(place.find('vm/top.vdi', { parentDirs }).paths).toHaveLength(2);
  });

  it('in the order of the chain, where nothing is recorded to know them by', () => {
    const base = place.put('far/a.img', new Uint8Array(512));
    const other = place.put('far/b.img', new Uint8Array(512));
    place.put('vm/top.vdi', { id: 3 });
    const link = linkTo([posix('gone.img')]);
    expect(place.find('vm/top.vdi', { parents: [base, other] }, link).paths).toEqual(['far/a.img']);
    expect(place.find('vm/top.vdi', { parents: [other, base] }, link).paths).toEqual(['far/b.img']);
  });

  it('that are meant for another image of the chain do not take the place of a recorded one', () => {
    const base = place.put('far/base.img', new Uint8Array(512));
    place.put('vm/middle.vdi', { id: 2 });
    place.put('vm/top.vdi', { id: 3 });
    const link = linkTo([posix('middle.vdi')]);
    expect(place.find('vm/top.vdi', { parents: [base] }, link).paths).toEqual(['vm/middle.vdi']);
    // By its name it is meant; and when the user insists.
    const same = place.put('far/middle.vdi', { id: 9 });
    expect(place.find('vm/top.vdi', { parents: [base, same] }, link).paths).toEqual(['far/middle.vdi']);
    expect(place.find('vm/top.vdi', { parents: [base], force: true }, link).paths).toEqual(['far/base.img']);
  });

  it('that are in the chain already are passed over', () => {
    const top = place.put('vm/top.vdi', { id: 3, parent: 2 });
    const middle = place.put('far/middle', { id: 2, parent: 1 });
    place.put('vm/base.vdi', { id: 1 });
    const { paths } = place.find('vm/top.vdi', { parents: [top, middle], parentDirs: [place.path('vm')] });
    expect(paths).toEqual(['far/middle', 'vm/base.vdi']);
  });
});
