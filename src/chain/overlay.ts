/**
 * The overlay: a QED file with an image as its backing file, which takes the writes of a mount, so that the image and
 * its parents stay as they are.
 *
 * QED records no identity of its backing file. So an overlay that is made here carries a record of the state of the
 * image (image-state.ts) behind the name in its header, where QEMU neither looks nor writes. As long as the name is
 * the one that the record was made with, the record decides. Where it is not (somebody gave the file another base) or
 * where there is none (QEMU made the file), the name must lead to the image itself.
 *
 * The name is relative where both files lie in one directory, so that the two can be moved together, and absolute
 * otherwise: QEMU reads a relative one from the overlay's directory, and so do we.
 */

import { fstatSync, realpathSync, type Stats, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { roundUp } from '../base/units.ts';
import { newImage } from '../formats/qed/create.ts';
import { DRIVERS } from '../formats/registry.ts';
import { openImage } from '../image/open.ts';
import { FileSource } from '../source/file.ts';
import { admitNamed, keyOf } from './gate.ts';
import { checksumOfName, encodeRecord, type StateRecord, stateOf } from './image-state.ts';
import { type Layer, type LayerContext, openContextOf, openLayer } from './layer.ts';
import { createFile, type NewFile, openUnnamed } from './new-file.ts';
import { differenceOf, nameOf, overlayOf } from './overlay-record.ts';
import { TEMPORARY } from './policy.ts';

const SECTOR = 512;

export interface OverlayRequest {
  /** An absolute path, or TEMPORARY. */
  readonly place: string;
  /** 'read' takes an overlay that is there, and makes none. */
  readonly access: 'read' | 'write';
  /** An image that is not the recorded one is taken all the same, to be read only. */
  readonly force: boolean;
}

export interface OpenedOverlay {
  readonly layer: Layer;
  /** Why it may be read only: it was made for another state of the image. */
  readonly readOnly: string | undefined;
}

/**
 * Opens the overlay of `base`, made where there is none. `below`: the parents of the image. Throws ImageError with
 * nothing left open: 'mismatched' for the overlay of another image, or of this one in another state.
 */
export function openOverlay(
  base: Layer,
  below: readonly Layer[],
  request: OverlayRequest,
  context: LayerContext,
): OpenedOverlay {
  const { place, access } = request;
  if (place === TEMPORARY) return { layer: openTemporary(base, access, context), readOnly: undefined };
  const there = lookAt(place);
  if (there === undefined) {
    if (access === 'read') {
      throw new ImageError(
        'usage',
        `${shownPath(place)}: there is no such overlay, and none is made read-only`,
      );
    }
    createFile(place, modeOf(base), emptyOverlay(base, nameFor(place, base)));
  } else refuseOwnFile(place, there, [base, ...below]);
  const layer = openLayer(place, access, 'qed', context);
  try {
    return { layer, readOnly: judge(layer, base, request.force, context) };
  } catch (problem) {
    layer.source.close();
    throw problem;
  }
}

/** Undefined where nothing is there. Throws ImageError('io'). */
function lookAt(place: string): Stats | undefined {
  try {
    return statSync(place, { throwIfNoEntry: false });
  } catch (problem) {
    throw ImageError.from(problem, 'io', `${shownPath(place)}: cannot be looked at`);
  }
}

/** The disk's bytes that are shown: the image's, unless the overlay was given another size since. */
export function sizeWithOverlay(base: Layer, overlay: Layer): number {
  const { virtualSize } = base.image;
  return overlay.image.virtualSize === roundUp(virtualSize, SECTOR) ? virtualSize : overlay.image.virtualSize;
}

function emptyOverlay(base: Layer, name: string): NewFile {
  const record: StateRecord = { name: checksumOfName(name), image: stateOf(base) };
  return newImage({
    virtualSize: roundUp(base.image.virtualSize, SECTOR),
    backing: { name, raw: base.image.format === 'raw' },
    note: encodeRecord(record),
  });
}

/** How the overlay at `place` names the image. */
function nameFor(place: string, base: Layer): string {
  if (realPath(dirname(place)) !== realPath(dirname(base.path))) return base.path;
  const name = basename(base.path);
  // A colon before any slash makes it a protocol to QEMU.
  return name.includes(':') ? `./${name}` : name;
}

function realPath(directory: string): string {
  try {
    return realpathSync(directory);
  } catch (problem) {
    throw new ImageError('usage', `${shownPath(directory)}: is no directory that can be looked into`, {
      cause: problem,
    });
  }
}

/** What the guest writes is for nobody who may not see the image. */
function modeOf({ source }: Layer): number {
  return (fstatSync(source.share().fd).mode & 0o666) | 0o600;
}

function openTemporary(base: Layer, access: 'read' | 'write', context: LayerContext): Layer {
  if (access === 'read')
    throw new ImageError('usage', 'a temporary overlay is of no use to a read-only mount');
  const directory = resolve(process.env['TMPDIR'] || '/var/tmp');
  const file = emptyOverlay(base, basename(base.path));
  const fd = openUnnamed(directory, file);
  const path = join(directory, '(temporary overlay)');
  const size = new SharedArrayBuffer(8);
  new Float64Array(size)[0] = file.size;
  const source = new FileSource({ kind: 'file', fd, label: path, writable: true, device: false, size });
  try {
    const request = { drivers: DRIVERS, format: 'qed', device: false } as const;
    const image = openImage(source, { ...request, context: openContextOf(path, context) });
    return { path, source, image, device: false };
  } catch (problem) {
    source.close();
    throw problem;
  }
}

/** Before it is opened, and locked, for writing. */
function refuseOwnFile(place: string, there: Stats, layers: readonly Layer[]): void {
  for (const { path, source } of layers) {
    if (keyOf(fstatSync(source.share().fd)) !== keyOf(there)) continue;
    throw new ImageError(
      'usage',
      `${shownPath(place)}: is ${shownPath(path)}, which is to stay as it is, and cannot be the overlay`,
    );
  }
}

/** Whether `overlay` lies on `base`: undefined, or why it may be read only. Throws ImageError where it does not. */
function judge(overlay: Layer, base: Layer, force: boolean, context: LayerContext): string | undefined {
  const name = backingName(overlay);
  const record = overlayOf(overlay);
  const path = shownPath(overlay.path);
  const unfit = overlay.image.parent?.compare(base.image);
  if (unfit !== undefined) {
    throw mismatch(`${path}: wants ${unfit.wanted}, ${shownPath(base.path)} is ${unfit.found}`);
  }
  if (record === undefined) {
    if (leadsTo(name, overlay, base)) {
      context.report(
        `${overlay.path}: does not record for which state of ${shownPath(base.path)} it was made; its backing file is ` +
          'this one, so it is used',
      );
      return undefined;
    }
    throw mismatch(`${path}: is an overlay of ${shownPath(name)}, not of ${shownPath(base.path)}`);
  }
  const difference = differenceOf(record, base);
  if (difference === undefined && !record.committing) return undefined;
  const text =
    difference === undefined
      ? `${path}: a commit of it into ${shownPath(base.path)} was begun and not ended`
      : `${path}: ${difference}`;
  if (!force) {
    throw difference === undefined
      ? new ImageError('mismatched', text, { hint: 'Run vdisk commit again: it goes on where it was.' })
      : mismatch(text);
  }
  context.report(text);
  return 'its overlay was made for another image, or for this one before it was changed';
}

function mismatch(text: string): ImageError {
  return new ImageError('mismatched', text, {
    hint: 'Name another file, which is made; or look at this one all the same, only for reading, with --force-parent.',
  });
}

function backingName(overlay: Layer): string {
  const name = nameOf(overlay);
  if (name !== undefined) return name;
  const text = `${shownPath(overlay.path)}: is an image that stands alone, not an overlay`;
  throw new ImageError('mismatched', text, { hint: 'Name a file that is not there yet: it is made.' });
}

function leadsTo(name: string, overlay: Layer, base: Layer): boolean {
  const found = admitNamed(resolve(dirname(overlay.path), name));
  return 'key' in found && found.key === keyOf(fstatSync(base.source.share().fd));
}
