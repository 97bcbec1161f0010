/** Writing QED: what goes to the file, in which order; space; limits; what is refused is in check.test.ts. */

import { describe, expect, test } from 'vitest';
import { EFBIG, EINVAL, EIO, ENOSPC, type Status } from '../../../../src/base/errno.ts';
import { guestOffset, type HostOffset } from '../../../../src/base/units.ts';
import { Disk } from '../../../../src/disk/disk.ts';
import { checkImage } from '../../../../src/formats/qed/check.ts';
import { qedDriver } from '../../../../src/formats/qed/driver.ts';
import type { QedEdit } from '../../../../src/formats/qed/prepare.ts';
import { qedHeader } from '../../../../src/formats/qed/structs.ts';
import { LAST_CLUSTER } from '../../../../src/formats/qed/tables.ts';
import { FreshSpace } from '../../../../src/image/fresh-space.ts';
import { tableEditSeed } from '../../../../src/image/table-editor.ts';
import { IoGate } from '../../../../src/shared/io-gate.ts';
import { PagePool } from '../../../../src/shared/page-pool.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import { type ClusterContent, type QedDescription, qedBytes } from '../../../support/encoders/qed.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, random, randomBytes } from '../../../support/random.ts';
import { type Change, RecordingSource } from '../../../support/recording-source.ts';

const K = 4096;
const MIB = 1024 * 1024;
const full = (value: number, length = K) => new Uint8Array(length).fill(value);

const EMPTY: QedDescription = { clusterSize: K, tableSize: 1, imageSize: 1024 * K };
/** Header, L1, data 0x2000, L2 0x3000, data 0x4000. */
const TWO: QedDescription = {
  ...EMPTY,
  clusters: new Map<number, ClusterContent>([
    [0, full(1)],
    [1, full(2)],
  ]),
};

const memory = (description: QedDescription) => new MemorySource(qedBytes(description), 'test', true);

function write(disk: Disk, at: number, bytes: Uint8Array): void {
  expect(disk.write(bytes, 0, bytes.length, guestOffset(at))).toBe(bytes.length);
}

/** Errors and leaks that `check` finds. */
function checked(source: MemorySource): [number, number] {
  const { errors, leaks } = checkImage(new MemorySource(source.bytes));
  return [errors, leaks];
}

/** "payload.write", "size", "flush": what was done, each once where it was repeated. */
function steps(changes: readonly Change[]): string[] {
  const names = changes.map((change) => ('step' in change ? change.step : change.kind));
  return names.filter((name, n) => name !== names[n - 1]);
}

function equal(found: Uint8Array, wanted: Uint8Array): boolean {
  return Buffer.compare(found, wanted) === 0;
}

function entryAt(source: MemorySource, at: number): bigint {
  return new DataView(source.bytes.buffer, source.bytes.byteOffset).getBigUint64(at, true);
}

/** The same through a seed made here, as if the tables were too large to be looked through. */
function openBlindly(source: MemorySource, next: number): { disk: Disk; notices: string[] } {
  const notices: string[] = [];
  const report = (text: string) => notices.push(text);
  const image = qedDriver.open(source, { tables: new TableAllocator(), report, options: new Map() });
  const bounds = new SharedArrayBuffer(8);
  new Uint32Array(bounds).fill(next);
  const edit: QedEdit = { ...tableEditSeed(), bounds, fresh: FreshSpace.seed(), hasParent: false };
  const shared = { ...image.share(), edit };
  const pool = new PagePool(PagePool.seed(1 << 20));
  const gate = new IoGate(IoGate.seed(1), 0);
  const translator = qedDriver.attach(shared, source, { pool, report });
  const editor = qedDriver.attachEditor(shared, source, { pool, report, gate }, translator);
  return { disk: new Disk(image.virtualSize, translator, source, { edit: { editor, gate } }), notices };
}

describe('the first write, and nothing before it', () => {
  const marked = {
    ...TWO,
    header: { features: 2n, compatFeatures: 0x80n, autoclearFeatures: 0x11n },
    patches: new Map([[300, full(0xaa, 20)]]),
  };

  test('a mount without a write leaves every byte', () => {
    const source = new RecordingSource(memory(marked));
    const { disk } = openEditable(qedDriver, source);
    readDisk(disk);
    expect([disk.flush(), disk.close()]).toEqual([0, 0]);
    expect(steps(source.changes)).toEqual(['flush']);
  });

  test('clears need-check and autoclear, stable before anything else; keeps the rest of the header', () => {
    const inner = memory(marked);
    const before = inner.bytes.slice();
    const source = new RecordingSource(inner);
    const { disk, notices } = openEditable(qedDriver, source);
    expect(notices.at(-1)).toBe(
      'QED tables: checked without an error; the first write removes the mark in the header',
    );
    write(disk, 5 * K, full(9));
    expect(steps(source.changes).slice(0, 3)).toEqual(['flush', 'header.write', 'flush']);
    const { features, compatFeatures, autoclearFeatures } = qedHeader.decode(inner.bytes);
    expect([features, compatFeatures, autoclearFeatures]).toEqual([0n, 0x80n, 0n]);
    const after = inner.bytes.slice(0, 512);
    after.fill(0, qedHeader.at.features, qedHeader.at.features + 24);
    before.fill(0, qedHeader.at.features, qedHeader.at.features + 24);
    expect(after).toEqual(before.subarray(0, 512));
  });

  test('without marks, the header is not written', () => {
    const source = new RecordingSource(memory(TWO));
    const { disk } = openEditable(qedDriver, source);
    write(disk, 0, full(9, 10));
    expect(disk.close()).toBe(0);
    expect(steps(source.changes)).toEqual(['flush', 'payload.write', 'flush']);
  });
});

describe('order', () => {
  test('payload, flush, entries, flush', () => {
    const inner = memory(EMPTY);
    const source = new RecordingSource(inner);
    const { disk } = openEditable(qedDriver, source);
    write(disk, 3 * K + 5, full(7, 100));
    expect(entryAt(inner, K)).toBe(0n);
    expect(disk.flush()).toBe(0);
    expect(steps(source.changes)).toEqual([
      'flush',
      'size',
      'payload.write',
      'flush',
      'table.write',
      'flush',
    ]);
    // The L2 table came first, then its data.
    expect([entryAt(inner, K), entryAt(inner, 0x2000 + 3 * 8)]).toEqual([0x2000n, 0x3000n]);
    source.changes.length = 0;
    expect([disk.flush(), source.changes]).toEqual([0, []]);
    write(disk, 3 * K, full(8, 10));
    expect(disk.flush()).toBe(0);
    expect(steps(source.changes)).toEqual(['payload.write', 'flush']);
  });

  test('in a place that an earlier commit made stable as zeros: payload, entries, one flush', () => {
    const source = new RecordingSource(memory(EMPTY));
    const { disk } = openEditable(qedDriver, source);
    write(disk, 0, full(7));
    expect(disk.flush()).toBe(0);
    source.changes.length = 0;
    write(disk, 9 * K, full(8));
    expect(disk.flush()).toBe(0);
    expect(steps(source.changes)).toEqual(['payload.write', 'table.write', 'flush']);
    // A place that was used before needs the order, and so does what the file has yet to grow to.
    expect(disk.zero(guestOffset(0), K, 'punch')).toBe(0);
    expect(disk.flush()).toBe(0);
    source.changes.length = 0;
    write(disk, 5 * K, full(9));
    expect(disk.flush()).toBe(0);
    expect(steps(source.changes)).toEqual(['payload.zero', 'payload.write', 'flush', 'table.write', 'flush']);
  });

  test('where the file was cut at the end of a mount, nothing is known to be stable any more', () => {
    const inner = memory(EMPTY);
    const source = new RecordingSource(inner);
    const { disk } = openEditable(qedDriver, source);
    write(disk, 0, full(7));
    expect(disk.close()).toBe(0);
    source.changes.length = 0;
    write(disk, 9 * K, full(8));
    expect(disk.flush()).toBe(0);
    expect(steps(source.changes)).toEqual(['size', 'payload.write', 'flush', 'table.write', 'flush']);
  });

  test('1 MiB into fresh 64 KiB clusters is one write; its entries are one, the L1 entry another', () => {
    const inner = memory({ clusterSize: 65536, tableSize: 4, imageSize: 128 * 1024 * MIB });
    const source = new RecordingSource(inner);
    const { disk } = openEditable(qedDriver, source);
    write(disk, 2 * MIB, full(1, MIB));
    write(disk, 3 * MIB, full(2, MIB));
    expect(disk.flush()).toBe(0);
    const sizes = source.changes.map((change) =>
      'step' in change ? [change.step, change.length] : change.kind,
    );
    expect(sizes).toEqual([
      'flush',
      'size',
      ['payload.write', MIB],
      ['payload.write', MIB],
      'flush',
      ['table.write', 1024],
      ['table.write', 64 * 8],
      'flush',
    ]);
    expect(disk.close()).toBe(0);
    expect(inner.size).toBe(65536 + 2 * 4 * 65536 + 2 * MIB);
    expect(checked(inner)).toEqual([0, 0]);
  });

  test('data on both sides of a table border is one piece', () => {
    const inner = memory({ ...EMPTY, imageSize: 1024 * K });
    const source = new RecordingSource(inner);
    const { disk } = openEditable(qedDriver, source);
    write(disk, 500 * K, full(1, 24 * K));
    expect(source.changes.map(({ kind }) => kind)).toEqual(['flush', 'size', 'write']);
    expect(disk.close()).toBe(0);
    expect(inner.size).toBe((2 + 2 + 24) * K);
    expect(checked(inner)).toEqual([0, 0]);
  });

  test('a failed write of entries is repeated by the next flush', () => {
    const inner = memory(EMPTY);
    const source = new FaultSource(inner);
    const { disk } = openEditable(qedDriver, source);
    write(disk, 0, full(5));
    source.set({ step: 'table.write', nth: 2, times: 1, errno: EIO, part: 0 });
    expect(disk.flush()).toBe(-EIO);
    expect(source.hits).toBe(1);
    write(disk, 9 * K, full(6));
    expect(disk.flush()).toBe(0);
    const again = readDisk(openDisk(qedDriver, new MemorySource(inner.bytes)).disk, 0, 10 * K);
    expect([again[0], again[9 * K]]).toEqual([5, 6]);
    expect(checked(inner)[0]).toBe(0);
  });

  test('entries that cannot be kept as words stay on disk as they are', () => {
    const clusters = new Map<number, ClusterContent>(TWO.clusters).set(4, { entry: 0x777n });
    const inner = memory({ ...TWO, clusters, l1: new Map([[1, 0x999n]]) });
    const { disk, notices } = openBlindly(inner, inner.size / K);
    write(disk, 3 * K, full(3));
    write(disk, 5 * K, full(5));
    expect(disk.flush()).toBe(0);
    expect([2, 3, 4, 5].map((n) => entryAt(inner, 0x3000 + n * 8))).toEqual([0n, 0x5000n, 0x777n, 0x6000n]);
    expect(entryAt(inner, K + 8)).toBe(0x999n);
    expect(notices).toEqual([]);
    expect(disk.write(full(1), 0, K, guestOffset(4 * K))).toBe(-EIO);
    expect(disk.zero(guestOffset(4 * K), K, 'punch')).toBe(-EIO);
    expect(notices).toEqual([expect.stringMatching(/0x777/), expect.stringMatching(/0x777/)]);
    expect(disk.write(full(1), 0, K, guestOffset(600 * K))).toBe(-EIO);
  });
});

describe('space', () => {
  test('a discarded cluster becomes a zero cluster, is punched, and is used again only after a commit', () => {
    const inner = memory(TWO);
    const { disk } = openEditable(qedDriver, inner);
    expect(disk.zero(guestOffset(0), K, 'punch')).toBe(0);
    expect(inner.bytes.subarray(0x2000, 0x3000).every((byte) => byte === 0)).toBe(true);
    write(disk, 8 * K, full(8));
    expect(inner.bytes[0x2000]).toBe(0);
    expect(inner.bytes[0x5000]).toBe(8);
    expect(disk.flush()).toBe(0);
    expect(entryAt(inner, 0x3000)).toBe(1n);
    write(disk, 9 * K, full(9));
    expect(inner.bytes[0x2000]).toBe(9);
    expect(disk.close()).toBe(0);
    expect(inner.size).toBe(0x6000);
    expect(checked(inner)).toEqual([0, 0]);
  });

  test('discarding what lies in one piece punches once', () => {
    const source = new RecordingSource(memory({ ...EMPTY, clusterSize: 65536, imageSize: 8 * MIB }));
    const { disk } = openEditable(qedDriver, source);
    write(disk, 0, full(1, 2 * MIB));
    source.changes.length = 0;
    expect(disk.zero(guestOffset(65536), MIB, 'punch')).toBe(0);
    expect(source.changes).toMatchObject([{ kind: 'zero', length: MIB }]);
  });

  test('the end cuts off what is free there: all of it, where nothing is left', () => {
    const inner = memory(EMPTY);
    const source = new RecordingSource(inner);
    const { disk } = openEditable(qedDriver, source);
    write(disk, 0, full(1, 40 * K));
    expect(disk.flush()).toBe(0);
    source.changes.length = 0;
    expect(disk.zero(guestOffset(0), 40 * K, 'punch')).toBe(0);
    expect(disk.close()).toBe(0);
    // No table on disk names what is cut off.
    expect(steps(source.changes)).toEqual(['payload.zero', 'table.write', 'flush', 'size', 'flush']);
    // Header, L1 table, and the L2 table, which stays.
    expect(inner.size).toBe(3 * K);
    expect(checked(inner)).toEqual([0, 0]);
  });

  test('the image may be used on after it was closed', () => {
    const inner = memory(EMPTY);
    const { disk } = openEditable(qedDriver, inner);
    write(disk, 0, full(1, 40 * K));
    expect(disk.zero(guestOffset(10 * K), 30 * K, 'punch')).toBe(0);
    expect(disk.close()).toBe(0);
    write(disk, 100 * K, full(2, 50 * K));
    expect(disk.close()).toBe(0);
    expect(equal(readDisk(disk, 0, 10 * K), full(1, 10 * K))).toBe(true);
    expect(equal(readDisk(disk, 100 * K, 50 * K), full(2, 50 * K))).toBe(true);
    expect(checked(inner)[0]).toBe(0);
  });

  test('leaks are used before the file grows, and read as zeros; those at the end go', () => {
    const description = { ...TWO, gap: 2, patches: new Map([[0xa000, full(0xee, 5 * K + 77)]]) };
    const file = qedBytes(description);
    // The gaps: 0x1000 and 0x2000 before the L1 table, 0x6000 and 0x7000 behind the L2 table.
    file.fill(0xdd, 0x1000, 0x3000);
    file.fill(0xcc, 0x6000, 0x8000);
    const inner = new MemorySource(file, 'leaks', true);
    const { disk } = openEditable(qedDriver, inner);
    for (let cluster = 10; cluster < 20; cluster += 1) write(disk, cluster * K + 5, full(cluster, 1));
    expect(disk.close()).toBe(0);
    for (let cluster = 10; cluster < 20; cluster += 1) {
      const wanted = full(0);
      wanted[5] = cluster;
      expect(equal(readDisk(disk, cluster * K, K), wanted)).toBe(true);
    }
    expect(checked(inner)).toEqual([0, 0]);
    expect(inner.size).toBe(0x9000 + 6 * K);
  });

  test('a last cluster that is cut short becomes whole with the first write', () => {
    const clusters = new Map([[1, full(3)]]);
    const file = qedBytes({ ...EMPTY, imageSize: K + 512, tables: [0], clusters });
    const inner = new MemorySource(file.slice(0, file.length - K + 512), 'short', true);
    const { disk } = openEditable(qedDriver, inner);
    expect(disk.zero(guestOffset(0), 1, 'keep')).toBe(0);
    expect(inner.size).toBe(file.length);
    write(disk, K, full(4, 512));
    expect(disk.close()).toBe(0);
    expect(inner.size).toBe(file.length);
    expect(checked(inner)).toEqual([0, 0]);
  });

  test('a killed writer leaks at most one batch at the end', () => {
    const inner = memory(EMPTY);
    const { disk } = openEditable(qedDriver, inner);
    write(disk, 0, full(1, 40 * K));
    expect(disk.flush()).toBe(0);
    expect(checked(inner)).toEqual([0, 1]);
    expect(inner.size).toBe(2 * K + 8 * MIB);
    const { disk: again } = openEditable(qedDriver, inner);
    write(again, 50 * K, full(2));
    expect(again.close()).toBe(0);
    expect(inner.size).toBe(44 * K);
    expect(checked(inner)).toEqual([0, 0]);
  });
});

describe('limits', () => {
  test('a file that must not grow: the error, what was freed instead, and going on after', () => {
    const inner = memory(TWO);
    const source = new FaultSource(inner);
    source.limit = inner.size + 2 * K;
    const { disk } = openEditable(qedDriver, source);
    expect(disk.write(full(5, 4 * K), 0, 4 * K, guestOffset(10 * K))).toBe(-EFBIG);
    expect(readDisk(disk, 10 * K, 4 * K)).toEqual(new Uint8Array([...full(5, 2 * K), ...full(0, 2 * K)]));
    expect(disk.zero(guestOffset(0), 2 * K, 'punch')).toBe(0);
    // Their commit is made for it.
    write(disk, 20 * K, full(6, 2 * K));
    expect(disk.write(full(5), 0, K, guestOffset(30 * K))).toBe(-EFBIG);
    source.lift();
    write(disk, 30 * K, full(7, 2 * K));
    expect(disk.close()).toBe(0);
    expect(checked(inner)).toEqual([0, 0]);
    expect(readDisk(disk, 20 * K, 2 * K)).toEqual(full(6, 2 * K));
  });

  test('cluster numbers end where words do', () => {
    class Vast extends MemorySource {
      override get size(): number {
        return (LAST_CLUSTER + 1) * K;
      }
    }
    const inner = new Vast(qedBytes(TWO), 'vast', true);
    const { disk } = openBlindly(inner, LAST_CLUSTER + 1);
    expect(disk.write(full(5), 0, K, guestOffset(10 * K))).toBe(-ENOSPC);
    expect(disk.write(full(5), 0, K, guestOffset(600 * K))).toBe(-ENOSPC);
    expect(disk.flush()).toBe(0);
    expect(entryAt(inner, K + 8)).toBe(0n);
  });

  test('on a block device, what is behind the last cluster is used up', () => {
    class Device extends MemorySource {
      override setSize(size: number): Status {
        return size === this.size ? 0 : -EINVAL;
      }
    }
    const file = new Uint8Array(0x5000 + 3 * K).fill(0xbb);
    file.set(qedBytes(TWO));
    const inner = new Device(file, 'device', true);
    const { disk } = openEditable(qedDriver, inner);
    write(disk, 10 * K + 1, full(5, 3 * K - 2));
    expect(disk.write(full(5), 0, K, guestOffset(20 * K))).toBe(-ENOSPC);
    const read = readDisk(disk, 10 * K, 3 * K);
    expect([read[0], read[1], read.at(-1)]).toEqual([0, 5, 0]);
    expect(disk.close()).toBe(0);
    expect(inner.size).toBe(file.length);
    expect(checked(inner)).toEqual([0, 0]);
  });

  test.each([
    ['one page of the pool', 1],
    ['many pages', 1 << 22],
  ])('writes scattered over more pages than may wait: %s', (_name, poolBytes) => {
    const pages = 300;
    const imageSize = pages * 1024 * K;
    const inner = memory({ clusterSize: K, tableSize: 16, imageSize });
    const { disk } = openEditable(qedDriver, inner, {}, poolBytes);
    const next = random(5);
    const places = Array.from({ length: pages }, (_, n) => (n * 1024 + between(next, 0, 1023)) * K);
    places.sort(() => next() - 0.5);
    const bytes = places.map(() => randomBytes(next, 100));
    for (const [n, at] of places.entries()) write(disk, at, bytes[n]!);
    expect(disk.close()).toBe(0);
    const again = openDisk(qedDriver, new MemorySource(inner.bytes)).disk;
    for (const [n, at] of places.entries()) expect(readDisk(again, at, 100)).toEqual(bytes[n]!);
    expect(checked(inner)).toEqual([0, 0]);
  });

  test('every cluster size, the longest request', () => {
    const bytes = randomBytes(random(1), 12 * MIB);
    for (let clusterSize = 4096; clusterSize <= 2 * MIB; clusterSize *= 2) {
      const inner = memory({ clusterSize, tableSize: 1, imageSize: 16 * MIB });
      const { disk } = openEditable(qedDriver, inner);
      write(disk, MIB + 512, bytes);
      expect(disk.close()).toBe(0);
      const again = openDisk(qedDriver, new MemorySource(inner.bytes)).disk;
      expect(Buffer.compare(readDisk(again, MIB + 512, bytes.length), bytes)).toBe(0);
      expect(checked(inner)).toEqual([0, 0]);
    }
  });
});

test('two threads at once: one allocates, the other finds it done', () => {
  const inner = memory(EMPTY);
  const report = (text: string) => {
    throw new Error(text);
  };
  const context = { tables: new TableAllocator(), report, options: new Map() };
  const image = qedDriver.open(inner, context);
  const shared = { ...image.share(), edit: image.prepareEdit(context) };
  const pool = new PagePool(PagePool.seed(1 << 20));
  const gates = IoGate.seed(2);
  const [one, two] = [0, 1].map((thread) => {
    const gate = new IoGate(gates, thread);
    const translator = qedDriver.attach(shared, inner, { pool, report });
    const editor = qedDriver.attachEditor(shared, inner, { pool, report, gate }, translator);
    return { editor, disk: new Disk(image.virtualSize, translator, inner, { edit: { editor, gate } }) };
  }) as [
    { editor: ReturnType<typeof qedDriver.attachEditor>; disk: Disk },
    { editor: ReturnType<typeof qedDriver.attachEditor>; disk: Disk },
  ];
  write(one.disk, 0, full(1, 3 * K));
  const size = inner.bytes.slice();
  expect(two.editor.allocate(guestOffset(K), 2 * K)).toBe(0);
  expect(Buffer.compare(inner.bytes, size)).toBe(0);
  write(two.disk, K, full(2));
  expect([one.disk.flush(), two.disk.close()]).toEqual([0, 0]);
  expect(readDisk(one.disk, 0, 3 * K)).toEqual(new Uint8Array([...full(1), ...full(2), ...full(1)]));
  expect(inner.readAt(new Uint8Array(1), 0, 1, 0 as HostOffset)).toBe(1);
  expect(checked(inner)).toEqual([0, 0]);
});
