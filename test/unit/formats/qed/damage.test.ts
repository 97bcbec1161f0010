/** QED images that are wrong: what is refused, with which words, and what damage costs. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { ImageError } from '../../../../src/base/errors.ts';
import { guestOffset, type HostOffset } from '../../../../src/base/units.ts';
import { qedDriver } from '../../../../src/formats/qed/driver.ts';
import { type QedHeader, qedHeader } from '../../../../src/formats/qed/structs.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import {
  type ClusterContent,
  encodeQed,
  type QedDescription,
  qedBytes,
  samples,
} from '../../../support/encoders/qed.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, random } from '../../../support/random.ts';
import { SparseSource } from '../../../support/sparse-source.ts';

const K = 4096;
const full = (value: number) => new Uint8Array(K).fill(value);

const SOUND: QedDescription = {
  clusterSize: K,
  tableSize: 1,
  imageSize: 3 * 512 * K,
  clusters: new Map([
    [0, full(1)],
    [1, full(2)],
    [512, full(3)],
    [1024, full(4)],
  ]),
};

function refusal(file: Uint8Array | SparseSource): ImageError {
  const source = file instanceof Uint8Array ? new MemorySource(file) : file;
  const report = () => {};
  try {
    qedDriver.open(source, { tables: new TableAllocator(), report, options: new Map() });
  } catch (problem) {
    if (problem instanceof ImageError) return problem;
    throw problem;
  }
  throw new Error('the image was opened');
}

describe('probe', () => {
  const verdict = (bytes: Uint8Array) =>
    qedDriver.probe({ head: bytes, tail: bytes, size: bytes.length }).match;

  test('goes by the magic alone', () => {
    expect(verdict(qedBytes(SOUND))).toBe('signature');
    expect(verdict(new Uint8Array([0x51, 0x45, 0x44, 0]))).toBe('signature');
    expect(verdict(new Uint8Array([0x51, 0x45, 0x44, 0x20]))).toBe('none');
    expect(verdict(new Uint8Array([0x51, 0x45, 0x44]))).toBe('none');
    expect(verdict(new Uint8Array(0))).toBe('none');
  });
});

describe('refused at open', () => {
  const fileEnd = qedBytes(SOUND).length;
  const cases: [string, Partial<QedHeader>, string, RegExp][] = [
    ['the magic', { magic: 0x20444551 }, 'corrupt', /magic is 0x20444551, expected 0x444551/],
    ['unknown features', { features: 0x8000000000000009n }, 'unsupported', /features 0x8000000000000008 /],
    ['cluster size 0', { clusterSize: 0 }, 'corrupt', /cluster size is 0, expected/],
    ['cluster size 2048', { clusterSize: 2048 }, 'corrupt', /cluster size is 2048, expected/],
    ['cluster size 128 MiB', { clusterSize: 2 ** 27 }, 'corrupt', /cluster size is 134217728, expected/],
    ['cluster size 5000', { clusterSize: 5000 }, 'corrupt', /cluster size is 5000, expected/],
    ['table size 0', { tableSize: 0 }, 'corrupt', /table size is 0 clusters, expected 1, 2, 4, 8 or 16/],
    ['table size 3', { tableSize: 3 }, 'corrupt', /table size is 3 clusters/],
    ['table size 32', { tableSize: 32 }, 'corrupt', /table size is 32 clusters/],
    ['header size 0', { headerSize: 0 }, 'corrupt', /header size is 0 clusters of 4096/],
    ['header size 2^20', { headerSize: 2 ** 20 }, 'corrupt', /header size is 1048576 clusters/],
    ['header over L1', { headerSize: 2 }, 'corrupt', /L1 table is at 0x1000, inside the header, .* 0x2000/],
    [
      'image size odd',
      { imageSize: 4095n },
      'corrupt',
      /image size is 4095 bytes, expected a multiple of 512/,
    ],
    ['image size over the tables', { imageSize: 2n ** 30n + 512n }, 'corrupt', /map 1073741824 at most/],
    ['L1 misaligned', { l1TableOffset: 0x1008n }, 'corrupt', /L1 table is at 0x1008, expected a multiple/],
    ['L1 at 0', { l1TableOffset: 0n }, 'corrupt', /L1 table is at 0x0, inside the header/],
    ['L1 at the end', { l1TableOffset: BigInt(fileEnd) }, 'corrupt', /reaches beyond the end of the file/],
    ['L1 near 2^64', { l1TableOffset: 2n ** 64n - 4096n }, 'corrupt', /at 0xfffffffffffff000 reaches beyond/],
    ['empty backing name', { features: 1n, backingFilenameOffset: 64 }, 'corrupt', /length from 1 to 1023/],
    [
      'long backing name',
      { features: 1n, backingFilenameOffset: 64, backingFilenameSize: 1024 },
      'corrupt',
      /name of 1024 bytes at 0x40: expected a length from 1 to 1023/,
    ],
    [
      'backing name over the fields',
      { features: 1n, backingFilenameOffset: 63, backingFilenameSize: 4 },
      'corrupt',
      /at 0x3f: expected between the header's fields \(0x40\) and its end \(0x1000\)/,
    ],
    [
      'backing name out of the header',
      { features: 1n, backingFilenameOffset: 4093, backingFilenameSize: 4 },
      'corrupt',
      /at 0xffd: expected between/,
    ],
    [
      'backing name of NULs',
      { features: 1n, backingFilenameOffset: 64, backingFilenameSize: 4 },
      'corrupt',
      /contains a NUL/,
    ],
  ];
  test.each(cases)('%s', (_name, header, kind, text) => {
    const problem = refusal(qedBytes({ ...SOUND, header }));
    expect(problem.kind).toBe(kind);
    expect(problem.message).toMatch(text);
  });

  test('an image size above 2^53 that the tables allow', () => {
    const source = new SparseSource();
    const description = { clusterSize: 2 ** 26, tableSize: 16, imageSize: 2 ** 53 };
    source.size = encodeQed(description, (at, bytes) => source.put(at, bytes)).size;
    const problem = refusal(source);
    expect(problem.kind).toBe('unsupported');
    expect(problem.message).toMatch(/image size is 9007199254740992 bytes, supported are 9007199254740991/);
  });

  test('a file that ends inside the header, or inside the L1 table', () => {
    expect(refusal(qedBytes(SOUND).subarray(0, 63)).message).toMatch(/expected 64 bytes, the file has 63/);
    expect(refusal(new Uint8Array(0)).message).toMatch(/expected 64 bytes, the file has 0/);
    expect(refusal(qedBytes(SOUND).subarray(0, 2 * K - 1)).message).toMatch(
      /L1 table of 4096 bytes at 0x1000 reaches beyond the end of the file at 0x1fff/,
    );
  });

  test('a header that cannot be read', () => {
    const source = new MemorySource(qedBytes(SOUND));
    source.readAt = () => -EIO;
    const problem = refusal(source as unknown as SparseSource);
    expect([problem.kind, problem.message]).toEqual(['io', 'QED header at 0x0: cannot be read (errno 5)']);
  });

  test('not for a bit without meaning: no backing file, but not to be probed', () => {
    const { notices } = openDisk(
      qedDriver,
      new MemorySource(qedBytes({ ...SOUND, header: { features: 4n } })),
    );
    expect(notices).toEqual([]);
  });
});

test('oddities are said and do not matter', () => {
  const patches = new Map([[qedBytes(SOUND).length, new Uint8Array([1, 2, 3])]]);
  const header = { features: 2n, compatFeatures: 8n, autoclearFeatures: 16n };
  const source = new MemorySource(qedBytes({ ...SOUND, header, patches }));
  const { image, notices } = openDisk(qedDriver, source);
  expect(notices).toEqual([
    expect.stringMatching(/not closed .* needs a check/),
    expect.stringMatching(/compatible features 0x8 are ignored/),
    expect.stringMatching(/autoclear features 0x10 are left alone/),
    expect.stringMatching(
      /size is \d+ bytes, expected a multiple of the cluster size 4096; the last 3 bytes/,
    ),
  ]);
  expect(Object.fromEntries(image.facts)).toEqual({
    'cluster-size': '4096',
    'table-size': '1 clusters',
    'header-size': '1 clusters',
    features: '0x2',
    'compat-features': '0x8',
    'autoclear-features': '0x10',
    'needs-check': 'yes',
    'l1-table': '0x1000',
    'max-size': '1073741824',
  });
});

describe('damaged entries', () => {
  const file = qedBytes(SOUND);
  const layout = encodeQed(SOUND, () => {});
  /** Where the file ends once cluster 1 has lost its data. */
  const end = file.length - K;

  /** Reads clusters 0, 1, 512 and 1024 by themselves: the first byte, or -errno. */
  function first(description: QedDescription) {
    const { disk, notices } = openDisk(qedDriver, new MemorySource(qedBytes(description)));
    const target = new Uint8Array(16);
    const found = [0, 1, 512, 1024].map((cluster) => {
      const moved = disk.read(target, 0, 16, guestOffset(cluster * K));
      return moved < 0 ? moved : target[0];
    });
    return { found, notices, disk };
  }

  test('sound ones first', () => {
    expect(first(SOUND)).toMatchObject({ found: [1, 2, 3, 4], notices: [] });
  });

  const badData: [bigint, string][] = [
    [0x3008n, 'is not a multiple of the cluster size 4096'],
    [2n, 'is not a multiple of the cluster size 4096'],
    [0x100000001n, 'is not a multiple of the cluster size 4096'],
    [BigInt(end), `lies beyond the end of the file at 0x${end.toString(16)}`],
    [0xfffffffffffff000n, `lies beyond the end of the file at 0x${end.toString(16)}`],
    [1n << 53n, `lies beyond the end of the file at 0x${end.toString(16)}`],
    [0x1000n, 'overlaps the L1 table at 0x1000'],
  ];
  test.each(badData)('L2 entry %s costs its cluster', (entry, text) => {
    const clusters = new Map<number, ClusterContent>(SOUND.clusters).set(1, { entry });
    const { found, notices, disk } = first({ ...SOUND, clusters });
    expect(found).toEqual([1, -EIO, 3, 4]);
    expect(notices).toHaveLength(1);
    expect(notices[0]).toBe(
      `QED L2 entry 1 at 0x${(layout.tables.get(0)! + 8).toString(16)}: the offset 0x${entry.toString(16)} of the data cluster ${text}`,
    );
    expect(disk.read(new Uint8Array(2 * K), 0, 2 * K, guestOffset(0))).toBe(-EIO);
    expect(readDisk(disk, 0, K)).toEqual(full(1));
  });

  test('a data cluster in a header of several clusters', () => {
    const clusters = new Map<number, ClusterContent>([[1, { entry: 0x1000n }]]);
    const { found, notices } = first({ ...SOUND, headerSize: 2, clusters });
    expect(found).toEqual([0, -EIO, 0, 0]);
    expect(notices[0]).toMatch(/0x1000 of the data cluster lies in the header, which ends at 0x2000/);
  });

  const badTables: [bigint, RegExp][] = [
    [1n, /offset 0x1 of the L2 table of 4096 bytes is not a multiple of the cluster size 4096/],
    [0x1000n, /0x1000 of the L2 table of 4096 bytes overlaps the L1 table at 0x1000/],
    [BigInt(file.length), /lies beyond the end of the file/],
    [0xffffffffffff0000n, /0xffffffffffff0000 .* lies beyond the end of the file/],
  ];
  test.each(badTables)('L1 entry %s costs the range of its table', (entry, text) => {
    const { found, notices, disk } = first({ ...SOUND, l1: new Map([[1, entry]]) });
    expect(found).toEqual([1, 2, -EIO, 4]);
    expect(notices[0]).toMatch(text);
    expect(notices[0]).toMatch(/^QED L1 entry 1 at 0x1008: /);
    const target = new Uint8Array(1);
    expect(disk.read(target, 0, 1, guestOffset(512 * K - 1))).toBe(1);
    expect(disk.read(target, 0, 1, guestOffset(1024 * K - 1))).toBe(-EIO);
    expect(disk.seek(guestOffset(2 * K), 'data')).toBe(-EIO);
  });

  test('an L2 table that the end of the file cuts', () => {
    const description = { ...SOUND, tableSize: 2, clusters: new Map([[0, full(1)]]), tables: [1, 0] };
    const cut = qedBytes({ ...description, l1: new Map([[0, 0x6000n]]) });
    const { disk, notices } = openDisk(qedDriver, new MemorySource(cut.subarray(0, 0x7fff)));
    expect(disk.read(new Uint8Array(1), 0, 1, guestOffset(0))).toBe(-EIO);
    expect(notices.at(-1)).toMatch(/L2 table of 8192 bytes lies beyond the end of the file at 0x7fff/);
  });

  test('a data cluster that the end of the file cuts: what is there is read, the rest is EIO', () => {
    const cut = file.subarray(0, file.length - K - 1000);
    // Allocated last: the data of cluster 1024, then its table. The table moves in front.
    const moved = qedBytes({ ...SOUND, tables: [2] }).subarray(0, cut.length + K);
    const { disk, notices } = openDisk(qedDriver, new MemorySource(moved));
    const at = 1024 * K;
    expect(readDisk(disk, at, 3096)).toEqual(full(4).subarray(0, 3096));
    expect(notices).toHaveLength(1);
    expect(disk.read(new Uint8Array(2), 0, 2, guestOffset(at + 3095))).toBe(-EIO);
    expect(notices[1]).toMatch(/guest offset 0x400c18: expected at 0x\w+, but the file ends at 0x\w+$/);
    expect(readDisk(disk, at + K, 512)).toEqual(new Uint8Array(512));
  });

  test('a read error of the source passes through, is not kept, and stops the count', () => {
    const source = new MemorySource(file);
    const { disk, image } = openDisk(qedDriver, source);
    const readAt = source.readAt.bind(source);
    const table = layout.tables.get(1)!;
    source.readAt = (target, start, length, at: HostOffset) =>
      at >= table && at < table + K ? -6 : readAt(target, start, length, at);
    expect(disk.read(new Uint8Array(1), 0, 1, guestOffset(512 * K))).toBe(-6);
    expect(disk.read(new Uint8Array(1), 0, 1, guestOffset(1024 * K))).toBe(1);
    expect(() => image.countAllocated(guestOffset(0), () => {})).toThrow(
      /QED L2 table 1, entry 0: cannot be read \(errno 6\)/,
    );
    source.readAt = readAt;
    expect(disk.read(new Uint8Array(1), 0, 1, guestOffset(512 * K))).toBe(1);
  });

  test('a file cut after it was opened', () => {
    const source = new MemorySource(file);
    const { disk } = openDisk(qedDriver, source);
    source.readAt = (_target, _start, length) => Math.floor(length / 2);
    expect(disk.read(new Uint8Array(1), 0, 1, guestOffset(0))).toBe(-EIO);
  });
});

test('mutated headers and tables: typed errors at open, bytes or -EIO after it', () => {
  const next = random(77);
  let opened = 0;
  const target = new Uint8Array(65_536);
  for (const { file } of samples(5)) {
    for (let round = 0; round < 60; round += 1) {
      const bytes = file.slice();
      for (let flips = between(next, 1, 3); flips > 0; flips -= 1) {
        const within = round % 2 === 0 ? qedHeader.size : Math.min(bytes.length, 65_536);
        bytes[between(next, 4, within - 1)] = between(next, 0, 255);
      }
      let disk: ReturnType<typeof openDisk>['disk'];
      try {
        disk = openDisk(qedDriver, new MemorySource(bytes), {}, 16 * 4120).disk;
      } catch (problem) {
        expect(problem).toBeInstanceOf(ImageError);
        continue;
      }
      opened += 1;
      for (let read = 0; read < 20 && disk.size > 0; read += 1) {
        const at = Math.min(disk.size - 1, Math.floor(next() * disk.size));
        const moved = disk.read(target, 0, target.length, guestOffset(at));
        expect(moved === -EIO || moved === Math.min(target.length, disk.size - at)).toBe(true);
      }
    }
  }
  expect(opened).toBeGreaterThan(100);
});
