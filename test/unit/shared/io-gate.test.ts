/** When freed space may be given out again. */

import { describe, expect, it } from 'vitest';
import { IoGate } from '../../../src/shared/io-gate.ts';
import { between, random } from '../../support/random.ts';

function gates(count: number, epoch = 1): IoGate[] {
  const memory = IoGate.seed(count);
  new Int32Array(memory)[0] = epoch;
  return Array.from({ length: count }, (_, thread) => new IoGate(memory, thread));
}

describe('the gate', () => {
  it('waits for operations of others that were running when the epoch was closed', () => {
    const [freeing, other] = gates(2) as [IoGate, IoGate];
    other.enter();
    const epoch = freeing.close();
    expect(freeing.isPast(epoch)).toBe(false);
    other.leave();
    expect(freeing.isPast(epoch)).toBe(true);
  });

  it('does not wait for operations that began later, nor for its own thread', () => {
    const [freeing, other] = gates(2) as [IoGate, IoGate];
    freeing.enter();
    const epoch = freeing.close();
    other.enter();
    expect(freeing.isPast(epoch)).toBe(true);
    // The other one does wait for this thread, whose operation is older.
    expect(other.isPast(epoch)).toBe(false);
  });

  it('waits for all threads: one that went on is not taken for another', () => {
    const [freeing, one, two] = gates(3) as [IoGate, IoGate, IoGate];
    one.enter();
    two.enter();
    const epoch = freeing.close();
    one.leave();
    one.enter();
    expect(freeing.isPast(epoch)).toBe(false);
    two.leave();
    expect(freeing.isPast(epoch)).toBe(true);
  });

  it('two that wait for one another go on, once each says that it holds nothing', () => {
    const [one, two] = gates(2) as [IoGate, IoGate];
    one.enter();
    two.enter();
    const epoch = one.close();
    expect([one.isPast(epoch), two.isPast(epoch)]).toEqual([false, false]);
    two.renew();
    expect([one.isPast(epoch), two.isPast(epoch)]).toEqual([true, false]);
    one.renew();
    expect(two.isPast(epoch)).toBe(true);
    // Outside of an operation it begins none.
    two.leave();
    two.renew();
    expect(one.isPast(one.close())).toBe(true);
  });

  it('goes on where the counter of epochs wraps', () => {
    for (const start of [0x7fffffff, -1]) {
      const [freeing, other] = gates(2, start) as [IoGate, IoGate];
      other.enter();
      const epoch = freeing.close();
      expect(freeing.isPast(epoch)).toBe(false);
      other.leave();
      other.enter();
      expect(freeing.isPast(epoch)).toBe(true);
    }
  });

  it('has room for as many threads as were said', () => {
    const memory = IoGate.seed(2);
    expect(() => new IoGate(memory, 1)).not.toThrow();
    expect(() => new IoGate(memory, 2)).toThrow('no room for thread 2');
  });

  it('agrees with a list of what runs, under random use', () => {
    const next = random(6);
    const all = gates(5);
    const since = all.map(() => -1);
    const closed: { epoch: number; by: number; at: number }[] = [];
    for (let round = 0; round < 5000; round += 1) {
      const thread = between(next, 0, 4);
      if (next() < 0.6) {
        if (since[thread] === -1) {
          all[thread]!.enter();
          since[thread] = round;
        } else {
          all[thread]!.leave();
          since[thread] = -1;
        }
      } else if (next() < 0.3) closed.push({ epoch: all[thread]!.close(), by: thread, at: round });
      const last = closed.at(-between(next, 1, 3));
      if (last === undefined) continue;
      const running = since.some((began, other) => other !== last.by && began !== -1 && began < last.at);
      expect(all[last.by]!.isPast(last.epoch)).toBe(!running);
    }
  });
});
