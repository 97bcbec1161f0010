/**
 * The seam for new images: a driver's `create` turns a request into the bytes of a file, and does no I/O. Writing them
 * is the chain layer's (chain/create.ts).
 */

import { ImageError } from '../base/errors.ts';
import { isZero, parseGuid, parseUuid } from '../base/guid.ts';
import {
  type ByteCount,
  formatSize,
  type HostOffset,
  hostOffset,
  parseSize,
  roundUp,
} from '../base/units.ts';
import type { FormatId, Image } from './driver.ts';

/** Bytes of a new file, made as they are written: a table may have gigabytes. */
export interface Piece {
  readonly at: HostOffset;
  readonly length: ByteCount;
  /**
   * Fills `into`, which holds zeros, with the bytes of the piece from `from` on. Both `from` and the length of `into`
   * are multiples of 8; the latter but for the last bytes of the piece. Pure.
   */
  fill(into: Uint8Array, from: number): void;
}

/** A new file: what the pieces do not cover is zeros. */
export interface ImagePlan {
  /** Ascending, disjoint. */
  readonly pieces: readonly Piece[];
  /** Bytes of the file. */
  readonly size: ByteCount;
  /** Where the disk's bytes lie, for those who want their space reserved; undefined where no block has a place yet. */
  readonly data: { readonly at: HostOffset; readonly length: ByteCount } | undefined;
}

/** An option of `vdisk create -o`. */
export interface CreateOption {
  readonly name: string;
  /** One of these words ("on" may be left out by the user), a size that the format checks, or sixteen bytes. */
  readonly values: readonly string[] | 'size' | 'uuid';
  /** What it does, and what holds without it. */
  readonly doc: string;
}

/** The image on which a new one is to lie. */
export interface NewParent {
  readonly image: Image;
  /** From the directory of the new image: "base.vhd", "../base/win.vhd". */
  readonly relative: string;
  /** From the root. */
  readonly absolute: string;
  /** When its file was changed last, in seconds since the epoch of Unix. */
  readonly modified: number;
}

export interface CreateRequest {
  /** Bytes of the disk: a safe integer above 0, at least as large as the parent's. */
  readonly virtualSize: ByteCount;
  readonly options: CreateOptions;
  readonly parent: NewParent | undefined;
  /** A new identity of sixteen bytes, another with each call. */
  readonly guid: () => Uint8Array;
  /** Seconds since the epoch of Unix. */
  readonly now: number;
}

/** How a format makes new images. */
export interface Creator {
  readonly options: readonly CreateOption[];
  /** The formats that a parent may have; empty where an image has none. */
  readonly parents: readonly FormatId[];
  /** What a size must be a multiple of, to round up a parent that is smaller than its last unit. */
  readonly sizeUnit: ByteCount;
  /** No I/O. Throws ImageError('usage') for what the format cannot be. */
  plan(request: CreateRequest): ImagePlan;
}

/** Of the formats whose data can have a place from the beginning. */
export const PREALLOCATION: CreateOption = {
  name: 'preallocation',
  values: ['off', 'falloc', 'full'],
  doc: 'Space of the data: off (default) takes none until it is written, falloc reserves it, full writes zeros.',
};

const usage = (message: string, hint?: string): ImageError => new ImageError('usage', message, { hint });

/** What the user gave with -o, checked against what the format knows. */
export class CreateOptions {
  readonly #given: ReadonlyMap<string, string>;

  private constructor(given: ReadonlyMap<string, string>) {
    this.#given = given;
  }

  /** From texts like "block-size=1M,azure". Throws ImageError('usage'). */
  static parse(format: FormatId, specs: readonly CreateOption[], texts: readonly string[]): CreateOptions {
    const given = new Map<string, string>();
    for (const text of texts.flatMap((list) => list.split(','))) {
      const [name = '', value] = splitOnce(text);
      const spec = specs.find((candidate) => candidate.name === name);
      if (spec === undefined) {
        throw usage(
          `-o ${text}: ${format.toUpperCase()} has no such option`,
          `See vdisk create -f ${format} -o help.`,
        );
      }
      if (given.has(name)) throw usage(`-o ${text}: ${name} was given before`);
      given.set(name, checkValue(spec, value));
    }
    return new CreateOptions(given);
  }

  /** The word given; undefined where none was. */
  word(name: string): string | undefined {
    return this.#given.get(name);
  }

  /** The size given, in bytes; undefined where none was. */
  size(name: string): ByteCount | undefined {
    const text = this.#given.get(name);
    return text === undefined ? undefined : parseSize(text);
  }

  /** The UUID given, as its sixteen bytes in network order; undefined where none was. */
  uuid(name: string): Uint8Array | undefined {
    const text = this.#given.get(name);
    return text === undefined ? undefined : parseUuid(text);
  }

  /** The same in the Microsoft layout. */
  guid(name: string): Uint8Array | undefined {
    const text = this.#given.get(name);
    return text === undefined ? undefined : parseGuid(text);
  }
}

function splitOnce(text: string): [name: string, value: string | undefined] {
  const at = text.indexOf('=');
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

function checkValue({ name, values }: CreateOption, value: string | undefined): string {
  if (values === 'size') {
    const bytes = value === undefined ? undefined : parseSize(value);
    if (bytes === undefined)
      throw usage(`-o ${name}${value === undefined ? '' : `=${value}`}: expected a size, like 64K or 1M`);
    return String(bytes);
  }
  if (values === 'uuid') {
    const bytes = value === undefined ? undefined : parseUuid(value);
    // A null one says that there is none.
    if (bytes !== undefined && !isZero(bytes)) return value!;
    throw usage(
      `-o ${name}${value === undefined ? '' : `=${value}`}: expected a UUID, like 6ba7b810-9dad-11d1-80b4-00c04fd430c8`,
    );
  }
  const word = value ?? (values.includes('on') ? 'on' : '');
  if (!values.includes(word)) {
    throw usage(`-o ${name}${value === undefined ? '' : `=${value}`}: expected one of ${values.join(', ')}`);
  }
  return word;
}

/** Throws ImageError('usage') unless a disk of `size` bytes is a multiple of `unit` and at most `most`. */
export function checkDiskSize(title: string, size: ByteCount, unit: ByteCount, most: ByteCount): void {
  if (!Number.isSafeInteger(size) || size <= 0 || size > most) {
    throw usage(`a ${title} disk of ${size} bytes: expected at least 1 byte and at most ${formatSize(most)}`);
  }
  if (size % unit === 0) return;
  throw usage(
    `a ${title} disk of ${size} bytes: expected a multiple of ${unit}`,
    `The next larger one is ${roundUp(size, unit)}.`,
  );
}

/** Throws ImageError('usage') unless `value` is a power of two from `least` to `most`. */
export function checkPower(name: string, value: number, least: number, most: number): void {
  if (value >= least && value <= most && Number.isInteger(Math.log2(value))) return;
  throw usage(`-o ${name}=${value}: expected a power of two from ${least} to ${most}`);
}

/** Bytes as they are. */
export function bytesAt(at: number, bytes: Uint8Array): Piece {
  return {
    at: hostOffset(at),
    length: bytes.length,
    fill: (into, from) => into.set(bytes.subarray(from, from + into.length)),
  };
}

/** `length` times the same byte. */
export function filledAt(at: number, length: ByteCount, byte: number): Piece {
  return { at: hostOffset(at), length, fill: (into) => void into.fill(byte) };
}

/** A table of `count` entries of `width` bytes (4 or 8), each put at its place by `put`. */
export function tableAt(
  at: number,
  count: number,
  width: 4 | 8,
  put: (view: DataView, offset: number, index: number) => void,
): Piece {
  return {
    at: hostOffset(at),
    length: count * width,
    fill: (into, from) => {
      const view = new DataView(into.buffer, into.byteOffset, into.length);
      const first = from / width;
      for (let offset = 0; offset < into.length; offset += width) put(view, offset, first + offset / width);
    },
  };
}

/** What a mark of the parent's identity says. Throws ImageError('usage') where the parent has none. */
export function markOf({ image, absolute }: NewParent, name: string): string {
  const text = image.identity.find((mark) => mark.name === name)?.text;
  if (text !== undefined) return text;
  throw usage(
    `${absolute}: has no ${name.replaceAll('-', ' ')}, by which a child could know it, and cannot be a parent`,
  );
}

/**
 * The path of a parent as Windows writes it. Throws ImageError('usage') where a name has a character that would be read
 * as something else.
 */
export function windowsPath(path: string): string {
  if (!path.includes('\\')) return path.replaceAll('/', '\\');
  throw usage(`${path}: has a backslash in it, which the format takes for the bound between two names`);
}

/** UTF-16 without a terminator. */
export function utf16(text: string, order: 'little' | 'big'): Uint8Array {
  const bytes = new Uint8Array(text.length * 2);
  const view = new DataView(bytes.buffer);
  for (let n = 0; n < text.length; n += 1) view.setUint16(n * 2, text.charCodeAt(n), order === 'little');
  return bytes;
}
