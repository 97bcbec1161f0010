/**
 * The seam for changing an image as a whole while nobody else uses it: its size, where its blocks lie, its parent,
 * its damage.
 *
 * Each of these is a generator of steps. At every instant, not only at a step, the image on disk is whole: it opens,
 * checks without errors (but for those that a repair has not come to yet), and shows the disk as before or as after.
 * So the power may fail anywhere, and a caller may stop at any step (`return()`): what is left is at most space that
 * nobody uses, and the operation can be begun again.
 */

import type { ByteCount } from '../base/units.ts';
import type { BlockSource } from '../source/block-source.ts';
import type { NewParent } from './create.ts';
import type { OpenContext } from './driver.ts';

/** How far an operation is. `total` is an estimate that may grow; both are bytes read, moved or written. */
export interface ReshapeStep {
  readonly done: ByteCount;
  readonly total: ByteCount;
}

/** Runs when it is iterated; throws ImageError, and then too the image is whole. */
export type Reshaping<Result = void> = Generator<ReshapeStep, Result, undefined>;

/**
 * How far a repair goes.
 * - leaks: gives up space that nobody uses, and nothing else.
 * - lossless: also everything after which every byte of the disk reads as before, or can be read again: logs replayed,
 *   copies made equal, counters, checksums, blocks that two entries name copied for the second.
 * - all: also what loses something, each of it told: entries that name nothing in the file become zeros (never the
 *   parent's bytes), a broken log is given up.
 */
export type RepairScope = 'leaks' | 'lossless' | 'all';

export interface Repair {
  /** What was mended, in the words of a finding: the object, the place, what it was and what it is now. */
  readonly text: string;
  /** Bytes of the disk that read otherwise than before: 0 for what loses nothing. */
  readonly lostBytes: ByteCount;
}

/**
 * What a format can do to its images. `source` is writable, locked by the caller, and used by nobody else. What a
 * format cannot do is left out, and the caller says so to the user.
 */
export interface Reshaper {
  /**
   * Gives the disk `size` bytes. What is added reads as zeros; what is cut off reads as zeros already (the caller
   * made it so, and its blocks are unmapped where the format can). ImageError('usage') where the format cannot have this
   * size, before anything is changed. What a longer parent (`OpenContext.parentSize`) would show in the new part is
   * hidden.
   */
  readonly resize?: (source: BlockSource, size: ByteCount, context: OpenContext) => Reshaping;
  /**
   * Moves blocks into places that nobody uses, gives up what is leaked, and cuts the file off behind the last block in
   * use. Blocks that read as zeros were unmapped by the caller.
   */
  readonly compact?: (source: BlockSource, context: OpenContext) => Reshaping;
  /** Also of images that `open` refuses. What cannot be mended in `scope` stays, and the next check says so. */
  readonly repair?: (
    source: BlockSource,
    scope: RepairScope,
    context: OpenContext,
  ) => Reshaping<readonly Repair[]>;
  /**
   * Makes the image a child of `parent`, or, with undefined, one that stands alone: then its holes read as zeros.
   * Nothing but the reference (and what the format ties to it) changes: that the disk stays the same is the caller's.
   */
  readonly rebase?: (source: BlockSource, parent: NewParent | undefined, context: OpenContext) => Reshaping;
  /**
   * Tells a child, before its parent is written to, by which identity the parent will be known from its first write
   * on (`OpenContext.nextIdentity`). Where the format has room for two, the present one stays good too. Left out
   * where writing to a parent does not change what its children know it by.
   */
  readonly expectParent?: (source: BlockSource, identity: Uint8Array, context: OpenContext) => void;
  /** Makes every byte of a child show its parent again: no block is allocated, and the file is as small as it can be. */
  readonly empty?: (source: BlockSource, context: OpenContext) => Reshaping;
}
