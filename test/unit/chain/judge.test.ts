/** Whether what was found is the parent, and the error where nothing is. */

import { describe, expect, it } from 'vitest';
import { ImageError } from '../../../src/base/errors.ts';
import { unusedParents } from '../../../src/chain/chain.ts';
import { DEFAULT_POLICY } from '../../../src/chain/policy.ts';
import type { ParentPlace } from '../../../src/image/parent.ts';
import { openFile } from '../../../src/source/file.ts';
import { lockImage } from '../../../src/source/image-lock.ts';
import { encodeVdi, FREE } from '../../support/encoders/vdi.ts';
import { random } from '../../support/random.ts';
import { linkTo, Place, qedOn, uuidText } from './support.ts';

const place = new Place();
const posix = (path: string): ParentPlace => ({ path, style: 'posix', origin: 'backing file' });

describe('another image', () => {
  it('is refused with both identities', () => {
    place.put('vm/base.vdi', { id: 5 });
    place.put('vm/top.vdi', { id: 3 });
    const error = place.refused('vm/top.vdi', {}, linkTo(['base.vdi'], 1));
    expect({ kind: error.kind, message: place.short(error.message) }).toEqual({
      kind: 'mismatched',
      message:
        `vm/top.vdi: its parent should be create UUID ${uuidText(1)}, ` +
        `but vm/base.vdi is create UUID ${uuidText(5)}`,
    });
    expect(error.hint).toContain('--force-parent');
    expect(error.looked[0]).toBe(
      `vm/base.vdi: wanted is create UUID ${uuidText(1)}, found create UUID ${uuidText(5)}`,
    );
  });

  it('is taken where the user insists, for reading', () => {
    place.put('vm/base.vdi', { id: 5 });
    place.put('vm/top.vdi', { id: 3 });
    const { paths, readOnly, notices } = place.find('vm/top.vdi', { force: true }, linkTo(['base.vdi'], 1));
    expect(paths).toEqual(['vm/base.vdi']);
    expect(place.short(readOnly!)).toBe('its parent vm/base.vdi is another image');
    expect(notices.join()).toContain(uuidText(5));
  });

  it('never where the right one is there, and never one that merely lies there', () => {
    const wrong = place.put('far/wrong.vdi', { id: 5 });
    place.put('vm/right.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const policy = { force: true, parents: [wrong] };
    const { paths, readOnly } = place.find('vm/top.vdi', policy, linkTo(['gone.vdi'], 1));
    expect({ paths, readOnly }).toEqual({ paths: ['vm/right.vdi'], readOnly: undefined });
    expect(place.refused('vm/top.vdi', { force: true }, linkTo(['gone.vdi'], 2)).kind).toBe('missing');
    expect(place.find('vm/top.vdi', policy, linkTo(['gone.vdi'], 2)).paths).toEqual(['far/wrong.vdi']);
  });

  it('has nothing to say, unless it is taken', () => {
    const { file } = encodeVdi(
      { map: [FREE], blockSize: 4096, comment: new Uint8Array(256).fill(65) },
      random(1),
    );
    place.put('vm/base.vdi', file);
    place.put('vm/right.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    expect(place.find('vm/top.vdi', {}, linkTo(['base.vdi'], 1)).notices).toEqual([]);
    expect(place.find('vm/top.vdi', {}, linkTo([posix('base.vdi')])).notices.join()).toContain(
      'no terminating NUL',
    );
  });

  it('that cannot be a parent is refused, whatever the user says', () => {
    place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const compare = () => ({ severity: 'unfit', wanted: 'sectors of 512', found: '4096' }) as const;
    const error = place.refused('vm/top.vdi', { force: true }, linkTo(['base.vdi'], 1, { compare }));
    expect(error.kind).toBe('mismatched');
    expect(error.hint).not.toContain('--force-parent');
  });
});

describe('a changed parent', () => {
  it('is read, with a word, and not built upon', () => {
    place.put('vm/base.vdi', { id: 1, state: 2 });
    place.put('vm/top.vdi', { id: 3, parent: 1, parentState: 1 });
    const { paths, readOnly, notices } = place.find('vm/top.vdi');
    expect(paths).toEqual(['vm/base.vdi']);
    expect(place.short(readOnly!)).toBe('its parent vm/base.vdi was changed since');
    expect(notices).toHaveLength(1);
    expect(place.short(notices[0]!)).toBe(
      'vm/top.vdi: its parent vm/base.vdi was changed since: ' +
        'wanted is modify UUID 00001001-4040-4040-4040-404040404040, found modify UUID 00001002-4040-4040-4040-404040404040',
    );
  });

  it('gives way to one that is as it was, and goes before another image', () => {
    const changed = place.put('a/base.vdi', { id: 1, state: 2 });
    const other = place.put('a/other.vdi', { id: 9 });
    place.put('vm/top.vdi', { id: 3, parent: 1, parentState: 1 });
    const policy = { parents: [other, changed], force: true };
    expect(place.find('vm/top.vdi', policy).paths).toEqual(['a/base.vdi']);
    place.put('vm/base.vdi', { id: 1, state: 1 });
    expect(place.find('vm/top.vdi', policy)).toMatchObject({ paths: ['vm/base.vdi'], readOnly: undefined });
  });
});

describe('a parent that cannot be opened', () => {
  it('in use: the error is that, if nothing else was there', () => {
    const base = place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3, parent: 1 });
    const writer = openFile(base, 'write');
    try {
      lockImage(writer.share().fd, base, 'write', () => '');
      const { kind, message } = place.refused('vm/top.vdi');
      expect(kind).toBe('in-use');
      expect(place.short(message)).toBe(
        'vm/top.vdi: its parent vm/base.vdi cannot be used: is in use for writing',
      );
    } finally {
      writer.close();
    }
  });

  it('and a parent is locked: nobody writes to it', () => {
    const base = place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3, parent: 1 });
    place.find('vm/top.vdi');
    const writer = openFile(base, 'write');
    try {
      expect(() => lockImage(writer.share().fd, base, 'write', () => '')).toThrow(/in use/);
    } finally {
      writer.close();
    }
  });

  it('damaged: its own words, and another place may have it', () => {
    place.put('vm/base.vdi', new Uint8Array(9000).fill(1));
    place.put('vm/top.vdi', { id: 3 });
    const { kind, message } = place.refused('vm/top.vdi', {}, linkTo(['base.vdi'], 1));
    expect(kind).toBe('unrecognized');
    expect(message).toContain('the name says VDI, but its signature is not there');
    place.put('vm/copy.vdi', { id: 1 });
    expect(place.find('vm/top.vdi', {}, linkTo(['base.vdi'], 1)).paths).toEqual(['vm/copy.vdi']);
  });
});

describe('a missing parent', () => {
  it('is told by whom, which and where, as text and as data', () => {
    place.put('vm/other.vdi', { id: 5 });
    place.put('vm/top.vdi', { id: 3 });
    const link = linkTo(['..\\base\\disk.vdi', 'C:\\VMs\\base\\disk.vdi'], 1);
    const error = place.refused('vm/top.vdi', {}, link);
    expect(place.short(error.message)).toBe(
      `vm/top.vdi: its parent with create UUID ${uuidText(1)} was not found; ` +
        'the image names "..\\\\base\\\\disk.vdi" (test), "C:\\\\VMs\\\\base\\\\disk.vdi" (test)',
    );
    expect(error.explanation.map((line) => place.short(line))).toEqual([
      'looked at base/disk.vdi: it is outside of vm, where parents may lie',
      'looked at "C:\\\\VMs\\\\base\\\\disk.vdi" (test): it is on a drive of Windows',
      'looked at vm/disk.vdi: there is no such file',
      'looked at vm: none of the images in it (2) is the one',
      'Name it with --parent=FILE, or the directory where it is with --parent-dir=DIR.',
    ]);
    const back = ImageError.fromWire(JSON.parse(JSON.stringify(error.toWire())));
    expect(back).toMatchObject({ kind: 'missing', message: error.message, wanted: error.wanted });
    expect(back.wanted).toMatchObject({
      by: place.path('vm/top.vdi'),
      identity: `create UUID ${uuidText(1)}`,
    });
    expect(back.explanation).toEqual(error.explanation);
  });

  it('is told in a bounded number of lines', () => {
    place.put('vm/top.vdi', { id: 3 });
    const many = Array.from({ length: 200 }, (_, n) => `${n}.vdi`);
    const error = place.refused('vm/top.vdi', {}, linkTo(many, 1));
    expect(error.looked).toHaveLength(100);
    expect(error.explanation).toHaveLength(22);
    expect(error.explanation[20]).toBe('and at 80 more');
  });

  it('files that nobody wanted are known', () => {
    const base = place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3, parent: 1 });
    const { layers } = place.find('vm/top.vdi');
    const parents = [base, place.path('vm/top.vdi'), place.path('nowhere')];
    expect(unusedParents({ ...DEFAULT_POLICY, parents }, layers)).toEqual(parents.slice(1));
  });
});

describe('what is not recorded', () => {
  const top = (name: string, raw: boolean) => place.put('vm/top.qed', qedOn(name, raw));
  const noise = new Uint8Array(4096).fill(0x33);

  it('a backing file that matches no format is raw, whatever its name, with a word', () => {
    for (const name of ['disk', 'base.img', 'base.old']) {
      place.put(`vm/${name}`, noise);
      top(name, false);
      const { layers, notices, readOnly } = place.find('vm/top.qed');
      expect(layers[0]?.image.format).toBe('raw');
      expect(notices.map((text) => place.short(text))).toEqual([
        `vm/top.qed: does not record the format of its parent vm/${name}, which matches none: it is taken as raw`,
      ]);
      expect(readOnly).toBeUndefined();
    }
  });

  it('not where the name or the first bytes say something else', () => {
    place.put('vm/base.vhdx', noise);
    top('base.vhdx', false);
    expect(place.refused('vm/top.qed').message).toContain('the name says VHDX');
    const qcow = noise.slice();
    qcow.set([0x51, 0x46, 0x49, 0xfb]);
    place.put('vm/base.img', qcow);
    top('base.img', false);
    expect(place.refused('vm/top.qed').message).toContain('its signature says QCOW');
  });

  it('recorded as raw it is raw, without a word, and whatever it looks like', () => {
    place.put('vm/base.vdi', { id: 1 });
    top('base.vdi', true);
    const { layers, notices } = place.find('vm/top.qed');
    expect(layers[0]?.image.format).toBe('raw');
    expect(notices).toEqual([]);
  });

  it('a backing file of another format is that', () => {
    place.put('vm/base.vdi', { id: 1 });
    top('base.vdi', false);
    expect(place.find('vm/top.qed').layers[0]?.image.format).toBe('vdi');
    expect(place.find('vm/top.qed', {}, linkTo([posix('base.vdi')])).notices).toEqual([]);
  });
});
