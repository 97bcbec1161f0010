/** What `check` finds in QED images, rule by rule, and what keeps an image from being written. */

import { describe, expect, test } from 'vitest';
import { ImageError } from '../../../../src/base/errors.ts';
import { qedDriver } from '../../../../src/formats/qed/driver.ts';
import { qedHeader } from '../../../../src/formats/qed/structs.ts';
import type { CheckReport } from '../../../../src/image/check.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import type { BlockSource } from '../../../../src/source/block-source.ts';
import { step } from '../../../model/workload.ts';
import { openDisk, openEditable, parentDisk, readDisk } from '../../../support/disk.ts';
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

/** Header, L1, then for tables of 512 entries: data 0x2000, L2 0x3000, data 0x4000, data 0x5000, L2 0x6000. */
const SOUND: QedDescription = {
  clusterSize: K,
  tableSize: 1,
  imageSize: 1024 * K,
  clusters: new Map<number, ClusterContent>([
    [0, full(1)],
    [1, full(2)],
    [600, full(3)],
    [2, 'zero'],
  ]),
};

function withCluster(cluster: number, entry: bigint): QedDescription {
  return { ...SOUND, clusters: new Map(SOUND.clusters).set(cluster, { entry }) };
}

function check(source: BlockSource): CheckReport {
  const report = (text: string) => {
    throw new Error(`not a finding: ${text}`);
  };
  return qedDriver.check!(source, { tables: new TableAllocator(), report, options: new Map() });
}

const checkBytes = (bytes: Uint8Array) => check(new MemorySource(bytes));

function refusal(bytes: Uint8Array): ImageError {
  try {
    openEditable(qedDriver, new MemorySource(bytes, 'refused', true));
  } catch (problem) {
    if (problem instanceof ImageError) return problem;
    throw problem;
  }
  throw new Error('it can be written');
}

test('a sound image has no findings; what it allocates is counted', () => {
  const found = checkBytes(qedBytes(SOUND));
  expect(found).toEqual({
    findings: [],
    errors: 0,
    leaks: 0,
    leakedBytes: 0,
    warnings: 0,
    allocatedBytes: 3 * K,
  });
});

test.each(samples(7))('$name: no errors', ({ file, disk }) => {
  const found = checkBytes(file);
  expect(found.findings.filter(({ severity }) => severity === 'error')).toEqual([]);
  expect(found.errors).toBe(0);
  expect(found.allocatedBytes).toBeLessThanOrEqual(disk.length);
});

describe('errors, which keep the image from being written', () => {
  const cases: [string, QedDescription, RegExp][] = [
    ['misaligned data', withCluster(5, 0x2001n), /^QED L2 entry 5 at 0x3028: .* 0x2001 .* not a multiple/],
    ['data in the header', withCluster(5, 0n + 0x1000n), /overlaps the L1 table at 0x1000/],
    [
      'data in a larger header',
      { ...withCluster(5, 0x1000n), headerSize: 3 },
      /L2 entry 5 at .*: the offset 0x1000 .* lies in the header, which ends at 0x3000/,
    ],
    [
      'data beyond the file',
      withCluster(5, 0x700000n),
      /0x700000 .* lies beyond the end of the file at 0x7000/,
    ],
    [
      'data twice',
      withCluster(5, 0x2000n),
      /^QED L2 entry 5 at 0x3028: the data cluster at 0x2000 is in use by another entry$/,
    ],
    [
      'data in the own table',
      withCluster(5, 0x3000n),
      /^QED L2 entry 5 at 0x3028: the data cluster at 0x3000 is part of the L2 table of L1 entry 0$/,
    ],
    [
      'data in another table',
      withCluster(700, 0x3000n),
      /^QED L2 entry 188 at 0x65e0: the data cluster at 0x3000 is part of the L2 table of L1 entry 0$/,
    ],
    [
      'a table twice',
      { ...SOUND, l1: new Map([[1, 0x3000n]]) },
      /^QED L1 entry 1 at 0x1008: the L2 table at 0x3000 overlaps that of L1 entry 0$/,
    ],
    ['an L1 entry of 1', { ...SOUND, l1: new Map([[1, 1n]]) }, /^QED L1 entry 1 at 0x1008: the offset 0x1 /],
    [
      'a table beyond the file',
      { ...SOUND, l1: new Map([[1, 0x7000n]]) },
      /^QED L1 entry 1 at 0x1008: the offset 0x7000 .* beyond the end of the file at 0x7000/,
    ],
    [
      'an entry past the end of the disk that a larger file would make sound',
      { ...SOUND, l1: new Map([[5, 0x9000n]]) },
      /^QED L1 entry 5 at 0x1028: the offset 0x9000 .* beyond the end of the file at 0x7000/,
    ],
    [
      'tables that overlap in part',
      { ...SOUND, tableSize: 2, imageSize: 4096 * K, l1: new Map([[2, 0x5000n]]) },
      /^QED L1 entry 2 at 0x1010: the L2 table at 0x5000 overlaps that of L1 entry 0$/,
    ],
  ];
  test.each(cases)('%s', (_name, description, text) => {
    const file = qedBytes(description);
    const { findings, errors } = checkBytes(file);
    const found = findings.filter(({ severity }) => severity === 'error');
    expect(found.map((finding) => finding.text)).toEqual([expect.stringMatching(text)]);
    expect(errors).toBe(1);
    const problem = refusal(file);
    expect(problem.kind).toBe('corrupt');
    expect(problem.message).toBe(found[0]!.text);
    expect(problem.hint).toBe('It can be read: mount it with -o ro.');
  });

  test('data that the file does not have', () => {
    const clusters = new Map([[512, full(1)]]);
    const file = qedBytes({ ...SOUND, tables: [1], clusters });
    const { findings } = checkBytes(file.subarray(0, file.length - 512));
    expect(findings).toContainEqual({
      severity: 'error',
      text: 'QED L2 entry 0 at 0x2000: the last 512 bytes of the data cluster at 0x3000 are missing',
    });
  });

  test('an image that was not closed: the hint says how to repair it', () => {
    const problem = refusal(qedBytes({ ...withCluster(5, 0x700000n), header: { features: 2n } }));
    expect(problem.hint).toMatch(/-o ro.*vdisk check --repair/);
  });

  test('the same cluster twice, past what a word can hold', () => {
    const source = new SparseSource();
    const entry = 2n ** 32n * 4096n;
    const description = {
      ...SOUND,
      clusters: new Map<number, ClusterContent>([
        [0, { entry }],
        [1, { entry: entry + 4096n }],
        [2, { entry }],
      ]),
    };
    encodeQed(description, (at, bytes) => source.put(at, bytes));
    source.put(2 ** 32 * 4096 + 8191, new Uint8Array(1));
    expect(check(source).findings.filter(({ severity }) => severity === 'error')).toEqual([
      { severity: 'error', text: 'QED cluster at 0x100000000000: it is in use by more than one entry' },
    ]);
  });
});

test('random damage: without an error all can be read and written; with one, nothing is written', () => {
  const next = random(31);
  const list = samples(5).filter(({ disk }) => disk.length > 0 && disk.length < 2 ** 21);
  let [sound, damaged] = [0, 0];
  for (let round = 0; round < 130; round += 1) {
    const sample = list[between(next, 0, list.length - 1)]!;
    const file = sample.file.slice();
    const view = new DataView(file.buffer);
    const { clusterSize, l1TableOffset } = qedHeader.decode(file);
    const fileClusters = Math.floor(file.length / clusterSize);
    // An entry of the L1 table, or one where an L2 table may be.
    for (let n = between(next, 1, 3); n > 0; n -= 1) {
      const l1 = next() < 0.4;
      const tableAt = l1 ? Number(l1TableOffset) : between(next, 1, fileClusters - 1) * clusterSize;
      const values = [0, 1, between(next, 0, fileClusters) * clusterSize, between(next, 0, 1e9)];
      const at = tableAt + between(next, 0, next() < 0.5 ? 3 : 511) * 8;
      if (at + 8 <= file.length) view.setBigUint64(at, BigInt(values[between(next, 0, 3)]!), true);
    }
    const { errors } = checkBytes(file);
    if (errors > 0) {
      expect(refusal(file).kind).toBe('corrupt');
      damaged += 1;
      continue;
    }
    const source = new MemorySource(file, 'damaged', true);
    const below = parentDisk(sample);
    const { disk } = openEditable(qedDriver, source, {}, 1 << 20, below);
    const model = readDisk(disk);
    for (let n = 0; n < 30; n += 1) step(disk, model, next, clusterSize);
    expect(disk.close()).toBe(0);
    expect(checkBytes(source.bytes).errors).toBe(0);
    const again = openDisk(qedDriver, new MemorySource(source.bytes), {}, 1 << 20, below).disk;
    expect(Buffer.compare(readDisk(again), model)).toBe(0);
    sound += 1;
  }
  expect(sound).toBeGreaterThan(20);
  expect(damaged).toBeGreaterThan(20);
});

test('leaks: each run of clusters once, in bytes of the file', () => {
  const file = qedBytes({ ...SOUND, gap: 3, patches: new Map([[0x10000, new Uint8Array(100)]]) });
  const found = checkBytes(file);
  expect(found.findings).toEqual([
    { severity: 'warning', text: expect.stringMatching(/65636 bytes, expected a multiple/) },
    { severity: 'leak', text: 'QED file, 12288 bytes at 0x1000: nothing references the clusters there' },
    { severity: 'leak', text: 'QED file, 12288 bytes at 0x7000: nothing references the clusters there' },
    { severity: 'leak', text: 'QED file, 12388 bytes at 0xd000: nothing references the clusters there' },
  ]);
  expect([found.leaks, found.leakedBytes, found.errors]).toEqual([3, 2 * 12288 + 12388, 0]);
});

test('warnings: feature bits, and damage past the end of the disk', () => {
  const found = checkBytes(
    qedBytes({
      ...SOUND,
      imageSize: 601 * K,
      clusters: new Map(SOUND.clusters).set(601, { entry: 0x12345n }),
      l1: new Map([
        [2, 0x1001n],
        [511, 7n],
      ]),
      header: { features: 2n, compatFeatures: 4n, autoclearFeatures: 8n },
    }),
  );
  expect(found.findings).toEqual([
    { severity: 'warning', text: expect.stringMatching(/needs a check/) },
    { severity: 'warning', text: expect.stringMatching(/unknown compatible features 0x4/) },
    { severity: 'warning', text: expect.stringMatching(/autoclear features 0x8/) },
    {
      severity: 'warning',
      text: 'QED L1 table at 0x1000: 2 entries past the end of the disk are damaged',
    },
    {
      severity: 'warning',
      text: 'QED L2 table at 0x6000: 1 entries past the end of the disk are damaged',
    },
  ]);
});

test('a cluster that only an entry past the end of the disk names is no leak', () => {
  const clusters = new Map(SOUND.clusters).set(900, full(9));
  expect(checkBytes(qedBytes({ ...SOUND, imageSize: 601 * K, clusters })).leaks).toBe(0);
});

test('an image that cannot be opened is refused as by open', () => {
  expect(() => checkBytes(qedBytes({ ...SOUND, header: { features: 8n } }))).toThrow(/incompatible features/);
});
