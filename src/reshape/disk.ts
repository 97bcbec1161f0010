/** The disks of images that are changed as a whole: one thread has them, and nobody else. */

import type { Status } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { parseGuid } from '../base/guid.ts';
import { type ByteCount, type GuestOffset, guestOffset } from '../base/units.ts';
import { keyOfLayer } from '../chain/chain.ts';
import { type Layer, type LayerContext, openContextOf } from '../chain/layer.ts';
import { type ComparedDisk, PIECE_BYTES } from '../disk/compare.ts';
import { Disk } from '../disk/disk.ts';
import { driverOf } from '../formats/registry.ts';
import { type AloneImage, openAlone } from '../image/alone.ts';
import type { FormatDriver, Image, OpenContext, Translator } from '../image/driver.ts';
import { type Extent, ZERO } from '../image/extent.ts';
import { must } from '../image/must.ts';
import { PagePool } from '../shared/page-pool.ts';
import type { BlockSource } from '../source/block-source.ts';

/** Of the tables of images that are only read; memory is touched as it is used. */
const POOL_BYTES = 64 << 20;

/** An image file of which the bytes are changed. */
export interface Member {
  readonly driver: FormatDriver;
  readonly source: BlockSource;
  readonly context: OpenContext;
}

/**
 * The identity by which children know `image`, as `OpenContext.nextIdentity` takes it: what is written with it leaves
 * them valid, and so it is for changes that no reader of the disk sees. Undefined where writes change nothing of it.
 */
export function presentIdentity({ identity }: Image): Uint8Array | undefined {
  const mark = identity.find(({ name }) => name === 'data-write-guid' || name === 'uuid-modify');
  return mark === undefined ? undefined : parseGuid(mark.text);
}

/** `context` for a first write that gives the image this identity. */
export function withIdentity(context: OpenContext, identity: Uint8Array | undefined): OpenContext {
  return identity === undefined ? context : { ...context, nextIdentity: identity };
}

/** An image opened for writing to its disk. `leave` it in any case, and `close` it where all went well. */
export class EditedDisk {
  readonly disk: Disk;
  readonly image: Image;
  readonly #alone: AloneImage;
  readonly #source: BlockSource;
  #open = true;

  /**
   * `parent` shows in its holes. `identity`: what the first write makes the identity; by default it stays. Reads
   * only. Throws ImageError where the image must not be written.
   */
  constructor({ driver, source, context }: Member, parent: Disk | undefined, identity?: Uint8Array) {
    const kept = identity ?? presentIdentity(driver.open(source, { ...context, report: () => {} }));
    this.#alone = openAlone(driver, source, withIdentity(context, kept));
    const { image, translator, editor, gate } = this.#alone;
    this.#source = source;
    this.image = image;
    this.disk = new Disk(image.virtualSize, translator, source, { edit: { editor, gate }, parent });
  }

  get size(): ByteCount {
    return this.disk.size;
  }

  /** The unit that can be unmapped; 0 where none can. */
  get unit(): ByteCount {
    return this.#alone.editor.unit;
  }

  /** Where the image's own bytes from `at` on are, no further than its disk goes. Throws ImageError. */
  locate(at: number, out: Extent): void {
    locate(this.#alone.translator, this.#source, at, this.size, out);
  }

  write(bytes: Uint8Array, start: number, length: ByteCount, at: number): void {
    const moved = this.disk.write(bytes, start, length, guestOffset(at));
    must(Math.min(moved, 0), this.#source, `its disk cannot be written at ${at}`);
  }

  zero(at: number, length: ByteCount): void {
    must(
      this.disk.zero(guestOffset(at), length, 'punch'),
      this.#source,
      `its disk cannot be zeroed at ${at}`,
    );
  }

  /**
   * Makes a whole unit read as zeros by the image itself, whatever its parent shows now, or another one will. Returns
   * whether it did: there are formats that cannot, and images without a parent that need not.
   */
  cover(at: number, length: ByteCount, scratch: Extent): boolean {
    const { editor, gate } = this.#alone;
    must(editor.begin(), this.#source, 'it cannot be written');
    gate.enter();
    let status: Status;
    try {
      status = editor.discard(at as GuestOffset, length);
    } finally {
      editor.changed();
      gate.leave();
    }
    must(status, this.#source, `its disk cannot be zeroed at ${at}`);
    this.locate(at, scratch);
    return scratch.kind === ZERO && scratch.length >= length;
  }

  flush(): void {
    must(this.disk.flush(), this.#source, 'what was written cannot be made stable');
  }

  /** Leaves the image clean and stable. */
  close(): void {
    this.#open = false;
    must(this.disk.close(), this.#source, 'what was written cannot be made stable');
  }

  /** Where it was not closed: as far as it came. */
  leave(): void {
    if (this.#open) this.disk.close();
    this.#open = false;
  }
}

/** Throws ImageError where the table is damaged or cannot be read. */
export function locate(
  translator: Translator,
  source: BlockSource,
  at: number,
  size: ByteCount,
  out: Extent,
): void {
  must(
    translator.locate(guestOffset(at), size - at, out),
    source,
    `where its disk is at ${at} cannot be told`,
  );
  // A driver's promise; without it whoever walks on would never come to an end.
  if (out.length < 1) throw new ImageError('bug', `${source.label}: an extent at ${at} has no bytes`);
  out.length = Math.min(out.length, size - at);
}

/** What the layers, nearest first, show together; undefined where there are none. Nobody writes to them. */
export function shownBy(layers: readonly Layer[], context: LayerContext): ComparedDisk | undefined {
  const pool = new PagePool(PagePool.seed(POOL_BYTES));
  let disk: Disk | undefined;
  for (const { path, image, source } of [...layers].reverse()) {
    const { report } = openContextOf(path, context);
    const translator = driverOf(image.format).attach(image.share(), source, { pool, report });
    disk = new Disk(image.virtualSize, translator, source, { parent: disk });
  }
  return disk === undefined ? undefined : { disk, files: layers.map(keyOfLayer) };
}

const ZEROS = new Uint8Array(PIECE_BYTES);

/** Whether all of at most PIECE_BYTES bytes are zeros. */
export function areZeros(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0;
}

/** As many zeros, at most PIECE_BYTES. */
export const zeros = (length: ByteCount): Uint8Array => ZEROS.subarray(0, length);
