/** Small valid VHDs of every kind, with what they must read as. */

import { type Random, random, randomBytes } from '../random.ts';
import type { SampleImage } from '../sample.ts';
import { someBlocks } from './vhd-blocks.ts';
import { chains } from './vhd-chains.ts';
import { dynamicDisk, encodeDynamic, encodeFixed, type VhdDynamicSpec, vhdFooter } from './vhd-image.ts';

const KIB = 1024;

type Options = Readonly<Record<string, string>>;

function fixedSample(name: string, file: Uint8Array, disk: Uint8Array, options?: Options): SampleImage {
  const sample = { name: `fixed, ${name}`, format: 'vhd' as const, file, disk };
  return options === undefined ? sample : { ...sample, options };
}

function dynamicSample(name: string, spec: VhdDynamicSpec, options?: Options): SampleImage {
  const { file } = encodeDynamic(spec);
  const disk = dynamicDisk(spec, options?.['vhd-bitmap'] !== 'ignore');
  const sample = { name: `dynamic, ${name}`, format: 'vhd' as const, file, disk };
  return options === undefined ? sample : { ...sample, options };
}

function fixedSamples(next: Random): SampleImage[] {
  const data = randomBytes(next, 100 * KIB);
  const nested = data.slice();
  const inner = encodeDynamic({ size: 64 * KIB, blockSize: 64 * KIB, blocks: new Map() }).file;
  nested.set(inner);
  const fixedHead = data.slice();
  fixedHead.set(vhdFooter(512, 0xffffffffffffffffn, 2));
  // 3 × 4 × 17 sectors are 204, more than the 200 of the data; 2 × 4 × 17 are 136, fewer.
  const above = { geometry: [3, 4, 17] as const };
  const below = { geometry: [2, 4, 17] as const };
  const cut = data.subarray(0, 136 * 512);
  const odd = randomBytes(next, 1000);
  const tapdisk = { creator: 'tap\0', creatorVersion: 0x10001 };
  return [
    fixedSample('largest geometry', encodeFixed(data), data),
    fixedSample('511-byte footer', encodeFixed(data, {}, true), data),
    fixedSample('guest data that looks like a dynamic VHD', encodeFixed(nested), nested),
    fixedSample('guest data that looks like a footer copy', encodeFixed(fixedHead), fixedHead),
    fixedSample('qemu, geometry rounded up', encodeFixed(data, { ...above, creator: 'qemu' }), data),
    fixedSample('option chs, geometry rounded up', encodeFixed(data, above), data, { 'vhd-size': 'chs' }),
    fixedSample('Virtual PC, geometry rounded down', encodeFixed(data, { ...below, creator: 'vpc ' }), cut),
    fixedSample('Hyper-V, geometry rounded down', encodeFixed(data, below), data),
    fixedSample('option chs', encodeFixed(data, below), cut, { 'vhd-size': 'chs' }),
    fixedSample('option current-size', encodeFixed(data, { ...below, creator: 'qemu' }), data, {
      'vhd-size': 'current-size',
    }),
    fixedSample('current size beyond the file', encodeFixed(data, { currentSize: 1 << 30 }), data),
    fixedSample('no geometry', encodeFixed(data, { geometry: [0, 0, 0], creator: 'vpc ' }), data),
    fixedSample('not a whole number of sectors', encodeFixed(odd), odd),
    fixedSample('hidden by tapdisk', encodeFixed(data, { ...tapdisk, hidden: 'stale' }), data),
    fixedSample(
      'hidden by tapdisk, checksum mended',
      encodeFixed(data, { ...tapdisk, hidden: 'summed' }),
      data,
    ),
    fixedSample(
      'suspended, temporary, version 1.1',
      encodeFixed(data, { savedState: 1, features: 3, version: 0x10001 }),
      data,
    ),
  ];
}

function dynamicSamples(next: Random): SampleImage[] {
  const samples: SampleImage[] = [];
  for (const [size, blockSize] of [
    [20 * KIB, 512],
    [40 * KIB + 512, 1024],
    [100 * KIB, 4 * KIB],
    [300 * KIB, 8 * KIB],
    [330 * KIB, 16 * KIB],
    [900 * KIB, 64 * KIB],
    [1500 * KIB, 512 * KIB],
    [1024 * KIB, 1024 * KIB],
  ] as const) {
    const blocks = someBlocks(next, size, blockSize);
    samples.push(dynamicSample(`blocks of ${blockSize} bytes`, { size, blockSize, blocks }));
  }
  const size = 320 * KIB;
  const blockSize = 32 * KIB;
  const blocks = someBlocks(next, size, blockSize);
  const base = { size, blockSize, blocks };
  const full = new Map([...blocks].map(([block, { data }]) => [block, { data }]));
  const tapdisk = { creator: 'tap\0', creatorVersion: 0x10003 };
  const big = { size: 2048 * KIB, blockSize: 2048 * KIB, blocks: someBlocks(next, 2048 * KIB, 2048 * KIB) };
  const block0 = { data: randomBytes(next, 8192 - 1024), sectors: (sector: number) => sector !== 3 };
  samples.push(
    dynamicSample('blocks of 2 MiB', big),
    dynamicSample('without blocks', { ...base, blocks: new Map() }),
    dynamicSample('all bitmaps full', { ...base, blocks: full }),
    dynamicSample('bitmaps ignored', base, { 'vhd-bitmap': 'ignore' }),
    dynamicSample('bitmaps honoured', base, { 'vhd-bitmap': 'honour' }),
    dynamicSample('no footer at the end', { ...base, tail: 'none' }),
    dynamicSample('511-byte footer', { ...base, tail: 'short' }),
    dynamicSample('no footer copy at the start', { ...base, head: null }),
    dynamicSample('footer copy of another type', { ...base, head: { type: 2 } }),
    dynamicSample('footers differ', { ...base, head: { uuid: new Uint8Array(16) } }),
    dynamicSample('footer at the end leads nowhere', { ...base, footer: { type: 0 }, head: { type: 3 } }),
    dynamicSample('more table entries than blocks', { ...base, maxEntries: 1000 }),
    dynamicSample('header and table elsewhere', { ...base, headerAt: 4096, tableAt: 1024 }),
    dynamicSample('table after the blocks', { ...base, tableAt: 'end' }),
    dynamicSample('not a whole number of sectors', { ...base, size: size - 700 }),
    dynamicSample('Virtual PC, size by geometry', {
      ...base,
      footer: { creator: 'vpc ', geometry: [40, 4, 4] },
    }),
    dynamicSample('version 1.1 everywhere', {
      ...base,
      headerVersion: 0x10001,
      footer: { version: 0x10001 },
    }),
    dynamicSample('tapdisk, aligned, batmap', {
      ...base,
      align: 4096,
      footer: tapdisk,
      batmap: {
        version: 0x10002,
        blocks: [...blocks].filter(([, b]) => b.sectors === undefined).map(([n]) => n),
      },
    }),
    dynamicSample('tapdisk 1.1, batmap summed as signed bytes', {
      ...base,
      blocks: full,
      footer: { creator: 'tap\0', creatorVersion: 0x10001, hidden: 'stale' },
      batmap: { version: 0x10001, blocks: [...full.keys()] },
    }),
    dynamicSample('tapdisk 0.1, bits in the other order', {
      ...base,
      bits: 'lsb',
      footer: { creator: 'tap\0', creatorVersion: 1 },
    }),
    dynamicSample('blocks of 256 MiB, the only one cut off', {
      size: 7 * KIB,
      blockSize: 256 * KIB * KIB,
      blocks: new Map([[0, block0]]),
      tail: 'none',
    }),
  );
  return samples;
}

/** The same for the same seed. */
export function samples(seed: number): SampleImage[] {
  const next = random(seed);
  return [...fixedSamples(next), ...dynamicSamples(next), ...chains(next)];
}
