/**
 * VDI images from a description, independent of the driver: every offset here is written down from the format's
 * facts, so that a wrong declaration in the driver shows.
 */

import { between, type Random, random, randomBytes } from '../random.ts';
import type { SampleImage } from '../sample.ts';

export const FREE = 0xffffffff;
export const ZERO = 0xfffffffe;

export interface VdiDescription {
  /** Physical block number, FREE or ZERO for each block of the disk. */
  readonly map: readonly number[];
  readonly blockSize: number;
  /** Bytes; all blocks of the map by default. */
  readonly diskSize?: number;
  readonly version?: number;
  readonly headerSize?: number;
  readonly type?: number;
  readonly flags?: number;
  readonly text?: string;
  readonly comment?: Uint8Array;
  readonly extra?: number;
  /** Not for 0.2, where both are given by the layout. */
  readonly mapOffset?: number;
  readonly dataOffset?: number;
  /** Entries beyond `map`, as FREE. */
  readonly spareBlocks?: number;
  readonly allocated?: number;
  readonly create?: Uint8Array;
  readonly modify?: Uint8Array;
  readonly linkage?: Uint8Array;
  readonly parentModify?: Uint8Array;
  readonly sectorSize?: number;
  readonly lchs?: readonly [number, number, number, number];
}

export interface EncodedVdi {
  readonly file: Uint8Array;
  readonly disk: Uint8Array;
  /** Host offset of the block map. */
  readonly mapAt: number;
}

const OLD = 0x00000002;
const UUID = Uint8Array.from({ length: 16 }, (_, n) => 0x10 + n);

/** The image and the bytes that its disk holds; blocks are filled with non-zero noise of `next`. */
export function encodeVdi(vdi: VdiDescription, next: Random): EncodedVdi {
  const version = vdi.version ?? 0x00010001;
  const old = version === OLD;
  const headerSize = vdi.headerSize ?? 0x180;
  const blocks = vdi.map.length + (vdi.spareBlocks ?? 0);
  const extra = vdi.extra ?? 0;
  const mapAt = old ? 0x1a4 : (vdi.mapOffset ?? 0x200);
  const dataAt = old ? 0x1a4 + 4 * blocks : (vdi.dataOffset ?? Math.ceil((mapAt + 4 * blocks) / 512) * 512);
  const used = vdi.map.filter((entry) => entry < ZERO);
  const physical = used.reduce((most, entry) => Math.max(most, entry + 1), 0);
  const stride = extra + vdi.blockSize;
  const diskSize = vdi.diskSize ?? vdi.map.length * vdi.blockSize;

  const file = new Uint8Array(dataAt + physical * stride);
  const disk = new Uint8Array(Math.floor(diskSize / 512) * 512);
  const view = new DataView(file.buffer);
  const u32 = (at: number, value: number) => view.setUint32(at, value, true);
  const text = vdi.text ?? '<<< Oracle VM VirtualBox Disk Image >>>\n';
  file.set(new TextEncoder().encode(text).subarray(0, 64), 0);
  u32(0x40, 0xbeda107f);
  u32(0x44, version);

  const create = vdi.create ?? UUID;
  const modify = vdi.modify ?? UUID.slice().reverse();
  const allocated = vdi.allocated ?? physical;
  const comment = (vdi.comment ?? new Uint8Array()).subarray(0, 256);
  if (old) {
    u32(0x48, vdi.type ?? 1);
    u32(0x4c, vdi.flags ?? 0);
    file.set(comment, 0x50);
    u32(0x15c, vdi.sectorSize ?? 512);
    view.setBigUint64(0x160, BigInt(diskSize), true);
    u32(0x168, vdi.blockSize);
    u32(0x16c, blocks);
    u32(0x170, allocated);
    file.set(create, 0x174);
    file.set(modify, 0x184);
    if (vdi.linkage !== undefined) file.set(vdi.linkage, 0x194);
  } else {
    u32(0x48, headerSize);
    u32(0x4c, vdi.type ?? 1);
    u32(0x50, vdi.flags ?? 0);
    file.set(comment, 0x54);
    u32(0x154, mapAt);
    u32(0x158, dataAt);
    u32(0x168, vdi.sectorSize ?? 512);
    view.setBigUint64(0x170, BigInt(diskSize), true);
    u32(0x178, vdi.blockSize);
    u32(0x17c, extra);
    u32(0x180, blocks);
    u32(0x184, allocated);
    file.set(create, 0x188);
    file.set(modify, 0x198);
    if (vdi.linkage !== undefined) file.set(vdi.linkage, 0x1a8);
    if (vdi.parentModify !== undefined) file.set(vdi.parentModify, 0x1b8);
    vdi.lchs?.forEach((value, n) => {
      u32(0x1c8 + 4 * n, value);
    });
  }

  for (let block = 0; block < blocks; block += 1) u32(mapAt + 4 * block, vdi.map[block] ?? FREE);
  for (let n = 0; n < physical; n += 1) {
    // The extra bytes are noise as well: a reader that forgets them reads the wrong place.
    file.set(randomBytes(next, stride), dataAt + n * stride);
  }
  vdi.map.forEach((entry, block) => {
    if (entry >= ZERO) return;
    const at = block * vdi.blockSize;
    const count = Math.min(vdi.blockSize, disk.length - at);
    const from = dataAt + entry * stride + extra;
    if (count > 0) disk.set(file.subarray(from, from + count), at);
  });
  return { file, disk, mapAt };
}

/**
 * A map of `blocks` entries of which about `share` are allocated, by the dense rule (numbers from 0 on, each
 * once), in runs that follow each other or not; the others are runs of FREE or ZERO.
 */
export function randomMap(next: Random, blocks: number, share = 0.5): number[] {
  const map: number[] = [];
  while (map.length < blocks) {
    const run = Math.min(between(next, 1, 6), blocks - map.length);
    const kind = next() < share ? 0 : next() < 0.5 ? FREE : ZERO;
    for (let n = 0; n < run; n += 1) map.push(kind);
  }
  const places: number[] = [];
  map.forEach((kind, block) => {
    if (kind === 0) places.push(block);
  });
  // Swapping a few leaves both runs and jumps.
  const numbers = places.map((_, n) => n);
  for (let n = 0; n + 1 < numbers.length; n += 1) {
    if (next() > 0.3) continue;
    const other = between(next, n, numbers.length - 1);
    [numbers[n], numbers[other]] = [numbers[other]!, numbers[n]!];
  }
  places.forEach((block, n) => {
    map[block] = numbers[n]!;
  });
  return map;
}

const KIB = 1024;
const MIB = 1024 * KIB;

/** Small valid images of every legal kind; names are unique, bytes differ with `seed`. */
export function samples(seed: number): SampleImage[] {
  const next = random(seed);
  const list: SampleImage[] = [];
  const add = (name: string, vdi: VdiDescription) => {
    const { file, disk } = encodeVdi(vdi, next);
    list.push({ name, format: 'vdi', file, disk });
  };
  const noise = (length: number) => randomBytes(next, length);

  add('dynamic, 1 MiB blocks, offsets as VirtualBox writes them', {
    map: [FREE, 0, FREE],
    blockSize: MIB,
    headerSize: 0x190,
    mapOffset: MIB,
    dataOffset: 2 * MIB - 64 * KIB,
    lchs: [20, 16, 63, 512],
  });
  add('dynamic, offsets as qemu writes them, allocated in reverse', {
    map: [1, FREE, 0],
    blockSize: MIB,
    text: '<<< QEMU VM Virtual Disk Image >>>\n',
  });
  add('fixed, 64 KiB blocks', { map: [0, 1, 2, 3, 4, 5, 6, 7], blockSize: 64 * KIB, type: 2 });
  add('fixed, last block part of the disk', {
    map: [0, 1, 2],
    blockSize: 64 * KIB,
    diskSize: 128 * KIB + 512,
    type: 2,
  });
  add('differencing without a parent', { map: [FREE, ZERO, 1, 0], blockSize: 128 * KIB, type: 4 });
  add('undo without a parent', { map: [0, FREE], blockSize: 128 * KIB, type: 3 });
  add('nothing allocated', { map: Array<number>(40).fill(FREE), blockSize: 128 * KIB });
  add('all discarded', { map: Array<number>(5).fill(ZERO), blockSize: MIB });
  add('disk smaller than one sector of blocks', { map: [0], blockSize: 512, diskSize: 512 });
  add('largest blocks, nothing allocated', { map: [FREE], blockSize: 256 * MIB, diskSize: 3 * MIB });
  add('2 MiB blocks, disk ends in the second', {
    map: [FREE, 0],
    blockSize: 2 * MIB,
    diskSize: 2 * MIB + 9 * KIB,
  });
  add('header size 0x180, map right after it', { map: [2, 0, 1], blockSize: 4 * KIB, mapOffset: 0x1c8 });
  add('header size 0x190, map right after it', {
    map: randomMap(next, 33),
    blockSize: 4 * KIB,
    headerSize: 0x190,
    mapOffset: 0x1d8,
  });
  add('odd header size', {
    map: randomMap(next, 33),
    blockSize: 4 * KIB,
    headerSize: 0x1a7,
    mapOffset: 0x1ef,
  });
  add('map and data at odd offsets', {
    map: randomMap(next, 1500),
    blockSize: 512,
    mapOffset: 0x1ff,
    dataOffset: 0x1ff + 6000 + 13,
  });
  add('data right after the map', {
    map: randomMap(next, 77),
    blockSize: 2 * KIB,
    mapOffset: 0x203,
    dataOffset: 0x203 + 77 * 4,
  });
  add('512 extra bytes', { map: [0, 1, 2, FREE, ZERO, 4, 3], blockSize: 8 * KIB, extra: 512 });
  add('17 extra bytes, odd offsets', {
    map: randomMap(next, 200, 0.8),
    blockSize: KIB,
    extra: 17,
    mapOffset: 0x1cb,
    dataOffset: 5001,
  });
  add('extra bytes larger than the block', { map: randomMap(next, 30), blockSize: 512, extra: 4096 + 3 });
  add('512-byte blocks, several pages of map', { map: randomMap(next, 4500, 0.6), blockSize: 512 });
  add('more map entries than the disk needs', { map: [0, ZERO, 1], blockSize: 4 * KIB, spareBlocks: 2000 });
  add('a size that is no multiple of 512', {
    map: [1, FREE, 0],
    blockSize: 64 * KIB,
    diskSize: 3 * 64 * KIB - 101,
  });
  add('old version 0.2, dynamic', { map: randomMap(next, 1100), blockSize: KIB, version: OLD });
  add('old version 0.2, fixed, 1 MiB blocks', { map: [0, 1], blockSize: MIB, type: 2, version: OLD });
  add('version 1.2, zero-expand flag', { map: [0, FREE], blockSize: 4 * KIB, version: 0x00010002, flags: 1 });
  add('sloppy producer: null UUIDs, unknown flags, full comment, wrong count, no text', {
    map: [FREE, 0, 1],
    blockSize: 16 * KIB,
    text: '',
    comment: noise(256),
    flags: 0x80000002,
    allocated: 0xffffffff,
    create: new Uint8Array(16),
    modify: new Uint8Array(16),
    sectorSize: 0,
  });
  for (let n = 0; n < 8; n += 1) {
    const blockSize = 512 << between(next, 0, 6);
    const blocks = between(next, 1, Math.min(2500, Math.floor((2 * MIB) / blockSize)));
    const diskSize = blocks * blockSize - 512 * between(next, 0, blockSize / 512 - 1);
    const extra = next() < 0.5 ? 0 : between(next, 1, 600);
    // No entry lies in two sectors: these can be written.
    const mapOffset = 0x200 + 4 * between(next, 0, 750);
    const dataOffset = mapOffset + 4 * blocks + between(next, 0, 3000);
    const map = randomMap(next, blocks, next() * 0.8);
    add(`random ${n}`, { map, blockSize, diskSize, extra, mapOffset, dataOffset });
  }
  for (const sample of chains(next)) list.push(sample);
  return list;
}

const PARENT_CREATE = 0xa0;
const uuid = (fill: number) => new Uint8Array(16).fill(fill);

/** A child of `parent`: its free blocks show it. */
function child(
  name: string,
  vdi: VdiDescription,
  parent: SampleImage,
  depth: number,
  next: Random,
): SampleImage {
  const identity = {
    create: uuid(PARENT_CREATE + depth),
    modify: uuid(PARENT_CREATE + 16 + depth),
    linkage: uuid(PARENT_CREATE + depth - 1),
    parentModify: uuid(PARENT_CREATE + 15 + depth),
  };
  const { file, disk } = encodeVdi({ type: 4, ...vdi, ...identity }, next);
  vdi.map.forEach((entry, block) => {
    if (entry !== FREE) return;
    const at = block * vdi.blockSize;
    disk.set(parent.disk.subarray(at, Math.min(disk.length, at + vdi.blockSize)), at);
  });
  return { name, format: 'vdi', file, disk, parent };
}

/** Chains of three, each with its own block size; the disks grow, or shrink, from parent to child. */
export function chains(next: Random): SampleImage[] {
  const identity = { create: uuid(PARENT_CREATE), modify: uuid(PARENT_CREATE + 16) };
  const base = (name: string, vdi: VdiDescription): SampleImage => ({
    name,
    format: 'vdi',
    ...encodeVdi({ ...vdi, ...identity }, next),
  });
  const small = base('base', { map: randomMap(next, 60, 0.8), blockSize: 4 * KIB });
  const middle = child('middle', { map: randomMap(next, 80, 0.3), blockSize: 4 * KIB }, small, 1, next);
  const coarse = base('base', { map: [0, FREE, 1, ZERO, 2], blockSize: 64 * KIB });
  const fine = child('middle', { map: randomMap(next, 500, 0.3), blockSize: 512 }, coarse, 1, next);
  return [
    child(
      'chain of three, 4 KiB blocks',
      { map: randomMap(next, 80, 0.3), blockSize: 4 * KIB },
      middle,
      2,
      next,
    ),
    child(
      'chain of three, nothing allocated',
      { map: Array<number>(16).fill(FREE), blockSize: 16 * KIB },
      fine,
      2,
      next,
    ),
    child(
      'chain of three, no zero block',
      { map: [FREE, 0, FREE, 1, FREE], blockSize: 64 * KIB },
      fine,
      2,
      next,
    ),
    child(
      'child that is smaller',
      { map: [FREE, 0, ZERO, FREE], blockSize: 8 * KIB, diskSize: 27 * KIB },
      middle,
      2,
      next,
    ),
  ];
}
