/** Overlays: made, found again, refused. Real files. */

import {
  chmodSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ImageError } from '../../../src/base/errors.ts';
import { type Layer, type LayerContext, openLayer } from '../../../src/chain/layer.ts';
import { createFile } from '../../../src/chain/new-file.ts';
import {
  type OpenedOverlay,
  type OverlayRequest,
  openOverlay,
  sizeWithOverlay,
} from '../../../src/chain/overlay.ts';
import { TEMPORARY } from '../../../src/chain/policy.ts';
import { qedHeader } from '../../../src/formats/qed/structs.ts';
import type { FormatId } from '../../../src/image/driver.ts';
import { TableAllocator } from '../../../src/shared/paged-table.ts';
import { qedBytes, withBacking } from '../../support/encoders/qed.ts';
import { encodeVdi, FREE } from '../../support/encoders/vdi.ts';
import { random, randomBytes } from '../../support/random.ts';

let folder = '';
let opened: Layer[] = [];
let notices: string[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-overlay-'));
  opened = [];
  notices = [];
});
afterEach(() => {
  close();
  rmSync(folder, { recursive: true, force: true });
});

function close(): void {
  for (const { source } of opened) source.close();
  opened = [];
}

const context = (): LayerContext => ({
  tables: new TableAllocator(),
  report: (text) => notices.push(text),
  formatOptions: [],
  lock: true,
  holders: () => [],
});

const path = (name: string) => join(folder, name);

function base(name = 'base.raw', format?: FormatId): Layer {
  const layer = openLayer(path(name), 'read', format, context());
  opened.push(layer);
  return layer;
}

function overlay(
  below: Layer,
  request: Partial<OverlayRequest> = {},
  parents: readonly Layer[] = [],
): OpenedOverlay {
  const asked = { place: path('over.qed'), access: 'write', force: false, ...request } as const;
  const found = openOverlay(below, parents, asked, context());
  opened.push(found.layer);
  return found;
}

function failure(work: () => unknown): ImageError {
  try {
    work();
  } catch (problem) {
    if (problem instanceof ImageError) return problem;
    throw problem;
  }
  throw new Error('it went well');
}

const raw = (name = 'base.raw', size = 100_000): void =>
  writeFileSync(path(name), randomBytes(random(1), size));

function vdi(name: string, modify: number): void {
  const uuid = new Uint8Array(16).fill(modify);
  writeFileSync(path(name), encodeVdi({ map: [FREE, 0], blockSize: 4096, modify: uuid }, random(2)).file);
}

const nameIn = (place: string): string => {
  const bytes = readFileSync(place);
  const { backingFilenameOffset: at, backingFilenameSize: size } = qedHeader.decode(bytes);
  return bytes.toString('utf8', at, at + size);
};

describe('an overlay that is not there', () => {
  test('is made: the size rounded up, raw not to be probed, nothing else beside it', () => {
    raw('base.raw', 100_001);
    const below = base();
    const { layer, readOnly } = overlay(below);
    expect(layer.image).toMatchObject({ format: 'qed', virtualSize: 100_352 });
    expect(layer.image.parent).toMatchObject({ places: [{ path: 'base.raw' }], format: 'raw' });
    expect([readOnly, sizeWithOverlay(below, layer), notices]).toEqual([undefined, 100_001, []]);
    expect(readdirSync(folder).sort()).toEqual(['base.raw', 'over.qed']);
  });

  test('names the image by its path where it lies in another directory', () => {
    raw();
    mkdirSync(path('other'));
    const place = path('other/over.qed');
    overlay(base(), { place });
    expect(nameIn(place)).toBe(path('base.raw'));
  });

  test('a directory by another name is the same; a colon is no protocol', () => {
    mkdirSync(path('real'));
    symlinkSync('real', path('link'));
    raw('real/a:b.raw');
    overlay(base('real/a:b.raw'), { place: path('link/over.qed') });
    expect(nameIn(path('real/over.qed'))).toBe('./a:b.raw');
  });

  test('what is no raw disk is to be probed', () => {
    vdi('base.vdi', 1);
    const { layer } = overlay(base('base.vdi'));
    expect(layer.image.parent?.format).toBeUndefined();
  });

  test('is readable for those who may read the image, and not for others', () => {
    raw();
    chmodSync(path('base.raw'), 0o440);
    overlay(base());
    expect(statSync(path('over.qed')).mode & 0o777 & ~0o640).toBe(0);
    expect(statSync(path('over.qed')).mode & 0o600).toBe(0o600);
  });

  test('is not made read-only, nor without a directory, and nothing is left', () => {
    raw();
    const below = base();
    expect(failure(() => overlay(below, { access: 'read' }))).toMatchObject({
      kind: 'usage',
      message: expect.stringMatching(/over\.qed: there is no such overlay/),
    });
    expect(failure(() => overlay(below, { place: path('none/over.qed') })).kind).toBe('usage');
    const long = path(`${'n'.repeat(300)}.qed`);
    expect(failure(() => overlay(below, { place: long })).kind).toBe('io');
    // It fails when all is written and the name is given.
    const file = { head: new Uint8Array(10), size: 20 };
    expect(failure(() => createFile(long, 0o600, file)).message).toMatch(/cannot be created: ENAMETOOLONG/);
    expect(readdirSync(folder)).toEqual(['base.raw']);
  });

  test('what somebody else made in the meantime stays', () => {
    raw();
    const before = readFileSync(path('base.raw'));
    createFile(path('base.raw'), 0o600, { head: new Uint8Array(10), size: 20 });
    expect(readFileSync(path('base.raw'))).toEqual(before);
    expect(readdirSync(folder)).toEqual(['base.raw']);
  });

  test('a path longer than the format can record', () => {
    const deep = join(...Array<string>(5).fill('d'.repeat(210)));
    mkdirSync(path(deep), { recursive: true });
    raw(join(deep, 'base.raw'));
    const below = base(join(deep, 'base.raw'));
    expect(failure(() => overlay(below)).message).toMatch(/name of 1\d{3} bytes: expected 1 to 1023/);
    expect(readdirSync(folder)).toEqual(['d'.repeat(210)]);
    // In the same directory the name is enough.
    overlay(below, { place: join(dirname(below.path), 'over.qed') });
  });
});

describe('an overlay that is there', () => {
  test('is used again, also where both were moved, and read-only', () => {
    raw();
    overlay(base());
    close();
    const before = readFileSync(path('over.qed'));
    expect(overlay(base()).readOnly).toBeUndefined();
    close();
    mkdirSync(path('new'));
    renameSync(path('base.raw'), path('new/base.raw'));
    renameSync(path('over.qed'), path('new/over.qed'));
    const found = overlay(base('new/base.raw'), { place: path('new/over.qed'), access: 'read' });
    expect([found.readOnly, found.layer.source.writable, notices]).toEqual([undefined, false, []]);
    expect(readFileSync(path('new/over.qed'))).toEqual(before);
  });

  test('raw and QED: refused when the file was changed, with both states', () => {
    raw();
    writeFileSync(path('base.qed'), qedBytes({ clusterSize: 4096, tableSize: 2, imageSize: 65536 }));
    for (const [name, place] of [
      ['base.raw', path('over-raw.qed')],
      ['base.qed', path('over-qed.qed')],
    ] as const) {
      overlay(base(name), { place });
      close();
      const old = statSync(path(name)).mtime.toISOString().slice(0, 19);
      utimesSync(path(name), new Date(), new Date('2001-02-03T04:05:06Z'));
      const problem = failure(() => overlay(base(name), { place }));
      expect(problem.kind).toBe('mismatched');
      expect(problem.message).toContain(`changed ${old}`);
      expect(problem.message).toContain('changed 2001-02-03T04:05:06.000000000Z');
      expect(problem.message).toMatch(/made for one with format (raw|qed), virtual size \d+, file size \d+/);
    }
  });

  test('another image is refused; of another format, of another size', () => {
    raw();
    vdi('base.vdi', 1);
    raw('long.raw', 100_512);
    overlay(base());
    close();
    expect(failure(() => overlay(base('base.vdi'))).message).toMatch(/wants a raw file.*is a vdi image/);
    expect(failure(() => overlay(base('long.raw'))).message).toMatch(/size 100000, .* size 100512, /);
  });

  test('VDI goes by its UUIDs, wherever the file came from', () => {
    vdi('base.vdi', 1);
    overlay(base('base.vdi'));
    close();
    copyFileSync(path('base.vdi'), path('copy.vdi'));
    utimesSync(path('copy.vdi'), new Date(), new Date('2001-02-03T04:05:06Z'));
    expect(overlay(base('copy.vdi')).readOnly).toBeUndefined();
    close();
    vdi('base.vdi', 2);
    const problem = failure(() => overlay(base('base.vdi')));
    expect(problem.message).toMatch(/uuid-modify 01010101-.*uuid-modify 02020202-/);
  });

  test('of a changed image: read-only where the user insists', () => {
    raw();
    overlay(base());
    close();
    utimesSync(path('base.raw'), new Date(), new Date('2001-02-03T04:05:06Z'));
    expect(overlay(base(), { force: true }).readOnly).toMatch(/before it was changed/);
    expect(notices).toEqual([expect.stringMatching(/over\.qed: is not an overlay of .* as it is now/)]);
  });

  test('the image itself, or a parent of it, by any name', () => {
    raw();
    writeFileSync(path('base.qed'), qedBytes({ clusterSize: 4096, tableSize: 2, imageSize: 65536 }));
    linkSync(path('base.qed'), path('linked.qed'));
    const below = base('base.qed');
    for (const place of [path('base.qed'), path('linked.qed')]) {
      expect(failure(() => overlay(below, { place }))).toMatchObject({
        kind: 'usage',
        message: expect.stringMatching(/is .*base\.qed, which is to stay as it is/),
      });
    }
    expect(failure(() => overlay(base(), { place: path('base.qed') }, [below])).kind).toBe('usage');
  });

  test('what is no overlay: an image that stands alone, a file of another format', () => {
    raw();
    writeFileSync(path('alone.qed'), qedBytes({ clusterSize: 4096, tableSize: 2, imageSize: 65536 }));
    vdi('x.vdi', 1);
    const below = base();
    const alone = failure(() => overlay(below, { place: path('alone.qed') }));
    expect([alone.kind, alone.message]).toEqual(['mismatched', expect.stringMatching(/stands alone/)]);
    expect(failure(() => overlay(below, { place: path('x.vdi') })).message).toMatch(/magic/);
  });
});

describe('an overlay without a record', () => {
  const made = (name: string) => {
    const shape = { clusterSize: 4096, tableSize: 2, imageSize: 100_352 };
    writeFileSync(path('over.qed'), qedBytes(withBacking(shape, name, true)));
  };

  test('is used where its backing file is the image, with a word', () => {
    raw();
    for (const name of ['base.raw', path('base.raw'), `../${basename(folder)}/base.raw`]) {
      made(name);
      expect(overlay(base()).readOnly).toBeUndefined();
      close();
    }
    expect(notices).toHaveLength(3);
    expect(notices[0]).toMatch(/over\.qed: does not record .* its backing file is this one/);
  });

  test('is refused where it is not', () => {
    raw();
    raw('other.raw');
    made('other.raw');
    expect(failure(() => overlay(base())).message).toMatch(/is an overlay of other\.raw, not of .*base\.raw/);
    made('gone.raw');
    expect(failure(() => overlay(base())).kind).toBe('mismatched');
  });

  test('nor is the record believed where the name was changed since', () => {
    raw();
    overlay(base());
    close();
    raw('other.raw');
    const bytes = readFileSync(path('over.qed'));
    const header = qedHeader.decode(bytes);
    qedHeader.encode({ ...header, backingFilenameSize: 9 }, bytes);
    bytes.write('other.raw', header.backingFilenameOffset);
    writeFileSync(path('over.qed'), bytes);
    expect(failure(() => overlay(base())).message).toMatch(/is an overlay of other\.raw/);
    expect(overlay(base('other.raw')).readOnly).toBeUndefined();
  });

  test('a record that is damaged, of a later version, or makes no sense', () => {
    raw();
    overlay(base());
    close();
    const whole = readFileSync(path('over.qed'));
    for (const [at, value, text] of [
      [2048 + 8, 9, /version 9, known is 1/],
      [2048 + 13, 99, /has \d+ bytes, there is room/],
      [2048 + 40, 0, /record of the image is damaged: checksum/],
    ] as const) {
      const bytes = Buffer.from(whole);
      bytes[at] = value;
      writeFileSync(path('over.qed'), bytes);
      expect(failure(() => overlay(base()))).toMatchObject({
        kind: 'corrupt',
        message: expect.stringMatching(text),
      });
    }
  });
});

test('an overlay that QEMU enlarged is shown whole', () => {
  raw();
  overlay(base());
  close();
  const bytes = readFileSync(path('over.qed'));
  qedHeader.encode({ ...qedHeader.decode(bytes), imageSize: 204_800n }, bytes);
  writeFileSync(path('over.qed'), bytes);
  const below = base();
  expect(sizeWithOverlay(below, overlay(below).layer)).toBe(204_800);
});

test('a temporary one has no name', () => {
  raw();
  const directory = process.env['TMPDIR'];
  try {
    process.env['TMPDIR'] = path('tmp');
    const below = base();
    expect(failure(() => overlay(below, { place: TEMPORARY })).message).toMatch(/temporary file in .*tmp/);
    mkdirSync(path('tmp'));
    const { layer, readOnly } = overlay(below, { place: TEMPORARY });
    expect([layer.image.virtualSize, layer.source.writable, readOnly]).toEqual([100_352, true, undefined]);
    expect(layer.source.setSize(layer.source.size + 4096)).toBe(0);
    expect(readdirSync(path('tmp'))).toEqual([]);
    expect(failure(() => overlay(below, { place: TEMPORARY, access: 'read' })).kind).toBe('usage');
  } finally {
    if (directory === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = directory;
  }
});
