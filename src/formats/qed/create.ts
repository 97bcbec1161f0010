/** New QED images, as bytes. Shapes are those that QEMU makes by default, as long as they can hold the disk. */

import { ImageError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import {
  bytesAt,
  type Creator,
  checkDiskSize,
  checkPower,
  type ImagePlan,
  type NewParent,
} from '../../image/create.ts';
import { maxImageSize } from './geometry.ts';
import type { Backing } from './parent.ts';
import {
  BACKING_FILE,
  BACKING_NO_PROBE,
  MAGIC,
  MAX_BACKING_NAME,
  MAX_CLUSTER_SIZE,
  MAX_TABLE_SIZE,
  MIN_CLUSTER_SIZE,
  qedHeader,
} from './structs.ts';

export interface NewQed {
  /** Bytes of the disk: a multiple of 512. */
  readonly virtualSize: ByteCount;
  readonly backing?: Backing | undefined;
  /** Bytes for `NOTE`, at most as many as fit there. */
  readonly note?: Uint8Array | undefined;
  /** Bytes; by default as many as the disk needs. The caller has checked it. */
  readonly clusterSize?: number | undefined;
  /** Clusters per table, 4 by default. The caller has checked it. */
  readonly tableSize?: number | undefined;
}

/** The file: `head`, then zeros. */
export interface NewImage {
  readonly head: Uint8Array;
  /** Bytes of the file. */
  readonly size: ByteCount;
}

/** Where QEMU puts the backing file's name, too. */
const NAME_AT = qedHeader.size;

/**
 * Room in the header's cluster that no reader or writer of the format touches, whatever the cluster size: behind the
 * longest name, in sectors of its own. (QEMU rewrites the first sector, and the name when it is changed: tried in
 * test/oracle/qed-chain.test.ts.)
 */
export const NOTE = { at: 2048, bytes: MIN_CLUSTER_SIZE - 2048 } as const;

const CLUSTER_SIZE = 65536;
/** Clusters per table. Those of 1 are legal, but QEMU opens none. */
const TABLE_SIZE = 4;
const MIN_TABLE_SIZE = 2;

/**
 * The smallest clusters from 64 KiB on that can map the disk. With tables of 4: 64 KiB up to 64 TiB, 512 KiB for the
 * largest. All of these are images that QEMU opens: its arithmetic ends at 2^64 (formats/qed.md 3).
 */
function clusterSizeFor(virtualSize: ByteCount, tableSize: number): number {
  let clusterSize = CLUSTER_SIZE;
  while (clusterSize < MAX_CLUSTER_SIZE && maxImageSize(clusterSize, tableSize) < BigInt(virtualSize)) {
    clusterSize *= 2;
  }
  return clusterSize;
}

/**
 * An empty image: one cluster of header, then the L1 table. Throws ImageError('usage') for a size or a name that the
 * format cannot record.
 */
export function newImage({
  virtualSize,
  backing,
  note,
  tableSize = TABLE_SIZE,
  clusterSize: wanted,
}: NewQed): NewImage {
  if (!Number.isSafeInteger(virtualSize) || virtualSize < 0 || virtualSize % 512 !== 0) {
    throw new ImageError(
      'usage',
      `a QED disk of ${virtualSize} bytes: expected a multiple of 512 below 2^53`,
    );
  }
  if (note !== undefined && note.length > NOTE.bytes) {
    throw new ImageError('bug', `a note of ${note.length} bytes, there is room for ${NOTE.bytes}`);
  }
  const name = backing === undefined ? new Uint8Array() : checkedName(backing.name);
  const clusterSize = wanted ?? clusterSizeFor(virtualSize, tableSize);
  const head = new Uint8Array(MIN_CLUSTER_SIZE);
  qedHeader.encode(
    {
      magic: MAGIC,
      clusterSize,
      tableSize,
      headerSize: 1,
      features: backing === undefined ? 0n : BACKING_FILE | (backing.raw ? BACKING_NO_PROBE : 0n),
      compatFeatures: 0n,
      autoclearFeatures: 0n,
      l1TableOffset: BigInt(clusterSize),
      imageSize: BigInt(virtualSize),
      backingFilenameOffset: backing === undefined ? 0 : NAME_AT,
      backingFilenameSize: name.length,
    },
    head,
  );
  head.set(name, NAME_AT);
  if (note !== undefined) head.set(note, NOTE.at);
  return { head, size: (1 + tableSize) * clusterSize };
}

/** As it is recorded. Throws ImageError('usage') where it cannot be. */
export function checkedName(text: string): Uint8Array {
  const name = new TextEncoder().encode(text);
  if (name.length > 0 && name.length <= MAX_BACKING_NAME && !name.includes(0)) return name;
  throw new ImageError(
    'usage',
    `a QED backing file name of ${name.length} bytes: expected 1 to ${MAX_BACKING_NAME}, without NUL`,
  );
}

const usage = (message: string, hint?: string): ImageError => new ImageError('usage', message, { hint });

/** The largest multiple of 512 that a number of ours holds exactly. */
const MAX_DISK_SIZE = 2 ** 53 - 512;

export const qedCreator: Creator = {
  options: [
    {
      name: 'cluster-size',
      values: 'size',
      doc: 'From 4K to 64M; by default 64K, more where the disk needs it (above 64T).',
    },
    {
      name: 'table-size',
      values: ['2', '4', '8', '16'],
      doc: 'Clusters per table; 4 by default. QEMU opens none of 1.',
    },
  ],
  parents: ['qed', 'raw', 'vhd', 'vhdx', 'vdi'],
  sizeUnit: 512,
  plan: ({ virtualSize, options, parent }): ImagePlan => {
    checkDiskSize('QED', virtualSize, 512, MAX_DISK_SIZE);
    const tableSize = Number(options.word('table-size') ?? TABLE_SIZE);
    const clusterSize = options.size('cluster-size') ?? clusterSizeFor(virtualSize, tableSize);
    checkPower('cluster-size', clusterSize, MIN_CLUSTER_SIZE, MAX_CLUSTER_SIZE);
    checkPower('table-size', tableSize, MIN_TABLE_SIZE, MAX_TABLE_SIZE);
    checkProportions(virtualSize, clusterSize, tableSize);
    const { head, size } = newImage({ virtualSize, clusterSize, tableSize, backing: backingOf(parent) });
    return { pieces: [bytesAt(0, head)], size, data: undefined };
  },
};

/** Whether tables of this kind map the disk, and QEMU can count what they map: in 64 bits (formats/qed.md 3). */
function checkProportions(virtualSize: ByteCount, clusterSize: number, tableSize: number): void {
  const most = maxImageSize(clusterSize, tableSize);
  const shape = `clusters of ${clusterSize} bytes, ${tableSize} per table,`;
  if (most < BigInt(virtualSize)) {
    throw usage(
      `a QED disk of ${virtualSize} bytes: ${shape} map at most ${most}`,
      'Say a greater cluster size, or leave both sizes out.',
    );
  }
  if (most >= 2n ** 64n) {
    throw usage(
      `${shape} would map 2^64 bytes or more: QEMU opens no such QED`,
      'Say a smaller cluster size.',
    );
  }
}

/** A name relative to the image; a colon before any slash would make it a protocol to QEMU. */
export function backingOf(parent: NewParent | undefined): Backing | undefined {
  if (parent === undefined) return undefined;
  const { relative, image } = parent;
  const name = /^[^/]*:/.test(relative) ? `./${relative}` : relative;
  return { name, raw: image.format === 'raw' };
}
