/** The dynamic header: read and checked, as far as it matters for reading. */

import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { quoted } from '../../base/text.ts';
import { type ByteCount, hex, isPowerOfTwo, MIB } from '../../base/units.ts';
import type { Report } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { checksumOf } from './footer.ts';
import {
  type DynamicHeader,
  type Footer,
  HEADER_COOKIE,
  headerStruct,
  SECTOR,
  VERSION_1_0,
} from './structs.ts';

/** Larger blocks are legal by the letter, but no producer makes them. */
export const MAX_BLOCK_SIZE = 256 * MIB;

export interface PlacedHeader {
  /** Host offset of the header. */
  readonly at: number;
  readonly header: DynamicHeader;
  /** Host offset of the table. */
  readonly tableAt: number;
  /** The checksum that it should have. */
  readonly computed: number;
}

/** Throws ImageError where the header is not one, or what it says cannot be. */
export function readHeader(source: BlockSource, footer: Footer, report: Report): PlacedHeader {
  const at = safeNumber(footer.dataOffset);
  if (at === undefined || at < SECTOR || at + headerStruct.size > source.size) {
    throw corrupt(
      `VHD footer: the dynamic header is said to be at ${hex(footer.dataOffset)}, ` +
        `expected a place from 0x200 to the end of the file at ${hex(source.size)}`,
    );
  }
  const bytes = readExactly(source, at, headerStruct.size, (outcome) => {
    return new ImageError('io', `VHD dynamic header at ${hex(at)}: cannot be read (${outcome})`);
  });
  const header = headerStruct.decode(bytes);
  const name = `VHD dynamic header at ${hex(at)}`;
  if (header.cookie !== HEADER_COOKIE) {
    throw corrupt(`${name}: expected the cookie "${HEADER_COOKIE}", found ${quoted(header.cookie)}`);
  }
  const computed = checksumOf(bytes, headerStruct.at.checksum);
  if (computed !== header.checksum) {
    report(`${name}: checksum is ${hex(header.checksum)}, computed ${hex(computed)}`);
  }
  if (header.version !== VERSION_1_0) {
    report(`${name}: version is ${hex(header.version)}, expected 0x10000`);
  }
  checkBlockSize(name, header.blockSize);
  const tableAt = safeNumber(header.tableOffset);
  if (tableAt === undefined || tableAt < SECTOR || tableAt >= source.size) {
    throw corrupt(
      `${name}: the block allocation table is said to be at ${hex(header.tableOffset)}, ` +
        `expected a place from 0x200 to the end of the file at ${hex(source.size)}`,
    );
  }
  if (tableAt % SECTOR !== 0) {
    report(`${name}: the block allocation table at ${hex(tableAt)} does not start at a sector`);
  }
  return { at, header, tableAt, computed };
}

function checkBlockSize(name: string, blockSize: ByteCount): void {
  if (!isPowerOfTwo(blockSize) || blockSize < SECTOR) {
    throw corrupt(`${name}: block size is ${blockSize} bytes, expected a power of two from 512`);
  }
  if (blockSize > MAX_BLOCK_SIZE) {
    throw unsupported(`${name}: block size is ${blockSize} bytes, supported are up to ${MAX_BLOCK_SIZE}`);
  }
}
