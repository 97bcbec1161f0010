/**
 * The slots of a mount (fuse/members.ts), for who lets files join and leave: which are free, how often each was used, and
 * so which node the next file there has.
 */

import { ROOT_NODE } from '../fuse/abi.ts';
import type { Members } from '../fuse/members.ts';
import type { TreeSeed } from '../fuse/tree.ts';

export class Slots {
  readonly #members: Members;
  readonly #files: number;
  readonly #windows: number;
  /** Node of slot 0. */
  readonly #first: number;
  readonly #uses = new Map<number, number>();
  readonly #free: number[];

  constructor(members: Members, { shape, files, windows }: TreeSeed) {
    this.#members = members;
    this.#files = files.length;
    this.#windows = windows.length;
    this.#first = shape === 'file' ? ROOT_NODE : ROOT_NODE + 1;
    const shown = files.length + windows.length;
    for (let slot = 0; slot < shown; slot += 1) this.#uses.set(slot, 1);
    this.#free = Array.from({ length: members.capacity - shown }, (_, n) => shown + n);
  }

  /** The node of a file that the mount begins with, by its slot. */
  firstNode(slot: number): number {
    return this.#first + slot;
  }

  /** The node of the next file in a slot; undefined where the numbers have run out. */
  nextNode(slot: number): number | undefined {
    return this.#members.nodeOf(this.#first, slot, this.#uses.get(slot) ?? 0);
  }

  /** The number of a file in `times` and `allocated` (TreeSeed), in which the first windows have no places. */
  numberOf(slot: number): number {
    return slot < this.#files ? slot : slot - this.#windows;
  }

  /** `count` slots, which are not free any more; where there are not so many, none, but how many there are. */
  take(count: number): number[] | number {
    const usable = this.#free.filter((slot) => this.nextNode(slot) !== undefined);
    if (usable.length < count) return usable.length;
    const taken = usable.slice(0, count);
    for (const slot of taken) this.#free.splice(this.#free.indexOf(slot), 1);
    return taken;
  }

  /** A file joins in the slot. */
  use(slot: number): void {
    this.#uses.set(slot, (this.#uses.get(slot) ?? 0) + 1);
    this.#members.join(slot);
  }

  /** Its file has left, and nobody works on it any more. The slots of the first windows have no number for a file. */
  release(slot: number): void {
    if (slot < this.#files || slot >= this.#files + this.#windows) this.#free.push(slot);
  }
}
