/**
 * Power cuts while an image is mended, also where it cannot be opened, or not be read as a whole, before that. At each
 * instant what could be read still can, as it was; what could not be read either still cannot, or shows what the repair
 * makes of it; and a repair that is begun again from there ends in the same disk as one that nothing cut short.
 */

import { ImageError } from '../../src/base/errors.ts';
import { guestOffset, MIB } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import type { FormatDriver, OpenContext } from '../../src/image/driver.ts';
import type { RepairScope } from '../../src/image/reshape.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { type CutPlan, type CutResult, cutChanges } from '../powercut/harness.ts';
import { finish } from '../powercut/reshape.ts';
import { openDisk, parentDisk } from '../support/disk.ts';
import { MemorySource } from '../support/memory-source.ts';
import { RecordingSource } from '../support/recording-source.ts';
import type { Corruption, DamagedImage } from './corruption.ts';

const SECTOR = 512;
/** Of a disk that is larger only the first bytes are looked at: behind them it has none in these tables. */
const SEEN = 16 * MIB;

/** The bytes of a disk, and which of its sectors can be read. */
export interface Shown {
  readonly bytes: Uint8Array;
  readonly there: Uint8Array;
}

/** Sectors that cannot be read are left out, whatever stands around them. */
function readSectors(disk: Disk): Shown {
  const bytes = new Uint8Array(Math.min(SEEN, disk.size));
  const there = new Uint8Array(Math.ceil(bytes.length / SECTOR));
  if (disk.read(bytes, 0, bytes.length, guestOffset(0)) === bytes.length) {
    return { bytes, there: there.fill(1) };
  }
  for (let sector = 0; sector < there.length; sector += 1) {
    const at = sector * SECTOR;
    const count = Math.min(SECTOR, bytes.length - at);
    if (disk.read(bytes, at, count, guestOffset(at)) === count) there[sector] = 1;
  }
  return { bytes, there };
}

/** What an image shows; the error where it cannot be opened. */
export function look(driver: FormatDriver, source: BlockSource, image: DamagedImage): Shown | ImageError {
  try {
    return readSectors(openDisk(driver, source, image.options, 1 << 18, parentDisk(image)).disk);
  } catch (problem) {
    if (problem instanceof ImageError && problem.kind !== 'bug') return problem;
    throw problem;
  }
}

/**
 * What is wrong with `now`, an instant on the way from `before` to the disk `mended`; undefined where nothing is. A disk
 * that is undefined may not show anywhere: everything is as before.
 */
export function difference(
  before: Shown | ImageError,
  now: Shown | ImageError,
  mended: Uint8Array | undefined,
): string | undefined {
  const shown = before instanceof ImageError ? undefined : before;
  if (now instanceof ImageError) {
    if (before instanceof ImageError && before.kind === now.kind) return undefined;
    return `it does not open (${now.kind}): ${now.message}`;
  }
  const { bytes, there } = now;
  if (![shown?.bytes.length, mended?.length].includes(bytes.length))
    return `the disk has ${bytes.length} bytes`;
  // Nearly always, and much faster.
  if (mended !== undefined && !there.includes(0) && Buffer.compare(bytes, mended) === 0) return undefined;
  const isSame = (at: number, one: Uint8Array | undefined): boolean =>
    one !== undefined && Buffer.compare(bytes.subarray(at, at + SECTOR), one.subarray(at, at + SECTOR)) === 0;
  for (const [sector, isThere] of there.entries()) {
    const at = sector * SECTOR;
    const wasThere = shown?.there[sector] === 1;
    if (isThere === 0 && wasThere) return `the sector at 0x${at.toString(16)} cannot be read any more`;
    if (isThere === 0 || isSame(at, mended) || (wasThere && isSame(at, shown.bytes))) continue;
    return `the sector at 0x${at.toString(16)} is neither as before nor as mended`;
  }
  return undefined;
}

/** Cuts the power while `scope` mends the image of a corruption. */
export function cutRepair(
  driver: FormatDriver,
  { name, mended: wanted }: Corruption,
  image: DamagedImage,
  scope: RepairScope,
  plan: CutPlan,
): CutResult {
  const options = image.options ?? {};
  const context = (): OpenContext => ({
    tables: new TableAllocator(),
    report: () => {},
    options: new Map(Object.entries(options)),
  });
  const run = (source: BlockSource): void => {
    finish(driver.reshape.repair!(source, scope, context()));
  };
  const before = look(driver, new MemorySource(image.file, name), image);
  const memory = new MemorySource(image.file, name, true);
  const recorder = new RecordingSource(memory);
  run(recorder);
  const { changes } = recorder;
  const end = look(driver, memory, image);
  if (end instanceof ImageError || end.there.includes(0))
    return { images: 0, violation: 'it cannot be read at the end' };
  const mended = wanted ?? image.disk ?? end.bytes;

  const again = (file: Uint8Array): string | undefined => {
    const source = new MemorySource(file, name, true);
    try {
      run(source);
    } catch (problem) {
      if (!(problem instanceof ImageError) || problem.kind === 'bug') throw problem;
      return `refused: ${problem.message}`;
    }
    const { errors, findings } = driver.check!(source, context());
    if (errors > 0) return `check finds ${findings.find(({ severity }) => severity === 'error')?.text}`;
    return difference({ ...end, bytes: mended }, look(driver, source, image), mended);
  };

  return cutChanges(`${driver.id} (${name})`, { file: image.file, changes }, plan, {
    moveTo: () => {},
    problem: (medium) => {
      const problem = difference(before, look(driver, medium.source, image), mended);
      if (problem !== undefined) return problem;
      const left = again(medium.source.bytes);
      return left === undefined ? undefined : `repaired again: ${left}`;
    },
  });
}
