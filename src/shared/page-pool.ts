/**
 * The arena behind every paged table: slots of one page (1024 words, 4 KiB) in shared memory, given out in
 * least-recently-used order across all images and workers. It is bounded in bytes, and its memory is touched
 * only as slots are used.
 *
 * Layout, in 32-bit words:
 *   control   lock, slots in use, list head (most recent), list tail (least recent), counters
 *   slots     per slot: owner table, page, previous, next, generation, touched
 *   data      per slot: 1024 words
 *
 * Recency is promoted late: a hit only marks its slot as touched (a plain store, no lock). Eviction takes the
 * tail of the list, but a touched slot is unmarked and moved to the head instead. So a slot that goes was not
 * used since it was last looked at.
 *
 * Written under the lock: everything but `touched`, which any reader may set.
 */

import { Mutex } from './mutex.ts';

/** Words in a page. */
export const PAGE_WORDS = 1024;
export const PAGE_BYTES = PAGE_WORDS * 4;

/** Slot numbers take 17 bits of a directory word (see paged-table.ts): 512 MiB at most. */
export const MAX_SLOTS = 1 << 17;

const CONTROL_WORDS = 16;
const LOCK = 0;
const USED = 1;
const HEAD = 2;
const TAIL = 3;
const MISSES = 4;
const EVICTIONS = 5;

const SLOT_WORDS = 6;
const OWNER = 0;
const PAGE = 1;
const PREVIOUS = 2;
const NEXT = 3;
const GENERATION = 4;
const TOUCHED = 5;

const NONE = -1;

export interface PagePoolSeed {
  readonly memory: SharedArrayBuffer;
  readonly slots: number;
}

export class PagePool {
  readonly mutex: Mutex;
  /** All data words: slot s is words s * PAGE_WORDS and following. */
  readonly data: Uint32Array<SharedArrayBuffer>;
  readonly #control: Int32Array<SharedArrayBuffer>;
  readonly #slots: Int32Array<SharedArrayBuffer>;
  readonly #count: number;

  constructor(seed: PagePoolSeed) {
    const slotsAt = CONTROL_WORDS * 4;
    const dataAt = slotsAt + seed.slots * SLOT_WORDS * 4;
    this.#count = seed.slots;
    this.#control = new Int32Array(seed.memory, 0, CONTROL_WORDS);
    this.#slots = new Int32Array(seed.memory, slotsAt, seed.slots * SLOT_WORDS);
    this.data = new Uint32Array(seed.memory, dataAt, seed.slots * PAGE_WORDS);
    this.mutex = new Mutex(this.#control, LOCK);
  }

  /** A pool of at most `bytes` (at least 16 pages). Made once, by the main thread; shared by its seed. */
  static seed(bytes: number): PagePoolSeed {
    const slots = Math.min(MAX_SLOTS, Math.max(16, Math.floor(bytes / (PAGE_BYTES + SLOT_WORDS * 4))));
    const memory = new SharedArrayBuffer(CONTROL_WORDS * 4 + slots * (SLOT_WORDS * 4 + PAGE_BYTES));
    const control = new Int32Array(memory, 0, CONTROL_WORDS);
    control[HEAD] = NONE;
    control[TAIL] = NONE;
    return { memory, slots };
  }

  touch(slot: number): void {
    const at = slot * SLOT_WORDS + TOUCHED;
    if (this.#slots[at] === 0) this.#slots[at] = 1;
  }

  /** Changes, before anything else of the slot does, whenever the slot is given to another page. */
  generation(slot: number): number {
    return Atomics.load(this.#slots, slot * SLOT_WORDS + GENERATION);
  }

  /** Whether the slot is that of page `page` of table `owner` (now: a reader looks at the generation after). */
  holds(slot: number, owner: number, page: number): boolean {
    const base = slot * SLOT_WORDS;
    return (
      Atomics.load(this.#slots, base + OWNER) === owner && Atomics.load(this.#slots, base + PAGE) === page
    );
  }

  /** Loads, evictions and pages in use, since the pool was made. */
  counters(): { misses: number; evictions: number; pages: number } {
    return {
      misses: Atomics.load(this.#control, MISSES),
      evictions: Atomics.load(this.#control, EVICTIONS),
      pages: Atomics.load(this.#control, USED),
    };
  }

  /**
   * A slot for page `page` of table `owner`, at the head of the list, with a new generation. Its words are free
   * to be written: readers of the page that was there see the generation change. Call it under the lock.
   */
  take(owner: number, page: number): number {
    const control = this.#control;
    Atomics.add(control, MISSES, 1);
    let slot = control[USED]!;
    if (slot < this.#count) {
      Atomics.store(control, USED, slot + 1);
    } else {
      slot = this.#victim();
      this.#unlink(slot);
      Atomics.add(control, EVICTIONS, 1);
    }
    const base = slot * SLOT_WORDS;
    Atomics.store(this.#slots, base + GENERATION, (this.#slots[base + GENERATION]! + 1) & 0x3fff);
    Atomics.store(this.#slots, base + OWNER, owner);
    Atomics.store(this.#slots, base + PAGE, page);
    this.#slots[base + TOUCHED] = 0;
    this.#linkFirst(slot);
    return slot;
  }

  /** The least recently used slot; touched ones met on the way move to the head. */
  #victim(): number {
    for (let look = 0; look < this.#count; look += 1) {
      const slot = this.#control[TAIL]!;
      const touched = slot * SLOT_WORDS + TOUCHED;
      if (this.#slots[touched] === 0) return slot;
      this.#slots[touched] = 0;
      this.#unlink(slot);
      this.#linkFirst(slot);
    }
    return this.#control[TAIL]!;
  }

  #linkFirst(slot: number): void {
    const base = slot * SLOT_WORDS;
    const head = this.#control[HEAD]!;
    this.#slots[base + PREVIOUS] = NONE;
    this.#slots[base + NEXT] = head;
    if (head === NONE) this.#control[TAIL] = slot;
    else this.#slots[head * SLOT_WORDS + PREVIOUS] = slot;
    this.#control[HEAD] = slot;
  }

  #unlink(slot: number): void {
    const base = slot * SLOT_WORDS;
    const previous = this.#slots[base + PREVIOUS]!;
    const next = this.#slots[base + NEXT]!;
    if (previous === NONE) this.#control[HEAD] = next;
    else this.#slots[previous * SLOT_WORDS + NEXT] = next;
    if (next === NONE) this.#control[TAIL] = previous;
    else this.#slots[next * SLOT_WORDS + PREVIOUS] = previous;
  }
}
