/**
 * Another backing file, or none: the header's sector, by one write. A name that fits behind the fields is in that sector
 * itself; a longer one is made stable before, in a part of the header where the present name is not, and the sector
 * then says where.
 */

import { ImageError, unsupported } from '../../base/errors.ts';
import { type HostOffset, hex, roundDown, roundUp } from '../../base/units.ts';
import type { NewParent } from '../../image/create.ts';
import { must } from '../../image/must.ts';
import type { Reshaping } from '../../image/reshape.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { backingOf, checkedName, NOTE } from './create.ts';
import { QedJob, SECTOR } from './job.ts';
import { BACKING_FILE, BACKING_NO_PROBE, MIN_CLUSTER_SIZE, qedHeader } from './structs.ts';

/** Places for a long name, of which the present one can overlap two at most. The record of an overlay stays (NOTE). */
const PLACES = [SECTOR, MIN_CLUSTER_SIZE, NOTE.at + 2 * SECTOR] as const;

/** Reshaper.rebase. Throws ImageError('usage') for a name that the format cannot record. */
export function* rebaseImage(source: BlockSource, parent: NewParent | undefined): Reshaping {
  const job = new QedJob(source);
  const { features, compatFeatures } = job.header;
  if (compatFeatures !== 0n) {
    throw unsupported(
      `${source.label}: has unknown compatible features ${hex(compatFeatures)}, which may say something of the place of its ` +
        "backing file's name",
    );
  }
  const others = features & ~(BACKING_FILE | BACKING_NO_PROBE);
  const backing = backingOf(parent);
  if (backing === undefined) {
    if ((features & BACKING_FILE) === 0n) return;
    job.writeHeader({ features: others, backingFilenameOffset: 0, backingFilenameSize: 0 });
    return;
  }
  const name = checkedName(backing.name);
  const at = placeFor(job, name.length);
  if (at >= SECTOR) writeName(job, name, at);
  job.writeHeader(
    {
      features: others | BACKING_FILE | (backing.raw ? BACKING_NO_PROBE : 0n),
      backingFilenameOffset: at,
      backingFilenameSize: name.length,
    },
    (sector) => {
      if (at < SECTOR) sector.set(name, at);
    },
  );
}

function placeFor({ header, geometry }: QedJob, length: number): number {
  if (qedHeader.size + length <= SECTOR) return qedHeader.size;
  const isThere = (header.features & BACKING_FILE) !== 0n;
  const first = isThere ? header.backingFilenameOffset : 0;
  const end = isThere ? first + header.backingFilenameSize : 0;
  const place = PLACES.find(
    (at) =>
      at + length <= geometry.headerBytes &&
      (at >= end || at + length <= first) &&
      (at + length <= NOTE.at || at >= NOTE.at + SECTOR),
  );
  if (place !== undefined) return place;
  throw new ImageError('usage', `a QED backing file name of ${length} bytes: the header has no room for it`);
}

/** In whole sectors, which keep what else they hold. */
function writeName(job: QedJob, name: Uint8Array, at: number): void {
  const { source } = job;
  const first = roundDown(at, SECTOR);
  const bytes = readExactly(
    source,
    first,
    roundUp(at + name.length, SECTOR) - first,
    (outcome) => new ImageError('io', `${source.label}: the QED header cannot be read (errno ${-outcome})`),
  );
  bytes.set(name, at - first);
  const status = source.writeAt(bytes, 0, bytes.length, first as HostOffset, 'header.write');
  must(status, source, "its backing file's name cannot be written");
}
