/**
 * Where the bytes of a disk come from, looking down its chain: for those who tell (map) or use (compare) what is
 * allocated, and not for the data path. Each layer keeps its last answer, so that a large hole over a parent in small
 * pieces is looked up once and not once per piece.
 */

import { EIO, type Status } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { type ByteCount, type GuestOffset, type HostOffset, hex } from '../base/units.ts';
import type { Translator } from '../image/driver.ts';
import { DATA, Extent, type ExtentKind, HOLE } from '../image/extent.ts';
import type { BlockSource } from '../source/block-source.ts';

/** A run of the disk whose bytes come from one place. */
export interface Origin {
  readonly at: GuestOffset;
  readonly length: ByteCount;
  /** What the layer says that was asked last: HOLE where it has nothing, and no parent has this place. */
  readonly kind: ExtentKind;
  /** DATA that lies in a hole of the image file: it reads as zeros, and takes no space. */
  readonly sparse: boolean;
  /** That layer: 0 the image, 1 its parent, … */
  readonly depth: number;
  /** Where the run starts in the layer's file; 0 unless `kind` is DATA. */
  readonly host: HostOffset;
}

/** Whether the run reads as zeros, as far as can be told without reading. */
export const isZeros = ({ kind, sparse }: Pick<Origin, 'kind' | 'sparse'>): boolean =>
  kind !== DATA || sparse;

/** One per disk, from `Disk.walker`. Nobody may be writing to the disk meanwhile. */
export class Walker implements Origin {
  at = 0 as GuestOffset;
  length: ByteCount = 0;
  kind: ExtentKind = HOLE;
  sparse = false;
  depth = 0;
  host = 0 as HostOffset;
  readonly size: ByteCount;
  readonly #translator: Translator;
  readonly #source: BlockSource;
  readonly #parent: Walker | undefined;
  /** What this layer said last, by itself. */
  readonly #extent = new Extent();
  #from = 0;
  #end = 0;
  /**
   * What the file said last: from here to there it is a hole, or data. A file system may look at every page of a run of
   * data to tell where it ends, and the blocks of a disk lie side by side in one run.
   */
  #runFrom = 0;
  #runEnd = 0;
  #runIsHole = false;

  constructor(size: ByteCount, translator: Translator, source: BlockSource, parent: Walker | undefined) {
    this.size = size;
    this.#translator = translator;
    this.#source = source;
    this.#parent = parent;
  }

  /**
   * Makes the fields say where the bytes from `at` on come from; `at` is below `size`, and `length` at least 1 and
   * within it. Neighbours may have the same answer. Returns 0 or -errno.
   */
  look(at: GuestOffset): Status {
    const extent = this.#extent;
    if (at < this.#from || at >= this.#end) {
      this.#end = 0;
      const status = this.#translator.locate(at, this.size - at, extent);
      if (status < 0) return status;
      // A driver's promise; without it whoever walks on would never come to an end.
      if (extent.length < 1) return -EIO;
      this.#from = at;
      this.#end = Math.min(at + extent.length, this.size);
    }
    this.at = at;
    this.length = this.#end - at;
    this.kind = extent.kind;
    this.sparse = false;
    this.depth = 0;
    this.host = 0 as HostOffset;
    if (extent.kind === DATA) return this.#inFile((extent.host + at - this.#from) as HostOffset);
    const parent = this.#parent;
    if (extent.kind !== HOLE || parent === undefined || at >= parent.size) return 0;
    const status = parent.look(at);
    if (status < 0) return status;
    this.length = Math.min(this.length, parent.length);
    this.kind = parent.kind;
    this.sparse = parent.sparse;
    this.depth = parent.depth + 1;
    this.host = parent.host;
    return 0;
  }

  /** The run is data at `host`: up to where that begins or ceases to be a hole of the file. */
  #inFile(host: HostOffset): Status {
    if (host < this.#runFrom || host >= this.#runEnd) {
      const data = this.#source.nextData(host);
      const next = data > host ? data : this.#source.nextHole(host);
      // Behind the end of the file there is neither.
      if (next <= host) return -EIO;
      this.#runFrom = host;
      this.#runEnd = next;
      this.#runIsHole = data > host;
    }
    this.host = host;
    this.sparse = this.#runIsHole;
    this.length = Math.min(this.length, this.#runEnd - host);
    return 0;
  }
}

/**
 * The disk in runs, or its bytes from `from` to before `end`, which is at most its size; neighbours with the same answer
 * merged. Throws ImageError where a table is damaged or cannot be read, after all runs before that place.
 */
export function* originsOf(walker: Walker, from = 0, end: ByteCount = walker.size): Generator<Origin, void> {
  let last: Origin | undefined;
  for (let at = from; at < end; at += walker.length) {
    const status = walker.look(at as GuestOffset);
    if (status < 0) {
      if (last !== undefined) yield last;
      throw new ImageError(
        'io',
        `at ${hex(at)} of the disk: where its bytes are cannot be told (errno ${-status})`,
      );
    }
    const { kind, sparse, depth, host } = walker;
    const length = Math.min(walker.length, end - at);
    if (last !== undefined && goesOn(last, walker)) last = { ...last, length: last.length + length };
    else {
      if (last !== undefined) yield last;
      last = { at: at as GuestOffset, length, kind, sparse, depth, host };
    }
  }
  if (last !== undefined) yield last;
}

function goesOn(last: Origin, next: Origin): boolean {
  if (last.kind !== next.kind || last.sparse !== next.sparse || last.depth !== next.depth) return false;
  return last.kind !== DATA || last.host + last.length === next.host;
}
