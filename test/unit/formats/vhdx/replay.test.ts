/** Replaying the log in memory: what it may write, how much work it may cost ([MS-VHDX] 2.3.3). */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { GIB, guestOffset, MIB, TIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import {
  buildVhdx,
  encodeHeader,
  encodeRegionTable,
  expectedDisk,
  fileBytes,
  OTHER_GUID,
  standardHeader,
  standardRegions,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import {
  encodeLogEntry,
  intoLog,
  type LogUpdate,
  markDirty,
  putEntries,
  putRing,
} from '../../../support/encoders/vhdx-log.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';
import {
  BAT_AT,
  base,
  bat,
  countReads,
  LOG,
  logState,
  NONE,
  payload,
  plan,
  refusal,
  shown,
} from './log-support.ts';

describe('where the log may write', () => {
  test('region tables, metadata and BAT', () => {
    const full: VhdxPlan = { size: 2 * MIB, blocks: new Map([[1, { state: 6, data: payload[0]! }]]) };
    const file = buildVhdx(full);
    const updates = [0x30000, 0x40000, 2 * MIB, 2 * MIB + 65536, BAT_AT].map((at) => intoLog(file, at));
    markDirty(file, full);
    putEntries(file, full, [{ sequence: 1, updates }]);
    const { disk } = openDisk(vhdxDriver, file);
    expect(Buffer.compare(readDisk(disk), expectedDisk(full))).toBe(0);
  });

  test('a region that the log adds is respected', () => {
    const file = base();
    const extra = { guid: '12345678-0000-0000-0000-000000000002', at: 5 * MIB, length: MIB, required: 0 };
    const table = encodeRegionTable([...standardRegions(plan), extra]);
    const updates = [0x30000, 0x40000].map((write) => ({ write, bytes: table.subarray(0, 4096) }));
    putEntries(file, plan, [{ sequence: 1, updates: [...updates, bat(0, 1)] }]);
    expect(shown2(file)).toEqual([MIB, -EIO]);
  });

  function shown2(file: SparseSource): number[] {
    const { disk } = openDisk(vhdxDriver, file);
    return [0, 1].map((block) => disk.read(new Uint8Array(MIB), 0, MIB, guestOffset(block * MIB)));
  }

  const at = (sequence: number, update: LogUpdate): SparseSource => {
    const file = base();
    putEntries(file, plan, [{ sequence, updates: [update] }]);
    return file;
  };
  const bytes = new Uint8Array(4096);

  test.each<[string, LogUpdate, string]>([
    ['the identifier', { write: 0, bytes }, 'writes 0x1000 bytes at 0x0, expected nothing in the identifier'],
    [
      'a header',
      { write: 0x20000, bytes },
      'writes 0x1000 bytes at 0x20000, expected nothing in the identifier',
    ],
    ['the header, by zeros', { zero: 0x10000, length: 4096 }, 'zeroes 0x1000 bytes at 0x10000, expected'],
    ['the log', { write: MIB, bytes }, 'expected nothing in the log itself (0x100000 to 0x200000)'],
    ['the log, from before', { zero: 0x80000, length: 2 * MIB }, 'expected nothing in the log itself'],
    [
      'beyond the end',
      { write: 6 * MIB, bytes },
      'writes 0x1000 bytes at 0x600000, expected nothing beyond 0x600000',
    ],
    ['zeros beyond the end', { zero: BAT_AT, length: TIB }, 'expected nothing beyond 0x600000'],
    ['a huge offset', { zero: 2n ** 64n - 4096n, length: 4096 }, 'expected nothing beyond 0x600000'],
    ['a huge length', { zero: BAT_AT, length: 2n ** 64n - 4096n }, 'expected nothing beyond 0x600000'],
  ])('not in %s', (_name, update, text) => {
    const file = at(3, update);
    expect(refusal(file)).toContain('corrupt: VHDX log entry 3 at 0x100000: ');
    expect(refusal(file)).toContain(text);
  });

  test('the file may grow to its new end', () => {
    const file = base();
    const update: LogUpdate = { zero: BAT_AT + 4096, length: 6 * MIB - 4096 };
    putEntries(file, plan, [{ sequence: 1, updates: [update], last: 9 * MIB }]);
    expect(shown(file)).toEqual([]);
  });

  test('payload: zeros are honoured, other bytes are damage at their place', () => {
    const file = base();
    const updates: LogUpdate[] = [
      bat(0, 1),
      { zero: 4 * MIB + 8192, length: 8192 },
      { write: 5 * MIB + 4096, bytes: new Uint8Array(4096).fill(9) },
    ];
    putEntries(file, plan, [{ sequence: 1, updates }]);
    const { disk, notices } = openDisk(vhdxDriver, file);
    const wanted = payload[0]!.slice();
    wanted.fill(0, 8192, 16384);
    expect(Buffer.compare(readDisk(disk, 0, MIB), wanted)).toBe(0);
    expect(Buffer.compare(readDisk(disk, MIB, 4096), payload[1]!.subarray(0, 4096))).toBe(0);
    expect(disk.read(new Uint8Array(2), 0, 2, guestOffset(MIB + 4095))).toBe(-EIO);
    expect(notices).toEqual([
      'VHDX log: writes at 0x501000, inside the data of payload block 1; ' +
        'the log must be replayed into the file before this can be read',
    ]);
    expect(Buffer.compare(readDisk(disk, MIB + 8192, 4096), payload[1]!.subarray(8192, 12288))).toBe(0);
  });
});

describe('log version and bounds', () => {
  const header = (file: SparseSource, fields: Parameters<typeof encodeHeader>[0]) => {
    file.put(0x20000, encodeHeader({ ...standardHeader(plan), sequence: 9, ...fields }));
    return file;
  };

  test('another log version matters only where the log must be replayed', () => {
    const dirty = base();
    putEntries(dirty, plan, [{ sequence: 1 }]);
    expect(refusal(header(dirty, { logVersion: 1, logGuid: OTHER_GUID }))).toBe(
      'unsupported: VHDX header 2 at 0x20000: the log has version 1, only version 0 can be replayed',
    );
    expect(refusal(header(buildVhdx(plan), { logVersion: 1 }))).toBe('opened');
  });

  test('a log of 4 GiB in a small file is refused before anything is read of it', () => {
    const file = header(base(), { logGuid: OTHER_GUID, logLength: 0xfff00000 });
    const start = performance.now();
    expect(refusal(file)).toContain('corrupt: VHDX header 2 at 0x20000: the log ends at 0x');
    file.size = 8 * GIB;
    expect(refusal(file)).toContain('unsupported: VHDX log at 0x100000: is dirty and 4');
    expect(performance.now() - start).toBeLessThan(1000);
  });

  test('a large log that is mostly a hole is searched quickly', () => {
    const roomy: VhdxPlan = { ...plan, log: { at: 16, length: 200 } };
    const file = buildVhdx(roomy);
    file.put(4 * MIB, payload[0]!);
    markDirty(file, roomy);
    putEntries(file, roomy, [{ sequence: 5, updates: [bat(0)] }], 150 * MIB);
    const reads = countReads(file);
    expect(logState(file)).toBe('dirty: 1 entry replayed in memory');
    expect(reads()).toBeLessThan(60);
  });

  test('a log full of entries that claim all of it costs one pass', () => {
    const roomy: VhdxPlan = { ...plan, log: { at: 16, length: 16 } };
    const file = buildVhdx(roomy);
    markDirty(file, roomy);
    const false4k = encodeLogEntry({ sequence: 1, entryLength: 16 * MIB });
    for (let at = 0; at < 16 * MIB; at += 4096) putRing(file, roomy.log!, at, false4k);
    const reads = countReads(file);
    expect(refusal(file)).toContain('found none');
    expect(reads()).toBeLessThan(3 * 4096);
  });

  test('one long sequence without a valid tail costs one pass', () => {
    const file = base();
    const entries = Array.from({ length: 256 }, (_, n) => ({ sequence: n + 1, tail: 4096 * 255 }));
    entries[255] = { sequence: 256, tail: 0 };
    putEntries(file, plan, entries);
    expect(logState(file)).toBe('dirty: 256 entries replayed in memory');
    const late = encodeLogEntry({
      sequence: 256,
      tail: 4096,
      updates: [],
      flushed: 0,
      last: 0,
      logGuid: OTHER_GUID,
    });
    putRing(file, LOG, 4096 * 255, late);
    putRing(file, LOG, 4096 * 254, encodeLogEntry({ sequence: 255, tail: 4096 * 255 }));
    const reads = countReads(file);
    expect(refusal(file)).toBe(NONE);
    expect(reads()).toBeLessThan(600);
  });

  test('more zero descriptors than any writer makes are refused', () => {
    const roomy: VhdxPlan = { ...plan, log: { at: 16, length: 4 } };
    const file = buildVhdx(roomy);
    markDirty(file, roomy);
    const updates = Array.from({ length: 65537 }, () => ({ zero: BAT_AT, length: 4096 }));
    putEntries(file, roomy, [{ sequence: 1, updates }]);
    expect(refusal(file)).toBe(
      'unsupported: VHDX log entry 1 at 0x1000000: the log has more than 65536 zero descriptors',
    );
  });
});

test('the image file is not touched by any of this', () => {
  const file = base();
  putEntries(file, plan, [{ sequence: 1, updates: [bat(0, 1)] }]);
  const before = fileBytes(file);
  expect(shown(file)).toEqual([0, 1]);
  expect(Buffer.compare(fileBytes(file), before)).toBe(0);
});
