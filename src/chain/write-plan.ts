/** A planned image written to its file, with its space as the user wants it. */

import { fsync, ftruncateSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { ENOSYS, EOPNOTSUPP } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { type ByteCount, GIB, MIB } from '../base/units.ts';
import type { ImagePlan } from '../image/create.ts';
import type { Image } from '../image/driver.ts';
import type { BlockSource } from '../source/block-source.ts';
import { reserveRange } from '../source/syscalls.ts';

const CHUNK = 4 * MIB;
/** Reserved in one go: between two a signal is heard. */
const RESERVE = 16 * GIB;

const sync = promisify(fsync);

export interface WriteRequest {
  /** Absolute. */
  readonly path: string;
  /** Called as bytes are written. */
  readonly progress?: (done: ByteCount, total: ByteCount) => void;
  /** Stops it. */
  readonly signal: AbortSignal;
  /** What the disk is to hold; undefined: zeros. */
  readonly content?: NewContent;
}

/** The bytes of a new disk, and what is made of its file meanwhile. */
export interface NewContent {
  /** See MakeFile. It is locked as by a writer; one that somebody else has is left alone. */
  readonly partial?: { readonly path: string; keeps(): boolean } | undefined;
  /** Whether the new file and its name are stable at the end. */
  readonly flush: boolean;
  /** Whether the open `partial` is an image already, and `fill` goes on with it. */
  goesOn(fd: number): boolean;
  /** Writes the disk. The file is an image of zeros, or what `partial` was. With `flush` it is stable at the end. */
  fill(fd: number): Promise<void>;
  /** Looks at the new image, still under its other name. Throws where it is not to have its own. */
  judge(image: Image, source: BlockSource): Promise<void>;
}

function throwIfStopped({ signal, path }: WriteRequest): void {
  if (signal.aborted)
    throw new ImageError('interrupted', `${shownPath(path)}: was not made: ${signal.reason}`);
}

/** Lets signals be heard. */
const breathe = (): Promise<void> => new Promise((done) => setImmediate(done));

/**
 * Writes all of a plan into an empty file and makes it stable, unless content follows. `preallocation`: a word of PREALLOCATION. Throws ImageError,
 * 'interrupted' among them, or what Node throws.
 */
export async function writePlan(
  fd: number,
  { pieces, size, data }: ImagePlan,
  preallocation: string,
  request: WriteRequest,
): Promise<void> {
  ftruncateSync(fd, size);
  const full = preallocation === 'full' && data !== undefined ? data.length : 0;
  const total = pieces.reduce((sum, { length }) => sum + length, full);
  let done = 0;
  const chunk = new Uint8Array(Math.min(CHUNK, Math.max(total, 1)));
  const put = async (at: number, length: number, fill: (into: Uint8Array, from: number) => void) => {
    for (let from = 0; from < length; from += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, length - from));
      fill(part.fill(0), from);
      for (let put = 0; put < part.length; )
        put += writeSync(fd, part, put, part.length - put, at + from + put);
      done += part.length;
      request.progress?.(done, total);
      await breathe();
      throwIfStopped(request);
    }
  };
  for (const piece of pieces) await put(piece.at, piece.length, (into, from) => piece.fill(into, from));
  if (data !== undefined && preallocation === 'falloc') await reserve(fd, data, request);
  if (data !== undefined && full > 0) await put(data.at, data.length, () => {});
  if (request.content === undefined) await sync(fd);
  throwIfStopped(request);
}

async function reserve(
  fd: number,
  { at, length }: NonNullable<ImagePlan['data']>,
  request: WriteRequest,
): Promise<void> {
  for (let from = 0; from < length; from += RESERVE) {
    const status = reserveRange(fd, at + from, Math.min(RESERVE, length - from));
    if (status === -EOPNOTSUPP || status === -ENOSYS) {
      throw new ImageError('unsupported', `${shownPath(request.path)}: its file system reserves no space`, {
        hint: 'Write zeros instead: -o preallocation=full.',
      });
    }
    if (status < 0) throw Object.assign(new Error(`errno ${-status}`), { code: codes.get(-status) });
    await breathe();
    throwIfStopped(request);
  }
}

/** The errors that are explained to users (new-file.ts). */
const codes: ReadonlyMap<number, string> = new Map([
  [27, 'EFBIG'],
  [28, 'ENOSPC'],
  [122, 'EDQUOT'],
]);
