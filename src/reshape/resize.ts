/** Giving a disk another size. */

import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { type ByteCount, formatSize, guestOffset, hex } from '../base/units.ts';
import { type ComparedDisk, PIECE_BYTES } from '../disk/compare.ts';
import type { Disk } from '../disk/disk.ts';
import { isZeros } from '../disk/walker.ts';
import { must } from '../image/must.ts';
import type { Reshaping } from '../image/reshape.ts';
import { areZeros, EditedDisk, type Member, shownBy } from './disk.ts';
import { abilityOf, openForReshape, type ReshapeRequest, refuseDoubt, runSteps } from './image.ts';

export interface ResizeRequest extends ReshapeRequest {
  /** The size to have, from the one that it has. Throws ImageError('usage'). */
  readonly sizeFrom: (before: ByteCount) => ByteCount;
  /** Whether it may become smaller. */
  readonly shrink: boolean;
}

export interface Resized {
  /** Where the image really is. */
  readonly path: string;
  readonly format: string;
  readonly before: ByteCount;
  readonly after: ByteCount;
}

/** Throws ImageError; the image is whole in any case, with the old size or the new one. */
export async function resizeImage(request: ResizeRequest): Promise<Resized> {
  const { context, policy, shrink } = request;
  const opened = openForReshape(request);
  const { layer, driver } = opened;
  try {
    const before = layer.image.virtualSize;
    const after = request.sizeFrom(before);
    const done = { path: layer.path, format: driver.id, before, after };
    if (after === before) return done;
    abilityOf(opened, 'resize');
    if (after < before && !shrink) throw refuseToShrink(layer.path, before, after);
    refuseDoubt(opened, policy);
    const image = { driver, source: layer.source, context: opened.context };
    await runSteps(resizeSteps(image, shownBy(opened.parents, context), after), layer.path, request);
    return done;
  } finally {
    opened.close();
  }
}

function refuseToShrink(path: string, before: ByteCount, after: ByteCount): ImageError {
  const text = `would become smaller, ${formatSize(after)} instead of ${formatSize(before)}`;
  return new ImageError('usage', `${shownPath(path)}: ${text}, and --shrink is not given`, {
    hint: 'First make the partitions and file systems inside end before that; what is cut off must be zeros.',
  });
}

/**
 * A disk becomes smaller only where what is cut off reads as zeros: its blocks are unmapped, stable, and then the
 * image becomes smaller. Throws ImageError; at every instant the disk has the old size or the new one.
 */
export function* resizeSteps(
  image: Member,
  parents: ComparedDisk | undefined,
  after: ByteCount,
): Reshaping<void> {
  const { driver, source, context } = image;
  const { virtualSize: before } = driver.open(source, { ...context, report: () => {} });
  if (after < before) yield* clearTail(image, parents, after, before);
  yield* resizeOver(image, after, parents?.disk.size);
}

function* clearTail(
  image: Member,
  parents: ComparedDisk | undefined,
  after: ByteCount,
  before: ByteCount,
): Reshaping<void> {
  const edited = new EditedDisk(image, parents?.disk);
  const { label } = image.source;
  try {
    const at = yield* firstByte(edited.disk, label, after, before);
    if (at !== undefined) {
      throw new ImageError(
        'usage',
        `${shownPath(label)}: not all of what is to be cut off is zeros: the byte at ${hex(at)} (${at}) is not`,
        { hint: 'Make what is inside end earlier, and fill the rest with zeros (blkdiscard, fstrim).' },
      );
    }
    // Where the disk lies in one piece there is nothing to unmap.
    if (edited.unit > 0) edited.zero(after, before - after);
    edited.close();
  } finally {
    edited.leave();
  }
}

/** The format's own part. `parentSize`: of the disk that a parent may show; the format hides what is behind its own. */
export function resizeOver(
  { driver, source, context }: Member,
  after: ByteCount,
  parentSize: ByteCount | undefined,
): Reshaping {
  const over = parentSize === undefined ? context : { ...context, parentSize };
  return driver.reshape.resize!(source, after, over);
}

/** The first byte from `from` on, below `end`, that is not zero; undefined where all are. */
export function* firstByte(
  disk: Disk,
  label: string,
  from: number,
  end: number,
): Reshaping<number | undefined> {
  const walker = disk.walker();
  const buffer = new Uint8Array(PIECE_BYTES);
  const limit = Math.min(end, disk.size);
  const total = limit - from;
  for (let at = from; at < limit; ) {
    yield { done: at - from, total };
    must(walker.look(guestOffset(at)), { label }, `where its disk is at ${at} cannot be told`);
    const length = Math.min(walker.length, limit - at);
    if (isZeros(walker)) {
      at += length;
      continue;
    }
    const piece = Math.min(PIECE_BYTES, length);
    const moved = disk.read(buffer, 0, piece, guestOffset(at));
    must(Math.min(moved, 0), { label }, `its disk cannot be read at ${at}`);
    const bytes = buffer.subarray(0, piece);
    if (!areZeros(bytes)) return at + bytes.findIndex((byte) => byte !== 0);
    at += piece;
  }
  return undefined;
}
