/**
 * The record that an overlay carries of the image it lies on, behind the name in its QED header: read, judged, and
 * brought up to date where the image was changed on purpose, by `vdisk commit`.
 *
 * Committing goes: `beginCommit`; the bytes into the image, flushed; `renewRecord`; the overlay emptied. While the bytes
 * are under way the image is in none of the states that a record could name, so the record says "committing": a
 * mount refuses the overlay, and the commit can be begun again. What the overlay shows is the same all along, since
 * nothing but its own bytes is written below it. After `renewRecord` it may be used on, full or emptied.
 *
 * A record is replaced by the write of one sector, so that it is the old one or the new one at every instant.
 */

import { dirname, resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { HostOffset } from '../base/units.ts';
import { NOTE } from '../formats/qed/create.ts';
import { must } from '../image/must.ts';
import { readExactly } from '../source/block-source.ts';
import {
  checksumOfName,
  decodeRecord,
  describeState,
  encodeRecord,
  type ImageState,
  isSameState,
  type StateRecord,
  stateOf,
} from './image-state.ts';
import type { Layer } from './layer.ts';

const SECTOR = 512;

/** On what an overlay lies. */
export interface OverlayOf {
  /** The name as it is recorded; nothing of it is to be trusted. */
  readonly name: string;
  /** Where that is, seen from the overlay. */
  readonly path: string;
  readonly state: ImageState;
  /** A commit into the image was begun and not ended. */
  readonly committing: boolean;
}

/**
 * Whether `layer` is the overlay of a mount, and of which image: undefined where it is another format, stands alone, or
 * has no record that fits its backing file's name (QEMU made it, or gave it another base). Throws
 * ImageError('corrupt') where the record is damaged.
 */
export function overlayOf(layer: Layer): OverlayOf | undefined {
  const name = nameOf(layer);
  const record = name === undefined ? undefined : readRecord(layer);
  if (name === undefined || record?.name !== checksumOfName(name)) return undefined;
  return {
    name,
    path: resolve(dirname(layer.path), name),
    state: record.image,
    committing: record.committing === true,
  };
}

/** The backing file's name as it is recorded; the driver has checked it. */
export const nameOf = ({ image }: Layer): string | undefined =>
  image.format === 'qed' ? image.parent?.places[0]?.path : undefined;

/** Undefined where there is none. Throws ImageError. */
export function readRecord({ path, source }: Layer): StateRecord | undefined {
  const length = Math.min(NOTE.bytes, source.size - NOTE.at);
  try {
    const bytes = readExactly(
      source,
      NOTE.at,
      length,
      (outcome) => new ImageError('io', `its header cannot be read (${outcome})`),
    );
    return decodeRecord(bytes);
  } catch (problem) {
    const { kind, message } = ImageError.from(problem, 'bug');
    throw new ImageError(kind, `${shownPath(path)}: ${message}`, { cause: problem });
  }
}

/**
 * Why `base` is not the image in the state for which the overlay was made, in words; undefined where it is. Of an overlay
 * whose commit was begun, any state of an image of the same format and size is the right one.
 */
export function differenceOf(overlay: OverlayOf, base: Layer): string | undefined {
  const found = stateOf(base);
  const { state, committing } = overlay;
  if (isSameState(state, found)) return undefined;
  if (committing && state.format === found.format && state.virtualSize === found.virtualSize)
    return undefined;
  return (
    `is not an overlay of ${shownPath(base.path)} as it is now: it was made for one with ` +
    `${shownPath(describeState(state))}; this one has ${shownPath(describeState(found))}`
  );
}

/**
 * Before the first byte goes into `base`: says in the overlay, stable when it returns, that a commit is under way. Nothing
 * where the overlay has no record (`overlayOf`): then nobody would miss it. Both are locked, the overlay is writable.
 */
export function beginCommit(overlay: Layer, base: Layer): void {
  if (overlayOf(overlay) !== undefined) writeRecord(overlay, base, true);
}

/**
 * After the last: records the state of `base` as it is now, stable when it returns; an end of `beginCommit`. `base` was
 * opened after its last write (what a layer says of its identity is from then), and is stable. Nothing where
 * the overlay has no record.
 */
export function renewRecord(overlay: Layer, base: Layer): void {
  if (overlayOf(overlay) !== undefined) writeRecord(overlay, base, false);
}

function writeRecord(overlay: Layer, base: Layer, committing: boolean): void {
  const { source } = overlay;
  const name = checksumOfName(nameOf(overlay)!);
  const record = encodeRecord({
    name,
    image: stateOf(base),
    ...(committing ? { committing } : {}),
  });
  if (record.length > SECTOR) {
    const text = `a record of ${record.length} bytes, expected at most ${SECTOR}`;
    throw new ImageError('bug', `${shownPath(overlay.path)}: ${text}`);
  }
  // What lies behind it in the sector has no meaning.
  const sector = new Uint8Array(SECTOR);
  sector.set(record);
  must(source.flush(), source, 'it cannot be made stable');
  const written = source.writeAt(sector, 0, SECTOR, NOTE.at as HostOffset, 'header.write');
  must(written, source, 'its record of the image cannot be written');
  must(source.flush(), source, 'its record of the image cannot be made stable');
}
