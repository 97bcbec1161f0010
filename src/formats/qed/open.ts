/**
 * Opening: the header is checked, and nothing else is read. Source: qed_spec, Header; arithmetic on its
 * values is exact, because their products exceed 64 bits.
 */

import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { type HostOffset, hex, isPowerOfTwo } from '../../base/units.ts';
import type { Report } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { type Geometry, geometryOf, maxImageSize } from './geometry.ts';
import type { Backing } from './parent.ts';
import {
  KNOWN_FEATURES,
  MAGIC,
  MAX_CLUSTER_SIZE,
  MAX_TABLE_SIZE,
  MIN_CLUSTER_SIZE,
  NEED_CHECK,
  type QedHeader,
  qedHeader,
} from './structs.ts';

/** Header times cluster size is a u32 in the format's other readers, and the backing name's offset is one. */
const MAX_HEADER_BYTES = 0xffffffff;

/** Reads the header. Throws ImageError where there is none. */
export function readHeader(source: BlockSource): QedHeader {
  const bytes = readExactly(source, 0, qedHeader.size, (outcome) =>
    outcome < 0
      ? new ImageError('io', `QED header at 0x0: cannot be read (errno ${-outcome})`)
      : corrupt(`QED header at 0x0: expected ${qedHeader.size} bytes, the file has ${outcome}`),
  );
  const header = qedHeader.decode(bytes);
  if (header.magic !== MAGIC) {
    throw corrupt(`QED header at 0x0: the magic is ${hex(header.magic)}, expected ${hex(MAGIC)}`);
  }
  return header;
}

/**
 * The proportions that the header gives. Throws ImageError: 'unsupported' for features, 'corrupt' for values
 * that break the format's rules.
 */
export function checkHeader(header: QedHeader, source: BlockSource): Geometry {
  const unknown = header.features & ~KNOWN_FEATURES;
  if (unknown !== 0n) {
    throw unsupported(`QED header: unknown incompatible features ${hex(unknown)} (known are 0x1, 0x2, 0x4)`);
  }
  const { clusterSize, tableSize, headerSize } = header;
  if (!isPowerOfTwo(clusterSize) || clusterSize < MIN_CLUSTER_SIZE || clusterSize > MAX_CLUSTER_SIZE) {
    throw corrupt(
      `QED header: the cluster size is ${clusterSize}, expected a power of two from ${MIN_CLUSTER_SIZE} to ${MAX_CLUSTER_SIZE}`,
    );
  }
  if (!isPowerOfTwo(tableSize) || tableSize > MAX_TABLE_SIZE) {
    throw corrupt(`QED header: the table size is ${tableSize} clusters, expected 1, 2, 4, 8 or 16`);
  }
  const headerBytes = headerSize * clusterSize;
  if (headerSize === 0 || headerBytes > MAX_HEADER_BYTES) {
    throw corrupt(
      `QED header: the header size is ${headerSize} clusters of ${clusterSize} bytes, expected at least 1 and below 4 GiB in all`,
    );
  }
  const virtualSize = checkImageSize(header);
  const l1Offset = checkL1(header, headerBytes, source.size);
  return geometryOf(clusterSize, tableSize, headerBytes, l1Offset, virtualSize);
}

function checkImageSize({ clusterSize, tableSize, imageSize }: QedHeader): number {
  if (imageSize % 512n !== 0n) {
    throw corrupt(`QED header: the image size is ${imageSize} bytes, expected a multiple of 512`);
  }
  const max = maxImageSize(clusterSize, tableSize);
  if (imageSize > max) {
    throw corrupt(
      `QED header: the image size is ${imageSize} bytes, but tables of ${tableSize} clusters of ${clusterSize} bytes map ${max} at most`,
    );
  }
  const size = safeNumber(imageSize);
  if (size === undefined) {
    throw unsupported(`QED header: the image size is ${imageSize} bytes, supported are ${2n ** 53n - 1n}`);
  }
  return size;
}

function checkL1(header: QedHeader, headerBytes: number, fileSize: number): HostOffset {
  const { clusterSize, tableSize, l1TableOffset } = header;
  const at = hex(l1TableOffset);
  if (l1TableOffset % BigInt(clusterSize) !== 0n) {
    throw corrupt(
      `QED header: the L1 table is at ${at}, expected a multiple of the cluster size ${clusterSize}`,
    );
  }
  if (l1TableOffset < BigInt(headerBytes)) {
    throw corrupt(
      `QED header: the L1 table is at ${at}, inside the header, which ends at ${hex(headerBytes)}`,
    );
  }
  const tableBytes = clusterSize * tableSize;
  if (l1TableOffset + BigInt(tableBytes) > BigInt(fileSize)) {
    throw corrupt(
      `QED header: the L1 table of ${tableBytes} bytes at ${at} reaches beyond the end of the file at ${hex(fileSize)}`,
    );
  }
  return Number(l1TableOffset) as HostOffset;
}

/** What deserves a notice, but does not keep the image from being read. */
export function reportOddities(header: QedHeader, source: BlockSource, report: Report): void {
  if ((header.features & NEED_CHECK) !== 0n) {
    report(
      'QED header: the image was not closed after it was last written and needs a check; it is read as it is',
    );
  }
  if (header.compatFeatures !== 0n) {
    report(`QED header: unknown compatible features ${hex(header.compatFeatures)} are ignored`);
  }
  if (header.autoclearFeatures !== 0n) {
    report(
      `QED header: unknown autoclear features ${hex(header.autoclearFeatures)} are left alone until the image is written`,
    );
  }
  const rest = source.size % header.clusterSize;
  if (rest !== 0) {
    report(
      `QED file: its size is ${source.size} bytes, expected a multiple of the cluster size ${header.clusterSize}; the last ${rest} bytes are no whole cluster`,
    );
  }
}

/** For an examiner, in the order of the header. */
export function factsOf(header: QedHeader, backing: Backing | undefined): ReadonlyMap<string, string> {
  const { clusterSize, tableSize } = header;
  const facts = new Map([
    ['cluster-size', `${clusterSize}`],
    ['table-size', `${tableSize} clusters`],
    ['header-size', `${header.headerSize} clusters`],
    ['features', hex(header.features)],
    ['compat-features', hex(header.compatFeatures)],
    ['autoclear-features', hex(header.autoclearFeatures)],
    ['needs-check', (header.features & NEED_CHECK) !== 0n ? 'yes' : 'no'],
    ['l1-table', hex(header.l1TableOffset)],
    ['max-size', `${maxImageSize(clusterSize, tableSize)}`],
  ]);
  if (backing === undefined) return facts;
  facts.set('backing-file', JSON.stringify(backing.name));
  facts.set('backing-format', backing.raw ? 'raw' : 'to be probed');
  return facts;
}
