/** The region table: where the BAT, the metadata and regions of other programs are ([MS-VHDX] 2.2.3). */

import { corrupt, unsupported } from '../../base/errors.ts';
import { equalBytes, formatGuid } from '../../base/guid.ts';
import { type ByteCount, type HostOffset, hex, MIB } from '../../base/units.ts';
import type { Report } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type CurrentHeader, checksumOf, hexWord } from './headers.ts';
import { readObject } from './read.ts';
import {
  BAT_REGION,
  MAX_TABLE_ENTRIES,
  METADATA_REGION,
  REGION_SIGNATURE,
  REGION_TABLE_OFFSETS,
  regionEntry,
  regionTableHeader,
  TABLE_BYTES,
} from './structs.ts';

export interface Region {
  /** "VHDX BAT region", for messages. */
  readonly name: string;
  readonly at: HostOffset;
  readonly length: ByteCount;
}

export interface Regions {
  readonly bat: Region;
  readonly metadata: Region;
  /** The table that says so. */
  readonly table: Region;
  /** Whether both tables are sound, and say the same. */
  readonly agree: boolean;
  /** What no payload block may touch: header section, log and all regions, by host offset. */
  readonly taken: readonly Region[];
}

/** Reads the first region table, or the second where the first is damaged. `source` has the log replayed. */
export function readRegions(source: BlockSource, current: CurrentHeader, report: Report): Regions {
  const first = readTable(source, 0);
  const second = readTable(source, 1);
  if (first.problem !== undefined && second.problem !== undefined) {
    throw corrupt(`${first.name}: ${first.problem}; ${second.name}: ${second.problem}`);
  }
  const used = first.problem === undefined ? first : second;
  if (first.problem !== undefined || second.problem !== undefined) {
    const bad = used === first ? second : first;
    report(`${bad.name}: ${bad.problem}; ${used.name} is used`);
  } else if (!equalBytes(first.bytes, second.bytes)) {
    report(`${first.name} and ${second.name} are both valid but differ; the first is used`);
  }
  const table = { name: used.name, at: used.at, length: TABLE_BYTES };
  const agree = equalBytes(first.bytes, second.bytes);
  return { ...parseTable(used, current), table, agree };
}

interface Table {
  readonly name: string;
  readonly at: HostOffset;
  readonly bytes: Uint8Array;
  readonly problem: string | undefined;
}

function readTable(source: BlockSource, index: 0 | 1): Table {
  const at = REGION_TABLE_OFFSETS[index];
  const name = `VHDX region table ${index + 1} at ${hex(at)}`;
  const bytes = readObject(source, `VHDX region table ${index + 1}`, at, TABLE_BYTES);
  const { signature, checksum } = regionTableHeader.decode(bytes);
  let problem: string | undefined;
  if (signature !== REGION_SIGNATURE) {
    problem = `signature is ${hex(signature)}, expected ${hex(REGION_SIGNATURE)} ("regi")`;
  } else {
    const computed = checksumOf(bytes, regionTableHeader.at.checksum);
    if (computed !== checksum) problem = `checksum is ${hexWord(checksum)}, computed ${hexWord(computed)}`;
  }
  return { name, at: at as HostOffset, bytes, problem };
}

function parseTable(table: Table, current: CurrentHeader): Omit<Regions, 'table' | 'agree'> {
  const { entryCount } = regionTableHeader.decode(table.bytes);
  if (entryCount > MAX_TABLE_ENTRIES) {
    throw corrupt(`${table.name}: has ${entryCount} entries, expected at most ${MAX_TABLE_ENTRIES}`);
  }
  const known = new Map<string, Region>();
  const taken: Region[] = [{ name: 'VHDX header section', at: 0 as HostOffset, length: MIB }];
  if (current.logLength > 0) {
    taken.push({ name: 'VHDX log', at: current.logOffset, length: current.logLength });
  }
  for (let index = 0; index < entryCount; index += 1) {
    const entry = regionEntry.decode(table.bytes, regionTableHeader.size + index * regionEntry.size);
    const guid = formatGuid(entry.guid);
    const name = regionName(guid);
    const at = safeNumber(entry.fileOffset);
    if (known.has(guid)) throw corrupt(`${table.name}: entry ${index} repeats the ${name}`);
    if (at === undefined || at < MIB || at % MIB !== 0 || entry.length % MIB !== 0) {
      throw corrupt(
        `${table.name}: the ${name} is ${hex(entry.length)} bytes at ${hex(entry.fileOffset)}, ` +
          'expected multiples of 1 MiB from 0x100000 on',
      );
    }
    // The writers that matter leave the bit clear on the regions that everyone knows, so it decides only here.
    if (guid !== BAT_REGION && guid !== METADATA_REGION && (entry.required & 1) !== 0) {
      throw unsupported(`${table.name}: the ${name} is marked as required and not known`);
    }
    const region = { name, at: at as HostOffset, length: entry.length };
    known.set(guid, region);
    if (region.length > 0) taken.push(region);
  }
  taken.sort((a, b) => a.at - b.at);
  for (let index = 1; index < taken.length; index += 1) {
    const [before, after] = [taken[index - 1]!, taken[index]!];
    if (before.at + before.length > after.at) {
      throw corrupt(
        `${table.name}: the ${after.name} at ${hex(after.at)} overlaps the ${before.name}, ` +
          `which ends at ${hex(before.at + before.length)}`,
      );
    }
  }
  const bat = known.get(BAT_REGION);
  const metadata = known.get(METADATA_REGION);
  if (bat === undefined || metadata === undefined) {
    throw corrupt(
      `${table.name}: has no ${regionName(bat === undefined ? BAT_REGION : METADATA_REGION)} ` +
        `among its ${entryCount} entries`,
    );
  }
  return { bat, metadata, taken };
}

function regionName(guid: string): string {
  if (guid === BAT_REGION) return 'VHDX BAT region';
  if (guid === METADATA_REGION) return 'VHDX metadata region';
  return `VHDX region ${guid}`;
}
