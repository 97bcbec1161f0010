/** What a replayed log leaves, laid over the file. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { hostOffset, TIB } from '../../../../src/base/units.ts';
import { Overlay, OverlayBuilder } from '../../../../src/formats/vhdx/overlay.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, random, randomBytes } from '../../../support/random.ts';

describe('the overlay', () => {
  test('random updates and reads equal the same updates made in place', () => {
    const next = random(11);
    for (let round = 0; round < 60; round += 1) {
      const real = between(next, 0, 20) * 4096 + (round % 3 === 0 ? 1000 : 0);
      const content = randomBytes(next, real);
      const model = new Uint8Array(24 * 4096);
      model.set(content);
      const builder = new OverlayBuilder();
      for (let step = between(next, 0, 12); step > 0; step -= 1) {
        const sector = between(next, 0, 19);
        if (next() < 0.5) {
          const bytes = randomBytes(next, 4096);
          builder.data({ sector, fill: (into) => into.set(bytes) });
          model.set(bytes, sector * 4096);
        } else {
          const end = between(next, sector + 1, 20);
          builder.zero({ first: sector, end });
          model.fill(0, sector * 4096, end * 4096);
        }
      }
      const overlay = new Overlay(new MemorySource(content), builder.finish(real, 21 * 4096));
      expect(overlay.size).toBe(21 * 4096);
      for (let look = 0; look < 20; look += 1) {
        const at = between(next, 0, overlay.size + 100);
        const length = between(next, 0, 3 * 4096);
        const target = new Uint8Array(length + 7).fill(0xaa);
        const count = Math.max(0, Math.min(length, overlay.size - at));
        expect(overlay.readAt(target, 5, length, hostOffset(at))).toBe(count);
        const wanted = new Uint8Array(length + 7).fill(0xaa);
        wanted.set(model.subarray(at, at + count), 5);
        expect(Buffer.compare(target, wanted)).toBe(0);
      }
    }
  });

  test('places beyond 16 TiB keep their sector number', () => {
    const builder = new OverlayBuilder();
    const sector = (100 * TIB) / 4096 + 1;
    builder.data({ sector, fill: (into) => into.fill(7) });
    const overlay = new Overlay(new MemorySource(new Uint8Array(10)), builder.finish(10, 0));
    const target = new Uint8Array(4);
    expect(overlay.readAt(target, 0, 4, hostOffset(100 * TIB + 4094))).toBe(4);
    expect([...target]).toEqual([0, 0, 7, 7]);
    expect(overlay.nextPatch(0, 200 * TIB)).toBe(100 * TIB + 4096);
  });

  test('it forwards what it does not change', () => {
    const source = new MemorySource(new Uint8Array(8192), 'name');
    const overlay = new Overlay(source, new OverlayBuilder().finish(8192, 0));
    expect([overlay.label, overlay.size, overlay.allocated]).toEqual(['name', 8192, 8192]);
    expect(overlay.nextData(hostOffset(5))).toBe(5);
    expect(overlay.nextHole(hostOffset(5))).toBe(8192);
    expect(() => overlay.share()).toThrow('name');
    overlay.close();
  });

  test('a failing read stays one', () => {
    const source = new MemorySource(new Uint8Array(8192));
    source.readAt = () => -EIO;
    const builder = new OverlayBuilder();
    builder.zero({ first: 0, end: 1 });
    const overlay = new Overlay(source, builder.finish(8192, 0));
    expect(overlay.readAt(new Uint8Array(10), 0, 10, hostOffset(0))).toBe(-EIO);
  });
});
