/** Planned images as sources in memory. */

import type { ByteCount } from '../../src/base/units.ts';
import { driverOf } from '../../src/formats/registry.ts';
import { CreateOptions, type ImagePlan, type NewParent } from '../../src/image/create.ts';
import type { FormatId, Image } from '../../src/image/driver.ts';
import { SparseSource } from './sparse-source.ts';

/** Seconds since the epoch of Unix. */
export const NOW = 1_700_000_000;

let count = 0;

/** The plan for an image; `options` as users give them. Throws what the driver throws. */
export function planOf(
  format: FormatId,
  virtualSize: ByteCount,
  options: readonly string[] = [],
  parent?: NewParent,
): ImagePlan {
  const { create } = driverOf(format);
  return create.plan({
    virtualSize,
    options: CreateOptions.parse(format, create.options, options),
    parent,
    guid: () => {
      count += 1;
      return new Uint8Array(16).fill(1 + (count % 255));
    },
    now: NOW,
  });
}

/** An image as a parent that is at /vm/`relative`. */
export function asParent(image: Image, relative = 'base.img'): NewParent {
  return { image, relative, absolute: `/vm/${relative}`, modified: NOW - 1000 };
}

/** All bytes of a small plan, made in parts of `chunk`. Throws where pieces overlap or leave the file. */
export function planBytes({ pieces, size }: ImagePlan, chunk = 4096): Uint8Array {
  const bytes = new Uint8Array(size);
  forEachPart(pieces, size, chunk, (at, part) => bytes.set(part, at));
  return bytes;
}

/** The same for plans of any size whose pieces fit into memory. */
export function planSource({ pieces, size }: ImagePlan): SparseSource {
  const source = new SparseSource();
  forEachPart(pieces, size, 1 << 20, (at, part) => source.put(at, part));
  source.size = size;
  return source;
}

function forEachPart(
  pieces: ImagePlan['pieces'],
  size: number,
  chunk: number,
  use: (at: number, part: Uint8Array) => void,
): void {
  let end = 0;
  for (const piece of pieces) {
    if (piece.at < end || piece.at + piece.length > size) {
      throw new Error(`a piece of ${piece.length} bytes at ${piece.at}, after ${end}, in a file of ${size}`);
    }
    end = piece.at + piece.length;
    for (let from = 0; from < piece.length; from += chunk) {
      const part = new Uint8Array(Math.min(chunk, piece.length - from));
      piece.fill(part, from);
      use(piece.at + from, part);
    }
  }
}
