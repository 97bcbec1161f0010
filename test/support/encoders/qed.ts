/**
 * QED images for tests, made from a description. Written from QEMU's docs/interop/qed_spec; every number of
 * the header can be overridden to make an image that is wrong.
 */

import { MAGIC, type QedHeader, qedHeader } from '../../../src/formats/qed/structs.ts';
import { between, type Random, random, randomBytes } from '../random.ts';
import type { SampleImage } from '../sample.ts';

/** A data cluster's bytes (the rest of the cluster is zeros), a zero cluster, or an entry as it is. */
export type ClusterContent = Uint8Array | 'zero' | { readonly entry: bigint };

export interface QedDescription {
  readonly clusterSize: number;
  readonly tableSize: number;
  readonly imageSize: number;
  /** Clusters; 1 unless given. */
  readonly headerSize?: number;
  /** By guest cluster, in the order in which they are allocated; a table follows its first data cluster. */
  readonly clusters?: ReadonlyMap<number, ClusterContent>;
  /** Unused clusters between header and L1 table, and after each table. */
  readonly gap?: number;
  /** The L1 table goes after everything else. */
  readonly lateL1?: boolean;
  /** L1 entries with a table, even if it holds nothing. */
  readonly tables?: readonly number[];
  /** L1 entries as they are, in place of what would be there. */
  readonly l1?: ReadonlyMap<number, bigint>;
  /** Header fields as they are. */
  readonly header?: Partial<QedHeader>;
  /** Bytes put somewhere, last of all. */
  readonly patches?: ReadonlyMap<number, Uint8Array>;
}

export interface QedLayout {
  /** Bytes of the file. */
  readonly size: number;
  readonly l1Offset: number;
  /** Host offset of each L2 table by L1 index. */
  readonly tables: ReadonlyMap<number, number>;
  /** Host offset of each data cluster by guest cluster. */
  readonly data: ReadonlyMap<number, number>;
}

type Put = (at: number, bytes: Uint8Array) => void;

function entryBytes(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
}

/** Hands every piece of the file to `put`, which starts with a file of zeros. */
export function encodeQed(description: QedDescription, put: Put): QedLayout {
  const { clusterSize, tableSize, imageSize, headerSize = 1, clusters = new Map(), gap = 0 } = description;
  const tableBytes = clusterSize * tableSize;
  const entries = tableBytes / 8;
  const tables = new Map<number, number>();
  const data = new Map<number, number>();
  let end = (headerSize + gap) * clusterSize;
  const take = (bytes: number) => {
    const at = end;
    end += bytes;
    return at;
  };
  const tableAt = (index: number) => {
    let at = tables.get(index);
    if (at === undefined) {
      at = take(tableBytes);
      tables.set(index, at);
      end += gap * clusterSize;
    }
    return at;
  };

  let l1Offset = description.lateL1 === true ? 0 : take(tableBytes);
  for (const index of description.tables ?? []) tableAt(index);
  for (const [cluster, content] of clusters) {
    let entry: bigint;
    if (content instanceof Uint8Array) {
      const at = take(clusterSize);
      data.set(cluster, at);
      put(at, content);
      entry = BigInt(at);
    } else {
      entry = content === 'zero' ? 1n : content.entry;
    }
    put(tableAt(Math.floor(cluster / entries)) + (cluster % entries) * 8, entryBytes(entry));
  }
  if (description.lateL1 === true) l1Offset = take(tableBytes);
  for (const [index, at] of tables) put(l1Offset + index * 8, entryBytes(BigInt(at)));
  for (const [index, value] of description.l1 ?? []) put(l1Offset + index * 8, entryBytes(value));

  const header = new Uint8Array(qedHeader.size);
  const fields: QedHeader = {
    magic: MAGIC,
    clusterSize,
    tableSize,
    headerSize,
    features: 0n,
    compatFeatures: 0n,
    autoclearFeatures: 0n,
    l1TableOffset: BigInt(l1Offset),
    imageSize: BigInt(imageSize),
    backingFilenameOffset: 0,
    backingFilenameSize: 0,
    ...description.header,
  };
  qedHeader.encode(fields, header);
  put(0, header);
  let size = end;
  for (const [at, bytes] of description.patches ?? []) {
    put(at, bytes);
    size = Math.max(size, at + bytes.length);
  }
  return { size, l1Offset, tables, data };
}

/** The image as bytes, for small ones. */
export function qedBytes(description: QedDescription): Uint8Array {
  const pieces: [number, Uint8Array][] = [];
  const { size } = encodeQed(description, (at, bytes) => pieces.push([at, bytes]));
  const file = new Uint8Array(size);
  for (const [at, bytes] of pieces) file.set(bytes, at);
  return file;
}

/** What the disk of a small, sound description reads as. */
export function qedDisk({ clusterSize, imageSize, clusters = new Map() }: QedDescription): Uint8Array {
  const disk = new Uint8Array(imageSize);
  for (const [cluster, content] of clusters) {
    const at = cluster * clusterSize;
    if (content instanceof Uint8Array && at < imageSize) disk.set(content.subarray(0, imageSize - at), at);
  }
  return disk;
}

interface Filling {
  readonly data: number;
  readonly zero: number;
  /** Of the data clusters, how many follow their predecessor in the file, roughly; 1 is in order. */
  readonly order: number;
}

/** Clusters of a disk by chance, allocated in an order that is sequential, shuffled or between. */
function fill(
  next: Random,
  clusterSize: number,
  imageSize: number,
  { data, zero, order }: Filling,
): Map<number, ClusterContent> {
  const chosen: [number, ClusterContent][] = [];
  for (let cluster = 0; cluster * clusterSize < imageSize; cluster += 1) {
    const draw = next();
    if (draw < data) chosen.push([cluster, randomBytes(next, clusterSize)]);
    else if (draw < data + zero) chosen.push([cluster, 'zero']);
  }
  for (let at = chosen.length - 1; at > 0; at -= 1) {
    if (next() < order) continue;
    const other = between(next, 0, at);
    [chosen[at], chosen[other]] = [chosen[other]!, chosen[at]!];
  }
  return new Map(chosen);
}

const KIB = 1024;

const range = (first: number, end: number) => Array.from({ length: end - first }, (_, n) => first + n);

/** Small, valid images: every table size, zero clusters, gaps, odd headers, odd ends. */
export function samples(seed: number): SampleImage[] {
  const next = random(seed);
  const list: SampleImage[] = [];
  const add = (name: string, description: QedDescription, cut = 0) => {
    const file = qedBytes(description);
    const kept = file.subarray(0, file.length - cut);
    list.push({ name, format: 'qed', file: kept, disk: qedDisk(description) });
  };
  const filled = (clusterSize: number, imageSize: number, data: number, zero: number, order: number) => ({
    clusterSize,
    imageSize,
    clusters: fill(next, clusterSize, imageSize, { data, zero, order }),
  });

  for (const tableSize of [1, 2, 4, 8, 16]) {
    add(`4 KiB clusters, table of ${tableSize}`, { ...filled(4096, 1400 * KIB, 0.4, 0.2, 0.9), tableSize });
  }
  add('one disk over many tables', {
    // Tables of 512 entries map 2 MiB each: data in the 1st and 4th, the 2nd is absent, the 3rd empty.
    clusterSize: 4096,
    tableSize: 1,
    imageSize: 6 * 1024 * KIB + 4096 + 512,
    tables: [2],
    clusters: new Map<number, ClusterContent>([
      [510, randomBytes(next, 4096)],
      [511, 'zero'],
      [1536, randomBytes(next, 4096)],
      [1537, randomBytes(next, 512)],
    ]),
  });
  add('a run of data over two tables', {
    clusterSize: 4096,
    tableSize: 1,
    imageSize: 2100 * KIB,
    tables: [0, 1],
    clusters: new Map(range(505, 520).map((cluster) => [cluster, randomBytes(next, 4096)])),
  });
  add('64 KiB clusters, in order', { ...filled(64 * KIB, 1024 * KIB, 1, 0, 1), tableSize: 4 });
  add('64 KiB clusters, mixed', { ...filled(64 * KIB, 2048 * KIB, 0.5, 0.25, 0.5), tableSize: 2 });
  add('256 KiB clusters', { ...filled(256 * KIB, 1024 * KIB, 0.6, 0.2, 0.5), tableSize: 1 });
  add('shuffled', { ...filled(4096, 512 * KIB, 0.8, 0, 0), tableSize: 2 });
  add('empty', { clusterSize: 65536, tableSize: 4, imageSize: 1024 * KIB });
  add('no bytes at all', { clusterSize: 4096, tableSize: 2, imageSize: 0 });
  add('only zero clusters', { ...filled(4096, 100 * KIB, 0, 1, 1), tableSize: 2 });
  add('last cluster not whole', { ...filled(8192, 300 * KIB + 1536, 1, 0, 0.9), tableSize: 4 });
  add(
    'last cluster cut short behind its used part',
    { ...filled(8192, 64 * KIB + 512, 1, 0, 1), tableSize: 2, tables: [0] },
    8192 - 512,
  );
  add('header of 5 clusters, gaps', {
    ...filled(4096, 400 * KIB, 0.5, 0.2, 0.8),
    tableSize: 2,
    headerSize: 5,
    gap: 3,
  });
  add('L1 table at the end', { ...filled(4096, 300 * KIB, 0.6, 0.1, 0.9), tableSize: 2, lateL1: true });
  const stray = { ...filled(4096, 64 * KIB, 0.7, 0.1, 1), tableSize: 2 };
  const strayAt = encodeQed(stray, () => {}).size;
  add('stray bytes at the end', { ...stray, patches: new Map([[strayAt, randomBytes(next, 100)]]) });
  add('needs a check, unknown compatible and autoclear features', {
    ...filled(4096, 200 * KIB, 0.5, 0.2, 0.9),
    tableSize: 4,
    header: { features: 2n, compatFeatures: 0x8000000000000001n, autoclearFeatures: 0x10n },
  });
  add('name of a removed backing file', {
    ...filled(4096, 200 * KIB, 0.5, 0.2, 0.9),
    tableSize: 4,
    header: { backingFilenameOffset: 64, backingFilenameSize: 0xffffffff },
    patches: new Map([[64, new TextEncoder().encode('base.img')]]),
  });
  add('entries past the end of the disk', {
    clusterSize: 4096,
    tableSize: 2,
    imageSize: 8192,
    clusters: new Map<number, ClusterContent>([
      [0, randomBytes(next, 4096)],
      [1, randomBytes(next, 4096)],
      [2, { entry: 0x12345n }],
      [700, randomBytes(next, 4096)],
    ]),
    l1: new Map([[1, 0xffffffffffffffffn]]),
  });
  list.push(...chains(next));
  return list;
}

/** Where QEMU puts the name of the backing file, too. */
const NAME_AT = 64;

/** A description with a backing file: `raw` says that it is not to be probed. */
export function withBacking(description: QedDescription, name: string, raw: boolean): QedDescription {
  const bytes = new TextEncoder().encode(name);
  const fields = {
    features: raw ? 5n : 1n,
    backingFilenameOffset: NAME_AT,
    backingFilenameSize: bytes.length,
  };
  return {
    ...description,
    header: { ...fields, ...description.header },
    patches: new Map([[NAME_AT, bytes], ...(description.patches ?? [])]),
  };
}

/** A child of `parent`: clusters of the disk that have no entry show it, and zeros behind its end. */
function child(name: string, description: QedDescription, parent: SampleImage): SampleImage {
  const file = qedBytes(withBacking(description, `${parent.name}.img`, parent.format === 'raw'));
  const disk = qedDisk(description);
  const { clusterSize, imageSize, clusters = new Map() } = description;
  for (let at = 0; at < imageSize; at += clusterSize) {
    if (clusters.has(at / clusterSize)) continue;
    disk.set(parent.disk.subarray(at, Math.min(at + clusterSize, imageSize)), at);
  }
  return { name, format: 'qed', file, disk, parent };
}

/** Chains of three, each with its own cluster size; the disks grow, or shrink, from parent to child. */
export function chains(next: Random): SampleImage[] {
  const some = (
    clusterSize: number,
    tableSize: number,
    imageSize: number,
    data: number,
    zero: number,
  ): QedDescription => ({
    clusterSize,
    tableSize,
    imageSize,
    clusters: fill(next, clusterSize, imageSize, { data, zero, order: 0.7 }),
  });
  const noise = randomBytes(next, 150 * KIB + 101);
  const raw: SampleImage = { name: 'base', format: 'raw', file: noise, disk: noise };
  const small = some(4096, 2, 200 * KIB, 0.7, 0.1);
  const base: SampleImage = { name: 'base', format: 'qed', file: qedBytes(small), disk: qedDisk(small) };
  const middle = child('middle', some(8192, 4, 300 * KIB, 0.3, 0.2), base);
  const overRaw = child('middle', some(4096, 1, 160 * KIB + 512, 0.3, 0.1), raw);
  const wide = some(4096, 1, 2560 * KIB, 0.05, 0.02);
  return [
    child('chain of three, 4 KiB clusters', some(4096, 2, 320 * KIB, 0.2, 0.1), middle),
    child(
      'chain of three, nothing allocated',
      { clusterSize: 4096, tableSize: 2, imageSize: 320 * KIB },
      middle,
    ),
    child('chain of three, 64 KiB clusters', some(65536, 2, 512 * KIB, 0.3, 0.1), overRaw),
    // Tables map 2 MiB each: the second is absent.
    child(
      'chain of three, an absent table',
      { ...wide, clusters: new Map([...wide.clusters!].filter(([cluster]) => cluster < 512)) },
      overRaw,
    ),
    child('child that is smaller', some(4096, 2, 100 * KIB + 512, 0.2, 0.2), middle),
  ];
}
