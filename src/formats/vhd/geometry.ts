/** How large the disk is: by current size, or by the geometry for producers whose guests saw that. */

import { corrupt } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import type { FormatOption, Report } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import { type Footer, SECTOR } from './structs.ts';

export const SIZE_OPTION: FormatOption = {
  name: 'vhd-size',
  values: ['chs', 'current-size'],
  doc: 'Take the size of the disk from the geometry or from the current size, whoever created the image.',
};

/** Virtual PC and QEMU (unless told to force the size) give the guest cylinders × heads × sectors. */
const GEOMETRY_CREATORS: ReadonlySet<string> = new Set(['vpc ', 'qemu']);

export interface SizeChoice {
  readonly size: ByteCount;
  /** For the facts: which rule gave the size. */
  readonly rule: string;
}

/** Bytes by geometry; 0 where there is none. */
export function geometrySize({ cylinders, heads, sectors }: Footer): ByteCount {
  return cylinders * heads * sectors * SECTOR;
}

/** The greatest number of sectors that a geometry can say. */
const MOST_SECTORS = 65535 * 16 * 255;

/** Bytes by the geometry that belongs to a disk of `size` bytes: at most that (VHD 1.0, "CHS Calculation"). */
export function properGeometrySize(size: ByteCount): ByteCount {
  const total = Math.min(Math.floor(size / SECTOR), MOST_SECTORS);
  let [track, heads] = [255, 16];
  let tracks = Math.floor(total / track);
  if (total < 65535 * 16 * 63) {
    track = 17;
    tracks = Math.floor(total / track);
    heads = Math.max(4, Math.ceil(tracks / 1024));
    if (tracks >= heads * 1024 || heads > 16) {
      [track, heads] = [31, 16];
      tracks = Math.floor(total / track);
    }
    if (tracks >= heads * 1024) {
      track = 63;
      tracks = Math.floor(total / track);
    }
  }
  return Math.floor(tracks / heads) * heads * track * SECTOR;
}

/** The largest geometry that fits: what is larger, or must be exact, is written with it. */
export const LARGEST = { cylinders: 65535, heads: 16, sectors: 255 } as const;

export function isLargestGeometry({ cylinders, heads, sectors }: Footer): boolean {
  return cylinders === LARGEST.cylinders && heads === LARGEST.heads && sectors === LARGEST.sectors;
}

/**
 * Bytes of the disk before the file or the table limit them. `wanted` is the user's choice, if any. The size
 * by geometry never exceeds the current size unless the user asks for it: early QEMU rounded the geometry up.
 */
export function chooseSize(footer: Footer, wanted: string | undefined, report: Report): SizeChoice {
  const current = safeNumber(footer.currentSize);
  if (current === undefined) {
    throw corrupt(`VHD footer: current size is ${footer.currentSize} bytes, expected less than 2^53`);
  }
  if (isLargestGeometry(footer)) return { size: current, rule: 'current size (largest geometry)' };
  if (wanted === 'current-size') return { size: current, rule: 'current size (option)' };
  const byCreator = GEOMETRY_CREATORS.has(footer.creator);
  if (wanted !== 'chs' && !byCreator) return { size: current, rule: 'current size' };

  const geometry = geometrySize(footer);
  if (geometry === 0) {
    report('VHD footer: the geometry is empty; the current size is used');
    return { size: current, rule: 'current size (no geometry)' };
  }
  if (wanted === 'chs') return { size: geometry, rule: 'geometry (option)' };
  if (geometry > current) {
    report(
      `VHD footer: the geometry says ${geometry} bytes, more than the current size of ${current}; that is used`,
    );
    return { size: current, rule: 'current size (geometry exceeds it)' };
  }
  return { size: geometry, rule: 'geometry (creator)' };
}
