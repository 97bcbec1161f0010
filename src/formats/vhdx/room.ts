/** Room in the file for what is moved or new, by the bits of a survey. */

import { ImageError } from '../../base/errors.ts';
import { type BatGeometry, MIB_LIMIT, takenUntil } from './bat.ts';
import { eachFreeRun, type Survey } from './survey.ts';

export class Room {
  /** MiB behind the last one in use. */
  end: number;
  #used: Uint8Array;
  /** MiB that the survey knows; what is behind is only taken by regions, and here. */
  readonly #surveyed: number;
  readonly #taken: Float64Array;
  /** By length: below it there is no free run so long. What is given back later is above what is looked for. */
  readonly #cursors = new Map<number, number>();

  /** Changes the bits of `survey` from now on. */
  constructor(survey: Survey, bat: BatGeometry) {
    this.#used = survey.used;
    this.#surveyed = survey.used.length * 8;
    this.end = survey.end;
    this.#taken = new Float64Array(bat.taken);
  }

  isUsed(mib: number): boolean {
    if (((this.#used[mib >>> 3] ?? 0) & (1 << (mib & 7))) !== 0) return true;
    return mib >= this.#surveyed && takenUntil(this.#taken, mib, mib + 1) > mib;
  }

  /** Whether nobody uses `mibs` MiB from `mib` on. */
  isFree(mib: number, mibs: number): boolean {
    if (takenUntil(this.#taken, mib, mib + mibs) > mib) return false;
    for (let at = mib; at < Math.min(mib + mibs, this.end); at += 1) if (this.isUsed(at)) return false;
    return mib + mibs <= MIB_LIMIT;
  }

  /** Takes the first `mibs` free MiB that end at or before `limit`: their first, or -1. */
  takeBelow(mibs: number, limit: number): number {
    let from = this.#cursors.get(mibs) ?? 0;
    for (let at = from; at < limit; at += 1) {
      if (this.isUsed(at)) from = at + 1;
      if (at + 1 - from < mibs) continue;
      this.take(from, mibs);
      this.#cursors.set(mibs, from + mibs);
      return from;
    }
    // Whoever asks again asks for what is lower, or for what has grown behind.
    this.#cursors.set(mibs, Math.max(this.#cursors.get(mibs) ?? 0, limit - mibs + 1));
    return -1;
  }

  /** The same, or else behind everything. Throws ImageError where the format has no room. */
  takeAny(mibs: number): number {
    const below = this.takeBelow(mibs, this.end);
    return below >= 0 ? below : this.takeEnd(mibs);
  }

  /** Behind everything. */
  takeEnd(mibs: number): number {
    let mib = this.end;
    for (let behind = mib; ; mib = behind) {
      behind = takenUntil(this.#taken, mib, mib + mibs);
      if (behind === mib) break;
    }
    if (mib + mibs > MIB_LIMIT) throw new ImageError('io', 'VHDX file: has no room left');
    this.take(mib, mibs);
    return mib;
  }

  /** Calls `each` with every free run that ends before the last MiB in use. */
  eachFree(each: (mib: number, mibs: number) => void): void {
    eachFreeRun(this.#used, this.end, each);
  }

  /** MiB in use. */
  get count(): number {
    let free = 0;
    this.eachFree((_, mibs) => {
      free += mibs;
    });
    return this.end - free;
  }

  take(mib: number, mibs: number): void {
    if (mib + mibs > this.#used.length * 8) {
      const larger = new Uint8Array(Math.max(Math.ceil((mib + mibs) / 8), 2 * this.#used.length));
      larger.set(this.#used);
      this.#used = larger;
    }
    for (let at = mib; at < mib + mibs; at += 1) {
      this.#used[at >>> 3]! |= 1 << (at & 7);
    }
    this.end = Math.max(this.end, mib + mibs);
  }

  /** Nobody uses them any more. `end` stays. */
  give(mib: number, mibs: number): void {
    for (let at = mib; at < Math.min(mib + mibs, this.#used.length * 8); at += 1) {
      this.#used[at >>> 3]! &= ~(1 << (at & 7));
    }
  }

  /** Lets `end` come down to what is in use. */
  settle(): void {
    while (this.end > 0 && !this.isUsed(this.end - 1)) this.end -= 1;
  }
}
