/** New image files: planned by their driver, written, read back, and only then given their name. */

import { fstatSync, ftruncateSync, realpathSync, type Stats, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { randomGuid } from '../base/guid.ts';
import { shownPath } from '../base/text.ts';
import { type ByteCount, roundUp } from '../base/units.ts';
import { DRIVERS } from '../formats/registry.ts';
import { CreateOptions } from '../image/create.ts';
import type { FormatDriver, Image } from '../image/driver.ts';
import { openImage } from '../image/open.ts';
import { FileSource, openFile } from '../source/file.ts';
import { lockImage } from '../source/image-lock.ts';
import { keyOf } from './gate.ts';
import { type Layer, type LayerContext, openContextOf } from './layer.ts';
import { alreadyThere, makeFile } from './new-file.ts';
import {
  describeParent,
  type NamedParent,
  openNewParent,
  refuseAncestor,
  refuseLargerParent,
  warnOfDistance,
} from './new-parent.ts';
import { type WriteRequest, writePlan } from './write-plan.ts';

export interface NewImageRequest extends WriteRequest {
  readonly driver: FormatDriver;
  /** As `CreateOptions.parse` takes them. */
  readonly options: readonly string[];
  /** Bytes of the disk; undefined: as large as the parent's. */
  readonly virtualSize: ByteCount | undefined;
  readonly parent: NamedParent | undefined;
  /** Whether it takes the place of a file that is there. */
  readonly replace: boolean;
  readonly context: LayerContext;
}

export interface MadeImage {
  /** As it was read back from the file. */
  readonly image: Image;
  /** Where the new file really is. */
  readonly path: string;
  readonly fileSize: ByteCount;
  readonly allocated: ByteCount;
}

/**
 * Makes an image file, stable when this returns. Throws ImageError; then nothing is left behind, and what was there
 * is there still. 'interrupted' where `signal` stopped it.
 */
export async function createImage(request: NewImageRequest): Promise<MadeImage> {
  const { driver, context } = request;
  const options = CreateOptions.parse(driver.id, driver.create.options, request.options);
  const path = placeOf(request.path);
  const there = lookAt(path);
  if (there !== undefined && !request.replace) throw alreadyThere(request.path);
  if (there?.isFile() === false) {
    throw new ImageError('usage', `${shownPath(request.path)}: is no regular file, and is not replaced`);
  }
  const opened: { close(): void }[] = [];
  try {
    const parent = request.parent === undefined ? undefined : openParent(request, there);
    if (parent !== undefined) opened.push(parent.source);
    if (there !== undefined) opened.push(lockOld(path, context));
    const virtualSize = sizeOf(request, parent);
    const plan = driver.create.plan({
      virtualSize,
      options,
      parent: parent === undefined ? undefined : describeParent(parent, parent.image, dirname(path)),
      guid: randomGuid,
      now: Math.floor(Date.now() / 1000),
    });
    const preallocation = options.word('preallocation') ?? 'off';
    if (preallocation !== 'off' && plan.data === undefined) {
      throw new ImageError('usage', `-o preallocation=${preallocation}: its blocks have no place yet`, {
        hint: 'Only a fixed image has: -o subformat=fixed.',
      });
    }
    const like = there ?? (parent === undefined ? undefined : fstatSync(parent.source.share().fd));
    // What the guest writes, or has written, is for nobody who may not see the image.
    const mode = like === undefined ? 0o666 : (like.mode & 0o666) | 0o600;
    let made: MadeImage | undefined;
    const { content } = request;
    const flush = content?.flush ?? true;
    let taken = false;
    const partial = content?.partial && {
      path: content.partial.path,
      keeps: () => !taken || content.partial!.keeps(),
    };
    const make = { mode, replace: there !== undefined, partial, flush };
    await makeFile(path, make, async (fd) => {
      if (partial !== undefined) takePartial(fd, partial.path, context);
      taken = true;
      if (content?.goesOn(fd) !== true) {
        // Not where it is empty: ext4 takes a cut to nothing for a replacement, and would write all of it out on close.
        if (fstatSync(fd).size > 0) ftruncateSync(fd, 0);
        await writePlan(fd, plan, preallocation, request);
      }
      await content?.fill(fd);
      const { image, source } = readBack(fd, path, virtualSize, request);
      await content?.judge(image, source);
      made = { image, path, fileSize: source.size, allocated: source.allocated };
    });
    if (parent !== undefined) warnOfDistance(path, parent, context);
    return made!;
  } finally {
    for (const file of opened) file.close();
  }
}

/** Undefined where nothing is there, nor could be. */
function lookAt(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (problem) {
    if (problem instanceof Error && 'code' in problem && problem.code === 'ENOTDIR') return undefined;
    throw ImageError.from(problem, 'io', `${shownPath(path)}: cannot be looked at`);
  }
}

/** The file that a name leads to: a link is not replaced by a file. */
function placeOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    // It is not there; if its directory is not either, making the file says so.
  }
  try {
    return join(realpathSync(dirname(path)), basename(path));
  } catch {
    return path;
  }
}

/** Throws ImageError also where the file to be replaced is one that the parent stands on. */
function openParent({ parent, driver, path, context }: NewImageRequest, there: Stats | undefined): Layer {
  const layer = openNewParent(parent!, driver, context);
  try {
    if (there !== undefined) {
      refuseAncestor(keyOf(there), layer, context, () => {
        const text = `${shownPath(path)}: is what the new image would stand on, and is not replaced`;
        return new ImageError('usage', text);
      });
    }
    return layer;
  } catch (problem) {
    layer.source.close();
    throw problem;
  }
}

/** Keeps others away from the file that is replaced, as a writer. Throws ImageError where somebody uses it. */
function lockOld(path: string, context: LayerContext): { close(): void } {
  const source = openFile(path, 'write');
  try {
    const { fd } = source.share();
    const notice = lockImage(fd, path, 'write', () => context.holders(fd).join(', '));
    if (notice !== undefined) context.report(notice);
    return source;
  } catch (problem) {
    source.close();
    throw problem;
  }
}

function sizeOf({ virtualSize, driver, path }: NewImageRequest, parent: Layer | undefined): ByteCount {
  const least = parent?.image.virtualSize;
  if (virtualSize === undefined) {
    if (least !== undefined) return roundUp(least, driver.create.sizeUnit);
    throw new ImageError('usage', `${shownPath(path)}: its size is needed`, {
      hint: 'Like this: vdisk create -f vhdx disk.vhdx 64G. Only a child has a size by default, its parent’s.',
    });
  }
  if (least !== undefined) refuseLargerParent(virtualSize, least, 'Leave the size out, or say a larger one.');
  return virtualSize;
}

/** Throws ImageError where it is no file of which an image can be made, or somebody else is at it. */
function takePartial(fd: number, path: string, context: LayerContext): void {
  if (!fstatSync(fd).isFile()) {
    throw new ImageError('usage', `${shownPath(path)}: is no regular file, and is not gone on with`);
  }
  const notice = lockImage(fd, path, 'write', () => context.holders(fd).join(', '));
  if (notice !== undefined) context.report(notice);
}

/** The source of an open file; `label` is for messages. */
export function sourceOf(fd: number, label: string, writable: boolean): FileSource {
  const size = new SharedArrayBuffer(8);
  new Float64Array(size)[0] = fstatSync(fd).size;
  return new FileSource({ kind: 'file', fd, label, writable, device: false, size });
}

/** What the file is, by its driver. Whatever that does not like is a defect here. */
function readBack(
  fd: number,
  path: string,
  virtualSize: ByteCount,
  { driver, context }: NewImageRequest,
): { readonly image: Image; readonly source: FileSource } {
  const source = sourceOf(fd, path, false);
  const image = openImage(source, {
    drivers: DRIVERS,
    format: driver.id,
    device: false,
    context: { ...openContextOf(path, context), options: new Map() },
  });
  if (image.virtualSize !== virtualSize) {
    throw new ImageError('bug', `${path}: has a disk of ${image.virtualSize} bytes, expected ${virtualSize}`);
  }
  return { image, source };
}
