/** Broken, foreign and hostile VHDX files: what is said of them, and what still opens. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { ImageError } from '../../../../src/base/errors.ts';
import { guestOffset, MIB, TIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import {
  batEntry,
  buildVhdx,
  encodeHeader,
  encodeRegionTable,
  fileBytes,
  type HeaderPlan,
  putBatEntry,
  type RegionPlan,
  standardHeader,
  standardRegions,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, random } from '../../../support/random.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';
import { outcome, plan } from './outcome.ts';

describe('identifier and headers', () => {
  const headers = (first: HeaderPlan | undefined, second: HeaderPlan | undefined): SparseSource => {
    const file = buildVhdx(plan);
    [first, second].forEach((fields, index) => {
      const bytes = fields === undefined ? undefined : encodeHeader({ ...standardHeader(plan), ...fields });
      file.put(0x10000 * (index + 1), bytes ?? new Uint8Array(4096));
    });
    return file;
  };
  const slot = (file: SparseSource) => openDisk(vhdxDriver, file).image.facts.get('header');

  test('another identifier', () => {
    const file = buildVhdx(plan);
    file.put(3, new TextEncoder().encode('X'));
    expect(outcome(file)).toBe('corrupt: VHDX file identifier at 0x0: expected "vhdxfile", found "vhdXfile"');
  });

  test('an empty and a short file', () => {
    expect(() => vhdxDriverOpen(new Uint8Array(0))).toThrow(
      'VHDX file identifier at 0x0: the file ends too early, expected 520 bytes, found 0',
    );
    expect(() => vhdxDriverOpen(fileBytes(buildVhdx(plan), 0, 0x10800))).toThrow(
      'VHDX header 1 at 0x10000: the file ends too early, expected 4096 bytes, found 2048',
    );
  });

  test('the larger sequence number is current, in either place', () => {
    expect(slot(headers({ sequence: 9 }, { sequence: 10 }))).toBe('2 (sequence 10)');
    expect(slot(headers({ sequence: 2n ** 64n - 1n }, { sequence: 1 }))).toBe(
      '1 (sequence 18446744073709551615)',
    );
  });

  test('one valid header is enough, also with sequence 0', () => {
    expect(slot(headers({ sequence: 0 }, undefined))).toBe('1 (sequence 0)');
    expect(outcome(headers(undefined, { sequence: 0 }))).toBe(
      'opened; VHDX header 1 at 0x10000: signature is 0x0, expected 0x64616568 ("head"); ' +
        'VHDX header 2 at 0x20000 is used',
    );
  });

  test('a newer header with a wrong checksum is not used', () => {
    const file = headers({ sequence: 9 }, { sequence: 10 });
    file.put(0x20000 + 4000, Uint8Array.of(1));
    expect(slot(file)).toBe('1 (sequence 9)');
    expect(outcome(file)).toMatch(
      /^opened; VHDX header 2 at 0x20000: checksum is 0x[0-9a-f]{8}, computed 0x[0-9a-f]{8}; VHDX header 1/,
    );
  });

  test('a tie is accepted where the headers are the same, and only there', () => {
    expect(outcome(headers({ sequence: 4 }, { sequence: 4 }))).toBe(
      'opened; VHDX header 1 at 0x10000 and VHDX header 2 at 0x20000 are the same, with sequence number 4; ' +
        'the first is used',
    );
    expect(
      outcome(headers({ sequence: 4 }, { sequence: 4, dataWriteGuid: new Uint8Array(16).fill(1) })),
    ).toBe(
      'corrupt: VHDX header 1 at 0x10000 and VHDX header 2 at 0x20000: both have sequence number 4 but differ, ' +
        'none is current',
    );
  });

  test('no valid header', () => {
    expect(outcome(headers(undefined, undefined))).toMatch(
      /^corrupt: VHDX header 1 at 0x10000: signature .*; VHDX header 2 at 0x20000: signature/,
    );
    expect(outcome(headers(undefined, { version: 2 }))).toMatch(
      /^unsupported: .*; VHDX header 2 at 0x20000: version is 2, expected 1$/,
    );
    expect(slot(headers({ sequence: 1 }, { sequence: 2, version: 2 }))).toBe('1 (sequence 1)');
  });

  test.each<[string, HeaderPlan, string]>([
    [
      'log not aligned',
      { logOffset: MIB + 4096 },
      'the log is 0x100000 bytes at 0x101000, expected multiples of 1 MiB',
    ],
    [
      'log length not aligned',
      { logLength: 4096 },
      'the log is 0x1000 bytes at 0x100000, expected multiples',
    ],
    ['log offset beyond 2^53', { logOffset: 2n ** 60n }, 'the log is 0x100000 bytes at 0x1000000000000000'],
    ['log in the header section', { logOffset: 0 }, 'the log is at 0x0, expected at least 0x100000'],
  ])('%s', (_name, fields, text) => {
    expect(outcome(headers({ sequence: 1 }, { sequence: 2, ...fields }))).toContain(
      `corrupt: VHDX header 2 at 0x20000: ${text}`,
    );
  });

  test('a clean log behind the end of the file is only noted', () => {
    expect(outcome(headers({ sequence: 1 }, { sequence: 2, logOffset: 500 * MIB }))).toContain(
      'opened; VHDX header 2 at 0x20000: the log ends at 0x1f500000, the file at',
    );
  });
});

function vhdxDriverOpen(bytes: Uint8Array): void {
  openDisk(vhdxDriver, new MemorySource(bytes));
}

describe('region tables', () => {
  const bat = standardRegions(plan)[0]!;
  const metadata = standardRegions(plan)[1]!;
  const unknown: RegionPlan = {
    guid: '12345678-0000-0000-0000-000000000002',
    at: 20 * MIB,
    length: MIB,
    required: 0,
  };
  const regions = (...entries: RegionPlan[]): SparseSource => buildVhdx({ ...plan, regions: entries });

  test('the second table serves where the first is damaged, and the other way round', () => {
    for (const [at, text] of [
      [0x30000, 'opened; VHDX region table 1 at 0x30000: checksum is 0x'],
      [0x40000, 'opened; VHDX region table 2 at 0x40000: checksum is 0x'],
    ] as const) {
      const file = buildVhdx(plan);
      file.put(at + 60000, Uint8Array.of(1));
      expect(outcome(file)).toContain(text);
    }
    const both = buildVhdx(plan);
    for (const at of [0x30000, 0x40000]) both.put(at, new Uint8Array(4));
    expect(outcome(both)).toMatch(/^corrupt: VHDX region table 1 at 0x30000: signature is 0x0.*table 2 at/);
  });

  test('two valid tables that differ: the first is used', () => {
    const file = buildVhdx(plan);
    file.put(0x40000, encodeRegionTable([bat, { ...metadata, at: 9 * MIB }]));
    expect(outcome(file)).toBe(
      'opened; VHDX region table 1 at 0x30000 and VHDX region table 2 at 0x40000 are both valid but differ; ' +
        'the first is used',
    );
  });

  test('the required bit may be clear on known regions, as QEMU writes it', () => {
    expect(outcome(regions({ ...bat, required: 0 }, { ...metadata, required: 0 }))).toBe('opened');
  });

  test('an optional unknown region is kept out of the way, a required one refused', () => {
    expect(outcome(regions(bat, metadata, unknown))).toBe('opened');
    expect(outcome(regions(bat, metadata, { ...unknown, required: 1 }))).toBe(
      'unsupported: VHDX region table 1 at 0x30000: the VHDX region 12345678-0000-0000-0000-000000000002 ' +
        'is marked as required and not known',
    );
  });

  test.each<[string, RegionPlan[], string]>([
    ['no BAT', [metadata], 'has no VHDX BAT region among its 1 entries'],
    ['no metadata', [bat, unknown], 'has no VHDX metadata region among its 2 entries'],
    ['BAT twice', [bat, metadata, { ...bat, at: 30 * MIB }], 'entry 2 repeats the VHDX BAT region'],
    [
      'offset not aligned',
      [bat, { ...metadata, at: MIB * 2 + 512 }],
      'the VHDX metadata region is 0x100000 bytes at 0x200200',
    ],
    [
      'length not aligned',
      [{ ...bat, length: 4096 }, metadata],
      'the VHDX BAT region is 0x1000 bytes at 0x300000',
    ],
    ['in the header section', [{ ...bat, at: 0 }, metadata], 'expected multiples of 1 MiB from 0x100000 on'],
    ['beyond 2^53', [{ ...bat, at: 2n ** 63n }, metadata], 'at 0x8000000000000000, expected multiples'],
    ['over each other', [bat, { ...metadata, at: 3 * MIB }], 'overlaps the VHDX'],
    ['over the log', [{ ...bat, at: MIB }, metadata], 'overlaps the VHDX'],
    ['unknown over BAT', [bat, metadata, { ...unknown, at: 3 * MIB }], 'overlaps the VHDX'],
  ])('%s', (_name, entries, text) => {
    expect(outcome(regions(...entries))).toContain(`corrupt: VHDX region table 1 at 0x30000: `);
    expect(outcome(regions(...entries))).toContain(text);
  });

  test('more entries than a table has room for', () => {
    const file = buildVhdx(plan);
    for (const count of [2048, 0xffffffff]) {
      file.put(0x30000, encodeRegionTable([bat, metadata], count));
      expect(outcome(file)).toContain(`has ${count} entries, expected at most 2047`);
    }
  });

  test('a BAT that is too small, and one that the file has not', () => {
    expect(outcome(buildVhdx({ ...plan, size: TIB }))).toBe(
      'corrupt: VHDX BAT region at 0x300000: 1048831 entries need 8390648 bytes, the region has 1048576',
    );
    const file = regions({ ...bat, at: 100 * MIB }, metadata);
    expect(outcome(file)).toContain(
      'corrupt: VHDX BAT region at 0x6400000: 4 entries end at 0x6400020, the file at 0x',
    );
  });
});

describe('damaged BAT entries are damage at their block only', () => {
  const LAST = plan.size / MIB - 1;
  const damaged = (entry: Uint8Array, block = 2): { status: number; notices: string[] } => {
    const file = buildVhdx(plan);
    putBatEntry(file, plan, block, entry);
    const { disk, notices } = openDisk(vhdxDriver, file);
    expect([...readDisk(disk, 0, 3)]).toEqual([1, 2, 3]);
    expect(readDisk(disk, MIB, MIB).every((byte) => byte === 0)).toBe(true);
    expect(notices).toEqual([]);
    const status = disk.read(new Uint8Array(4096), 0, 4096, guestOffset(block * MIB));
    return { status, notices };
  };

  test.each<[string, Uint8Array, string]>([
    ['reserved state 4', batEntry(4, 4), 'state is 4 (reserved), expected 0 to 3, 5 or 6'],
    [
      'partially present',
      batEntry(7, 4),
      'state is 7 (partially present), which only an image with a parent may have',
    ],
    ['at offset 0', batEntry(6, 0), 'the block at 0x0 overlaps the header section, the log or a region'],
    ['in the log', batEntry(6, 1), 'the block at 0x100000 overlaps'],
    ['in the metadata', batEntry(6, 2), 'the block at 0x200000 overlaps'],
    ['in the BAT', batEntry(6, 3), 'the block at 0x300000 overlaps'],
    [
      'behind the end',
      batEntry(6, 5),
      'the block is 1048576 bytes at 0x500000, beyond the end of the file at 0x500000',
    ],
    [
      'at 2^29 MiB',
      batEntry(6, 2n ** 29n),
      'the block is at 0x2000000000000, expected an offset below 512 TiB',
    ],
    ['at the largest offset', batEntry(6, 2n ** 44n - 1n), 'the block is at 0xfffffffffff00000'],
  ])('%s', (_name, entry, text) => {
    const { status, notices } = damaged(entry);
    expect(status).toBe(-EIO);
    expect(notices).toHaveLength(1);
    expect(notices[0]).toContain('VHDX BAT entry 2 at 0x300010 (payload block 2): ');
    expect(notices[0]).toContain(text);
  });

  test('reserved bits of an entry have no meaning', () => {
    const file = buildVhdx(plan);
    const entry = batEntry(6, 4);
    entry[0] = 0xfe;
    entry[1] = 0xff;
    putBatEntry(file, plan, 2, entry);
    const { disk } = openDisk(vhdxDriver, file);
    expect([...readDisk(disk, 2 * MIB, 3)]).toEqual([1, 2, 3]);
  });

  test('a block of many MiB that runs into a region', () => {
    const wide: VhdxPlan = { size: 64 * MIB, blockSize: 32 * MIB, bat: { at: 40, length: 1 } };
    const file = buildVhdx(wide);
    file.size = 200 * MIB;
    for (const [mib, status] of [
      [8, 1],
      [9, -EIO],
      [40, -EIO],
      [41, 1],
    ] as const) {
      putBatEntry(file, wide, 1, batEntry(6, mib));
      const { disk } = openDisk(vhdxDriver, file);
      expect(disk.read(new Uint8Array(1), 0, 1, guestOffset(33 * MIB)), `at ${mib} MiB`).toBe(status);
    }
  });

  test('the last block needs only its used part in the file', () => {
    const short: VhdxPlan = { size: 3 * MIB + 1024, blocks: new Map([[3, { state: 6 }]]), cutTail: true };
    const file = buildVhdx(short);
    expect(file.size).toBe(4 * MIB + 1024);
    expect(readDisk(openDisk(vhdxDriver, file).disk)).toHaveLength(short.size);
    file.size -= 1;
    const { disk, notices } = openDisk(vhdxDriver, file);
    expect(disk.read(new Uint8Array(1), 0, 1, guestOffset(LAST * MIB))).toBe(-EIO);
    expect(notices[0]).toContain('the block is 1024 bytes at 0x400000, beyond the end');
  });

  test('a table that cannot be read is said with its entry', () => {
    const file = buildVhdx(plan);
    const { disk, notices } = openDisk(vhdxDriver, file);
    const readAt = file.readAt.bind(file);
    file.readAt = (target, start, length, at) => (at === 3 * MIB ? -EIO : readAt(target, start, length, at));
    expect(disk.read(new Uint8Array(1), 0, 1, guestOffset(MIB))).toBe(-EIO);
    expect(notices).toEqual(['VHDX BAT at 0x300000: entry 1 cannot be read (errno 5)']);
  });
});

test('random damage anywhere in the structures: a typed refusal or a readable image, soon', () => {
  const next = random(2024);
  const intact = fileBytes(buildVhdx(plan));
  const places = [0, 0x10000, 0x20000, 0x30000, 0x40000, 2 * MIB, 2 * MIB + 65536, 3 * MIB];
  for (let round = 0; round < 400; round += 1) {
    const bytes = intact.slice();
    for (let change = between(next, 1, 4); change > 0; change -= 1) {
      bytes[places[between(next, 0, places.length - 1)]! + between(next, 0, 200)] = between(next, 0, 255);
    }
    try {
      const { disk } = openDisk(vhdxDriver, new MemorySource(bytes));
      disk.read(new Uint8Array(65536), 0, 65536, guestOffset(0));
    } catch (problem) {
      expect(problem).toBeInstanceOf(ImageError);
    }
  }
});
