/** VHDX, fixed and dynamic ([MS-VHDX]). A dirty log is replayed in memory; the file is never written. */

import { corrupt } from '../../base/errors.ts';
import { formatGuid } from '../../base/guid.ts';
import { type ByteCount, formatSize, type GuestOffset, hex } from '../../base/units.ts';
import { scanTable } from '../../image/count.ts';
import {
  type FormatDriver,
  type Image,
  NO_MATCH,
  type OpenContext,
  type ProbeSample,
  type ProbeVerdict,
  type SharedImage,
} from '../../image/driver.ts';
import { DATA } from '../../image/extent.ts';
import { PagedTable, type PagedTableSeed } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, batGeometry, batLoader, blockOf, entryOf, isBitmapEntry } from './bat.ts';
import { type CurrentHeader, readCreator, readCurrentHeader } from './headers.ts';
import { type Replay, replayLog } from './log.ts';
import { type Metadata, readMetadata } from './metadata.ts';
import { Overlay, type OverlayState } from './overlay.ts';
import { readRegions } from './regions.ts';
import { BAT_ENTRY_BYTES, FILE_SIGNATURE } from './structs.ts';
import { kindOf, VhdxTranslator } from './translator.ts';

interface VhdxState {
  readonly bat: BatGeometry;
  readonly table: PagedTableSeed;
  /** Undefined where the log was empty. */
  readonly overlay: OverlayState | undefined;
}

class VhdxImage implements Image {
  readonly format = 'vhdx';
  readonly variant: string;
  readonly virtualSize: ByteCount;
  readonly logicalSectorSize: number;
  readonly physicalSectorSize: number;
  readonly blockSize: ByteCount;
  readonly facts: ReadonlyMap<string, string>;
  readonly #state: VhdxState;
  /** The file as replayed. */
  readonly #source: BlockSource;

  constructor(metadata: Metadata, state: VhdxState, source: BlockSource, facts: ReadonlyMap<string, string>) {
    this.variant = metadata.fixed ? 'fixed' : 'dynamic';
    this.virtualSize = metadata.virtualSize;
    this.logicalSectorSize = metadata.logicalSectorSize;
    this.physicalSectorSize = metadata.physicalSectorSize;
    this.blockSize = metadata.blockSize;
    this.facts = facts;
    this.#state = state;
    this.#source = source;
  }

  countAllocated(from: GuestOffset, add: (bytes: ByteCount) => void): GuestOffset | undefined {
    const { bat } = this.#state;
    const { blockSize, chunkShift, virtualSize } = bat;
    const first = entryOf(Math.floor(from / blockSize), chunkShift);
    const load = batLoader(this.#source, bat);
    const next = scanTable(load, bat.entries, first, this.#source.label, (entry, word) => {
      if (kindOf(word) !== DATA || isBitmapEntry(entry, chunkShift)) return;
      add(Math.min(blockSize, virtualSize - blockOf(entry, chunkShift) * blockSize));
    });
    return next === undefined ? undefined : ((blockOf(next, chunkShift) * blockSize) as GuestOffset);
  }

  share(): SharedImage {
    return { format: 'vhdx', virtualSize: this.virtualSize, state: this.#state };
  }
}

function probe({ head }: ProbeSample): ProbeVerdict {
  for (let at = 0; at < FILE_SIGNATURE.length; at += 1) {
    if (head[at] !== FILE_SIGNATURE.charCodeAt(at)) return NO_MATCH;
  }
  // Whether it is fixed, dynamic or differencing is written behind the part that a probe sees.
  return { match: 'signature', variant: 'version 1' };
}

function open(source: BlockSource, context: OpenContext): Image {
  const creator = readCreator(source);
  const current = readCurrentHeader(source, context.report);
  const replay = current.dirty ? replayLog(source, current) : undefined;
  const replayed = replay === undefined ? source : new Overlay(source, replay.overlay);
  const regions = readRegions(replayed, current, context.report);
  const metadata = readMetadata(replayed, regions.metadata, context.report);
  const bat = batGeometry(metadata, regions, replayed.size);
  const needed = bat.entries * BAT_ENTRY_BYTES;
  if (needed > regions.bat.length) {
    throw corrupt(
      `VHDX BAT region at ${hex(bat.at)}: ${bat.entries} entries need ${needed} bytes, ` +
        `the region has ${regions.bat.length}`,
    );
  }
  if (bat.at + needed > replayed.size) {
    throw corrupt(
      `VHDX BAT region at ${hex(bat.at)}: ${bat.entries} entries end at ${hex(bat.at + needed)}, ` +
        `the file at ${hex(replayed.size)}`,
    );
  }
  const state: VhdxState = {
    bat,
    table: context.tables.allocate(bat.entries),
    overlay: replay?.overlay,
  };
  return new VhdxImage(metadata, state, replayed, factsOf(creator, current, replay, metadata, bat));
}

function factsOf(
  creator: string,
  current: CurrentHeader,
  replay: Replay | undefined,
  metadata: Metadata,
  bat: BatGeometry,
): ReadonlyMap<string, string> {
  return new Map([
    ['creator', creator],
    ['log-state', describeLog(replay)],
    ['log-size', formatSize(current.logLength)],
    ['header', `${current.slot} (sequence ${current.sequenceNumber})`],
    ['file-write-guid', formatGuid(current.fileWriteGuid)],
    ['data-write-guid', formatGuid(current.dataWriteGuid)],
    ['virtual-disk-id', formatGuid(metadata.virtualDiskId)],
    ['blocks', `${bat.blocks}`],
    ['bat-entries', `${bat.entries}`],
  ]);
}

function describeLog(replay: Replay | undefined): string {
  if (replay === undefined) return 'clean';
  const entries = replay.entries === 1 ? '1 entry' : `${replay.entries} entries`;
  return `dirty: ${entries} replayed in memory`;
}

export const vhdxDriver: FormatDriver = Object.freeze({
  id: 'vhdx',
  title: 'Virtual Hard Disk v2 (Hyper-V, WSL2)',
  suffixes: ['.vhdx', '.avhdx'],
  options: [],
  probe,
  open,
  attach(shared, source, { pool, report }) {
    const { bat, table, overlay } = shared.state as VhdxState;
    const replayed = overlay === undefined ? undefined : new Overlay(source, overlay);
    const words = new PagedTable(pool, table, batLoader(replayed ?? source, bat));
    return new VhdxTranslator(bat, words, source, replayed, report);
  },
} satisfies FormatDriver);
