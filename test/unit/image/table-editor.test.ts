/** The locks of blocks that are forked from a parent. */

import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../../src/base/units.ts';
import { TableEditor, tableEditSeed } from '../../../src/image/table-editor.ts';
import { IoGate } from '../../../src/shared/io-gate.ts';
import { PagePool } from '../../../src/shared/page-pool.ts';
import { MemorySource } from '../../support/memory-source.ts';

class Plain extends TableEditor {
  readonly unit = 4096;
  readonly blockSize = 4096;
  protected readonly tables = [];
  protected readonly first = () => 0;
  protected readonly allocateLocked = () => 0;
  protected readonly discardLocked = () => 0;
  protected readonly reserveLocked = () => 0;
  protected readonly publishLocked = () => 0;
  protected readonly cancelLocked = () => {};
  protected readonly finish = () => 0;
  readonly gather = () => false;
  readonly write = () => 0;
  readonly settle = () => {};
}

function setUp() {
  const seed = tableEditSeed();
  const gates = IoGate.seed(2);
  const gate = new IoGate(gates, 0);
  const pool = new PagePool(PagePool.seed(1));
  const editor = new Plain(seed, new MemorySource(new Uint8Array(1)), { pool, gate, report: () => {} });
  return { editor, gate, other: new IoGate(gates, 1), locks: new Int32Array(seed.forks) };
}

describe('the lock of a block', () => {
  it('is one for all of its bytes, and another for the next block', () => {
    const { editor, locks } = setUp();
    const held = () => locks.reduce((sum, word) => sum + (word === 0 ? 0 : 1), 0);
    editor.lockBlock(guestOffset(4096));
    editor.lockBlock(guestOffset(0));
    expect(held()).toBe(2);
    editor.unlockBlock(guestOffset(8191));
    expect(held()).toBe(1);
    editor.unlockBlock(guestOffset(1));
    expect(held()).toBe(0);
  });

  it('is taken at once where it is free, within the operation', () => {
    const { editor, gate, other } = setUp();
    gate.enter();
    const epoch = other.close();
    editor.lockBlock(guestOffset(0));
    expect(other.isPast(epoch)).toBe(false);
  });

  it('is waited for outside of it: its holder may be waiting for all operations to end', () => {
    const { editor, gate, other, locks } = setUp();
    editor.lockBlock(guestOffset(0));
    gate.enter();
    const epoch = other.close();
    const leave = gate.leave.bind(gate);
    let pastWhileWaiting = false;
    gate.leave = () => {
      leave();
      // The holder goes on only when that is seen.
      pastWhileWaiting = other.isPast(epoch);
      if (pastWhileWaiting) locks.fill(0);
    };
    editor.lockBlock(guestOffset(0));
    expect(pastWhileWaiting).toBe(true);
    // It is inside again, in an operation of its own.
    expect([other.isPast(epoch), other.isPast(other.close())]).toEqual([true, false]);
  });
});
