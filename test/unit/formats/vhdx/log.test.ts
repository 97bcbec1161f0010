/** The log: which entries and which sequence of them count ([MS-VHDX] 2.3.1, 2.3.2). */

import { describe, expect, test } from 'vitest';
import { crc32c } from '../../../../src/base/crc32c.ts';
import { EIO } from '../../../../src/base/errno.ts';
import { guestOffset, MIB } from '../../../../src/base/units.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import {
  batEntry,
  buildVhdx,
  OTHER_GUID,
  putBatEntry,
  type VhdxPlan,
} from '../../../support/encoders/vhdx-image.ts';
import {
  encodeLogEntry,
  type LogEntryPlan,
  type LogUpdate,
  markDirty,
  putEntries,
  putRing,
} from '../../../support/encoders/vhdx-log.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';
import { BAT_AT, base, bat, LOG, logState, NONE, payload, plan, refusal, shown } from './log-support.ts';

describe('the active sequence', () => {
  test('entries that follow each other are replayed in order', () => {
    const file = base();
    putEntries(file, plan, [
      { sequence: 5, updates: [bat(0)] },
      { sequence: 6, updates: [bat(0, 1)] },
      { sequence: 7, updates: [bat(1)] },
    ]);
    expect(shown(file)).toEqual([1]);
    expect(logState(file)).toBe('dirty: 3 entries replayed in memory');
  });

  test('it may begin anywhere in the log, with any sequence number', () => {
    const file = base();
    putEntries(file, plan, [{ sequence: 2n ** 64n - 1n, updates: [bat(0)] }], 40960);
    expect(shown(file)).toEqual([0]);
    expect(logState(file)).toBe('dirty: 1 entry replayed in memory');
  });

  test('replay begins at the tail of the newest entry, not before', () => {
    const file = base();
    const zero: LogUpdate = { zero: BAT_AT + 8192, length: 4096 };
    putEntries(file, plan, [
      { sequence: 1, updates: [bat(0)] },
      { sequence: 2, updates: [zero], tail: 8192 },
      { sequence: 3, updates: [zero], tail: 8192 },
    ]);
    expect(logState(file)).toBe('dirty: 2 entries replayed in memory');
    expect(shown(file)).toEqual([]);
  });

  test('of several sequences the one with the newest head counts', () => {
    for (const [first, second, result] of [
      [10, 20, [1]],
      [20, 10, [0]],
    ] as const) {
      const file = base();
      putEntries(file, plan, [{ sequence: first, updates: [bat(0)] }], 0);
      putEntries(file, plan, [{ sequence: second, updates: [bat(1)] }], 81920);
      expect(shown(file)).toEqual(result);
    }
  });

  test('a newer sequence whose tail is not among its entries does not count', () => {
    const file = base();
    putEntries(file, plan, [{ sequence: 10, updates: [bat(0)] }], 0);
    putEntries(file, plan, [{ sequence: 20, updates: [bat(1)], tail: 4096 * 100 }], 81920);
    expect(shown(file)).toEqual([0]);
  });

  test('a tail that points into the middle of an entry does not count', () => {
    const file = base();
    putEntries(file, plan, [{ sequence: 20, updates: [bat(1)], tail: 4096 }], 0);
    expect(refusal(file)).toBe(NONE);
  });

  test('a gap in the numbers ends a sequence: 10, 13 is not one of two entries', () => {
    const file = base();
    putEntries(file, plan, [
      { sequence: 10, updates: [bat(0)], tail: 0 },
      { sequence: 13, updates: [bat(1)], tail: 0 },
    ]);
    // Entry 13 alone has its tail outside of itself.
    expect(shown(file)).toEqual([0]);
    expect(logState(file)).toBe('dirty: 1 entry replayed in memory');
  });

  test('an old entry behind the head, left from the round before, is not replayed', () => {
    const file = base();
    putEntries(file, plan, [
      { sequence: 50, updates: [bat(0)] },
      { sequence: 51, updates: [bat(0)] },
    ]);
    putEntries(file, plan, [{ sequence: 12, updates: [bat(1)] }], 16384);
    putEntries(file, plan, [{ sequence: 13, updates: [bat(1)], tail: 16384 }], 24576);
    expect(shown(file)).toEqual([0]);
  });

  test('a sequence goes on from the end of the log to its start, between entries', () => {
    const file = base();
    putEntries(
      file,
      plan,
      [
        { sequence: 5, updates: [bat(0)] },
        { sequence: 6, updates: [bat(1)] },
        { sequence: 7, updates: [bat(0, 1)] },
      ],
      MIB - 8192,
    );
    expect(shown(file)).toEqual([0, 1]);
    expect(logState(file)).toBe('dirty: 3 entries replayed in memory');
  });

  test.each([4096, 8192, 12288])('an entry wraps %i bytes before the end of the log', (before) => {
    const file = base();
    const zero: LogUpdate = { zero: BAT_AT + 4096, length: 4096 };
    const updates = [
      zero,
      bat(0, 1),
      ...Array.from({ length: 5 }, (_, n) => ({ ...bat(), write: BAT_AT + 4096 * (n + 2) })),
    ];
    const places = putEntries(file, plan, [{ sequence: 9, updates }], MIB - before);
    expect(places).toEqual([MIB - before]);
    expect(shown(file)).toEqual([0, 1]);
  });

  test('an entry may fill the whole log', () => {
    const file = base();
    const updates = [
      ...Array.from({ length: 253 }, (_, n) => ({ ...bat(), write: BAT_AT + 4096 * (n + 1) })),
      bat(1),
    ];
    expect(encodeLogEntry({ sequence: 1, updates }).length).toBe(MIB - 4096 + 4096);
    putEntries(file, plan, [{ sequence: 1, updates }], 65536);
    expect(shown(file)).toEqual([1]);
  });

  test.each([126, 127, 254, 255])('%i descriptors in one entry', (count) => {
    const file = base();
    const updates: LogUpdate[] = Array.from({ length: count - 1 }, (_, n) => ({
      zero: BAT_AT + 4096 * ((n % 200) + 1),
      length: 4096,
    }));
    updates.push(bat(0, 1));
    const bytes = encodeLogEntry({ sequence: 3, updates });
    expect(bytes.length).toBe(4096 * (count <= 126 ? 2 : count <= 254 ? 3 : 4));
    putEntries(file, plan, [{ sequence: 3, updates }]);
    expect(shown(file)).toEqual([0, 1]);
  });

  test('an entry without descriptors is normal: nothing is pending', () => {
    const file = base();
    putBatEntry(file, plan, 0, batEntry(6, 4));
    putEntries(file, plan, [{ sequence: 1 }]);
    expect(shown(file)).toEqual([0]);
    expect(logState(file)).toBe('dirty: 1 entry replayed in memory');
  });
});

describe('an entry that is not valid does not count', () => {
  const good: LogEntryPlan = {
    sequence: 8,
    updates: [bat(0), { zero: BAT_AT + 4096, length: 4096 }, bat(0)],
  };

  /** The file with `good` at 0, changed; `seal` makes the checksum right again. */
  function changed(
    change: (bytes: Uint8Array, view: DataView) => void,
    entry: LogEntryPlan = good,
  ): SparseSource {
    const file = base();
    const bytes = encodeLogEntry({ flushed: file.size, last: file.size, tail: 0, ...entry });
    change(bytes, new DataView(bytes.buffer));
    putRing(file, LOG, 0, bytes);
    return file;
  }

  function reseal(bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer);
    view.setUint32(4, 0, true);
    view.setUint32(4, crc32c(bytes), true);
  }

  test('unchanged, it does', () => {
    expect(shown(changed(() => {}))).toEqual([0]);
    expect(shown(changed((bytes) => reseal(bytes)))).toEqual([0]);
  });

  test.each<[string, (bytes: Uint8Array, view: DataView) => void]>([
    ['signature', (bytes) => bytes.set([0x78], 0)],
    ['entry length 0', (_, view) => view.setUint32(8, 0, true)],
    ['entry length not a multiple of 4096', (_, view) => view.setUint32(8, 12289, true)],
    ['entry length beyond the log', (_, view) => view.setUint32(8, MIB + 4096, true)],
    ['entry length of 4 GiB', (_, view) => view.setUint32(8, 0xfffff000, true)],
    ['entry length one sector too long', (_, view) => view.setUint32(8, 16384, true)],
    ['entry length one sector too short', (_, view) => view.setUint32(8, 8192, true)],
    ['tail not a multiple of 4096', (_, view) => view.setUint32(12, 1, true)],
    ['tail beyond the log', (_, view) => view.setUint32(12, MIB, true)],
    ['sequence number 0', (_, view) => view.setBigUint64(16, 0n, true)],
    ['sequence number unlike that of the descriptors', (_, view) => view.setBigUint64(16, 9n, true)],
    ['more descriptors than there are', (_, view) => view.setUint32(24, 4, true)],
    ['fewer descriptors than data sectors', (_, view) => view.setUint32(24, 1, true)],
    ['a descriptor count of 2^32 - 1', (_, view) => view.setUint32(24, 0xffffffff, true)],
    ['log GUID', (bytes) => bytes.set(OTHER_GUID, 32)],
    ['descriptor signature', (bytes) => bytes.set([0x78], 64)],
    ['upper half of a descriptor sequence', (_, view) => view.setUint32(64 + 28, 1, true)],
    ['target not a multiple of 4096', (_, view) => view.setBigUint64(64 + 16, BigInt(BAT_AT + 512), true)],
    ['zero length not a multiple of 4096', (_, view) => view.setBigUint64(96 + 8, 512n, true)],
    ['zero descriptor sequence', (_, view) => view.setBigUint64(96 + 24, 7n, true)],
    ['data sector signature', (bytes) => bytes.set([0x78], 4096)],
    ['data sector, upper half of the sequence', (_, view) => view.setUint32(4096 + 4, 1, true)],
    ['data sector, lower half of the sequence', (_, view) => view.setUint32(8192 - 4, 7, true)],
    ['second data sector signature', (bytes) => bytes.set([0x78], 8192)],
  ])('%s', (_name, change) => {
    const sealed = changed((bytes, view) => {
      change(bytes, view);
      reseal(bytes);
    });
    expect(refusal(sealed)).toBe(NONE);
  });

  test.each([4, 40, 100, 4096 + 2000, 12287])('a wrong byte at %i is found by the checksum', (at) => {
    const file = changed((bytes) => {
      bytes[at]! ^= 0x10;
    });
    expect(refusal(file)).toBe(NONE);
  });

  test.each([1, 2])('the newest entry torn after %i sectors: those before it are replayed', (sectors) => {
    const file = base();
    putEntries(file, plan, [{ sequence: 8, updates: [bat(0)] }]);
    const torn = encodeLogEntry({
      sequence: 9,
      updates: [bat(1), bat(1)],
      flushed: file.size,
      last: file.size,
    });
    putRing(file, LOG, 8192, torn.subarray(0, sectors * 4096));
    expect(shown(file)).toEqual([0]);
  });

  test.each<[string, LogEntryPlan]>([
    ['sequence number 0', { sequence: 0, updates: [bat(0)] }],
    ['a tail beyond the log', { sequence: 4, updates: [bat(0)], tail: MIB }],
  ])('an entry with %s is none for the next one to follow', (_name, entry) => {
    const file = base();
    const second = { sequence: Number(entry.sequence) + 1, updates: [bat(1)], tail: 0 };
    putEntries(file, plan, [entry, second]);
    expect(refusal(file)).toBe(NONE);
  });

  test('a log named in the header but empty is refused', () => {
    expect(refusal(base())).toBe(NONE);
  });

  test('a log named in the header but without an area is refused', () => {
    const bare: VhdxPlan = { ...plan, log: { at: 0, length: 0 } };
    const file = buildVhdx(bare);
    markDirty(file, bare);
    expect(refusal(file)).toContain('found none');
  });

  test('entries in a log that the header does not name are not looked at', () => {
    const file = buildVhdx(plan);
    putEntries(file, plan, [{ sequence: 8, updates: [bat(0)] }]);
    expect(logState(file)).toBe('clean');
    expect(shown(file)).toEqual([]);
  });
});

describe('the length of the file', () => {
  test('shorter than the newest entry says was flushed: cut short, refused', () => {
    const file = base();
    putEntries(file, plan, [{ sequence: 8, updates: [bat(0)], flushed: file.size + MIB }]);
    expect(refusal(file)).toBe(
      `corrupt: VHDX log at 0x100000: the file was cut short, entry 8 expects at least ${7 * MIB} bytes, found ${6 * MIB}`,
    );
  });

  test('an older entry may have seen a longer file', () => {
    const file = base();
    putEntries(file, plan, [
      { sequence: 8, updates: [bat(0)], flushed: file.size + MIB },
      { sequence: 9, updates: [bat(0)] },
    ]);
    expect(shown(file)).toEqual([0]);
  });

  test('replay extends the file with zeros, also in the middle of a block', () => {
    const file = base();
    putEntries(file, plan, [{ sequence: 8, updates: [bat(0, 1, 2)], flushed: MIB, last: 7 * MIB }]);
    file.size = 5 * MIB + 512;
    const { disk, notices } = openDisk(vhdxDriver, file);
    const wanted = new Uint8Array(8 * MIB);
    wanted.set(payload[0]!, 0);
    wanted.set(payload[1]!.subarray(0, 512), MIB);
    expect(Buffer.compare(readDisk(disk), wanted)).toBe(0);
    expect(disk.seek(guestOffset(MIB + 512), 'data')).toBeLessThan(0);
    expect(notices).toEqual([]);
  });

  test('without the extension such a block is damage', () => {
    const file = base();
    putEntries(file, plan, [{ sequence: 8, updates: [bat(0, 1)], flushed: MIB, last: MIB }]);
    file.size = 5 * MIB + 512;
    const { disk, notices } = openDisk(vhdxDriver, file);
    expect(disk.read(new Uint8Array(10), 0, 10, guestOffset(MIB))).toBe(-EIO);
    expect(notices[0]).toContain('beyond the end of the file at 0x500200');
  });

  test('a length that no file has is refused', () => {
    const file = base();
    putEntries(file, plan, [{ sequence: 8, last: 2n ** 63n }]);
    expect(refusal(file)).toBe(
      'corrupt: VHDX log at 0x100000: entry 8 extends the file to 0x8000000000000000 bytes',
    );
  });
});
