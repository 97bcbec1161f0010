/**
 * Makes VHDX files from a description, for the tests: legal ones, odd ones and broken ones. Written from the
 * specification ([MS-VHDX]) with offsets of its own, so that it does not repeat a mistake of the driver.
 */

import { crc32c } from '../../../src/base/crc32c.ts';
import { parseGuid } from '../../../src/base/guid.ts';
import { hostOffset, MIB } from '../../../src/base/units.ts';
import { SparseSource } from '../sparse-source.ts';

export const guid = (text: string): Uint8Array => parseGuid(text)!;
export const LOG_GUID = guid('11111111-2222-3333-4444-555555555555');
export const OTHER_GUID = guid('99999999-8888-7777-6666-555555555555');
const NO_GUID = new Uint8Array(16);

export const REGION_GUIDS = {
  bat: '2dc27766-f623-4200-9d64-115e9bfd4a08',
  metadata: '8b7ca206-4790-4b9a-b8fe-575f050f886e',
};
export const ITEM_GUIDS = {
  parameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  size: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  id: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logical: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physical: 'cda348c7-445d-4471-9cc9-e9885251c556',
  locator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
};

export function utf16(text: string): Uint8Array {
  return Uint8Array.from([...text].flatMap((c) => [c.charCodeAt(0) & 0xff, c.charCodeAt(0) >> 8]));
}

export function little(size: 2 | 4 | 8, value: number | bigint): Uint8Array {
  const bytes = new Uint8Array(size);
  let rest = BigInt(value);
  for (let at = 0; at < size; at += 1, rest >>= 8n) bytes[at] = Number(rest & 0xffn);
  return bytes;
}

export function joined(...parts: Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Puts the CRC-32C of all of `bytes` at byte 4. */
export function sealed(bytes: Uint8Array): Uint8Array {
  bytes.fill(0, 4, 8);
  bytes.set(little(4, crc32c(bytes)), 4);
  return bytes;
}

export interface HeaderPlan {
  signature?: string;
  sequence?: number | bigint;
  fileWriteGuid?: Uint8Array;
  dataWriteGuid?: Uint8Array;
  logGuid?: Uint8Array;
  logVersion?: number;
  version?: number;
  logLength?: number;
  logOffset?: number | bigint;
}

export function encodeHeader(plan: HeaderPlan): Uint8Array {
  const bytes = new Uint8Array(4096);
  bytes.set(new TextEncoder().encode(plan.signature ?? 'head'), 0);
  bytes.set(little(8, plan.sequence ?? 7), 8);
  bytes.set(plan.fileWriteGuid ?? guid('aaaaaaaa-0000-0000-0000-000000000001'), 16);
  bytes.set(plan.dataWriteGuid ?? guid('bbbbbbbb-0000-0000-0000-000000000002'), 32);
  bytes.set(plan.logGuid ?? NO_GUID, 48);
  bytes.set(little(2, plan.logVersion ?? 0), 64);
  bytes.set(little(2, plan.version ?? 1), 66);
  bytes.set(little(4, plan.logLength ?? MIB), 68);
  bytes.set(little(8, plan.logOffset ?? MIB), 72);
  return sealed(bytes);
}

export interface RegionPlan {
  guid: string;
  at: number | bigint;
  length: number;
  required?: number;
}

export function encodeRegionTable(regions: readonly RegionPlan[], count = regions.length): Uint8Array {
  const bytes = new Uint8Array(65536);
  bytes.set(new TextEncoder().encode('regi'), 0);
  bytes.set(little(4, count), 8);
  regions.forEach((region, index) => {
    const at = 16 + index * 32;
    bytes.set(guid(region.guid), at);
    bytes.set(little(8, region.at), at + 16);
    bytes.set(little(4, region.length), at + 24);
    bytes.set(little(4, region.required ?? 1), at + 28);
  });
  return sealed(bytes);
}

export interface ItemPlan {
  guid: string;
  data: Uint8Array;
  flags?: number;
  /** Overrides of what the table says. */
  offset?: number;
  length?: number;
}

/** Table and items of a metadata region. */
export function encodeMetadata(items: readonly ItemPlan[], count = items.length): Uint8Array {
  const places: number[] = [];
  let end = 65536;
  for (const item of items) {
    places.push(item.data.length === 0 ? 0 : end);
    end += item.data.length;
  }
  const bytes = new Uint8Array(end);
  bytes.set(new TextEncoder().encode('metadata'), 0);
  bytes.set(little(2, count), 10);
  items.forEach((item, index) => {
    const at = 32 + index * 32;
    bytes.set(guid(item.guid), at);
    bytes.set(little(4, item.offset ?? places[index]!), at + 16);
    bytes.set(little(4, item.length ?? item.data.length), at + 20);
    bytes.set(little(4, item.flags ?? 4), at + 24);
    bytes.set(item.data, places[index]!);
  });
  // An item without bytes has place 0: do not let it cover the signature.
  bytes.set(new TextEncoder().encode('metadata'), 0);
  return bytes;
}

export function encodeLocator(
  pairs: readonly (readonly [string, string])[],
  type = 'b04aefb7-d19e-4a81-b789-25b8e9445913',
): Uint8Array {
  const texts = pairs.flatMap((pair) => pair.map(utf16));
  const bytes = new Uint8Array(20 + pairs.length * 12 + texts.reduce((sum, text) => sum + text.length, 0));
  bytes.set(guid(type), 0);
  bytes.set(little(2, pairs.length), 18);
  let end = 20 + pairs.length * 12;
  texts.forEach((text, index) => {
    const entry = 20 + (index >> 1) * 12;
    const value = index & 1;
    bytes.set(little(4, end), entry + value * 4);
    bytes.set(little(2, text.length), entry + 8 + value * 2);
    bytes.set(text, end);
    end += text.length;
  });
  return bytes;
}

export interface BlockPlan {
  state: number;
  /** Where the block is, in MiB; for states 6 and 7 the next free place unless given. */
  mib?: number;
  /** The block's first bytes, in state 7 also those of sectors that are not present. */
  data?: Uint8Array;
  /** In state 7: sectors of the block that are present, each run as first and end. */
  present?: readonly (readonly [number, number])[];
}

/** A place in MiB. */
export interface AreaPlan {
  at: number;
  length: number;
}

export interface VhdxPlan {
  size: number;
  blockSize?: number;
  logical?: number;
  physical?: number;
  /** Bit 0 fixed, bit 1 has a parent; 2 where there is a locator. */
  flags?: number;
  /** Keys and values of the parent locator. */
  locator?: readonly (readonly [string, string])[];
  dataWriteGuid?: Uint8Array;
  creator?: string;
  log?: AreaPlan;
  metadata?: AreaPlan;
  bat?: AreaPlan;
  /** By block number; absent blocks are in state 0. */
  blocks?: ReadonlyMap<number, BlockPlan>;
  /** Where sector bitmaps are, in MiB, by chunk; those that a block in state 7 needs are made anyway. */
  bitmaps?: ReadonlyMap<number, number>;
  /** Bytes of sector bitmaps for blocks in other states, where they have no meaning: garbage unless given. */
  bitmapFill?: number;
  /** Where blocks without a place go, in MiB; behind everything else unless given. */
  firstBlock?: number;
  headers?: readonly [HeaderPlan, HeaderPlan];
  regions?: readonly RegionPlan[];
  /** Item overrides and additions, by GUID. */
  items?: readonly ItemPlan[];
  /** The file ends with the disk's last byte instead of the last block's. */
  cutTail?: boolean;
}

export const BLOCK = MIB;
export const LOG: AreaPlan = { at: 1, length: 1 };
export const METADATA: AreaPlan = { at: 2, length: 1 };
export const BAT: AreaPlan = { at: 3, length: 1 };

/** Blocks of a chunk: each chunk's BAT entries are followed by that of its sector bitmap. */
export function chunkRatio(plan: VhdxPlan): number {
  return (2 ** 23 * (plan.logical ?? 512)) / (plan.blockSize ?? BLOCK);
}

export function entryIndex(plan: VhdxPlan, block: number): number {
  return block + Math.floor(block / chunkRatio(plan));
}

/** Index of the entry of the sector bitmap of chunk `chunk`. */
export function bitmapIndex(plan: VhdxPlan, chunk: number): number {
  return (chunk + 1) * (chunkRatio(plan) + 1) - 1;
}

export const batEntry = (state: number, mib: number | bigint): Uint8Array =>
  little(8, BigInt(state) | (BigInt(mib) << 20n));

/** Overwrites a BAT entry in the file. */
export function putBatEntry(file: SparseSource, plan: VhdxPlan, block: number, entry: Uint8Array): void {
  file.put((plan.bat ?? BAT).at * MIB + entryIndex(plan, block) * 8, entry);
}

/** The five items that every file has. */
export function standardItems(plan: VhdxPlan): ItemPlan[] {
  const item = (id: string, data: Uint8Array, what = 6): ItemPlan => ({ guid: id, data, flags: what });
  const flags = plan.flags ?? (plan.locator === undefined ? 0 : 2);
  return [
    item(ITEM_GUIDS.parameters, joined(little(4, plan.blockSize ?? BLOCK), little(4, flags)), 4),
    item(ITEM_GUIDS.size, little(8, plan.size)),
    item(ITEM_GUIDS.id, guid('cccccccc-0000-0000-0000-000000000003')),
    item(ITEM_GUIDS.logical, little(4, plan.logical ?? 512)),
    item(ITEM_GUIDS.physical, little(4, plan.physical ?? 4096)),
    ...(plan.locator === undefined ? [] : [item(ITEM_GUIDS.locator, encodeLocator(plan.locator), 4)]),
  ];
}

export function standardRegions(plan: VhdxPlan): RegionPlan[] {
  const bat = plan.bat ?? BAT;
  const metadata = plan.metadata ?? METADATA;
  return [
    { guid: REGION_GUIDS.bat, at: bat.at * MIB, length: bat.length * MIB },
    { guid: REGION_GUIDS.metadata, at: metadata.at * MIB, length: metadata.length * MIB },
  ];
}

export function standardHeader(plan: VhdxPlan): HeaderPlan {
  const log = plan.log ?? LOG;
  const { dataWriteGuid } = plan;
  const identity = dataWriteGuid === undefined ? {} : { dataWriteGuid };
  return { logOffset: log.at * MIB, logLength: log.length * MIB, ...identity };
}

export function buildVhdx(plan: VhdxPlan): SparseSource {
  const file = new SparseSource();
  const blockSize = plan.blockSize ?? BLOCK;
  const areas = [plan.log ?? LOG, plan.metadata ?? METADATA, plan.bat ?? BAT];
  file.put(0, joined(new TextEncoder().encode('vhdxfile'), utf16(plan.creator ?? 'test encoder')));
  const headers = plan.headers ?? [{ sequence: 6 }, { sequence: 7 }];
  headers.forEach((header, index) => {
    file.put(0x10000 * (index + 1), encodeHeader({ ...standardHeader(plan), ...header }));
  });
  const table = encodeRegionTable(plan.regions ?? standardRegions(plan));
  file.put(0x30000, table);
  file.put(0x40000, table);
  const items = standardItems(plan).filter(({ guid: id }) => !plan.items?.some((item) => item.guid === id));
  file.put(areas[1]!.at * MIB, encodeMetadata([...items, ...(plan.items ?? [])]));

  let next = plan.firstBlock ?? Math.max(...areas.map(({ at, length }) => at + length));
  let end = Math.max(file.size, ...areas.map(({ at, length }) => (at + length) * MIB));
  for (const [block, { state, mib, data }] of plan.blocks ?? []) {
    let place = mib ?? 0;
    const isThere = state === 6 || state === 7;
    if (isThere && mib === undefined) {
      place = next;
      next += blockSize / MIB;
    }
    putBatEntry(file, plan, block, batEntry(state, place));
    if (!isThere) continue;
    if (data !== undefined) file.put(place * MIB, data);
    const used = Math.min(blockSize, plan.size - block * blockSize);
    end = Math.max(end, place * MIB + (plan.cutTail === true ? used : blockSize));
  }
  for (const [chunk, bytes] of encodeBitmaps(plan)) {
    const place = plan.bitmaps?.get(chunk) ?? next;
    if (place === next) next += 1;
    file.put((plan.bat ?? BAT).at * MIB + bitmapIndex(plan, chunk) * 8, batEntry(6, place));
    file.put(place * MIB, bytes);
    end = Math.max(end, (place + 1) * MIB);
  }
  file.size = Math.max(file.size, end);
  if (plan.cutTail === true) file.size = end;
  return file;
}

/** The sector bitmaps, by chunk: lowest bit of a byte first. */
function encodeBitmaps(plan: VhdxPlan): Map<number, Uint8Array> {
  const ratio = chunkRatio(plan);
  const perBlock = (plan.blockSize ?? BLOCK) / (plan.logical ?? 512);
  const bitmaps = new Map<number, Uint8Array>();
  const bitmapOf = (chunk: number): Uint8Array => {
    const bytes = bitmaps.get(chunk) ?? new Uint8Array(MIB).fill(plan.bitmapFill ?? 0xa5);
    bitmaps.set(chunk, bytes);
    return bytes;
  };
  for (const chunk of plan.bitmaps?.keys() ?? []) bitmapOf(chunk);
  for (const [block, { state, present = [] }] of plan.blocks ?? []) {
    if (state !== 7) continue;
    const bytes = bitmapOf(Math.floor(block / ratio));
    const first = (block % ratio) * perBlock;
    bytes.fill(0, first / 8, (first + perBlock) / 8);
    for (const [from, end] of present) {
      for (let bit = first + from; bit < first + end; bit += 1) bytes[bit >> 3]! |= 1 << (bit & 7);
    }
  }
  return bitmaps;
}

/** What the disk reads as: blocks in state 6, sectors of those in state 7, the parent's bytes, zeros. */
export function expectedDisk(plan: VhdxPlan, parent: Uint8Array = new Uint8Array(0)): Uint8Array {
  const blockSize = plan.blockSize ?? BLOCK;
  const sector = plan.logical ?? 512;
  const disk = new Uint8Array(plan.size);
  disk.set(parent.subarray(0, plan.size));
  for (const [block, { state, data = new Uint8Array(0), present = [] }] of plan.blocks ?? []) {
    if (state === 0) continue;
    const at = block * blockSize;
    const end = Math.min(at + blockSize, plan.size);
    const own = new Uint8Array(blockSize);
    own.set(data);
    if (state === 7) {
      for (const [from, to] of present) {
        disk.set(own.subarray(from * sector, Math.min(to * sector, end - at)), at + from * sector);
      }
    } else disk.set(state === 6 ? own.subarray(0, end - at) : new Uint8Array(end - at), at);
  }
  return disk;
}

export function fileBytes(file: SparseSource, at = 0, length = file.size - at): Uint8Array {
  const bytes = new Uint8Array(length);
  file.readAt(bytes, 0, length, hostOffset(at));
  return bytes;
}
