/**
 * Copies of clusters whose entries are then set to them. The order of a batch: the copies; flush; the entries; flush.
 * The copies go to places that no entry on disk names, so until the entries are there nothing has changed; and while they
 * are written, in any order, old place and new hold the same.
 */

import type { ByteCount } from '../../base/units.ts';
import { copyPieces } from '../../image/copy.ts';
import type { ReshapeStep } from '../../image/reshape.ts';
import { EntryChanges, type QedJob, STEP_BYTES } from './job.ts';

/** A batch is done when it has as much as this: two flushes for it. */
const BATCH_BYTES = 256 << 20;
const BATCH_MOVES = 16384;

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

  /** Copies clusters; the file has room for them afterwards. */
  *copy(from: number, to: number, clusters: number): Generator<ReshapeStep, void, undefined> {
    const { geometry, source } = this.#job;
    const { clusterSize } = geometry;
    const end = (to + clusters) * clusterSize;
    if (end > source.size) this.#job.setSize(end);
    for (const bytes of copyPieces(source, from * clusterSize, to * clusterSize, clusters * clusterSize)) {
      this.#tally.done += bytes;
      this.#sinceStep += bytes;
      if (this.#sinceStep < STEP_BYTES) continue;
      this.#sinceStep = 0;
      yield this.#tally.step;
    }
  }
}
