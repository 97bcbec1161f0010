/** What can be wrong with a VHD (formats/vhd.md 6 and 9). */

import {
  dynamicDisk,
  encodeDynamic,
  encodeFixed,
  type VhdBlockSpec,
  type VhdDynamicSpec,
} from '../support/encoders/vhd-image.ts';
import { random, randomBytes } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import type { Corruption, CorruptionTable, DamagedImage } from './corruption.ts';

const BLOCK = 4096;
const PLACE = BLOCK + 512;
const next = random(41);
const block = () => ({ data: randomBytes(next, BLOCK) });
const blocks = new Map<number, VhdBlockSpec>([0, 2, 3, 1].map((n) => [n, block()]));
const spec: VhdDynamicSpec = { size: 6 * BLOCK, blockSize: BLOCK, blocks };
const disk = dynamicDisk(spec);
/** Where the header and the table are in what the encoder makes. */
const HEADER = 512;
const TABLE = 1536;
/** Blocks 0, 2, 3 and 1, in this order. */
const FIRST = 2048;
const UNALLOCATED = 0xffffffff;

const tapdisk = { creator: 'tap\0', creatorVersion: 0x10003 };
const mapped: VhdDynamicSpec = { ...spec, footer: tapdisk, batmap: { version: 0x10002, blocks: [0, 2] } };
/** The batmap follows the table, and its map a sector later. */
const BATMAP = 2048;

const beneath = randomBytes(next, 6 * BLOCK);
const parent: SampleImage = { name: 'parent', format: 'raw', file: beneath, disk: beneath };
const path = new Uint8Array(Buffer.from('.\\parent.img', 'utf16le'));
const some = { ...block(), sectors: (sector: number) => sector < 5 };
const childSpec: VhdDynamicSpec = {
  ...spec,
  blocks: new Map([
    [0, block()],
    [3, some],
  ]),
  parent: { uuid: new Uint8Array(16), name: 'parent.img', locators: [{ code: 'W2ru', data: path }] },
};
const childDisk = dynamicDisk(childSpec, true, beneath);
/** Behind the table is the locator's sector. */
const CHILD_FIRST = 2560;

/** The checksum of footer (at 64) or header (at 36), as it should be. */
function seal(file: Uint8Array, at: number, length: number, checksumAt: number): void {
  const view = new DataView(file.buffer);
  view.setUint32(at + checksumAt, 0);
  const sum = file.subarray(at, at + length).reduce((all, byte) => all + byte, 0);
  view.setUint32(at + checksumAt, ~sum >>> 0);
}

type Patch = (view: DataView, file: Uint8Array) => void;

function made(of: VhdDynamicSpec, patch: Patch): Uint8Array {
  const { file } = encodeDynamic(of);
  patch(new DataView(file.buffer), file);
  return file;
}

const dynamic = (change: Partial<VhdDynamicSpec>, patch: Patch = () => {}): DamagedImage => ({
  file: made({ ...spec, ...change }, patch),
  disk,
});

/** Its disk cannot be read as a whole, or not opened. */
const closed = (of: VhdDynamicSpec, patch: Patch): DamagedImage => ({ file: made(of, patch) });

const child = (patch: Patch): DamagedImage => ({ file: made(childSpec, patch), parent });

const fixed = (file: Uint8Array): DamagedImage => ({ file, disk: disk });

function without(from: Uint8Array, ...which: number[]): Uint8Array {
  const left = from.slice();
  for (const n of which) left.fill(0, n * BLOCK, (n + 1) * BLOCK);
  return left;
}

const inHeader =
  (put: (view: DataView) => void): Patch =>
  (view, file) => {
    put(view);
    seal(file, HEADER, 1024, 36);
  };

const entry =
  (n: number, sector: number): Patch =>
  (view) =>
    view.setUint32(TABLE + n * 4, sector);

/** What a disk reads as whose block 1 overlaps block 2, two sectors behind its start: its bitmap is block 2's data. */
function overlapping(): DamagedImage {
  const at = FIRST + PLACE;
  const file = made(spec, (view, bytes) => {
    view.setUint32(TABLE + 4, at / 512 + 2);
    bytes.fill(0xff, at + 1024, at + 1536);
  });
  const shown = disk.slice();
  shown.set(file.subarray(at + 512, at + PLACE), 2 * BLOCK);
  shown.set(file.subarray(at + 1536, at + 1536 + BLOCK), BLOCK);
  return { file, disk: shown };
}

function zerosBehind(file: Uint8Array, count: number): Uint8Array {
  const longer = new Uint8Array(file.length + count);
  longer.set(file);
  return longer;
}

const lossless = (
  name: string,
  make: () => DamagedImage,
  as: Corruption['found']['as'],
  text: RegExp,
  mended?: Uint8Array,
): Corruption => ({
  name,
  make,
  found: { as, text },
  mendedBy: 'lossless',
  ...(mended === undefined ? {} : { mended }),
});

const footers: readonly Corruption[] = [
  lossless(
    'footer and its copy differ',
    () => dynamic({ head: { uuid: new Uint8Array(16) } }),
    'warning',
    /the same as the copy/,
  ),
  lossless('no footer at the end', () => dynamic({ tail: 'none' }), 'warning', /the copy at 0x0 is used/),
  lossless(
    'no copy of the footer',
    () => dynamic({ head: null }),
    'warning',
    /the footer at the end is used/,
  ),
  lossless(
    'footer at the end with a bad checksum',
    () => dynamic({}, (view, file) => view.setUint8(file.length - 400, 1)),
    'warning',
    /checksum is .*; the copy at 0x0 is used/,
  ),
  lossless(
    'copy of the footer with a bad checksum',
    () => dynamic({}, (view) => view.setUint8(112, 1)),
    'warning',
    /checksum is .*; the footer at the end is used/,
  ),
  lossless(
    'both footers with a bad checksum',
    () =>
      closed(spec, (view, file) => {
        view.setUint8(112, 1);
        view.setUint8(file.length - 400, 1);
      }),
    'refused',
    /VHD footer at .*checksum is/,
    disk,
  ),
  lossless(
    'fixed, footer with a bad checksum',
    () => {
      const file = encodeFixed(disk);
      file[file.length - 400] = 1;
      return { file };
    },
    'refused',
    /checksum is/,
    disk,
  ),
  lossless(
    'fixed, zeros behind the footer: the power failed while it grew',
    () => ({ file: zerosBehind(encodeFixed(disk), 5120) }),
    'refused',
    /expected the cookie "conectix"/,
    disk,
  ),
  lossless(
    'fixed, current size beyond the file',
    () => fixed(encodeFixed(disk, { currentSize: 1 << 30 })),
    'warning',
    /is said to have 1073741824 bytes/,
  ),
  lossless(
    'features',
    () => dynamic({ footer: { features: 0x14 } }),
    'warning',
    /features are 0x14, expected/,
  ),
  lossless('fixed, features', () => fixed(encodeFixed(disk, { features: 0 })), 'warning', /features are 0x0/),
  lossless(
    'geometry above the current size',
    () => dynamic({ footer: { geometry: [99, 4, 17] } }),
    'warning',
    /the geometry says 3446784 bytes/,
  ),
  lossless(
    'time in the future',
    () => dynamic({ footer: { timestamp: 0xf0000000 } }),
    'warning',
    /is in the future/,
  ),
  {
    name: 'saved state',
    make: () => dynamic({ footer: { savedState: 1 } }),
    found: { as: 'warning', text: /suspended with this disk/ },
    mendedBy: 'all',
  },
  {
    name: 'version of the footer',
    make: () => dynamic({ footer: { version: 0x20000 } }),
    found: { as: 'warning', text: /version is 0x20000/ },
    mendedBy: 'never',
  },
  {
    name: 'poisoned by tapdisk',
    make: () => ({ file: encodeFixed(disk, { cookie: 'v_poison' }) }),
    found: { as: 'refused', text: /v_poison/ },
    mendedBy: 'never',
  },
  {
    name: 'no footer anywhere',
    make: () => ({ file: made({ ...spec, head: null, tail: 'none' }, () => {}) }),
    found: { as: 'refused', text: /expected the cookie/ },
    mendedBy: 'never',
  },
];

const headers: readonly Corruption[] = [
  lossless(
    'checksum of the dynamic header',
    () => dynamic({}, (view) => view.setUint32(HEADER + 36, 1)),
    'warning',
    /dynamic header at 0x200: checksum is 0x1/,
  ),
  lossless(
    'more table entries than there is room for',
    () =>
      dynamic(
        {},
        inHeader((view) => view.setUint32(HEADER + 28, 1 << 20)),
      ),
    'warning',
    /its 1048576 entries do not fit/,
  ),
  lossless(
    'table that does not start at a sector',
    () =>
      dynamic({}, (view, file) => {
        file.copyWithin(TABLE + 64, TABLE, TABLE + 24);
        view.setBigUint64(HEADER + 16, BigInt(TABLE + 64));
        seal(file, HEADER, 1024, 36);
      }),
    'warning',
    /at 0x640 does not start at a sector/,
  ),
  {
    name: 'version of the dynamic header',
    make: () => dynamic({ headerVersion: 0x20000 }),
    found: { as: 'warning', text: /version is 0x20000/ },
    mendedBy: 'never',
  },
  {
    name: 'no dynamic header',
    make: () => ({ file: made({ ...spec, headerCookie: 'cxnothin' }, () => {}) }),
    found: { as: 'refused', text: /expected the cookie "cxsparse"/ },
    mendedBy: 'never',
  },
  {
    name: 'table too small for the disk',
    make: () => ({ file: made({ ...spec, maxEntries: 5 }, () => {}) }),
    found: { as: 'refused', text: /5 table entries map/ },
    mendedBy: 'never',
  },
  lossless(
    'parent locator outside the file',
    () => ({
      ...child(inHeader((view) => view.setBigUint64(HEADER + 576 + 16, 1n << 40n))),
      disk: childDisk,
    }),
    'warning',
    /parent locator 1 .* not inside the file/,
  ),
  lossless(
    'locator of an image without a parent, outside the file',
    () =>
      dynamic(
        {},
        inHeader((view) => {
          view.setUint32(HEADER + 576, 0x57327275);
          view.setUint32(HEADER + 576 + 4, 512);
          view.setUint32(HEADER + 576 + 8, 100);
          view.setBigUint64(HEADER + 576 + 16, 60_000n);
        }),
      ),
    'warning',
    /parent locator 1 .* not inside the file/,
  ),
  lossless(
    'parent locator in a block',
    () => ({
      ...child(inHeader((view) => view.setBigUint64(HEADER + 576 + 16, BigInt(CHILD_FIRST + 512)))),
      disk: childDisk,
    }),
    'error',
    /its data at 0xc00 is in the block at sector 0x5/,
  ),
];

const tables: readonly Corruption[] = [
  {
    name: 'BAT entry in the metadata',
    make: () => closed(spec, entry(0, 2)),
    found: { as: 'error', text: /block 0: .*says sector 0x2, where the image's metadata is/ },
    mendedBy: 'all',
    mended: without(disk, 0),
    lostBytes: BLOCK,
  },
  {
    name: 'BAT entry behind the end of the file',
    make: () => closed(spec, entry(5, 9999)),
    found: { as: 'error', text: /block 5: .*expected it to end before/ },
    mendedBy: 'all',
    mended: disk,
    lostBytes: BLOCK,
  },
  {
    name: 'BAT entry in the metadata, of a child',
    make: () => child(entry(0, 1)),
    found: { as: 'error', text: /block 0: .*says sector 0x1, where/ },
    mendedBy: 'all',
    mended: without(childDisk, 0),
    lostBytes: BLOCK,
  },
  {
    name: 'BAT entry behind the end of the file, of a child',
    make: () => child(entry(5, 9999)),
    found: { as: 'error', text: /block 5: .*expected it to end before/ },
    mendedBy: 'all',
    mended: without(childDisk, 5),
    lostBytes: BLOCK,
  },
  {
    name: 'block that reaches over the footer',
    make: () => {
      // The last block in the file is cut in the middle, and the footer stands there.
      const whole = encodeDynamic(spec).file;
      const at = FIRST + 3 * PLACE + 512 + 1024;
      const file = new Uint8Array(at + 512);
      file.set(whole.subarray(0, at));
      file.set(whole.subarray(-512), at);
      return { file };
    },
    found: { as: 'error', text: /block 1: .*expected it to end before/ },
    mendedBy: 'all',
    mended: disk.slice().fill(0, BLOCK + 1024, 2 * BLOCK),
    lostBytes: BLOCK - 1024,
  },
  {
    name: 'last block cut off with the file',
    make: () => ({ file: encodeDynamic({ ...spec, tail: 'none' }).file.subarray(0, -1024) }),
    found: { as: 'error', text: /block 1: its data at .* is cut off, 1024 bytes/ },
    mendedBy: 'all',
    mended: disk.slice().fill(0, 2 * BLOCK - 1024, 2 * BLOCK),
    lostBytes: 1024,
  },
  {
    name: 'BAT entries right behind the end of the file, of a child',
    make: () => {
      // As the file grows for one of them, there would be room where the others say that they are.
      const end = encodeDynamic(childSpec).file.length / 512 - 1;
      return child((view, file) => [1, 2, 4, 5].forEach((n) => void entry(n, end + (5 - n) * 9)(view, file)));
    },
    found: { as: 'error', text: /block 5: .*expected it to end before/ },
    mendedBy: 'all',
    mended: without(childDisk, 1, 2, 4, 5),
    lostBytes: 4 * BLOCK,
  },
  {
    name: 'block that reaches over the footer, another behind it, of a child whose table does not start at a sector',
    make: () => {
      const whole = encodeDynamic(childSpec).file;
      const at = CHILD_FIRST + PLACE + 512 + 1024;
      const file = new Uint8Array(at + 512);
      file.set(whole.subarray(0, at));
      file.set(whole.subarray(-512), at);
      const view = new DataView(file.buffer);
      entry(5, at / 512 + 1)(view, file);
      file.copyWithin(TABLE + 64, TABLE, TABLE + 24);
      view.setBigUint64(HEADER + 16, BigInt(TABLE + 64));
      seal(file, HEADER, 1024, 36);
      return { file, parent };
    },
    found: { as: 'error', text: /block 3: .*expected it to end before/ },
    mendedBy: 'all',
    mended: without(childDisk.slice().fill(0, 3 * BLOCK + 1024, 3 * BLOCK + 5 * 512), 5),
    lostBytes: BLOCK - 1024 + BLOCK,
  },
  {
    name: 'two BAT entries name one block, another names what is right behind the end of the file',
    make: () => {
      const end = encodeDynamic(spec).file.length / 512 - 1;
      return closed(spec, (view, file) => {
        entry(4, FIRST / 512)(view, file);
        entry(5, end)(view, file);
      });
    },
    found: { as: 'error', text: /block 5: .*expected it to end before/ },
    mendedBy: 'all',
    mended: disk.slice().copyWithin(4 * BLOCK, 0, BLOCK),
    lostBytes: BLOCK,
  },
  lossless(
    'two BAT entries name one block',
    () => {
      const shown = disk.slice();
      shown.copyWithin(4 * BLOCK, 0, BLOCK);
      return { ...dynamic({}, entry(4, FIRST / 512)), disk: shown };
    },
    'error',
    /two table entries say sector 0x4/,
  ),
  lossless('blocks overlap', overlapping, 'error', /the blocks at sectors 0xd and 0xf overlap/),
  lossless(
    'batmap calls a block full that is not there',
    () => dynamic({ ...mapped, batmap: { version: 0x10002, blocks: [0, 4] } }),
    'error',
    /block 4: the batmap calls it full, it is not allocated/,
  ),
  lossless(
    'batmap calls a block full whose bitmap has clear bits',
    () => {
      const half = new Map(blocks);
      half.set(2, { ...blocks.get(2)!, sectors: (sector: number) => sector < 4 });
      return dynamic({ ...mapped, blocks: half });
    },
    'error',
    /block 2: the batmap calls it full, its bitmap at .* does not/,
  ),
  lossless(
    'checksum of the batmap',
    () => dynamic(mapped, (view) => view.setUint8(BATMAP + 512, 0xff)),
    'warning',
    /batmap at 0x800: checksum/,
  ),
  {
    name: 'data under clear bits',
    make: () => {
      const half = new Map(blocks);
      half.set(2, { ...blocks.get(2)!, sectors: (sector: number) => sector !== 3 });
      const shown = disk.slice().fill(0, 2 * BLOCK + 3 * 512, 2 * BLOCK + 4 * 512);
      return { ...dynamic({ blocks: half }), disk: shown };
    },
    found: { as: 'warning', text: /block 2: the sector at .* is not set in the bitmap/ },
    mendedBy: 'all',
  },
];

const leak = (name: string, make: () => DamagedImage, text: RegExp): Corruption => ({
  name,
  make,
  found: { as: 'leak', text },
  mendedBy: 'leaks',
});

const leaks: readonly Corruption[] = [
  leak(
    'block that no entry names',
    () => ({ ...dynamic({}, entry(2, UNALLOCATED)), disk: without(disk, 2) }),
    /4608 bytes at 0x1a00 are not used/,
  ),
  leak(
    'garbage before the footer',
    () => {
      const { file } = encodeDynamic(spec);
      const longer = new Uint8Array(file.length + 8192);
      longer.set(file.subarray(0, -512));
      longer.fill(0xab, file.length - 512, longer.length - 512);
      longer.set(file.subarray(-512), longer.length - 512);
      return { file: longer, disk };
    },
    /8192 bytes at .* are not used/,
  ),
  leak(
    'fixed, bytes between the disk and its footer',
    () => ({ file: encodeFixed(disk, { currentSize: 4 * BLOCK }), disk: disk.slice(0, 4 * BLOCK) }),
    /8192 bytes between the disk and its footer/,
  ),
];

export const vhdCorruptions: CorruptionTable = {
  format: 'vhd',
  corruptions: [...footers, ...headers, ...tables, ...leaks],
};
