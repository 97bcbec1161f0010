import { describe, expect, it } from 'vitest';
import { vdiDriver } from '../../../../src/formats/vdi/driver.ts';
import type { CheckReport } from '../../../../src/image/check.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { encodeVdi, FREE, samples, type VdiDescription, ZERO } from '../../../support/encoders/vdi.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random } from '../../../support/random.ts';

const K = 4096;

function checked(file: Uint8Array, options: Record<string, string> = {}): CheckReport {
  const context = {
    tables: new TableAllocator(),
    report: () => {},
    options: new Map(Object.entries(options)),
  };
  return vdiDriver.check!(new MemorySource(file), context);
}

const fileOf = (vdi: VdiDescription) => encodeVdi(vdi, random(1)).file;
const found = (file: Uint8Array) =>
  checked(file).findings.map(({ severity, text }) => `${severity}: ${text}`);

function longer(file: Uint8Array, bytes: number): Uint8Array {
  const more = new Uint8Array(file.length + bytes);
  more.set(file);
  return more;
}

describe('sound images', () => {
  it.each(samples(5))('$name', ({ name, file, options }) => {
    const { errors, leaks, warnings } = checked(file, options);
    expect({ errors, leaks }).toEqual({ errors: 0, leaks: 0 });
    if (/as (VirtualBox|qemu)|blocks|extra|map|discarded/.test(name) && !/version/.test(name)) {
      expect(warnings).toBe(0);
    }
  });

  it('adds up what the map allocates, as far as the disk goes', () => {
    const file = fileOf({ map: [0, FREE, ZERO, 2, 1], blockSize: K, diskSize: 4 * K + 512 });
    expect(checked(file).allocatedBytes).toBe(2 * K + 512);
  });

  it('a fixed image that ends with its disk', () => {
    const file = fileOf({ map: [0, 1], blockSize: K, diskSize: K + 512, type: 2 });
    expect(found(file.subarray(0, file.length - K + 512))).toEqual([]);
  });
});

describe('errors', () => {
  it.each([
    [
      'beyond the image',
      [0, 3, 1],
      'VDI block map entry 1 at 0x204: physical block is 3, the image has 3 blocks',
    ],
    ['named twice', [0, 1, 0], 'VDI block map entry 2 at 0x208: physical block 0 is in use by another entry'],
  ])('%s', (_name, map, text) => {
    const file = fileOf({ map: [0, 2, 1], blockSize: K });
    const view = new DataView(file.buffer);
    map.forEach((entry, n) => {
      view.setUint32(0x200 + 4 * n, entry, true);
    });
    expect(found(file)).toContain(`error: ${text}`);
    expect(checked(file).errors).toBe(1);
  });

  it('blocks that the file does not hold, or not all of', () => {
    const file = fileOf({ map: [0, 1, 2], blockSize: K });
    expect(found(file.subarray(0, file.length - K))).toContain(
      'error: VDI block map entry 2 at 0x208: physical block 2 is at 0x2400 to 0x3400, the file ends at 0x2400',
    );
    expect(found(file.subarray(0, file.length - 1))).toEqual([
      'error: VDI block map entry 2 at 0x208: physical block 2 is at 0x2400 to 0x3400, the file ends at 0x33ff',
      'leak: VDI data area at 0x2400: no entry names physical block 2',
    ]);
  });

  it('a counter behind the map, in both headers', () => {
    expect(found(fileOf({ map: [3, 1, 0, 2], blockSize: K, allocated: 2 }))).toEqual([
      'error: VDI header at 0x184: 2 blocks are said to be allocated, but physical block 3 is in use; ' +
        'other programs would write over physical blocks 2 to 3',
    ]);
    expect(found(fileOf({ map: [0], blockSize: K, allocated: 0, version: 2 }))).toEqual([
      'error: VDI header at 0x170: 0 blocks are said to be allocated, but physical block 0 is in use; ' +
        'other programs would write over physical block 0',
    ]);
  });

  it('entries behind the end of the disk count too', () => {
    const file = fileOf({ map: [0, 1], blockSize: K, spareBlocks: 2 });
    new DataView(file.buffer).setUint32(0x200 + 12, 1, true);
    expect(found(file)).toEqual([
      'error: VDI block map entry 3 at 0x20c: physical block 1 is in use by another entry',
    ]);
  });

  it('a map that cannot be read is no report', () => {
    class Failing extends MemorySource {
      override readAt(target: Uint8Array, start: number, length: number, at: never): number {
        return at === 0x200 ? -5 : super.readAt(target, start, length, at);
      }
    }
    const source = new Failing(fileOf({ map: [0, 1], blockSize: K }));
    const context = { tables: new TableAllocator(), report: () => {}, options: new Map() };
    expect(() => vdiDriver.check!(source, context)).toThrow('errno 5');
  });
});

describe('leaks', () => {
  it('blocks below the counter that no entry names, a finding per run', () => {
    const file = fileOf({ map: [9, 0, FREE, 5, FREE, FREE, FREE, FREE, FREE, FREE], blockSize: K });
    expect(found(file)).toEqual([
      'leak: VDI data area at 0x1400: no entry names physical blocks 1 to 4',
      'leak: VDI data area at 0x6400: no entry names physical blocks 6 to 8',
    ]);
    expect(checked(file)).toMatchObject({ leaks: 2, leakedBytes: 7 * K });
  });

  it('the same at the end, and what follows the last block', () => {
    const file = longer(fileOf({ map: [0, FREE, FREE, FREE], blockSize: K, allocated: 3 }), 2 * K + 100);
    expect(found(file)).toEqual([
      'leak: VDI data area at 0x1400: no entry names physical blocks 1 to 2',
      'leak: VDI data area at 0x3400: 100 bytes follow the last block that is allocated',
    ]);
    expect(checked(file).leakedBytes).toBe(2 * K + 100);
  });
});

describe('warnings', () => {
  it.each([
    [
      'a counter beyond the file',
      { map: [0, FREE, FREE], blockSize: K, allocated: 3 },
      'VDI header at 0x184: 3 blocks are said to be allocated, the file has 1',
    ],
    [
      'a null UUID',
      { map: [0], blockSize: K, create: new Uint8Array(16) },
      'VDI header at 0x188: the create UUID is null',
    ],
    [
      'fixed, but not all there',
      { map: [0, FREE, 1, ZERO], blockSize: K, type: 2 },
      'VDI block map: 2 of 4 blocks have no place, though the image is fixed',
    ],
  ])('%s', (_name, vdi, text) => {
    const report = checked(fileOf(vdi));
    expect(report.findings).toEqual([{ severity: 'warning', text }]);
    expect(report).toMatchObject({ errors: 0, leaks: 0, warnings: 1 });
  });

  it('an entry that the disk does not need', () => {
    const file = fileOf({ map: [0, 1], blockSize: K, spareBlocks: 1, allocated: 3 });
    new DataView(file.buffer).setUint32(0x208, 2, true);
    expect(found(longer(file, K))).toEqual([
      'warning: VDI block map: 1 entries behind the end of the disk name physical blocks',
    ]);
  });
});
