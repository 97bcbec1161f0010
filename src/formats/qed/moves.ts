/**
 * Copies of clusters whose entries are then set to them. The order of a batch: the copies; flush; the entries; flush.
 * The copies go to places that no entry on disk names, so until the entries are there nothing has changed; and while they
 * are written, in any order, old place and new hold the same.
 */

import { type ByteCount, type HostOffset, hex } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import type { ReshapeStep } from '../../image/reshape.ts';
import { EntryChanges, type QedJob, STEP_BYTES } from './job.ts';

/** A batch is done when it has as much as this: two flushes for it. */
const BATCH_BYTES = 256 << 20;
const BATCH_MOVES = 16384;
/** Bytes that are copied at once. */
const PIECE = 1 << 20;

interface Move {
  /** Numbers of the first cluster. */
  readonly from: number;
  readonly to: number;
  readonly clusters: number;
}

/** How far an operation is, for all of its batches. */
export class Tally {
  done = 0;
  total: ByteCount;

  constructor(total: ByteCount) {
    this.total = total;
  }

  get step(): ReshapeStep {
    return { done: this.done, total: Math.max(this.total, this.done) };
  }
}

export class Moves {
  readonly #job: QedJob;
  readonly #tally: Tally;
  readonly #entries: EntryChanges;
  readonly #moved: (from: number, clusters: number) => void;
  #moves: Move[] = [];
  #bytes = 0;
  #sinceStep = 0;
  #piece: Uint8Array | undefined;

  /** `moved` is told, when a batch is stable, of the places that nothing names any more. */
  constructor(job: QedJob, tally: Tally, moved: (from: number, clusters: number) => void) {
    this.#job = job;
    this.#tally = tally;
    this.#moved = moved;
    this.#entries = new EntryChanges(job.source);
  }

  /** `entryAt`: of the entry in the file that is to name the copy. */
  add(from: number, to: number, clusters: number, entryAt: number): void {
    const { clusterSize } = this.#job.geometry;
    const last = this.#moves.at(-1);
    const joined = last !== undefined && last.from + last.clusters === from && last.to + last.clusters === to;
    if (joined) this.#moves[this.#moves.length - 1] = { ...last, clusters: last.clusters + clusters };
    else this.#moves.push({ from, to, clusters });
    this.#bytes += clusters * clusterSize;
    this.#entries.set(entryAt, to * clusterSize);
  }

  get isFull(): boolean {
    return this.#bytes >= BATCH_BYTES || this.#entries.count >= BATCH_MOVES;
  }

  /** Carries out what was added. Stable when it ends. */
  *run(): Generator<ReshapeStep, void, undefined> {
    if (this.#moves.length === 0) return;
    for (const move of this.#moves) yield* this.copy(move.from, move.to, move.clusters);
    this.#job.flush();
    this.#entries.write();
    this.#job.flush();
    for (const { from, clusters } of this.#moves) this.#moved(from, clusters);
    this.#moves = [];
    this.#bytes = 0;
    yield this.#tally.step;
  }

  /** Copies clusters; holes of the file stay holes, and what the file does not have is zeros. */
  *copy(from: number, to: number, clusters: number): Generator<ReshapeStep, void, undefined> {
    const { geometry, source } = this.#job;
    const { clusterSize } = geometry;
    const length = clusters * clusterSize;
    const shift = (to - from) * clusterSize;
    const start = from * clusterSize;
    this.#piece ??= new Uint8Array(PIECE);
    for (let at = start; at < start + length; ) {
      const data = Math.min(source.nextData(at as HostOffset), start + length);
      // A hole in whole clusters: else a piece is read, zeros and all.
      const hole = data >= source.size ? start + length - at : Math.floor((data - at) / 4096) * 4096;
      if (hole > 0) {
        this.#zero(at + shift, hole);
        at += hole;
        continue;
      }
      const count = Math.min(PIECE, start + length - at);
      const moved = source.readAt(this.#piece, 0, count, at as HostOffset);
      must(moved, source, `${count} bytes at ${hex(at)} cannot be read`);
      this.#piece.fill(0, moved, count);
      const status = source.writeAt(this.#piece, 0, count, (at + shift) as HostOffset, 'payload.write');
      must(status, source, `${count} bytes at ${hex(at + shift)} cannot be written`);
      at += count;
      this.#tally.done += count;
      this.#sinceStep += count;
      if (this.#sinceStep < STEP_BYTES) continue;
      this.#sinceStep = 0;
      yield this.#tally.step;
    }
  }

  #zero(at: number, length: ByteCount): void {
    const { source } = this.#job;
    if (at + length > source.size) this.#job.setSize(at + length);
    const status = source.zero(at as HostOffset, length, 'punch', 'payload.zero');
    must(status, source, `${length} bytes at ${hex(at)} cannot be zeroed`);
    this.#tally.done += length;
  }
}
