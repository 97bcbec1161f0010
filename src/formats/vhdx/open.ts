/** Reading all that must be known before anything of the disk can be: the common half of `open` and `check`. */

import { corrupt } from '../../base/errors.ts';
import { hex } from '../../base/units.ts';
import type { Report } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type BatGeometry, batGeometry } from './bat.ts';
import { type CurrentHeader, readCreator, readCurrentHeader } from './headers.ts';
import { type Replay, replayLog } from './log.ts';
import { type Metadata, readMetadata } from './metadata.ts';
import { Overlay } from './overlay.ts';
import { type Regions, readRegions } from './regions.ts';
import { BAT_ENTRY_BYTES } from './structs.ts';

export interface OpenedVhdx {
  readonly creator: string;
  readonly current: CurrentHeader;
  /** Undefined where the log was empty. */
  readonly replay: Replay | undefined;
  /** The file with its log replayed. */
  readonly replayed: BlockSource;
  readonly regions: Regions;
  readonly metadata: Metadata;
  readonly bat: BatGeometry;
}

/**
 * Throws ImageError where the file is no VHDX that can be read. `log`: 'ignore' looks at it as if there were nothing to be
 * replayed (for a repair).
 */
export function openVhdx(
  source: BlockSource,
  report: Report,
  log: 'replay' | 'ignore' = 'replay',
): OpenedVhdx {
  const creator = readCreator(source);
  const current = readCurrentHeader(source, report);
  const replay = current.dirty && log === 'replay' ? replayLog(source, current) : undefined;
  const replayed = replay === undefined ? source : new Overlay(source, replay.overlay);
  const regions = readRegions(replayed, current, report);
  const metadata = readMetadata(replayed, regions.metadata, report);
  const bat = batGeometry(metadata, regions);
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
  return { creator, current, replay, replayed, regions, metadata, bat };
}
