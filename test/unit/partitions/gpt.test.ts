/** GUID partition tables, sound and damaged. */

import { describe, expect, it } from 'vitest';
import { DiskRange } from '../../../src/partitions/range.ts';
import { readTable } from '../../../src/partitions/table.ts';
import { type GptOptions, type GptPart, mbr, putGpt, TestDisk } from '../../support/encoders/partitions.ts';

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;
const PARTS: readonly GptPart[] = [
  { number: 1, first: 2048, last: 4095, name: 'erste' },
  { number: 7, first: 8192, last: 8192, name: 'Ünï — 7', type: '28732ac11ff8d211ba4b00a0c93ec93b' },
];

function read(disk: TestDisk, sectorSize = 512) {
  const notices: string[] = [];
  const table = readTable(new DiskRange(disk), sectorSize, (text) => notices.push(text));
  return { table, notices, numbers: table.partitions.map(({ number }) => number) };
}

const gpt = (parts: readonly GptPart[] = PARTS, options: GptOptions = {}): TestDisk =>
  putGpt(new TestDisk(SIZE), parts, options);

const wipe = (disk: TestDisk, at: number, length: number): TestDisk => disk.put(at, Buffer.alloc(length));

describe('a GPT', () => {
  it('is read with numbers, places, names and identities', () => {
    const { table, notices } = read(gpt());
    expect(notices).toEqual([]);
    expect(table).toEqual({
      kind: 'gpt',
      sectorSize: 512,
      uuid: 'd1d1d1d1-d1d1-d1d1-d1d1-d1d1d1d1d1d1',
      partitions: [
        {
          number: 1,
          start: MIB,
          length: MIB,
          type: '0fc63daf-8483-4772-8e79-3d69d8477de4',
          typeName: 'Linux file system',
          label: 'erste',
          uuid: '01010101-0101-0101-0101-010101010101',
          container: false,
        },
        {
          number: 7,
          start: 4 * MIB,
          length: 512,
          type: 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b',
          typeName: 'EFI system',
          label: 'Ünï — 7',
          uuid: '07070707-0707-0707-0707-070707070707',
          container: false,
        },
      ],
    });
  });

  it('counts in sectors of 4096 bytes where the disk does', () => {
    const { table, notices } = read(gpt([{ number: 1, first: 256, last: 511 }], { sectorSize: 4096 }), 4096);
    expect(notices).toEqual([]);
    expect(table).toMatchObject({ sectorSize: 4096, partitions: [{ start: MIB, length: MIB }] });
  });

  it.each([
    [512, 4096],
    [4096, 512],
  ])('in sectors of another size (%i on a disk of %i) is read with a notice', (written, asked) => {
    const { table, notices } = read(
      gpt([{ number: 1, first: 2048, last: 2049 }], { sectorSize: written }),
      asked,
    );
    expect(notices).toEqual([`the GPT counts in sectors of ${written} bytes, not in the disk's of ${asked}`]);
    expect(table).toMatchObject({ sectorSize: written, partitions: [{ start: 2048 * written }] });
  });

  it('shows names without what would change a terminal', () => {
    const { table } = read(gpt([{ number: 1, first: 2048, last: 4095, name: 'a\u001b[2J\u202eb ' }]));
    expect(table.partitions[0]!.label).toBe('a\ufffd[2J\ufffdb');
  });

  it('has entries of any size that the specification allows', () => {
    const { table, notices } = read(gpt(PARTS, { entrySize: 512, count: 32 }));
    expect([table.partitions.length, notices]).toEqual([2, []]);
  });
});

/** Ways in which the first copy is bad, each found by another check. */
const DAMAGE: readonly (readonly [string, (disk: TestDisk) => void, RegExp])[] = [
  ['no signature', (disk) => wipe(disk, 512, 512), /expected "EFI PART"/],
  ['a bit of the header', (disk) => disk.put(512 + 56, Buffer.of(0)), /checksum is 0x\w+, computed 0x/],
  ['a bit of the entries', (disk) => disk.put(1024 + 56, Buffer.of(1)), /checksum of its entries is 0x/],
  ['another revision', (disk) => disk.put(512 + 8, Buffer.of(1)), /revision is 0x10001/],
  ['a huge header', (disk) => disk.put(512 + 14, Buffer.of(1)), /header size is 65628/],
];

/** Headers with a right checksum that say nonsense, in both copies. */
const NONSENSE: readonly (readonly [string, (header: Buffer) => void, RegExp])[] = [
  ['many entries', (header) => header.writeUInt32LE(0xffffffff, 80), /4294967295 entries of 128 bytes/],
  ['no entries', (header) => header.writeUInt32LE(0, 80), /0 entries/],
  ['small entries', (header) => header.writeUInt32LE(64, 84), /entry size is 64/],
  ['odd entries', (header) => header.writeUInt32LE(136, 84), /entry size is 136/],
  ['entries past the end', (header) => header.writeBigUInt64LE(1n << 40n, 72), /are not on the disk/],
  ['entries at 2^63', (header) => header.writeBigUInt64LE(1n << 63n, 72), /are not on the disk/],
  ['another place', (header) => header.writeBigUInt64LE(77n, 24), /says that it is at LBA 77/],
];

describe('a damaged GPT', () => {
  it.each(DAMAGE)('is read from its backup: %s', (_, damage, reason) => {
    const disk = gpt();
    damage(disk);
    const { numbers, notices } = read(disk);
    expect(numbers).toEqual([1, 7]);
    expect(notices).toEqual([
      expect.stringMatching(/^GPT header at LBA 1 \(0x200\).*; the backup at LBA 131071 is used$/),
    ]);
    expect(notices[0]).toMatch(reason);
  });

  it.each(NONSENSE)('in both copies shows nothing, and why: %s', (_, header, reason) => {
    const { table, notices } = read(gpt(PARTS, { header }));
    expect(table).toMatchObject({ kind: 'gpt', partitions: [] });
    expect(notices).toEqual([expect.stringMatching(/^the MBR protects a GPT that cannot be read: /)]);
    expect(notices[0]).toMatch(reason);
  });

  it('is read from where its header says that the backup is, if only the entries are bad', () => {
    const small = gpt();
    const grown = new TestDisk(2 * SIZE).put(0, small.get(0, SIZE));
    grown.put(1024, Buffer.alloc(128, 0xff));
    const { numbers, notices } = read(grown);
    expect(numbers).toEqual([1, 7]);
    expect(notices[0]).toMatch(/the backup at LBA 131071 is used$/);
  });

  it('is read without its protective MBR, from either copy', () => {
    const first = wipe(gpt(), 0, 512);
    expect(read(first)).toMatchObject({ numbers: [1, 7], notices: ['the GPT has lost its protective MBR'] });
    const last = wipe(gpt(), 0, MIB);
    expect(read(last).numbers).toEqual([1, 7]);
    expect(read(last).notices).toHaveLength(2);
  });
});

describe('partitions that cannot be', () => {
  const placed = (first: number | bigint, last: number | bigint) =>
    read(gpt([...PARTS, { number: 9, first, last }]));

  it.each([
    ['begin past the end', 131072, 131072, /^partition 9 at 0x4000000: begins past the end/],
    ['end before they begin', 9000, 8999, /is no range/],
    ['are where the table is', 10, 20, /begins before LBA 34/],
    ['overlap another', 4000, 9000, /^partition 9 at 0x1f4000: overlaps partition 1 at 0x100000/],
    ['reach past 2^53', 1n << 60n, (1n << 60n) + 5n, /past the end of any disk/],
    ['reach to 2^64', 9000, (1n << 64n) - 1n, /past the end of any disk/],
  ] as const)('are left out: those that %s', (_, first, last, reason) => {
    const { numbers, notices } = placed(first, last);
    expect(numbers).toEqual([1, 7]);
    expect(notices).toEqual([expect.stringMatching(reason)]);
  });

  it('are cut where they end past the disk', () => {
    const { table, notices } = placed(100_000, 1_000_000);
    expect(table.partitions[2]).toMatchObject({ number: 9, start: 51_200_000, length: SIZE - 51_200_000 });
    expect(notices).toEqual([expect.stringMatching(/^partition 9 at .*: it is cut$/)]);
  });

  it('are bounded in number', () => {
    const parts = Array.from({ length: 300 }, (_, index) => ({
      number: index + 1,
      first: 4000 + index,
      last: 4000 + index,
    }));
    const { numbers, notices } = read(gpt(parts, { count: 1024 }));
    expect(numbers).toHaveLength(256);
    expect(notices).toEqual(['only the first 256 partitions are shown']);
  });
});

describe('beside a GPT', () => {
  it('partitions of a hybrid MBR are not shown', () => {
    const disk = gpt().put(
      0,
      mbr([
        { type: 0xee, start: 1, sectors: 2047 },
        { type: 0x83, start: 2048, sectors: 2048 },
      ]),
    );
    expect(read(disk)).toMatchObject({ numbers: [1, 7], notices: [expect.stringMatching(/hybrid/)] });
  });

  it('an MBR that protects nothing counts, with a notice', () => {
    const disk = gpt().put(0, mbr([{ type: 0x83, start: 2048, sectors: 2048 }]));
    const { table, notices } = read(disk);
    expect(table.kind).toBe('mbr');
    expect(notices).toEqual([
      expect.stringMatching(/^there is a GPT behind an MBR that does not protect it/),
    ]);
  });
});
