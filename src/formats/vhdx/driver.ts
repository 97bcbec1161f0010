/** VHDX, fixed, dynamic and differencing ([MS-VHDX]). A dirty log is replayed in memory until the first write. See README.md. */

import { formatGuid } from '../../base/guid.ts';
import { type ByteCount, formatSize, type GuestOffset } from '../../base/units.ts';
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
import type { IdentityMark, ParentLink } from '../../image/parent.ts';
import { PagedTable, type PagedTableSeed } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, batLoader, blockOf, entryOf, isBitmapEntry, kindOf, PARTIAL } from './bat.ts';
import { bitmapLoader, bitmapWords, SectorBits } from './bitmaps.ts';
import { checkVhdx } from './check.ts';
import { vhdxCreator } from './create.ts';
import { VhdxEditor } from './editor.ts';
import type { Replay } from './log.ts';
import { type OpenedVhdx, openVhdx } from './open.ts';
import { Overlay, type OverlayState } from './overlay.ts';
import { identityOf, parentOf } from './parent.ts';
import { prepareEdit, type VhdxEdit } from './prepare.ts';
import { vhdxReshaper } from './reshape.ts';
import { FILE_SIGNATURE } from './structs.ts';
import { VhdxTranslator } from './translator.ts';

interface VhdxState {
  readonly bat: BatGeometry;
  readonly table: PagedTableSeed;
  /** The sector bitmaps; undefined where there is no parent. */
  readonly bits: PagedTableSeed | undefined;
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
  readonly identity: readonly IdentityMark[];
  readonly parent: ParentLink | undefined;
  readonly #opened: OpenedVhdx;
  readonly #state: VhdxState;
  readonly #source: BlockSource;

  constructor(opened: OpenedVhdx, state: VhdxState, source: BlockSource) {
    const { current, metadata } = opened;
    this.identity = identityOf(current, metadata);
    this.parent = parentOf(metadata);
    this.variant = this.parent !== undefined ? 'differencing' : metadata.fixed ? 'fixed' : 'dynamic';
    this.virtualSize = metadata.virtualSize;
    this.logicalSectorSize = metadata.logicalSectorSize;
    this.physicalSectorSize = metadata.physicalSectorSize;
    this.blockSize = metadata.blockSize;
    this.facts = factsOf(opened);
    this.#opened = opened;
    this.#state = state;
    this.#source = source;
  }

  countAllocated(from: GuestOffset, add: (bytes: ByteCount) => void): GuestOffset | undefined {
    const { bat } = this.#state;
    const { blockSize, chunkShift, virtualSize } = bat;
    const first = entryOf(Math.floor(from / blockSize), chunkShift);
    const load = batLoader(this.#opened.replayed, bat);
    const next = scanTable(load, bat.entries, first, this.#source.label, (entry, word) => {
      const kind = kindOf(word);
      if ((kind !== DATA && kind !== PARTIAL) || isBitmapEntry(entry, chunkShift)) return;
      add(Math.min(blockSize, virtualSize - blockOf(entry, chunkShift) * blockSize));
    });
    return next === undefined ? undefined : ((blockOf(next, chunkShift) * blockSize) as GuestOffset);
  }

  prepareEdit({ nextIdentity }: OpenContext): VhdxEdit {
    return prepareEdit(this.#opened, this.#source, nextIdentity);
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
  const opened = openVhdx(source, context.report);
  const state: VhdxState = {
    bat: opened.bat,
    table: context.tables.allocate(opened.bat.entries),
    bits: opened.bat.hasParent ? context.tables.allocate(bitmapWords(opened.bat)) : undefined,
    overlay: opened.replay?.overlay,
  };
  return new VhdxImage(opened, state, source);
}

function factsOf({ creator, current, replay, metadata, bat }: OpenedVhdx): ReadonlyMap<string, string> {
  const facts = new Map([
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
  const { linkages, paths } = metadata.parent ?? { linkages: [], paths: [] };
  linkages.forEach((guid, n) => {
    facts.set(n === 0 ? 'parent-linkage' : `parent-linkage-${n + 1}`, guid);
  });
  for (const { key, path } of paths) facts.set(`parent-${key.replaceAll('_', '-')}`, path);
  return facts;
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
    const { bat, table, bits, overlay } = shared.state as VhdxState;
    const replayed = overlay === undefined ? undefined : new Overlay(source, overlay);
    const words = new PagedTable(pool, table, batLoader(replayed ?? source, bat));
    const sectors =
      bits === undefined
        ? undefined
        : new SectorBits(new PagedTable(pool, bits, bitmapLoader(replayed ?? source, bat, words)));
    return new VhdxTranslator(bat, words, sectors, source, replayed, report);
  },
  attachEditor(shared, source, context, translator) {
    const { bat, overlay } = shared.state as VhdxState;
    const { table, bits } = translator as VhdxTranslator;
    return new VhdxEditor(bat, shared.edit as VhdxEdit, source, context, table, bits, overlay);
  },
  check: checkVhdx,
  create: vhdxCreator,
  reshape: vhdxReshaper,
} satisfies FormatDriver);
