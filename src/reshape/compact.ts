/**
 * Making an image file small. Blocks that read as zeros are unmapped; then the format moves what is behind into the
 * free places, and cuts the file off. Where blocks cannot be unmapped (raw and fixed images, whose disk lies in one
 * piece, and differencing VHD) zeros become holes of the file instead: it keeps its length, and takes less space.
 */

import { ImageError } from '../base/errors.ts';
import { type ByteCount, guestOffset, hostOffset, roundDown, roundUp } from '../base/units.ts';
import { type ComparedDisk, PIECE_BYTES } from '../disk/compare.ts';
import { DATA, Extent } from '../image/extent.ts';
import { must } from '../image/must.ts';
import type { Reshaping } from '../image/reshape.ts';
import { areZeros, EditedDisk, type Member, shownBy } from './disk.ts';
import { openForReshape, type ReshapeRequest, refuseDoubt, runSteps } from './image.ts';

/** Holes of a file are made in multiples of this, on all file systems that are met. */
const HOLE_BYTES = 4096;

export interface FileSizes {
  /** Length of the file. */
  readonly file: ByteCount;
  /** What it takes on its file system. */
  readonly allocated: ByteCount;
}

export interface Compacted {
  readonly path: string;
  readonly format: string;
  readonly before: FileSizes;
  readonly after: FileSizes;
  /** Bytes of the disk that were stored as zeros. */
  readonly zeros: ByteCount;
}

/** Throws ImageError; in any case the image is whole, and shows the same disk as before. */
export async function compactImage(request: ReshapeRequest): Promise<Compacted> {
  const { context, policy } = request;
  const opened = openForReshape(request);
  const { layer, driver } = opened;
  const sizes = (): FileSizes => ({ file: layer.source.size, allocated: layer.source.allocated });
  try {
    refuseDoubt(opened, policy);
    const before = sizes();
    const image = { driver, source: layer.source, context: opened.context };
    const zeros = await runSteps(compactSteps(image, shownBy(opened.parents, context)), layer.path, request);
    return { path: layer.path, format: driver.id, before, after: sizes(), zeros };
  } finally {
    opened.close();
  }
}

/** Returns how many bytes were stored as zeros. */
export function* compactSteps(image: Member, parents: ComparedDisk | undefined): Reshaping<ByteCount> {
  const { driver, source, context } = image;
  const edited = new EditedDisk(image, parents?.disk);
  const { unit } = edited;
  let zeros: ByteCount;
  try {
    zeros = yield* unit > 0 ? unmapZeros(edited, source.label) : punchZeros(edited, image);
    edited.close();
  } finally {
    edited.leave();
  }
  if (driver.reshape.compact === undefined) return zeros;
  try {
    yield* driver.reshape.compact(source, context);
  } catch (problem) {
    // Of an image whose disk lies in one piece there is nothing to move.
    if (!(unit === 0 && problem instanceof ImageError && problem.kind === 'usage')) throw problem;
  }
  return zeros;
}

/** Unmaps the units that have data, all of it zeros. */
function* unmapZeros(edited: EditedDisk, label: string): Reshaping<ByteCount> {
  const { unit, size, disk } = edited;
  const extent = new Extent();
  const buffer = new Uint8Array(PIECE_BYTES);
  let found = 0;
  for (let at = 0; at < size; ) {
    yield { done: at, total: size };
    edited.locate(at, extent);
    const whole = at + extent.length >= size ? extent.length : roundDown(extent.length, unit);
    if (extent.kind !== DATA && whole > 0) {
      at += whole;
      continue;
    }
    at = yield* lookInside(at);
  }
  return found;

  /** Looks at the unit at `start`; returns its end. */
  function* lookInside(start: number): Reshaping<number> {
    const end = Math.min(start + unit, size);
    let own = false;
    for (let at = start; at < end; ) {
      yield { done: at, total: size };
      edited.locate(at, extent);
      const length = Math.min(PIECE_BYTES, extent.length, end - at);
      own ||= extent.kind === DATA;
      const moved = disk.read(buffer, 0, length, guestOffset(at));
      must(Math.min(moved, 0), { label }, `its disk cannot be read at ${at}`);
      if (!areZeros(buffer.subarray(0, length))) return end;
      at += length;
    }
    if (!own) return end;
    edited.zero(start, end - start);
    found += end - start;
    return end;
  }
}

/** Makes holes of the zeros in the file that are no holes yet. */
function* punchZeros(edited: EditedDisk, { source }: Member): Reshaping<ByteCount> {
  const { size } = edited;
  const extent = new Extent();
  const buffer = new Uint8Array(PIECE_BYTES);
  let found = 0;
  for (let at = 0; at < size; ) {
    yield { done: at, total: size };
    edited.locate(at, extent);
    const { host } = extent;
    if (extent.kind !== DATA) {
      at += extent.length;
      continue;
    }
    const skipped = Math.min(extent.length, source.nextData(hostOffset(host)) - host);
    if (skipped > 0) {
      at += skipped;
      continue;
    }
    // Pieces end where a hole may end, wherever in the file the disk begins.
    const length = Math.min(extent.length, PIECE_BYTES - (host % HOLE_BYTES));
    const moved = source.readAt(buffer, 0, length, host);
    must(Math.min(moved, 0), source, `its disk cannot be read at ${at}`);
    const first = roundUp(host, HOLE_BYTES) - host;
    for (let from = first; from + HOLE_BYTES <= length; ) {
      let end = from;
      while (end + HOLE_BYTES <= length && areZeros(buffer.subarray(end, end + HOLE_BYTES)))
        end += HOLE_BYTES;
      if (end > from) {
        edited.zero(at + from, end - from);
        found += end - from;
      }
      from = end + HOLE_BYTES;
    }
    at += length;
  }
  return found;
}
