/**
 * A child merged into its parent. What the child has of its own is written to the same places of the parent; as long as
 * it has that, it shows nothing of the parent there. So at every instant it shows the same disk, and the merge can be
 * begun again wherever it ended:
 *
 * 1. The child is told the identity that the parent will have (where its format records one that writing changes).
 * 2. The parent grows where the child's disk is larger; then it is written, and made stable.
 * 3. The child is told of the parent as it is now.
 * 4. The child gives up what it has. From here on the parent shows all of it.
 */

import { ImageError } from '../base/errors.ts';
import { randomGuid } from '../base/guid.ts';
import { type ByteCount, hex, hostOffset, MIB } from '../base/units.ts';
import { PIECE_BYTES } from '../disk/compare.ts';
import type { Disk } from '../disk/disk.ts';
import type { NewParent } from '../image/create.ts';
import type { Image, Translator } from '../image/driver.ts';
import { DATA, Extent, HOLE } from '../image/extent.ts';
import { must } from '../image/must.ts';
import type { Reshaping } from '../image/reshape.ts';
import { PagePool } from '../shared/page-pool.ts';
import { areZeros, EditedDisk, locate, type Member, withIdentity } from './disk.ts';
import { resizeOver } from './resize.ts';

/** Of the child's tables. */
const POOL_BYTES = 64 << 20;
/** Zeros are made in pieces of this size, so that it can be stopped between them. */
const ZERO_BYTES = 256 * MIB;
/** Flushed now and then, so that not all is waited for at the end. */
const FLUSH_BYTES = 256 * MIB;

/** How a child learns what becomes of its parent. */
export interface Telling {
  /**
   * Before the parent is changed, stable when it ends. `bottom`: the parent as it is. Returns the identity that its
   * first write gives it.
   */
  before(bottom: Image): Reshaping<Uint8Array>;
  /** When all is in the parent, stable; it was opened again for this. */
  after(bottom: Image): Reshaping;
}

/** By what the format records of a parent. */
export function byReference(
  { driver, source, context }: Member,
  describe: (parent: Image) => NewParent,
): Telling {
  const { expectParent, rebase } = driver.reshape;
  return {
    *before(bottom) {
      const identity = randomGuid();
      if (expectParent === undefined) return identity;
      // A merge that ended early may have left the child with another identity to expect besides this one.
      yield* rebase!(source, describe(bottom), context);
      expectParent(source, identity, context);
      return identity;
    },
    after: (bottom) => rebase!(source, describe(bottom), context),
  };
}

export interface MergeRequest {
  readonly child: Member;
  readonly parent: Member;
  /** What the parent stands on itself. */
  readonly below: Disk | undefined;
  /** How the child is told of the parent. */
  readonly tell: Telling;
  /** Whether a parent whose disk is smaller grows; else what is behind its end stays out. */
  readonly grow: boolean;
  /** Whether the child keeps what it has. */
  readonly keep: boolean;
}

export interface Merged {
  /** Bytes of the disk that were written to the parent, zeros included. */
  readonly written: ByteCount;
  /** What the parent's size was, and is. */
  readonly before: ByteCount;
  readonly after: ByteCount;
}

/** Throws ImageError. */
export function* mergeSteps({ child, parent, below, tell, grow, keep }: MergeRequest): Reshaping<Merged> {
  const top = child.driver.open(child.source, child.context);
  const pool = new PagePool(PagePool.seed(POOL_BYTES));
  const { report } = child.context;
  const translator = child.driver.attach(top.share(), child.source, { pool, report });
  const bottom = parent.driver.open(parent.source, parent.context);
  const before = bottom.virtualSize;
  const after = grow ? Math.max(before, top.virtualSize) : before;
  const size = Math.min(top.virtualSize, after);
  const own = hasOwn(child, translator, size);
  let written = 0;
  if (own || after > before) {
    // Before anything is changed: whether it can be.
    bottom.prepareEdit(parent.context);
    if (after > before && parent.driver.reshape.resize === undefined) {
      const text = `${parent.source.label}: is smaller than its child, and cannot be made larger`;
      throw new ImageError('unsupported', text);
    }
    const identity = yield* tell.before(bottom);
    const context = withIdentity(parent.context, identity);
    if (after > before) yield* resizeOver({ ...parent, context }, after, below?.size);
    const target = new EditedDisk({ ...parent, context }, below, identity);
    try {
      written = yield* copyOwn(child, translator, size, target);
      target.close();
    } finally {
      target.leave();
    }
  }
  yield* tell.after(parent.driver.open(parent.source, parent.context));
  if (!keep) yield* child.driver.reshape.empty!(child.source, child.context);
  return { written, before, after };
}

function hasOwn({ source }: Member, translator: Translator, size: ByteCount): boolean {
  const extent = new Extent();
  for (let at = 0; at < size; at += extent.length) {
    locate(translator, source, at, size, extent);
    if (extent.kind !== HOLE) return true;
  }
  return false;
}

/** Writes what the image has of its own to the same places of `target`. */
function* copyOwn(
  { source }: Member,
  translator: Translator,
  total: ByteCount,
  target: EditedDisk,
): Reshaping<ByteCount> {
  const extent = new Extent();
  const buffer = new Uint8Array(PIECE_BYTES);
  let written = 0;
  let unflushed = 0;
  for (let at = 0; at < total; ) {
    yield { done: at, total };
    locate(translator, source, at, total, extent);
    if (extent.kind === HOLE) {
      at += extent.length;
      continue;
    }
    const { host } = extent;
    const nothing =
      extent.kind === DATA ? Math.min(extent.length, source.nextData(host) - host) : extent.length;
    if (nothing > 0) {
      const length = Math.min(ZERO_BYTES, nothing);
      target.zero(at, length);
      at += length;
      written += length;
      continue;
    }
    const length = Math.min(PIECE_BYTES, extent.length, source.nextHole(host) - host);
    const moved = source.readAt(buffer, 0, length, hostOffset(host));
    must(Math.min(moved, 0), source, `its disk cannot be read at ${at}`);
    if (length < 1 || moved < length)
      throw new ImageError('corrupt', `${source.label}: ends before its block at ${hex(host)}`);
    const bytes = buffer.subarray(0, length);
    if (areZeros(bytes)) target.zero(at, length);
    else target.write(buffer, 0, length, at);
    at += length;
    written += length;
    unflushed += length;
    if (unflushed >= FLUSH_BYTES) {
      target.flush();
      unflushed = 0;
    }
  }
  return written;
}
