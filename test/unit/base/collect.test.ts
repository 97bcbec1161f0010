/** What images that left held is collected, every 16th time. */

import { setImmediate as turn } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { collectAfterLeave } from '../../../src/base/collect.ts';

it('collects after sixteen images, and not after fifteen', async () => {
  const held = new WeakRef(new SharedArrayBuffer(1024));
  for (let left = 0; left < 15; left += 1) collectAfterLeave();
  await turn();
  expect(held.deref()).toBeDefined();
  // What was dereferenced is kept until the turn ends.
  await turn();
  collectAfterLeave();
  await turn();
  expect(held.deref()).toBeUndefined();
});
