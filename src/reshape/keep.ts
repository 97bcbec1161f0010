/**
 * What a child needs to show the same disk over another parent: wherever it has nothing of its own, and the old parents
 * and the new ones differ, it gets the old bytes. Until the reference is changed it stands over the old parents, and
 * what it gets is what they show: at every instant the disk is the same.
 */

import { ENXIO } from '../base/errno.ts';
import { type ByteCount, guestOffset, MIB, roundDown } from '../base/units.ts';
import { type ComparedDisk, PIECE_BYTES, Side } from '../disk/compare.ts';
import type { Disk } from '../disk/disk.ts';
import { DATA, Extent, HOLE, ZERO } from '../image/extent.ts';
import { must } from '../image/must.ts';
import type { Reshaping } from '../image/reshape.ts';
import { EditedDisk, type Member, zeros } from './disk.ts';

/** Bytes are copied in multiples of this. */
const GRAIN = 4096;
/** Flushed now and then, so that not all is waited for at the end. */
const FLUSH_BYTES = 256 * MIB;

/** What a chain shows; zeros where there is none. */
class Chain {
  readonly #side: Side | undefined;
  readonly #label: string;

  constructor(shown: ComparedDisk | undefined, label: string) {
    this.#side = shown === undefined ? undefined : new Side(shown);
    this.#label = label;
  }

  look(at: number): void {
    if (this.#side === undefined) return;
    must(this.#side.look(at), { label: this.#label }, `where the disk is at ${at} cannot be told`);
  }

  get end(): number {
    return this.#side?.end ?? Number.POSITIVE_INFINITY;
  }

  get isZeros(): boolean {
    return this.#side?.isZeros ?? true;
  }

  /** Undefined where it shows zeros. */
  place(at: number): string | undefined {
    return this.isZeros ? undefined : this.#side!.place(at);
  }

  read(at: number, length: ByteCount): Uint8Array {
    if (this.isZeros) return zeros(length);
    const bytes = this.#side!.read(at, length);
    if (typeof bytes !== 'number') return bytes;
    must(bytes, { label: this.#label }, `the disk cannot be read at ${at}`);
    return zeros(length);
  }
}

/**
 * `old` and `next`: what the child's holes show now, and will; undefined: zeros. Returns how many bytes of the disk were
 * given to the child, which is closed, clean and stable then.
 */
export function* keepDisk(
  child: Member,
  old: ComparedDisk | undefined,
  next: ComparedDisk | undefined,
): Reshaping<ByteCount> {
  const edited = new EditedDisk(child, old?.disk);
  try {
    const copied = yield* copyDifferences(edited, old, next, child.source.label);
    edited.close();
    return copied;
  } finally {
    edited.leave();
  }
}

function* copyDifferences(
  child: EditedDisk,
  old: ComparedDisk | undefined,
  next: ComparedDisk | undefined,
  label: string,
): Reshaping<ByteCount> {
  const total = child.size;
  const before = new Chain(old, `the parents of ${label}`);
  const after = new Chain(next, `the new parents of ${label}`);
  const extent = new Extent();
  let copied = 0;
  let unflushed = 0;
  for (let at = 0; at < total; ) {
    yield { done: at, total };
    child.locate(at, extent);
    const holeEnd = at + extent.length;
    // In an image that stands alone, a format may well call zeros what is a hole to it once it has a parent.
    if (extent.kind === DATA || (extent.kind === ZERO && old !== undefined)) {
      at = holeEnd;
      continue;
    }
    before.look(at);
    after.look(at);
    const end = Math.min(holeEnd, before.end, after.end);
    if (before.place(at) === after.place(at)) {
      at = end;
      continue;
    }
    const length = Math.min(PIECE_BYTES, end - at);
    const bytes = before.read(at, length);
    const other = after.read(at, length);
    if (Buffer.compare(bytes, other) !== 0) {
      const covered = old === undefined ? 0 : cover(child, old, at, extent);
      if (covered > 0) {
        copied += covered - at;
        at = covered;
        continue;
      }
      const written = writeDifferences(child, bytes, other, at);
      copied += written;
      unflushed += written;
      if (unflushed >= FLUSH_BYTES) {
        child.flush();
        unflushed = 0;
      }
    }
    at += length;
  }
  return copied;
}

/** Makes the unit at `at` zeros at once, where the child has nothing of it and the old parents neither. Returns its end, or 0. */
function cover(child: EditedDisk, { disk }: ComparedDisk, at: number, scratch: Extent): number {
  const { unit, size } = child;
  if (unit === 0) return 0;
  const start = roundDown(at, unit);
  const end = Math.min(start + unit, size);
  child.locate(start, scratch);
  if (scratch.kind !== HOLE || start + scratch.length < end) return 0;
  if (!hasNothing(disk, start, end)) return 0;
  return child.cover(start, end - start, scratch) ? end : 0;
}

function hasNothing(disk: Disk, start: number, end: number): boolean {
  const limit = Math.min(end, disk.size);
  return start >= limit || disk.seek(guestOffset(start), 'data', limit) === -ENXIO;
}

/** Writes the grains in which the two differ. Returns how many bytes that were. */
function writeDifferences(child: EditedDisk, bytes: Uint8Array, other: Uint8Array, at: number): ByteCount {
  const { length } = bytes;
  const differs = (from: number): boolean =>
    from < length &&
    Buffer.compare(bytes.subarray(from, from + GRAIN), other.subarray(from, from + GRAIN)) !== 0;
  let written = 0;
  for (let from = 0; from < length; ) {
    let end = from + GRAIN;
    if (differs(from)) {
      while (differs(end)) end += GRAIN;
      end = Math.min(end, length);
      child.write(bytes, from, end - from, at + from);
      written += end - from;
    }
    from = end;
  }
  return written;
}
