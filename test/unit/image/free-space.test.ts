/** The queue of freed host blocks: when each may be given out again. */

import { describe, expect, it } from 'vitest';
import { FreeSpace, NONE } from '../../../src/image/free-space.ts';
import { IoGate } from '../../../src/shared/io-gate.ts';
import { between, random } from '../../support/random.ts';

function setUp(ready: number[] = []) {
  const gates = IoGate.seed(2);
  const other = new IoGate(gates, 1);
  const memory = FreeSpace.seed(ready);
  const free = new FreeSpace(memory, new IoGate(gates, 0));
  return { free, other, memory, view: new FreeSpace(memory, other) };
}

describe('free space', () => {
  it('begins with what was found free, oldest first, the same for every thread', () => {
    const { free, view } = setUp([7, 3, 9]);
    expect([free.count, free.take(), view.take(), free.take(), free.take()]).toEqual([3, 7, 3, 9, NONE]);
    expect(free.count).toBe(0);
  });

  it('gives a released block out only after the commit that has it', () => {
    const { free } = setUp();
    free.release(5);
    expect(free.take()).toBe(NONE);
    free.gather();
    // Not part of the commit that is running.
    free.release(6);
    expect(free.take()).toBe(NONE);
    free.settle(true);
    expect([free.take(), free.take()]).toEqual([5, NONE]);
    free.gather();
    free.settle(true);
    expect(free.take()).toBe(6);
  });

  it('waits for the next commit where one fails', () => {
    const { free } = setUp();
    free.release(5);
    free.gather();
    free.settle(false);
    expect(free.take()).toBe(NONE);
    free.gather();
    free.settle(true);
    expect(free.take()).toBe(5);
  });

  it('waits for threads that may still be moving bytes there', () => {
    const { free, other } = setUp();
    other.enter();
    free.release(5);
    free.gather();
    free.settle(true);
    expect(free.take()).toBe(NONE);
    other.leave();
    expect(free.take()).toBe(5);
  });

  it('gives out what is ready while later ones wait', () => {
    const { free, other } = setUp([1]);
    other.enter();
    free.release(5);
    free.gather();
    free.settle(true);
    expect([free.take(), free.take()]).toEqual([1, NONE]);
  });

  it('takes back what was not used: ready at once, and the next', () => {
    const { free } = setUp([1, 2]);
    free.release(9);
    const taken = free.take();
    free.giveBack(taken);
    expect([free.count, free.take(), free.take(), free.take()]).toEqual([3, 1, 2, NONE]);
    // One that was never in the queue.
    free.giveBack(77);
    expect([free.take(), free.count]).toEqual([77, 1]);
  });

  it('lists all that it holds, newest first', () => {
    const { free } = setUp([1, 2]);
    free.release(8);
    free.release(9);
    free.take();
    expect([...free.all()]).toEqual([9, 8, 2]);
  });

  it('forgets what it has no room for', () => {
    const room = 1 << 18;
    const { free } = setUp(Array.from({ length: room + 5 }, (_, n) => n));
    expect(free.count).toBe(room);
    free.release(1_000_000);
    free.giveBack(1_000_001);
    expect([free.count, free.take()]).toEqual([room, 0]);
    free.release(1_000_002);
    expect([...free.all()][0]).toBe(1_000_002);
  });

  it('agrees with lists, under random use, also where its counters wrap', () => {
    const next = random(8);
    const { free, other, memory } = setUp();
    new Uint32Array(memory, 0, 5).fill(0xffffff00);
    const [ready, committed, committing, released] = [[], [], [], []] as number[][];
    let inside = false;
    // The other thread was inside when the last commit ended.
    let held = false;
    for (let round = 0; round < 20_000; round += 1) {
      const chance = next();
      if (chance < 0.3) {
        free.release(round);
        released!.push(round);
      } else if (chance < 0.6) {
        const got = free.take();
        if (ready!.length === 0 && !held) ready!.push(...committed!.splice(0));
        expect(got).toBe(ready!.shift() ?? NONE);
        if (got !== NONE && next() < 0.2) {
          free.giveBack(got);
          ready!.unshift(got);
        }
      } else if (chance < 0.8) {
        if (inside) other.leave();
        else other.enter();
        inside = !inside;
        held = false;
      } else {
        free.gather();
        committing!.push(...released!.splice(0));
        if (next() < 0.3) {
          const late = between(next, 100_000, 200_000);
          free.release(late);
          released!.push(late);
        }
        const written = next() < 0.7;
        free.settle(written);
        if (written) {
          committed!.push(...committing!.splice(0));
          held = inside;
        }
      }
      expect(free.count).toBe(ready!.length + committed!.length + committing!.length + released!.length);
    }
  });
});
