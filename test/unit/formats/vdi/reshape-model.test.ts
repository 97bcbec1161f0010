import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/base/units.ts';
import { vdiDriver as driver } from '../../../../src/formats/vdi/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { finish } from '../../../powercut/reshape.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import { encodeVdi, randomMap } from '../../../support/encoders/vdi.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, random, randomBytes } from '../../../support/random.ts';

const { resize, compact } = driver.reshape;
const contextOf = () => ({
  tables: new TableAllocator(),
  report: () => {},
  options: new Map<string, string>(),
});
const checked = (file: Uint8Array) => driver.check!(new MemorySource(file), contextOf());

function sized(disk: Uint8Array, size: number): Uint8Array {
  const other = new Uint8Array(size);
  other.set(disk.subarray(0, size));
  return other;
}

/** Random operations one after the other: the disk is always what it should be, and nothing is leaked at the end. */
test.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])('a random life, seed %i', (seed) => {
  const next = random(seed * 77);
  const blockSize = 512 << between(next, 0, 3);
  const extra = between(next, 0, 2) === 0 ? 36 : 0;
  const version = between(next, 0, 3) === 0 && extra === 0 ? 2 : 0x10001;
  const type = between(next, 0, 4) === 0 ? 2 : 1;
  const blocks = between(next, 3, 200);
  const map = type === 2 ? Array.from({ length: blocks }, (_, n) => n) : randomMap(next, blocks, 0.5);
  const vdi = {
    map,
    blockSize,
    extra,
    version,
    type,
    diskSize: blocks * blockSize - 512 * between(next, 0, blockSize / 512 - 1),
  };
  const { file, disk } = encodeVdi(vdi, next);
  const source = new MemorySource(file, 'life', true);
  let wanted = disk;
  for (let n = 0; n < 40; n += 1) {
    const what = between(next, 0, 3);
    const before = source.bytes.slice();
    if (what === 0) finish(compact!(source, contextOf()));
    else if (what === 1) {
      const size = 512 * between(next, 1, Math.min(4000, Math.ceil(wanted.length / 256)));
      try {
        finish(resize!(source, size, contextOf()));
        wanted = sized(wanted, size);
      } catch (problem) {
        if (!/has no room before the data/.test(String(problem))) throw problem;
        // Only where all is taken, and nothing has changed.
        expect(source.bytes).toEqual(before);
      }
    } else {
      const { disk: opened } = openEditable(driver, source);
      for (let writes = between(next, 1, 8); writes > 0; writes -= 1) {
        const at = 512 * between(next, 0, wanted.length / 512 - 1);
        const length = Math.min(wanted.length - at, 512 * between(next, 1, 20));
        if (what === 2) {
          const bytes = randomBytes(next, length);
          expect(opened.write(bytes, 0, length, guestOffset(at))).toBe(length);
          wanted.set(bytes, at);
        } else {
          expect(opened.zero(guestOffset(at), length, 'punch')).toBe(0);
          wanted.fill(0, at, at + length);
        }
      }
      expect(opened.close()).toBe(0);
    }
    expect(checked(source.bytes).errors).toBe(0);
    const { disk: read } = openDisk(driver, source);
    expect(Buffer.from(readDisk(read)).equals(wanted), `step ${n}`).toBe(true);
  }
  finish(compact!(source, contextOf()));
  const { facts } = driver.open(source, contextOf());
  const end = Number(facts.get('data-offset')) + Number(facts.get('blocks-allocated')) * (blockSize + extra);
  expect(source.size).toBeLessThanOrEqual(end);
  expect(checked(source.bytes)).toMatchObject({ errors: 0, leaks: 0, warnings: 0 });
});
