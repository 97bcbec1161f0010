/** The pool's own promises: its bound, the order of eviction, pins. Pages are tested through paged-table.test.ts. */

import { describe, expect, it } from 'vitest';
import { PAGE_BYTES, PagePool } from '../../../src/shared/page-pool.ts';
import { between, random } from '../../support/random.ts';

const SLOTS = 16;

describe('the pool', () => {
  it('is bounded by its bytes, from sixteen pages on', () => {
    expect(PagePool.seed(0).slots).toBe(SLOTS);
    const seed = PagePool.seed(1 << 20);
    expect(seed.memory.byteLength).toBeLessThanOrEqual((1 << 20) + 64);
    expect(seed.slots).toBeGreaterThan(250);
    expect(new PagePool(seed).data.byteLength).toBe(seed.slots * PAGE_BYTES);
  });

  it('gives out the slot that was not used for longest, and tells by its generation', () => {
    const pool = new PagePool(PagePool.seed(0));
    const slots = Array.from({ length: SLOTS }, (_, page) => pool.take(1, page));
    expect(new Set(slots).size).toBe(SLOTS);
    pool.touch(slots[0]!);
    const generation = pool.generation(slots[1]!);
    expect(pool.take(1, 100)).toBe(slots[1]);
    expect(pool.generation(slots[1]!)).not.toBe(generation);
    expect([pool.holds(slots[1]!, 1, 100), pool.holds(slots[1]!, 1, 1), pool.holds(slots[0]!, 1, 0)]).toEqual(
      [true, false, true],
    );
  });

  it('never gives out a pinned slot, however often it was pinned', () => {
    const pool = new PagePool(PagePool.seed(0));
    const slots = Array.from({ length: SLOTS }, (_, page) => pool.take(1, page));
    for (const slot of slots.slice(0, SLOTS - 1)) pool.pin(slot);
    pool.pin(slots[3]!);
    expect(pool.counters().pinned).toBe(SLOTS - 1);
    for (let page = 100; page < 140; page += 1) expect(pool.take(2, page)).toBe(slots[SLOTS - 1]);
    pool.unpin(slots[3]!);
    expect(pool.take(2, 200)).toBe(slots[SLOTS - 1]);
    pool.unpin(slots[3]!);
    expect(pool.counters().pinned).toBe(SLOTS - 2);
    pool.touch(slots[SLOTS - 1]!);
    expect(pool.take(2, 201)).toBe(slots[3]);
  });

  it('says when pinned slots leave too little: half, or an eighth for who must go on', () => {
    const pool = new PagePool(PagePool.seed(0));
    const crowded: [boolean, boolean][] = [];
    for (let page = 0; page < SLOTS; page += 1) {
      crowded.push([pool.isCrowded(false), pool.isCrowded(true)]);
      pool.pin(pool.take(1, page));
    }
    expect(crowded.map(([half]) => half).indexOf(true)).toBe(SLOTS / 2);
    expect(crowded.map(([, urgent]) => urgent).indexOf(true)).toBe((SLOTS * 7) / 8);
  });

  it('keeps the changed eighths of each slot', () => {
    const pool = new PagePool(PagePool.seed(0));
    const [one, two] = [pool.take(1, 0), pool.take(1, 1)];
    pool.setDirty(one, 0b1010_0001);
    expect([pool.dirty(one), pool.dirty(two)]).toEqual([0b1010_0001, 0]);
  });

  it('is a list with every slot in it once, under random use', () => {
    const next = random(4);
    const pool = new PagePool(PagePool.seed(0));
    const holds = new Map<number, number>();
    const pinned = new Set<number>();
    for (let round = 0; round < 20_000; round += 1) {
      const slot = between(next, 0, SLOTS - 1);
      if (next() < 0.3 && holds.has(slot) && !pinned.has(slot) && pinned.size < SLOTS / 2) {
        pool.pin(slot);
        pinned.add(slot);
      } else if (next() < 0.3 && pinned.delete(slot)) {
        pool.unpin(slot);
      } else if (next() < 0.5) {
        pool.touch(slot);
      } else {
        const taken = pool.take(9, round);
        if (pinned.has(taken)) expect.fail(`round ${round}: slot ${taken} is pinned`);
        holds.set(taken, round);
      }
    }
    expect(holds.size).toBe(SLOTS);
    for (const [slot, page] of holds) expect(pool.holds(slot, 9, page)).toBe(true);
  });
});
