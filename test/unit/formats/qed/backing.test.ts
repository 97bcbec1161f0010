/** QED images with a backing file: what is read of it, and writing where it shows. */

import { describe, expect, test } from 'vitest';
import { EIO, ESTALE } from '../../../../src/base/errno.ts';
import { guestOffset } from '../../../../src/base/units.ts';
import type { Disk } from '../../../../src/disk/disk.ts';
import { checkImage } from '../../../../src/formats/qed/check.ts';
import { qedDriver } from '../../../../src/formats/qed/driver.ts';
import { qedHeader } from '../../../../src/formats/qed/structs.ts';
import { rawDriver } from '../../../../src/formats/raw/driver.ts';
import type { Image } from '../../../../src/image/driver.ts';
import { Extent, HOLE, ZERO } from '../../../../src/image/extent.ts';
import { Reservation } from '../../../../src/image/reservation.ts';
import { IoGate } from '../../../../src/shared/io-gate.ts';
import { PagePool } from '../../../../src/shared/page-pool.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import type { BlockSource } from '../../../../src/source/block-source.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import {
  type ClusterContent,
  type QedDescription,
  qedBytes,
  withBacking,
} from '../../../support/encoders/qed.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { type Change, RecordingSource } from '../../../support/recording-source.ts';

const K = 4096;
const full = (value: number, length = K) => new Uint8Array(length).fill(value);

/** Tables of 512 entries; header, L1, data 0x2000, L2 0x3000; two tables are not there. */
const CHILD: QedDescription = {
  clusterSize: K,
  tableSize: 1,
  imageSize: 1100 * K,
  clusters: new Map<number, ClusterContent>([
    [3, full(3)],
    [4, 'zero'],
  ]),
};

const parentBytes = randomBytes(random(8), 1050 * K + 700);
const parent = (bytes = parentBytes): Disk => openDisk(rawDriver, new MemorySource(bytes)).disk;

const memory = (description = CHILD, raw = true) =>
  new MemorySource(qedBytes(withBacking(description, 'base.raw', raw)), 'child', true);

/** What CHILD shows over the parent. */
function content(bytes = parentBytes): Uint8Array {
  const disk = new Uint8Array(1100 * K);
  disk.set(bytes.subarray(0, disk.length));
  disk.fill(3, 3 * K, 4 * K);
  disk.fill(0, 4 * K, 5 * K);
  return disk;
}

const edit = (source: BlockSource, bytes = parentBytes): Disk =>
  openEditable(qedDriver, source, {}, 1 << 20, parent(bytes)).disk;

function write(disk: Disk, at: number, bytes: Uint8Array): void {
  expect(disk.write(bytes, 0, bytes.length, guestOffset(at))).toBe(bytes.length);
}

function expectSame(found: Uint8Array, wanted: Uint8Array): void {
  const at = wanted.findIndex((byte, n) => byte !== found[n]);
  expect([found.length, at]).toEqual([wanted.length, -1]);
}

/** The disk, opened again. */
const reread = (source: MemorySource, bytes = parentBytes): Uint8Array =>
  readDisk(openDisk(qedDriver, new MemorySource(source.bytes), {}, 1 << 20, parent(bytes)).disk);

function steps(changes: readonly Change[]): string[] {
  const names = changes.map((change) => ('step' in change ? change.step : change.kind));
  return names.filter((name, n) => name !== names[n - 1]);
}

function entryAt(source: MemorySource, at: number): bigint {
  return new DataView(source.bytes.buffer, source.bytes.byteOffset).getBigUint64(at, true);
}

describe('what is recorded', () => {
  const linkOf = (source: BlockSource) => openDisk(qedDriver, source).image;

  test('a name of one place and no identity; raw where it must not be probed', () => {
    for (const [raw, format] of [
      [true, 'raw'],
      [false, undefined],
    ] as const) {
      const { parent: link, identity, facts } = linkOf(memory(CHILD, raw));
      expect(link).toMatchObject({
        places: [{ path: 'base.raw', style: 'posix', origin: 'backing file' }],
        identity: undefined,
        format,
      });
      expect(identity).toEqual([]);
      expect(facts.get('backing-file')).toBe('"base.raw"');
      expect(facts.get('backing-format')).toBe(raw ? 'raw' : 'to be probed');
    }
  });

  test('any image fits; but a file that is raw must be raw', () => {
    const vdi = { format: 'vdi' } as Image;
    const raw = { format: 'raw' } as Image;
    expect(linkOf(memory(CHILD, false)).parent?.compare(vdi)).toBeUndefined();
    expect(linkOf(memory(CHILD, true)).parent?.compare(raw)).toBeUndefined();
    expect(linkOf(memory(CHILD, true)).parent?.compare(vdi)).toEqual({
      severity: 'unfit',
      wanted: 'a raw file (never probed)',
      found: 'a vdi image',
    });
  });

  test('without the feature there is no parent, whatever the fields say', () => {
    const header = { features: 4n };
    const { parent: link, facts } = linkOf(memory({ ...CHILD, header }));
    expect([link, facts.has('backing-file')]).toEqual([undefined, false]);
  });

  test('a name of other letters, in full', () => {
    const name = 'bäse "1"\n.img';
    const file = qedBytes(withBacking(CHILD, name, false));
    const { parent: link, facts } = linkOf(new MemorySource(file));
    expect(link?.places[0]?.path).toBe(name);
    expect(facts.get('backing-file')).toBe(JSON.stringify(name));
  });

  test('check looks at the name too, and not at the parent', () => {
    const header = { backingFilenameSize: 5000 };
    expect(() => checkImage(memory({ ...CHILD, header }))).toThrow(/length from 1 to 1023/);
    expect(checkImage(memory()).errors).toBe(0);
  });
});

describe('reading', () => {
  test('absent clusters and tables are holes, zero clusters zeros', () => {
    const source = memory();
    const report = (text: string) => {
      throw new Error(text);
    };
    const image = qedDriver.open(source, { tables: new TableAllocator(), report, options: new Map() });
    const pool = new PagePool(PagePool.seed(1 << 20));
    const translator = qedDriver.attach(image.share(), source, { pool, report });
    const extent = new Extent();
    const kinds = [0, 4, 5, 600].map((cluster) => {
      expect(translator.locate(guestOffset(cluster * K), 1, extent)).toBe(0);
      return extent.kind;
    });
    expect(kinds).toEqual([HOLE, ZERO, HOLE, HOLE]);
  });

  test('a parent that is shorter, by part of a sector; one that is longer', () => {
    expectSame(reread(memory()), content());
    const longer = randomBytes(random(9), 1200 * K);
    expectSame(reread(memory(), longer), content(longer));
  });
});

describe('writing where the parent shows', () => {
  test('a cluster is copied whole, but for what is written', () => {
    const inner = memory();
    const disk = edit(inner);
    const model = content();
    for (const [at, length] of [
      [K + 100, 10],
      [10 * K - 50, 3 * K],
      [700 * K + 1, K],
      [1050 * K, 1000],
      [1099 * K + 5, K - 5],
    ] as const) {
      const bytes = randomBytes(random(at), length);
      write(disk, at, bytes);
      model.set(bytes, at);
      expectSame(readDisk(disk), model);
    }
    expect(disk.close()).toBe(0);
    expectSame(reread(inner), model);
    const { errors, leaks } = checkImage(new MemorySource(inner.bytes));
    expect([errors, leaks]).toEqual([0, 0]);
  });

  test('payload and copy are stable before any entry, in fresh places too', () => {
    const source = new RecordingSource(memory());
    const disk = edit(source);
    write(disk, 0, full(7, 10));
    expect(disk.flush()).toBe(0);
    // The file has grown, and is stable as zeros from here on.
    for (const at of [10 * K, 600 * K + 5]) {
      source.changes.length = 0;
      write(disk, at, full(8, 100));
      expect(steps(source.changes)).toEqual(['payload.write']);
      expect(disk.flush()).toBe(0);
      expect(steps(source.changes)).toEqual(['payload.write', 'flush', 'table.write', 'flush']);
    }
    // A zero cluster needs no such order: it shows no parent.
    source.changes.length = 0;
    write(disk, 4 * K, full(9));
    expect(disk.flush()).toBe(0);
    expect(steps(source.changes)).toEqual(['payload.write', 'table.write', 'flush']);
  });

  test('the table of a new cluster comes before it in the file', () => {
    const inner = memory();
    const disk = edit(inner);
    write(disk, 600 * K, full(1));
    expect(disk.close()).toBe(0);
    expect([entryAt(inner, K + 8), entryAt(inner, 0x4000 + (600 - 512) * 8)]).toEqual([0x4000n, 0x5000n]);
  });

  test('zeros of the parent are not copied', () => {
    const sparse = new Uint8Array(1100 * K);
    sparse[20 * 65536 + 5 * K] = 1;
    const description = { ...CHILD, clusterSize: 65536, clusters: new Map() };
    const source = new RecordingSource(memory(description));
    const disk = edit(source, sparse);
    write(disk, 20 * 65536 + 100, full(2, 5));
    const payload = source.changes.filter((change) => 'step' in change && change.step === 'payload.write');
    // In whole sectors, as they are recorded.
    const bytes = payload.reduce((sum, change) => sum + ('length' in change ? change.length : 0), 0);
    expect(bytes).toBeLessThanOrEqual(K + 2 * 512);
  });

  test('places that were used before are zeros first', () => {
    const sparse = new Uint8Array(1100 * K);
    const inner = memory();
    const disk = edit(inner, sparse);
    expect(disk.zero(guestOffset(3 * K), K, 'punch')).toBe(0);
    expect(disk.flush()).toBe(0);
    inner.bytes.fill(0xee, 0x2000, 0x3000);
    write(disk, 9 * K + 10, full(5, 10));
    expect(disk.flush()).toBe(0);
    expect(entryAt(inner, 0x3000 + 9 * 8)).toBe(0x2000n);
    const wanted = full(0);
    wanted.fill(5, 10, 20);
    expectSame(readDisk(disk, 9 * K, K), wanted);
  });

  test('a copy that fails leaves the parent, and the place is used next', () => {
    const inner = memory();
    const source = new FaultSource(inner);
    const disk = edit(source);
    write(disk, 0, full(1, 10));
    source.set({ step: 'payload.write', nth: 2, times: 1, errno: EIO, part: 0 });
    expect(disk.write(full(9, 10), 0, 10, guestOffset(5 * K + 7))).toBe(-EIO);
    source.lift();
    expectSame(readDisk(disk, 5 * K, K), content().subarray(5 * K, 6 * K));
    write(disk, 8 * K, full(8));
    expect(disk.close()).toBe(0);
    const { errors, leaks } = checkImage(new MemorySource(inner.bytes));
    expect([errors, leaks, inner.size]).toEqual([0, 0, 6 * K]);
  });

  test('a full host: nothing is lost', () => {
    const inner = memory();
    const source = new FaultSource(inner);
    source.limit = inner.size + K;
    const disk = edit(source);
    write(disk, 0, full(1, 10));
    expect(disk.write(full(2, 10), 0, 10, guestOffset(5 * K))).toBeLessThan(0);
    expect(disk.write(full(2, 10), 0, 10, guestOffset(600 * K))).toBeLessThan(0);
    source.lift();
    write(disk, 600 * K, full(6, 10));
    const model = content();
    model.fill(1, 0, 10);
    model.fill(6, 600 * K, 600 * K + 10);
    expect(disk.close()).toBe(0);
    expectSame(reread(inner), model);
  });
});

describe('discarding what the parent shows', () => {
  test('becomes zero clusters, with tables where there were none, up to the end', () => {
    const inner = memory();
    const long = randomBytes(random(9), 1200 * K);
    const disk = edit(inner, long);
    expect(disk.zero(guestOffset(2 * K), 2 * K, 'punch')).toBe(0);
    expect(disk.zero(guestOffset(511 * K), 2 * K, 'punch')).toBe(0);
    expect(disk.zero(guestOffset(1098 * K), 2 * K, 'punch')).toBe(0);
    expect(disk.close()).toBe(0);
    const tables = [K, K + 8, K + 16].map((at) => Number(entryAt(inner, at)));
    const entries = [2, 3, 4, 5, 511, 512, 513, 1097, 1098, 1099].map((cluster) =>
      entryAt(inner, tables[Math.floor(cluster / 512)]! + (cluster % 512) * 8),
    );
    expect(entries).toEqual([1n, 1n, 1n, 0n, 1n, 1n, 0n, 0n, 1n, 1n]);
    const model = content(long);
    model.fill(0, 2 * K, 4 * K);
    model.fill(0, 511 * K, 513 * K);
    model.fill(0, 1098 * K);
    expectSame(reread(inner, long), model);
  });

  test('parts of clusters are zeros, the rest stays', () => {
    const inner = memory();
    const disk = edit(inner);
    expect(disk.zero(guestOffset(10 * K + 100), 2 * K, 'punch')).toBe(0);
    expect(disk.zero(guestOffset(20 * K), K + 5, 'keep')).toBe(0);
    const model = content();
    model.fill(0, 10 * K + 100, 12 * K + 100);
    model.fill(0, 20 * K, 21 * K + 5);
    expectSame(readDisk(disk), model);
    expect(disk.close()).toBe(0);
    expectSame(reread(inner), model);
  });

  test('all of it, then written again', () => {
    const inner = memory();
    const disk = edit(inner);
    expect(disk.zero(guestOffset(0), 1100 * K, 'punch')).toBe(0);
    expectSame(readDisk(disk), new Uint8Array(1100 * K));
    write(disk, 900 * K, full(4, 3 * K));
    expect(disk.close()).toBe(0);
    const model = new Uint8Array(1100 * K);
    model.fill(4, 900 * K, 903 * K);
    expectSame(reread(inner), model);
    expect(checkImage(new MemorySource(inner.bytes)).errors).toBe(0);
  });
});

test('the calls of the editor, two threads', () => {
  const inner = memory();
  const report = (text: string) => {
    throw new Error(text);
  };
  const context = { tables: new TableAllocator(), report, options: new Map() };
  const image = qedDriver.open(inner, context);
  const shared = { ...image.share(), edit: image.prepareEdit(context) };
  const pool = new PagePool(PagePool.seed(1 << 20));
  const gates = IoGate.seed(2);
  const attach = (thread: number) => {
    const gate = new IoGate(gates, thread);
    const translator = qedDriver.attach(shared, inner, { pool, report });
    return qedDriver.attachEditor(shared, inner, { pool, report, gate }, translator);
  };
  const [one, two] = [attach(0), attach(1)];
  const place = new Reservation();
  // Holes are not allocated: there is nothing to write for them.
  const before = inner.bytes.slice();
  expect([one.begin(), one.allocate(guestOffset(0), 3 * K), one.allocate(guestOffset(600 * K), K)]).toEqual([
    0, 0, 0,
  ]);
  expectSame(inner.bytes, before);
  // What holds something is not forked.
  expect(one.reserve(guestOffset(3 * K), 1, place)).toBe(-ESTALE);
  expect(one.reserve(guestOffset(4 * K), 1, place)).toBe(-ESTALE);
  // A reservation is the cluster, and no more than the disk.
  expect(one.reserve(guestOffset(1099 * K + 5), 10, place)).toBe(0);
  expect([place.at, place.length, place.zeros]).toEqual([1099 * K, K, true]);
  const host = place.host;
  one.cancel(place);
  // A place that nobody came to name is given out next; discarded in between, it does not come to be named.
  expect(two.reserve(guestOffset(7 * K), 1, place)).toBe(0);
  expect(place.host).toBe(host);
  expect(one.discard(guestOffset(7 * K), K)).toBe(0);
  expect(two.publish(place)).toBe(-ESTALE);
  expect(one.reserve(guestOffset(8 * K), 1, place)).toBe(0);
  expect(place.host).toBe(host);
  expect([one.publish(place), two.close()]).toEqual([0, 0]);
  expect([7, 8].map((cluster) => entryAt(inner, 0x3000 + cluster * 8))).toEqual([1n, BigInt(host)]);
  const { features } = qedHeader.decode(inner.bytes);
  expect(features).toBe(5n);
});
