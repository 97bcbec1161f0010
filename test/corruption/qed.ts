/** What can be wrong with a QED. Clusters of 4 KiB, tables of 2: header at 0, L1 at 0x1000, data at 0x3000, L2 at 0x4000. */

import {
  type ClusterContent,
  encodeQed,
  type QedDescription,
  qedBytes,
  qedDisk,
  withBacking,
} from '../support/encoders/qed.ts';
import { random, randomBytes } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import type { Corruption, CorruptionTable, DamagedImage } from './corruption.ts';

const CLUSTER = 4096;
/** What one L2 table maps. */
const RANGE = 1024 * CLUSTER;

const next = random(41);
const noise = (bytes: number): Uint8Array => randomBytes(next, bytes);
const clusters = new Map<number, ClusterContent>([
  [0, noise(CLUSTER)],
  [1, noise(CLUSTER)],
  [2, noise(CLUSTER)],
]);
const SOUND: QedDescription = { clusterSize: CLUSTER, tableSize: 2, imageSize: 6 * CLUSTER, clusters };
const WIDE: QedDescription = {
  ...SOUND,
  imageSize: RANGE + 3 * CLUSTER,
  clusters: new Map([...clusters, [1024, noise(CLUSTER)]]),
};

const base = noise(5 * CLUSTER);
const parent: SampleImage = { name: 'base', format: 'raw', file: base, disk: base };
const CHILD = withBacking(SOUND, 'base.img', true);

const layout = encodeQed(SOUND, () => {});
const L1 = layout.l1Offset;
const L2 = layout.tables.get(0)!;

function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
}

/** The image with 8 bytes of its file changed. */
function patched(description: QedDescription, at: number, value: bigint): Uint8Array {
  const file = qedBytes(description);
  file.set(u64(value), at);
  return file;
}

/** The disk with clusters of it made zeros. */
function zeroed(disk: Uint8Array, first: number, count: number): Uint8Array {
  return disk.slice().fill(0, first * CLUSTER, (first + count) * CLUSTER);
}

function childDisk(): Uint8Array {
  const disk = qedDisk(SOUND);
  disk.set(base.subarray(3 * CLUSTER), 3 * CLUSTER);
  return disk;
}

/** An L2 entry that names nothing: EIO before, zeros after. */
function badData(name: string, value: bigint, text: RegExp, over?: SampleImage): Corruption {
  const disk = over === undefined ? qedDisk(SOUND) : childDisk();
  return {
    name,
    make: () => ({
      file: patched(over === undefined ? SOUND : CHILD, L2 + 8, value),
      ...(over === undefined ? {} : { parent: over }),
    }),
    found: { as: 'error', text },
    mendedBy: 'all',
    mended: zeroed(disk, 1, 1),
    lostBytes: CLUSTER,
  };
}

function badTable(name: string, value: bigint, text: RegExp, over?: SampleImage): Corruption {
  return {
    name,
    make: () => ({
      file: patched(over === undefined ? SOUND : CHILD, L1, value),
      ...(over === undefined ? {} : { parent: over }),
    }),
    found: { as: 'error', text },
    mendedBy: 'all',
    mended: new Uint8Array(SOUND.imageSize),
    lostBytes: SOUND.imageSize,
  };
}

/** Of an image that reads as before all along. */
function lossless(
  name: string,
  as: Corruption['found']['as'],
  text: RegExp,
  make: () => DamagedImage & { readonly disk: Uint8Array },
  mendedBy: 'leaks' | 'lossless' = 'lossless',
): Corruption {
  return { name, make, found: { as, text }, mendedBy };
}

function refused(name: string, text: RegExp, make: () => Uint8Array): Corruption {
  return { name, make: () => ({ file: make() }), found: { as: 'refused', text }, mendedBy: 'never' };
}

const header = (fields: QedDescription['header']) => qedBytes({ ...SOUND, header: fields! });

const ENTRIES: readonly Corruption[] = [
  badTable(
    'L1 entry that is no multiple of the cluster size',
    0x3200n,
    /L1 entry 0 .* multiple of the cluster/,
  ),
  badTable('L1 entry with the value of a zero cluster', 1n, /L1 entry 0 .* multiple of the cluster/),
  badTable('L1 entry behind the end of the file', 0x40000000n, /L1 entry 0 .* beyond the end of the file/),
  badTable('L1 entry far behind any file', 0xfffffffffffff000n, /L1 entry 0 .* beyond the end of the file/),
  badTable('L1 entry that names the L1 table', BigInt(L1), /L1 entry 0 .* overlaps the L1 table/),
  badTable('L1 entry over a parent', 0x40000000n, /L1 entry 0 .* beyond the end/, parent),
  badData('L2 entry with its low bits set', 0x5010n, /L2 entry 1 .* multiple of the cluster/),
  badData('L2 entry behind the end of the file', 0x40000000n, /L2 entry 1 .* beyond the end of the file/),
  badData('L2 entry that names the L1 table', BigInt(L1), /L2 entry 1 .* overlaps the L1 table/),
  badData('L2 entry over a parent', 0x40000000n, /L2 entry 1 .* beyond the end/, parent),
  {
    name: 'L2 entry in a header of several clusters',
    make: () => {
      const description = { ...SOUND, headerSize: 3 };
      return { file: patched(description, encodeQed(description, () => {}).tables.get(0)! + 8, 0x2000n) };
    },
    found: { as: 'error', text: /L2 entry 1 .* lies in the header/ },
    mendedBy: 'all',
    mended: zeroed(qedDisk(SOUND), 1, 1),
    lostBytes: CLUSTER,
  },
  ...(
    [
      ['damaged entry beside two with one cluster', () => 0x40000000],
      [
        'two entries with one cluster, another names what is right behind the end of the file',
        (file: Uint8Array) => file.length,
      ],
    ] as const
  ).map(
    ([name, entry]): Corruption => ({
      name,
      make: () => {
        const file = patched(SOUND, L2 + 8, BigInt(layout.data.get(0)!));
        file.set(u64(BigInt(entry(file))), L2 + 16);
        return { file };
      },
      found: { as: 'error', text: /L2 entry 2 .* beyond the end of the file/ },
      mendedBy: 'all',
      mended: (() => {
        const disk = zeroed(qedDisk(SOUND), 1, 2);
        disk.copyWithin(CLUSTER, 0, CLUSTER);
        return disk;
      })(),
      lostBytes: CLUSTER,
    }),
  ),
  {
    name: 'data cluster of which the file has only a part',
    make: () => ({ file: qedBytes(SOUND).subarray(0, -1000) }),
    found: { as: 'error', text: /the last 1000 bytes of the data cluster at 0x7000 are missing/ },
    mendedBy: 'all',
    mended: qedDisk(SOUND).fill(0, 3 * CLUSTER - 1000, 3 * CLUSTER),
    lostBytes: 1000,
  },
];

const DOUBLES: readonly Corruption[] = [
  lossless('two L2 entries with one cluster', 'error', /L2 entry 1 .* in use by another entry/, () => {
    const disk = qedDisk(SOUND);
    disk.copyWithin(CLUSTER, 0, CLUSTER);
    return { file: patched(SOUND, L2 + 8, BigInt(layout.data.get(0)!)), disk };
  }),
  lossless('L2 entry that names an L2 table', 'error', /L2 entry 1 .* is part of the L2 table/, () => {
    const file = patched(SOUND, L2 + 8, BigInt(L2));
    const disk = qedDisk(SOUND);
    disk.set(file.subarray(L2, L2 + CLUSTER), CLUSTER);
    return { file, disk };
  }),
  lossless('two L1 entries with one table', 'error', /L1 entry 1 .* overlaps that of L1 entry 0/, () => {
    const disk = qedDisk(WIDE);
    disk.copyWithin(RANGE, 0, 3 * CLUSTER);
    return { file: patched(WIDE, L1 + 8, BigInt(L2)), disk };
  }),
  lossless('L2 tables that overlap in part', 'error', /L1 entry 1 .* overlaps that of L1 entry 0/, () => {
    // What is the second half of one table is the first half of the other: zeros, as is the data cluster behind it.
    const description = { ...WIDE, clusters: new Map([[1023, noise(CLUSTER)], ...WIDE.clusters!]) };
    const plan = encodeQed(description, () => {});
    const file = patched(description, L1 + 8, BigInt(plan.tables.get(0)! + CLUSTER));
    file.fill(0, plan.tables.get(0)! + 2 * CLUSTER, plan.tables.get(0)! + 3 * CLUSTER);
    const disk = qedDisk(description);
    const first = plan.data.get(0)!;
    if (first === plan.tables.get(0)! + 2 * CLUSTER) disk.fill(0, 0, CLUSTER);
    disk.fill(0, RANGE);
    return { file, disk };
  }),
];

const SPACE: readonly Corruption[] = [
  lossless(
    'clusters in the middle that nothing names',
    'leak',
    /4096 bytes at 0x3000: nothing references/,
    () => ({ file: patchedAll(SOUND, [0, 1]), disk: zeroed(qedDisk(SOUND), 0, 2) }),
    'leaks',
  ),
  lossless(
    'clusters at the end that nothing names',
    'leak',
    /12288 bytes at 0x8000: nothing references/,
    () => ({
      file: qedBytes({ ...SOUND, patches: new Map([[0x8000, noise(3 * CLUSTER)]]) }),
      disk: qedDisk(SOUND),
    }),
    'leaks',
  ),
  lossless(
    'stray bytes at the end',
    'warning',
    /the last 100 bytes are no whole cluster/,
    () => ({ file: qedBytes({ ...SOUND, patches: new Map([[0x8000, noise(100)]]) }), disk: qedDisk(SOUND) }),
    'leaks',
  ),
  lossless('last cluster that is not whole', 'warning', /no whole cluster/, () => {
    const description = { ...SOUND, imageSize: 2 * CLUSTER + 512 };
    const file = qedBytes(description).subarray(0, -(CLUSTER - 512));
    return { file, disk: qedDisk(description) };
  }),
];

function patchedAll(description: QedDescription, gone: readonly number[]): Uint8Array {
  const file = qedBytes(description);
  for (const entry of gone) file.set(u64(1n), L2 + entry * 8);
  return file;
}

const PAST_THE_END: readonly Corruption[] = [
  lossless(
    'damaged entries past the end of the disk',
    'warning',
    /2 entries past the end of the disk are damaged/,
    () => {
      const file = patched(SOUND, L2 + 700 * 8, 0x123n);
      file.set(u64(0x77n), L2 + 701 * 8);
      return { file, disk: qedDisk(SOUND) };
    },
  ),
  lossless(
    'entry past the end of the disk and of the file',
    'error',
    /L2 entry 700 .* beyond the end/,
    () => ({
      file: patched(SOUND, L2 + 700 * 8, 0x40000000n),
      disk: qedDisk(SOUND),
    }),
  ),
  lossless(
    'L1 entry past the end of the disk and of the file',
    'error',
    /L1 entry 9 .* beyond the end/,
    () => ({
      file: patched(SOUND, L1 + 9 * 8, 0x40000000n),
      disk: qedDisk(SOUND),
    }),
  ),
  lossless(
    'entry past the end of the disk with the cluster of another',
    'error',
    /L2 entry 700 .* in use/,
    () => ({
      file: patched(SOUND, L2 + 700 * 8, BigInt(layout.data.get(2)!)),
      disk: qedDisk(SOUND),
    }),
  ),
];

const HEADER: readonly Corruption[] = [
  lossless('NEED_CHECK', 'warning', /needs a check/, () => ({
    file: header({ features: 2n }),
    disk: qedDisk(SOUND),
  })),
  lossless('unknown autoclear features', 'warning', /autoclear features 0x10/, () => ({
    file: header({ autoclearFeatures: 0x10n }),
    disk: qedDisk(SOUND),
  })),
  {
    name: 'unknown compatible features',
    make: () => ({ file: header({ compatFeatures: 4n }), disk: qedDisk(SOUND) }),
    found: { as: 'warning', text: /compatible features 0x4/ },
    mendedBy: 'never',
  },
  {
    name: 'image size that is no multiple of 512',
    make: () => ({ file: header({ imageSize: BigInt(6 * CLUSTER - 12) }) }),
    found: { as: 'refused', text: /image size is 24564 bytes/ },
    mendedBy: 'lossless',
    mended: qedDisk(SOUND),
  },
  {
    name: 'header size of 0',
    make: () => ({ file: header({ headerSize: 0 }) }),
    found: { as: 'refused', text: /header size is 0 clusters/ },
    mendedBy: 'lossless',
    mended: qedDisk(SOUND),
  },
  {
    name: 'file that ends in the L1 table, behind what the disk needs of it',
    make: () => ({ file: qedBytes({ ...SOUND, clusters: new Map() }).subarray(0, 0x1000 + 512) }),
    found: { as: 'refused', text: /reaches beyond the end of the file/ },
    mendedBy: 'lossless',
    mended: new Uint8Array(SOUND.imageSize),
  },
  refused('magic', /magic/, () => header({ magic: 0x11 })),
  refused('unknown incompatible features', /incompatible features 0x40/, () => header({ features: 0x40n })),
  refused('cluster size', /cluster size is 4097/, () => header({ clusterSize: 4097 })),
  refused('table size', /table size is 3 clusters/, () => header({ tableSize: 3 })),
  refused('image size that the tables cannot map', /map .* at most/, () => header({ imageSize: 1n << 50n })),
  refused('place of the L1 table', /L1 table is at 0x1200/, () => header({ l1TableOffset: 0x1200n })),
  refused('L1 table behind the end of the file', /beyond the end of the file/, () =>
    header({ l1TableOffset: 0x40000000n }),
  ),
  refused('backing file name out of the header', /backing file name of 9 bytes/, () =>
    header({ features: 1n, backingFilenameOffset: 4090, backingFilenameSize: 9 }),
  ),
  refused('backing file name over the fields of the header', /backing file name of 9 bytes/, () =>
    header({ features: 1n, backingFilenameOffset: 8, backingFilenameSize: 9 }),
  ),
];

export const qedCorruptions: CorruptionTable = {
  format: 'qed',
  corruptions: [...ENTRIES, ...DOUBLES, ...SPACE, ...PAST_THE_END, ...HEADER],
};
