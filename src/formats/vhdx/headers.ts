/** The two headers of the file and which of them is current ([MS-VHDX] 2.2.2). */

import { crc32c } from '../../base/crc32c.ts';
import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { equalBytes, formatGuid, isZero } from '../../base/guid.ts';
import { plain } from '../../base/text.ts';
import { type ByteCount, type HostOffset, hex, MIB } from '../../base/units.ts';
import type { Report } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { decodeText, readObject } from './read.ts';
import {
  CREATOR_BYTES,
  FILE_SIGNATURE,
  HEADER_BYTES,
  HEADER_OFFSETS,
  HEADER_SIGNATURE,
  header as headerStruct,
} from './structs.ts';

export interface CurrentHeader {
  /** 1 or 2. */
  readonly slot: number;
  /** All bytes that the checksum covers. */
  readonly raw: Uint8Array;
  readonly logVersion: number;
  readonly sequenceNumber: bigint;
  readonly fileWriteGuid: Uint8Array;
  readonly dataWriteGuid: Uint8Array;
  readonly logGuid: Uint8Array;
  readonly logOffset: HostOffset;
  /** 0: there is no log area. */
  readonly logLength: ByteCount;
  /** The log holds entries that must be replayed. */
  readonly dirty: boolean;
}

interface Candidate {
  readonly name: string;
  readonly raw: Uint8Array;
  readonly fields: ReturnType<typeof headerStruct.decode>;
  /** Why it does not count; undefined if it does. */
  readonly problem: string | undefined;
  /** All is well but the version. */
  readonly foreign: boolean;
}

/** The creator recorded in the file type identifier. Throws ImageError where the file is no VHDX. */
export function readCreator(source: BlockSource): string {
  const bytes = readObject(source, 'VHDX file identifier', 0, FILE_SIGNATURE.length + CREATOR_BYTES);
  const signature = String.fromCharCode(...bytes.subarray(0, FILE_SIGNATURE.length));
  if (signature !== FILE_SIGNATURE) {
    throw corrupt(
      `VHDX file identifier at 0x0: expected "${FILE_SIGNATURE}", found ${JSON.stringify(signature)}`,
    );
  }
  return plain(decodeText(bytes.subarray(FILE_SIGNATURE.length)), '?');
}

/**
 * Chooses the current header: of two valid ones that with the larger sequence number. Two with equal numbers
 * are no legal state, but disk2vhd writes the same header twice: then the first is taken.
 */
export function readCurrentHeader(source: BlockSource, report: Report): CurrentHeader {
  const first = readCandidate(source, 0);
  const second = readCandidate(source, 1);
  const slot = choose(first, second, report);
  const { fields, name, raw } = slot === 1 ? first : second;
  const dirty = !isZero(fields.logGuid);
  if (dirty && fields.logVersion !== 0) {
    throw unsupported(`${name}: the log has version ${fields.logVersion}, only version 0 can be replayed`);
  }
  const logOffset = safeNumber(fields.logOffset);
  const logLength = fields.logLength;
  if (logOffset === undefined || logLength % MIB !== 0 || logOffset % MIB !== 0) {
    throw corrupt(
      `${name}: the log is ${hex(logLength)} bytes at ${hex(fields.logOffset)}, expected multiples of 1 MiB`,
    );
  }
  if (logLength > 0 && logOffset < MIB) {
    throw corrupt(`${name}: the log is at ${hex(logOffset)}, expected at least 0x100000`);
  }
  if (logLength > 0 && logOffset + logLength > source.size) {
    const text = `${name}: the log ends at ${hex(logOffset + logLength)}, the file at ${hex(source.size)}`;
    if (dirty) throw corrupt(`${text}; its entries are needed`);
    report(text);
  }
  return {
    slot,
    raw,
    logVersion: fields.logVersion,
    sequenceNumber: fields.sequenceNumber,
    fileWriteGuid: fields.fileWriteGuid,
    dataWriteGuid: fields.dataWriteGuid,
    logGuid: fields.logGuid,
    logOffset: logOffset as HostOffset,
    logLength,
    dirty,
  };
}

/**
 * What is wrong with the header that is not current: it is not valid, it has the current one's number, or it names another log
 * (a change of the headers was cut short). Undefined: nothing.
 */
export function otherHeaderProblem(source: BlockSource, { slot, raw }: CurrentHeader): string | undefined {
  const { name, problem, fields, raw: other } = readCandidate(source, slot === 1 ? 1 : 0);
  if (problem !== undefined) return `${name}: ${problem}`;
  const { size } = headerStruct;
  const { sequenceNumber, logGuid } = headerStruct.at;
  if (equalBytes(raw.subarray(sequenceNumber, size), other.subarray(sequenceNumber, size))) {
    return `${name}: is the same as header ${slot}, with sequence number ${fields.sequenceNumber}`;
  }
  // The identities differ where each header got one of its own (QEMU).
  if (equalBytes(raw.subarray(logGuid, size), other.subarray(logGuid, size))) return undefined;
  return `${name}: is older than header ${slot}, and names another log (${formatGuid(fields.logGuid)})`;
}

function choose(first: Candidate, second: Candidate, report: Report): 1 | 2 {
  if (first.problem !== undefined && second.problem !== undefined) {
    const text = `${first.name}: ${first.problem}; ${second.name}: ${second.problem}`;
    throw new ImageError(first.foreign || second.foreign ? 'unsupported' : 'corrupt', text);
  }
  if (first.problem !== undefined || second.problem !== undefined) {
    const [bad, good] = first.problem === undefined ? [second, first] : [first, second];
    report(`${bad.name}: ${bad.problem}; ${good.name} is used`);
    return good === first ? 1 : 2;
  }
  const [a, b] = [first.fields.sequenceNumber, second.fields.sequenceNumber];
  if (a !== b) return a > b ? 1 : 2;
  const from = headerStruct.at.sequenceNumber;
  if (
    !equalBytes(first.raw.subarray(from, headerStruct.size), second.raw.subarray(from, headerStruct.size))
  ) {
    throw corrupt(
      `${first.name} and ${second.name}: both have sequence number ${a} but differ, none is current`,
    );
  }
  report(`${first.name} and ${second.name} are the same, with sequence number ${a}; the first is used`);
  return 1;
}

function readCandidate(source: BlockSource, index: 0 | 1): Candidate {
  const at = HEADER_OFFSETS[index];
  const name = `VHDX header ${index + 1} at ${hex(at)}`;
  const raw = readObject(source, `VHDX header ${index + 1}`, at, HEADER_BYTES);
  const fields = headerStruct.decode(raw);
  let problem: string | undefined;
  let foreign = false;
  if (fields.signature !== HEADER_SIGNATURE) {
    problem = `signature is ${hex(fields.signature)}, expected ${hex(HEADER_SIGNATURE)} ("head")`;
  } else {
    const checksum = checksumOf(raw, headerStruct.at.checksum);
    if (checksum !== fields.checksum) {
      problem = `checksum is ${hexWord(fields.checksum)}, computed ${hexWord(checksum)}`;
    } else if (fields.version !== 1) {
      foreign = true;
      problem = `version is ${fields.version}, expected 1`;
    }
  }
  return { name, raw, fields, problem, foreign };
}

const NOTHING = new Uint8Array(4);

/** CRC-32C of `bytes` with the four bytes at `field` taken as zero. */
export function checksumOf(bytes: Uint8Array, field: number): number {
  return crc32c(bytes.subarray(field + 4), crc32c(NOTHING, crc32c(bytes.subarray(0, field))));
}

/** "0x00c0ffee" */
export const hexWord = (word: number): string => `0x${word.toString(16).padStart(8, '0')}`;
