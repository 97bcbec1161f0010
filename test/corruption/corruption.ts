/** One kind of damage: an image that has it, and what is to become of it. The table of a format lists all of its. */

import type { FormatId } from '../../src/image/driver.ts';
import type { RepairScope } from '../../src/image/reshape.ts';
import type { SampleImage } from '../support/sample.ts';

export interface DamagedImage {
  readonly file: Uint8Array;
  readonly options?: Readonly<Record<string, string>>;
  readonly parent?: SampleImage;
  /** What the disk reads as before any repair; undefined where it cannot be read as a whole, or not be opened. */
  readonly disk?: Uint8Array;
}

export interface Corruption {
  /** As formats/*.md names it: "BAT entry behind the end of the file". */
  readonly name: string;
  readonly make: () => DamagedImage;
  /** How `check` tells it. 'refused': it throws ImageError, because the image cannot be opened. */
  readonly found: { readonly as: 'error' | 'leak' | 'warning' | 'refused'; readonly text: RegExp };
  /** The narrowest scope that mends it; 'never' where no repair can. */
  readonly mendedBy: RepairScope | 'never';
  /** What the disk reads as when it is mended. */
  readonly mended?: Uint8Array;
  /** Bytes that the repair says are lost: 0 unless said. */
  readonly lostBytes?: number;
}

export interface CorruptionTable {
  readonly format: FormatId;
  readonly corruptions: readonly Corruption[];
}

/** From the narrowest to the widest. */
export const SCOPES: readonly RepairScope[] = ['leaks', 'lossless', 'all'];
