/** Partition tables as the tests want them, sound or not, in a disk that is mostly empty. */

import { crc32 } from 'node:zlib';
import type { DiskReader } from '../../../src/partitions/range.ts';
import { SparseSource } from '../sparse-source.ts';

/** A disk that reads as zeros but for what was put there. */
export class TestDisk implements DiskReader {
  readonly size: number;
  readonly #bytes = new SparseSource();
  /** Reading these bytes fails: from and to. */
  readonly broken: [number, number][] = [];
  /** Bytes that were read. */
  bytesRead = 0;

  constructor(size: number) {
    this.size = size;
  }

  put(at: number, bytes: Uint8Array): this {
    this.#bytes.put(at, bytes);
    return this;
  }

  get(at: number, length: number): Buffer {
    const target = Buffer.alloc(length);
    this.#bytes.readAt(target, 0, length, at as never);
    return target;
  }

  read(target: Uint8Array, start: number, length: number, at: number): number {
    this.bytesRead += length;
    if (this.broken.some(([from, to]) => at < to && from < at + length)) return -5;
    const wanted = Math.max(0, Math.min(length, this.size - at));
    target.fill(0, start, start + wanted);
    this.#bytes.readAt(target, start, wanted, at as never);
    return wanted;
  }
}

export interface MbrPart {
  readonly type: number;
  readonly start: number;
  readonly sectors: number;
  readonly boot?: number;
}

/** The 512 bytes of a boot record or of an extended partition's table. */
export function mbr(parts: readonly (MbrPart | undefined)[], id = 0, signature = 0xaa55): Buffer {
  const sector = Buffer.alloc(512);
  sector.writeUInt32LE(id, 440);
  parts.forEach((part, index) => {
    if (part === undefined) return;
    const at = 446 + 16 * index;
    sector[at] = part.boot ?? 0;
    sector[at + 4] = part.type;
    sector.writeUInt32LE(part.start, at + 8);
    sector.writeUInt32LE(part.sectors, at + 12);
  });
  sector.writeUInt16LE(signature, 510);
  return sector;
}

export interface GptPart {
  /** Of the array, from 1. */
  readonly number: number;
  readonly first: number | bigint;
  readonly last: number | bigint;
  readonly name?: string;
  /** As on disk, in hexadecimal. */
  readonly type?: string;
}

/** 0fc63daf-8483-4772-8e79-3d69d8477de4: a Linux file system. */
export const LINUX_TYPE = 'af3dc60f838472478e793d69d8477de4';

export interface GptOptions {
  readonly sectorSize?: number;
  readonly count?: number;
  readonly entrySize?: number;
  /** Fields of the header that are not as they should be; the checksum is right all the same. */
  readonly header?: (header: Buffer) => void;
}

/** Puts a GPT with both copies and its protective MBR on a disk. */
export function putGpt(disk: TestDisk, parts: readonly GptPart[], options: GptOptions = {}): TestDisk {
  const { sectorSize = 512, count = 128, entrySize = 128 } = options;
  const sectors = Math.floor(disk.size / sectorSize);
  const entries = Buffer.alloc(count * entrySize);
  for (const { number, first, last, name = '', type = LINUX_TYPE } of parts) {
    const at = (number - 1) * entrySize;
    entries.write(type, at, 'hex');
    entries.fill(number, at + 16, at + 32);
    entries.writeBigUInt64LE(BigInt(first), at + 32);
    entries.writeBigUInt64LE(BigInt(last), at + 40);
    entries.write(name, at + 56, 72, 'utf16le');
  }
  const entrySectors = Math.ceil(entries.length / sectorSize);
  const copy = (lba: number, alternate: number, entriesLba: number): void => {
    const header = Buffer.alloc(92);
    header.write('EFI PART', 0, 'latin1');
    header.writeUInt32LE(0x10000, 8);
    header.writeUInt32LE(92, 12);
    header.writeBigUInt64LE(BigInt(lba), 24);
    header.writeBigUInt64LE(BigInt(alternate), 32);
    header.writeBigUInt64LE(BigInt(2 + entrySectors), 40);
    header.writeBigUInt64LE(BigInt(sectors - entrySectors - 2), 48);
    header.fill(0xd1, 56, 72);
    header.writeBigUInt64LE(BigInt(entriesLba), 72);
    header.writeUInt32LE(count, 80);
    header.writeUInt32LE(entrySize, 84);
    header.writeUInt32LE(crc32(entries), 88);
    options.header?.(header);
    header.writeUInt32LE(crc32(header), 16);
    disk.put(entriesLba * sectorSize, entries).put(lba * sectorSize, header);
  };
  copy(1, sectors - 1, 2);
  copy(sectors - 1, 1, sectors - 1 - entrySectors);
  return disk.put(0, mbr([{ type: 0xee, start: 1, sectors: Math.min(sectors - 1, 0xffffffff) }]));
}
