/** What the tests of VHD share, most of all those of writing. */

import { guestOffset } from '../../../../src/base/units.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import type { CheckReport } from '../../../../src/image/check.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openEditable } from '../../../support/disk.ts';
import type { VhdBlockSpec, VhdDynamicSpec } from '../../../support/encoders/vhd-image.ts';
import type { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { describeChange, type RecordingSource } from '../../../support/recording-source.ts';

export const BLOCK = 32 * 1024;
export const STRIDE = BLOCK + 512;
export const data = randomBytes(random(1), BLOCK);
export const full = (...blocks: number[]) =>
  new Map<number, VhdBlockSpec>(blocks.map((block) => [block, { data }]));
export const spec: VhdDynamicSpec = { size: 16 * BLOCK, blockSize: BLOCK, blocks: full(3) };

export const medium = (file: Uint8Array) => new MemorySource(file, 'medium', true);
export const edit = (source: MemorySource | RecordingSource | FaultSource, options = {}) =>
  openEditable(vhdDriver, source, options);
export const u32 = (bytes: Uint8Array, at: number) =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(at);
/** toEqual takes a quarter of a second for 64 KiB. */
export const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

export function check(bytes: Uint8Array): CheckReport {
  return vhdDriver.check!(new MemorySource(bytes), {
    tables: new TableAllocator(),
    report: () => {},
    options: new Map(),
  });
}

/** What was done to the file since `from`, in words without places, but for the flush before the first write. */
export function steps(source: RecordingSource, from = 0): string[] {
  const all = source.changes.slice(from).map((change) => describeChange(change).replace(/ .*/, ''));
  return from === 0 && all[0] === 'flush' ? all.slice(1) : all;
}

export const at = guestOffset;
export const one = (value: number, length = 512) => new Uint8Array(length).fill(value);
