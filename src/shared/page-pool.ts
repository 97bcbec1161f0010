/**
 * The arena behind every paged table: slots of one page (1024 words, 4 KiB) in shared memory, given out in
 * least-recently-used order across all images and workers. It is bounded in bytes, and its memory is touched
 * only as slots are used.
 *
 * Layout, in 32-bit words:
 *   control   lock, slots in use, list head (most recent), list tail (least recent), counters
 *   slots     per slot: owner table, page, previous, next, generation, touched, pins, dirty sectors
 *   data      per slot: 1024 words
 *
 * Recency is promoted late: a hit only marks its slot as touched (a plain store, no lock). Eviction takes the
 * tail of the list, but a touched slot is unmarked and moved to the head instead. So a slot that goes was not
 * used since it was last looked at.
 *
 * A pinned slot is not evicted: its words differ from the image, or are being written there. `dirty` says which
 * eighths of the page (128 words, a 512-byte sector of a table with entries of 4 bytes) were changed.
 *
 * Written under the lock: everything but `touched`, which any reader may set, and `dirty`, which belongs to the
 * holder of the table's own lock.
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
const PINNED = 6;

const SLOT_WORDS = 8;
const OWNER = 0;
const PAGE = 1;
const PREVIOUS = 2;
const NEXT = 3;
const GENERATION = 4;
const TOUCHED = 5;
const PINS = 6;
const DIRTY = 7;

const NONE = -1;

export interface PagePoolSeed {
  readonly memory: SharedArrayBuffer;
  readonly slots: number;
  /** How often each thread looked into a page: a row for each, in 64-bit floats. */
  readonly looks: SharedArrayBuffer;
}

/** Threads that count looks in a row of their own: more than a mount has. */
const LOOK_ROWS = 80;
/** A row is a cache line. */
const LOOK_STRIDE = 8;

export class PagePool {
  readonly mutex: Mutex;
  /** All data words: slot s is words s * PAGE_WORDS and following. */
  readonly data: Uint32Array<SharedArrayBuffer>;
  readonly #control: Int32Array<SharedArrayBuffer>;
  readonly #slots: Int32Array<SharedArrayBuffer>;
  readonly #count: number;
  readonly #looks: Float64Array<SharedArrayBuffer>;
  readonly #row: number;

  /** `thread` tells threads apart that count at once. */
  constructor(seed: PagePoolSeed, thread = 0) {
    const slotsAt = CONTROL_WORDS * 4;
    const dataAt = slotsAt + seed.slots * SLOT_WORDS * 4;
    this.#count = seed.slots;
    this.#control = new Int32Array(seed.memory, 0, CONTROL_WORDS);
    this.#slots = new Int32Array(seed.memory, slotsAt, seed.slots * SLOT_WORDS);
    this.data = new Uint32Array(seed.memory, dataAt, seed.slots * PAGE_WORDS);
    this.mutex = new Mutex(this.#control, LOCK);
    this.#looks = new Float64Array(seed.looks);
    this.#row = (thread % LOOK_ROWS) * LOOK_STRIDE;
  }

  /** A pool of at most `bytes` (at least 16 pages). Made once, by the main thread; shared by its seed. */
  static seed(bytes: number): PagePoolSeed {
    const slots = Math.min(MAX_SLOTS, Math.max(16, Math.floor(bytes / (PAGE_BYTES + SLOT_WORDS * 4))));
    const memory = new SharedArrayBuffer(CONTROL_WORDS * 4 + slots * (SLOT_WORDS * 4 + PAGE_BYTES));
    const control = new Int32Array(memory, 0, CONTROL_WORDS);
    control[HEAD] = NONE;
    control[TAIL] = NONE;
    return { memory, slots, looks: new SharedArrayBuffer(LOOK_ROWS * LOOK_STRIDE * 8) };
  }

  /** A page was looked into. */
  touch(slot: number): void {
    this.#looks[this.#row]! += 1;
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

  /** Keeps a slot from being evicted, until as many `unpin`. Says whether it could be before. Call it under the lock. */
  pin(slot: number): boolean {
    const at = slot * SLOT_WORDS + PINS;
    const first = this.#slots[at] === 0;
    if (first) Atomics.add(this.#control, PINNED, 1);
    this.#slots[at]! += 1;
    return first;
  }

  /** Says whether the slot may be evicted from now on. Call it under the lock. */
  unpin(slot: number): boolean {
    const at = slot * SLOT_WORDS + PINS;
    this.#slots[at]! -= 1;
    const last = this.#slots[at] === 0;
    if (last) Atomics.sub(this.#control, PINNED, 1);
    return last;
  }

  /** Whether pinned slots leave too little to work with: half of all, or seven eighths for who must go on. */
  isCrowded(urgent: boolean): boolean {
    const share = urgent ? (this.#count * 7) >>> 3 : this.#count >>> 1;
    return Atomics.load(this.#control, PINNED) >= share;
  }

  /** The changed eighths of a pinned slot, one bit each. For the holder of the table's lock. */
  dirty(slot: number): number {
    return this.#slots[slot * SLOT_WORDS + DIRTY]!;
  }

  setDirty(slot: number, eighths: number): void {
    this.#slots[slot * SLOT_WORDS + DIRTY] = eighths;
  }

  /** Looks that found their page present, loads and evictions since the pool was made; pages in use, and that wait to be written. */
  counters(): { hits: number; misses: number; evictions: number; pages: number; pinned: number } {
    // Who loads a page looks into it then.
    const looks = this.#looks.reduce((sum, row) => sum + row, 0);
    return {
      hits: Math.max(0, looks - Atomics.load(this.#control, MISSES)),
      misses: Atomics.load(this.#control, MISSES),
      evictions: Atomics.load(this.#control, EVICTIONS),
      pages: Atomics.load(this.#control, USED),
      pinned: Atomics.load(this.#control, PINNED),
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

  /** The least recently used slot that is not pinned; touched ones met on the way move to the head. */
  #victim(): number {
    // Twice round: after the first every mark is gone. `isCrowded` leaves slots that are not pinned.
    for (let look = 0; look < 2 * this.#count; look += 1) {
      const slot = this.#control[TAIL]!;
      const base = slot * SLOT_WORDS;
      if (this.#slots[base + TOUCHED] === 0 && this.#slots[base + PINS] === 0) return slot;
      this.#slots[base + TOUCHED] = 0;
      this.#unlink(slot);
      this.#linkFirst(slot);
    }
    throw new Error('every page of the pool is pinned');
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
