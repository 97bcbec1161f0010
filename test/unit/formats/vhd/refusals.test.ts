import { describe, expect, it } from 'vitest';
import { ImageError } from '../../../../src/base/errors.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import {
  encodeDynamic,
  encodeFixed,
  type VhdBlockSpec,
  type VhdDynamicSpec,
  type VhdFile,
} from '../../../support/encoders/vhd-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { same } from './write-support.ts';

const BLOCK = 64 * 1024;
const data = randomBytes(random(1), BLOCK);
const spec: VhdDynamicSpec = {
  size: 4 * BLOCK,
  blockSize: BLOCK,
  blocks: new Map<number, VhdBlockSpec>([
    [2, { data }],
    [0, { data, sectors: (sector) => sector > 3 }],
  ]),
};

function failure(file: Uint8Array, options: Record<string, string> = {}): ImageError {
  try {
    openDisk(vhdDriver, new MemorySource(file), options);
  } catch (problem) {
    if (problem instanceof ImageError) return problem;
    throw problem;
  }
  throw new Error('expected a refusal');
}

/** The image of `spec` with bytes changed; `mend` fixes the sum of the dynamic header afterwards. */
function patched(change: (view: DataView, image: VhdFile) => void, mend = true, of = spec): Uint8Array {
  const image = encodeDynamic(of);
  const view = new DataView(image.file.buffer);
  change(view, image);
  if (mend) {
    let sum = 0;
    for (let at = 0; at < 1024; at += 1) {
      if (at < 36 || at > 39) sum += image.file[image.headerAt + at]!;
    }
    view.setUint32(image.headerAt + 36, ~sum >>> 0);
  }
  return image.file;
}

const notices = (file: Uint8Array, options: Record<string, string> = {}) =>
  openDisk(vhdDriver, new MemorySource(file), options).notices;

describe('VHD, refused at open', () => {
  it.each([
    ['an empty file', new Uint8Array(0), /expected at least a footer of 512 bytes, found 0 bytes/],
    ['zeros', new Uint8Array(2048), /^VHD footer at 0x600: expected the cookie "conectix", found "\\u0000/],
    ['511 zeros', new Uint8Array(511), /expected the cookie/],
    [
      'a fixed image with a bad checksum',
      encodeFixed(data).fill(7, BLOCK + 200, BLOCK + 201),
      /^VHD footer at 0x10000: checksum is 0xffff[0-9a-f]{4}, computed 0xffff[0-9a-f]{4}$/,
    ],
    [
      'another type',
      encodeFixed(data, { type: 5 }),
      /^VHD footer copy|VHD footer at 0x10000: disk type is 5, expected 2 \(fixed\), 3/,
    ],
    [
      'a size beyond 2^53',
      encodeFixed(data, { currentSize: 1n << 60n }),
      /current size is 1152921504606846976 bytes, expected less/,
    ],
    [
      'only a copy that says fixed',
      encodeDynamic({ ...spec, tail: 'none', head: { type: 2 } }).file,
      /expected the cookie "conectix", found/,
    ],
    [
      'a header place beyond the file',
      patched((view, { footerAt, file }) => {
        view.setBigUint64(footerAt + 16, 1n << 40n);
        file.fill(0, 0, 512);
        resum(view, footerAt);
      }),
      /the dynamic header is said to be at 0x10000000000, expected a place from 0x200/,
    ],
    [
      'another header cookie',
      encodeDynamic({ ...spec, headerCookie: 'cxsparsf' }).file,
      /^VHD dynamic header at 0x200: expected the cookie "cxsparse", found "cxsparsf"$/,
    ],
    [
      'a block size of 0',
      patched((view, i) => view.setUint32(i.headerAt + 32, 0)),
      /block size is 0 bytes, expected a power of two from 512/,
    ],
    [
      'a block size of 256',
      patched((view, i) => view.setUint32(i.headerAt + 32, 256)),
      /block size is 256 bytes/,
    ],
    [
      'a block size of 3 MiB',
      patched((view, i) => view.setUint32(i.headerAt + 32, 3 << 20)),
      /block size is 3145728 bytes/,
    ],
    [
      'a block size of 512 MiB',
      patched((view, i) => view.setUint32(i.headerAt + 32, 512 << 20)),
      /supported are up to 268435456/,
    ],
    [
      'a table place beyond the file',
      patched((view, i) => view.setBigUint64(i.headerAt + 16, 0xffffffff00000000n)),
      /the block allocation table is said to be at 0xffffffff00000000/,
    ],
    [
      'a table on the footer copy',
      patched((view, i) => view.setBigUint64(i.headerAt + 16, 0n)),
      /is said to be at 0x0/,
    ],
    [
      'a table on the header',
      patched((view, i) => view.setBigUint64(i.headerAt + 16, 1024n)),
      /table at 0x400: expected a place of its own, found the dynamic header at 0x200 in it/,
    ],
    [
      'a table across the end',
      patched((view, i) => view.setBigUint64(i.headerAt + 16, BigInt(i.footerAt - 8))),
      /its 4 entries end at 0x[0-9a-f]+, expected an end before 0x/,
    ],
    [
      'a table that is too small',
      patched((view, i) => view.setUint32(i.headerAt + 28, 3)),
      /3 table entries map 196608 bytes, expected at least the 262144 of the disk/,
    ],
    [
      'an encrypted image of tapdisk',
      encodeDynamic({
        ...spec,
        footer: { creator: 'tap\0' },
        batmap: { blocks: [], version: 0x10002, key: true },
      }).file,
      /encrypted with a key/,
    ],
  ] as const)('%s', (_name, file, message) => {
    expect(failure(file).message).toMatch(message);
  });

  it('says so where tapdisk disabled the image, and never for what a guest wrote', () => {
    const poisoned = failure(encodeFixed(data, { cookie: 'v_poison' }));
    expect(poisoned.kind).toBe('unsupported');
    expect(poisoned.message).toMatch(/^VHD footer at 0x10000: cookie is "v_poison"/);
    expect(failure(encodeDynamic({ ...spec, head: { cookie: 'v_poison' } }).file).message).toMatch(
      /copy at 0x0: cookie is/,
    );
    const guest = data.slice();
    guest.set(new TextEncoder().encode('v_poison'));
    expect(same(readDisk(openDisk(vhdDriver, new MemorySource(encodeFixed(guest))).disk), guest)).toBe(true);
  });

  it('rejects values of options that do not exist', () => {
    expect(failure(encodeFixed(data), { 'vhd-size': 'both' }).message).toBe(
      'vhd-size=both: expected one of chs, current-size',
    );
    expect(failure(encodeFixed(data), { 'vhd-bitmap': 'no' }).kind).toBe('usage');
  });

  it('cannot be hurt by any single header byte being 0xff or 0', () => {
    const image = encodeDynamic({
      size: 1024,
      blockSize: 512,
      blocks: new Map([[1, { data: data.slice(0, 512) }]]),
    });
    for (let at = 0; at < 2048; at += 1) {
      if (image.file[at] === 0 && at % 16 !== 15) continue;
      for (const value of [0, 0xff, 0x80]) {
        const file = image.file.slice();
        file[at] = value;
        // The copy at the end decides: spoil it too, so that the changed one is looked at.
        if (at < 512) file.fill(0, file.length - 512);
        try {
          readDisk(openDisk(vhdDriver, new MemorySource(file), {}, 1).disk, 0, 1024);
        } catch (problem) {
          if (!(problem instanceof ImageError)) expect(String(problem)).toMatch(/errno 5/);
        }
      }
    }
  });
});

function resum(view: DataView, at: number): void {
  let sum = 0;
  for (let n = 0; n < 512; n += 1) if (n < 64 || n > 67) sum += view.getUint8(at + n);
  view.setUint32(at + 64, ~sum >>> 0);
}

describe('VHD, opened with a notice', () => {
  const twoByTwo = { geometry: [2, 2, 17] as const };
  it.each([
    [
      'no footer at the end',
      encodeDynamic({ ...spec, tail: 'none' }).file,
      /^VHD footer at 0x[0-9a-f]+: expected the cookie .*; the copy at 0x0 is used$/,
    ],
    [
      'no copy',
      encodeDynamic({ ...spec, head: null }).file,
      /^VHD footer copy at 0x0: expected the cookie .*; the footer at the end is used$/,
    ],
    [
      'a damaged copy',
      patched((view) => view.setUint8(100, 1)),
      /copy at 0x0: checksum is 0x[0-9a-f]{8}, computed 0x[0-9a-f]{8}; the footer at the end is used/,
    ],
    [
      'footers that differ',
      encodeDynamic({ ...spec, head: { timestamp: 1 } }).file,
      /expected the same as the copy at 0x0, found another; the one at the end is used/,
    ],
    [
      'a copy that says fixed',
      encodeDynamic({ ...spec, head: { type: 2 } }).file,
      /expected disk type 3, found 2/,
    ],
    [
      'a bad header checksum',
      patched((view, i) => view.setUint8(i.headerAt + 900, 1), false),
      /^VHD dynamic header at 0x200: checksum is 0x[0-9a-f]+, computed 0x[0-9a-f]+$/,
    ],
    [
      'another header version',
      encodeDynamic({ ...spec, headerVersion: 0x20000 }).file,
      /version is 0x20000, expected 0x10000/,
    ],
    ['another footer version', encodeFixed(data, { version: 3 }), /version is 0x3, expected/],
    [
      'a table that is not at a sector',
      encodeDynamic({ ...spec, tableAt: 1540 }).file,
      /does not start at a sector/,
    ],
    [
      'table entries beyond the file',
      patched((view, i) => view.setUint32(i.headerAt + 28, 0xffffffff)),
      /its 4294967295 entries do not fit; the disk needs 4 of them/,
    ],
    ['a suspended machine', encodeFixed(data, { savedState: 1 }), /suspended/],
    [
      'geometry above the current size',
      encodeFixed(data, { geometry: [4, 16, 63], creator: 'qemu' }),
      /more than the current size of 65536/,
    ],
    [
      'a current size above the file',
      encodeFixed(data, { currentSize: 70000 }),
      /said to have 70000 bytes, the file holds 65536; that is used/,
    ],
    ['no geometry', encodeFixed(data, { geometry: [0, 1, 1], creator: 'qemu' }), /the geometry is empty/],
    [
      'a batmap with a bad checksum',
      patched((view, i) => view.setUint8(i.tableAt + 1024, 0xf0), false, {
        ...spec,
        footer: { creator: 'tap\0' },
        batmap: { blocks: [], version: 0x10002 },
      }),
      /^VHD batmap at 0x800: checksum is .*; it is ignored$/,
    ],
  ] as const)('%s', (_name, file, message) => {
    const found = notices(file);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(message);
  });

  it('clamps the geometry asked for to the table', () => {
    const { file } = encodeDynamic({ ...spec, footer: { geometry: [100, 16, 63] } });
    const { image, notices: found } = openDisk(vhdDriver, new MemorySource(file), { 'vhd-size': 'chs' });
    expect(image.virtualSize).toBe(4 * BLOCK);
    expect(found[0]).toMatch(/the table maps 262144; that is used/);
    expect(image.facts.get('size-rule')).toBe('geometry (option), limited by the table');
  });

  it('is silent about a sound image and about the hidden byte of tapdisk', () => {
    expect(notices(encodeDynamic(spec).file)).toEqual([]);
    expect(notices(encodeFixed(data, twoByTwo))).toEqual([]);
    expect(notices(encodeFixed(data, { creator: 'tap\0', hidden: 'stale' }))).toEqual([]);
    const tapdisk = { ...spec, footer: { creator: 'tap\0' }, head: { hidden: 'stale' as const } };
    expect(notices(encodeDynamic(tapdisk).file)).toEqual([]);
    expect(failure(encodeFixed(data, { creator: 'win ', hidden: 'stale' })).message).toMatch(/checksum/);
  });
});

describe('VHD, damage met while reading', () => {
  /** Block `block` cannot be read, all the others can; returns what was said. */
  function onlyBlockFails(file: Uint8Array, block: number): string[] {
    const { disk, notices: found } = openDisk(vhdDriver, new MemorySource(file));
    expect(found).toEqual([]);
    for (let other = 0; other < 4; other += 1) {
      const read = () => readDisk(disk, other * BLOCK, BLOCK);
      if (other === block) expect(read).toThrow('errno 5');
      else expect(read).not.toThrow();
    }
    expect(found.length).toBeGreaterThan(0);
    return found;
  }

  it.each([
    ['the footer copy', 0],
    ['the header', 1],
    ['the table', 3],
  ])('an entry that points into %s', (_name, sector) => {
    const file = patched((view, i) => view.setUint32(i.tableAt + 4, sector));
    expect(onlyBlockFails(file, 1)[0]).toBe(
      `VHD block 1: its table entry at 0x604 says sector 0x${sector.toString(16)}, where the image's metadata is`,
    );
  });

  it('an entry that points into the batmap', () => {
    const of = { ...spec, footer: { creator: 'tap\0' }, batmap: { blocks: [], version: 0x10002 } };
    expect(
      onlyBlockFails(
        patched((view, i) => view.setUint32(i.tableAt + 4, 5), false, of),
        1,
      )[0],
    ).toMatch(/metadata/);
  });

  it.each([0x1000, 0x1000000, 0xfffffffe])('an entry that points beyond the end, to sector %i', (sector) => {
    const file = patched((view, i) => view.setUint32(i.tableAt + 8, sector));
    expect(onlyBlockFails(file, 2)[0]).toMatch(
      /^VHD block 2: its table entry at 0x608 says sector 0x[0-9a-f]+, expected it to end before 0x[0-9a-f]+$/,
    );
  });

  it('an entry that runs into the footer by one sector', () => {
    // Block 0 is the last in the file.
    const file = patched((view, i) => view.setUint32(i.tableAt, i.places.get(0)! / 512 + 1));
    onlyBlockFails(file, 0);
  });

  it('a last block that is cut off: what is there can be read', () => {
    const { file, places } = encodeDynamic({ ...spec, tail: 'none' });
    const dataAt = places.get(0)! + 512;
    const cut = file.slice(0, dataAt + 10 * 512 + 100);
    const { disk, notices: found } = openDisk(vhdDriver, new MemorySource(cut));
    expect(readDisk(disk, 0, 4 * 512)).toEqual(new Uint8Array(4 * 512));
    expect(same(readDisk(disk, 2048, 6 * 512), data.slice(2048, 10 * 512))).toBe(true);
    expect(same(readDisk(disk, 2 * BLOCK, BLOCK), data)).toBe(true);
    expect(found).toHaveLength(1);
    expect(() => readDisk(disk, 10 * 512, 1)).toThrow('errno 5');
    expect(() => readDisk(disk, 0, BLOCK)).toThrow('errno 5');
    expect(found[1]).toMatch(
      /^VHD block 0: its data at 0x[0-9a-f]+ is cut off, the file ends at 0x[0-9a-f]+$/,
    );
  });

  it('a damaged footer at the end is still no data of the last block', () => {
    const file = patched((view, i) => view.setUint32(i.tableAt, i.places.get(0)! / 512 + 1));
    file[file.length - 100] = 1;
    const { disk } = openDisk(vhdDriver, new MemorySource(file));
    expect(() => readDisk(disk, BLOCK - 512, 512)).toThrow('errno 5');
  });

  it('a bitmap that cannot be read takes no neighbour with it', () => {
    const image = encodeDynamic(spec);
    const bad = image.places.get(2)!;
    class Faulty extends MemorySource {
      override readAt(target: Uint8Array, start: number, length: number, at: number & never): number {
        return at < bad + 512 && at + length > bad ? -5 : super.readAt(target, start, length, at);
      }
    }
    const { disk, notices: found } = openDisk(vhdDriver, new Faulty(image.file));
    expect(same(readDisk(disk, 2048, BLOCK - 2048), data.slice(2048))).toBe(true);
    expect(() => readDisk(disk, 2 * BLOCK, 1)).toThrow('errno 5');
    expect(found).toEqual(['VHD block 2: its sector bitmap cannot be read']);
  });

  it('a table that cannot be read', () => {
    const image = encodeDynamic(spec);
    class Faulty extends MemorySource {
      override readAt(target: Uint8Array, start: number, length: number, at: number & never): number {
        return at === image.tableAt ? -5 : super.readAt(target, start, length, at);
      }
    }
    const { disk, image: opened, notices: found } = openDisk(vhdDriver, new Faulty(image.file));
    expect(() => readDisk(disk, 0, 1)).toThrow('errno 5');
    expect(found).toEqual(['VHD block 0: its table entry cannot be read']);
    expect(() => opened.countAllocated(0 as never, () => {})).toThrow(/cannot be read/);
  });
});
