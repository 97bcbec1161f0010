/** Differencing images with their parents, as far down as they go. */

import { type Random, randomBytes } from '../random.ts';
import type { SampleImage } from '../sample.ts';
import { someBlocks } from './vhd-blocks.ts';
import {
  dynamicDisk,
  encodeDynamic,
  encodeFixed,
  type VhdBlockSpec,
  type VhdDynamicSpec,
  type VhdLocatorSpec,
} from './vhd-image.ts';

const KIB = 1024;

/** The unique id of the image at this depth. */
export const idOf = (depth: number): Uint8Array => new Uint8Array(16).fill(0xb0 + depth);
const RAW_ID = new Uint8Array(16);

const wide = (text: string) => new Uint8Array(Buffer.from(text, 'utf16le'));

/** The two locators that Hyper-V wants, with the spaces that VirtualBox gives them. */
export const windowsLocators = (name: string): VhdLocatorSpec[] => [
  { code: 'W2ku', data: wide(`C:\\vm\\${name}`) },
  { code: 'W2ru', data: wide(`.\\${name}`) },
];

/** A child of `parent` at `depth`, whose parent has the id of the depth below unless another is given. */
function child(
  name: string,
  spec: Omit<VhdDynamicSpec, 'parent'>,
  parent: SampleImage,
  depth: number,
  link: Partial<NonNullable<VhdDynamicSpec['parent']>> = {},
  options?: SampleImage['options'],
): SampleImage {
  const beneath = 'parent.vhd';
  const full: VhdDynamicSpec = {
    ...spec,
    footer: { ...spec.footer, uuid: idOf(depth) },
    parent: { uuid: idOf(depth - 1), name: beneath, locators: windowsLocators(beneath), ...link },
  };
  const { file } = encodeDynamic(full);
  const sample: SampleImage = {
    name: `differencing, ${name}`,
    format: 'vhd',
    file,
    disk: dynamicDisk(full, true, parent.disk),
    parent,
  };
  return options === undefined ? sample : { ...sample, options };
}

/** Whole bitmaps, empty ones, and some. */
const blocks = (next: Random, size: number, blockSize: number) => ({
  size,
  blockSize,
  blocks: someBlocks(next, size, blockSize),
});

/** Chains of two and three, each image with a block size and a disk size of its own. */
export function chains(next: Random): SampleImage[] {
  const identity = { footer: { uuid: idOf(0) } };
  const spec = { ...blocks(next, 240 * KIB, 16 * KIB), ...identity };
  const base: SampleImage = {
    name: 'base',
    format: 'vhd',
    file: encodeDynamic(spec).file,
    disk: dynamicDisk(spec),
  };
  const data = randomBytes(next, 150 * KIB);
  const fixed: SampleImage = {
    name: 'fixed base',
    format: 'vhd',
    file: encodeFixed(data, identity.footer),
    disk: data,
  };
  const raw: SampleImage = { name: 'raw base', format: 'raw', file: data, disk: data };
  const middle = child('middle', blocks(next, 320 * KIB, 4 * KIB), base, 1);
  const fine = child('middle', blocks(next, 200 * KIB, 512), fixed, 1);
  const tapdisk = { creator: 'tap\0', creatorVersion: 0x10003 };
  const overRaw = blocks(next, 150 * KIB, 64 * KIB);
  const whole = [...overRaw.blocks].filter(([, b]) => b.sectors === undefined).map(([block]) => block);
  const empty: VhdBlockSpec = { data: randomBytes(next, 32 * KIB), sectors: () => false };
  return [
    child('chain of three, 32 KiB blocks', blocks(next, 320 * KIB, 32 * KIB), middle, 2),
    child(
      'chain of three, nothing allocated',
      { ...blocks(next, 200 * KIB, 16 * KIB), blocks: new Map() },
      fine,
      2,
    ),
    child('chain of three, longer, 512-byte blocks', blocks(next, 220 * KIB, 512), fine, 2),
    child('shorter than its parent, not a whole sector', blocks(next, 100 * KIB - 300, 8 * KIB), middle, 2),
    child('longer than its parent, 2 MiB blocks', blocks(next, 3000 * KIB, 2048 * KIB), fixed, 1),
    child(
      'empty bitmaps, no footer at the end',
      {
        size: 96 * KIB,
        blockSize: 32 * KIB,
        blocks: new Map([
          [1, empty],
          [0, empty],
        ]),
        tail: 'none',
      },
      fixed,
      1,
    ),
    child(
      'tapdisk over a raw image, batmap',
      { ...overRaw, align: 4096, footer: tapdisk, batmap: { version: 0x10002, blocks: whole } },
      raw,
      1,
      { uuid: RAW_ID, name: 'base.img', locators: [] },
    ),
    child(
      'tapdisk 0.1, bits and name in the other order, option to ignore bitmaps',
      { ...blocks(next, 130 * KIB, 16 * KIB), bits: 'lsb', footer: { creator: 'tap\0', creatorVersion: 1 } },
      fixed,
      1,
      { hostOrder: true },
      { 'vhd-bitmap': 'ignore' },
    ),
  ];
}
