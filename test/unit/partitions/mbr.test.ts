/** Master boot records, chains of extended partitions, and what is no MBR. */

import { describe, expect, it } from 'vitest';
import { DiskRange } from '../../../src/partitions/range.ts';
import { readTable } from '../../../src/partitions/table.ts';
import { type MbrPart, mbr, putGpt, TestDisk } from '../../support/encoders/partitions.ts';

const SIZE = 64 * 1024 * 1024;
const linux = (start: number, sectors: number): MbrPart => ({ type: 0x83, start, sectors });
const link = (start: number, sectors: number): MbrPart => ({ type: 0x05, start, sectors });

function read(disk: TestDisk, sectorSize = 512) {
  const notices: string[] = [];
  const table = readTable(new DiskRange(disk), sectorSize, (text) => notices.push(text));
  const places = table.partitions.map(({ number, start }) => [number, start / table.sectorSize]);
  return { table, notices, places };
}

/** Two primaries, and two logical ones in an extended partition from sector 10000 on. */
function extended(): TestDisk {
  return new TestDisk(SIZE)
    .put(
      0,
      mbr([linux(2048, 2048), undefined, linux(4096, 10), { ...link(10_000, 5000), type: 0x0f }], 0xdeadbeef),
    )
    .put(10_000 * 512, mbr([linux(63, 100), link(1000, 500)]))
    .put(11_000 * 512, mbr([linux(63, 200)]));
}

describe('an MBR', () => {
  it('is read, logical partitions from 5 on', () => {
    const { table, notices } = read(extended());
    expect(notices).toEqual([]);
    expect(table).toMatchObject({ kind: 'mbr', sectorSize: 512, uuid: 'deadbeef' });
    const common = { type: '0x83', typeName: 'Linux', label: '', container: false };
    expect(table.partitions).toEqual([
      { ...common, number: 1, start: 2048 * 512, length: 2048 * 512, uuid: 'deadbeef-01' },
      { ...common, number: 3, start: 4096 * 512, length: 5120, uuid: 'deadbeef-03' },
      {
        ...common,
        number: 4,
        start: 10_000 * 512,
        length: 5000 * 512,
        type: '0x0f',
        typeName: 'Extended (LBA)',
        uuid: 'deadbeef-04',
        container: true,
      },
      { ...common, number: 5, start: 10_063 * 512, length: 51_200, uuid: 'deadbeef-05' },
      { ...common, number: 6, start: 11_063 * 512, length: 102_400, uuid: 'deadbeef-06' },
    ]);
  });

  it('counts in sectors of 4096 bytes where the disk does, and has no identity where that is 0', () => {
    const disk = new TestDisk(SIZE).put(0, mbr([linux(256, 256)]));
    expect(read(disk, 4096).table).toMatchObject({
      sectorSize: 4096,
      uuid: '',
      partitions: [{ start: 1048576, length: 1048576, uuid: '' }],
    });
  });

  it('in sectors of 512 bytes on a disk of 4096 is told by what fits', () => {
    const disk = new TestDisk(SIZE).put(0, mbr([linux(2048, 2048), linux(100_000, 1000)]));
    expect(read(disk, 4096)).toMatchObject({
      places: [
        [1, 2048],
        [2, 100_000],
      ],
      notices: ["the MBR counts in sectors of 512 bytes, not in the disk's of 4096"],
    });
  });

  it('has partitions cut or left out as they fit', () => {
    const disk = new TestDisk(SIZE).put(
      0,
      mbr([linux(2048, 4096), linux(3000, 10), linux(130_000, 0xffffffff), linux(0xfffffff0, 1)]),
    );
    const { table, notices } = read(disk);
    expect(table.partitions).toMatchObject([
      { number: 1, length: 4096 * 512 },
      { number: 3, length: SIZE - 130_000 * 512 },
    ]);
    expect(notices).toEqual([
      expect.stringMatching(/^partition 2 .* overlaps partition 1/),
      expect.stringMatching(/^partition 3 .* it is cut/),
      expect.stringMatching(/^partition 4 .* begins past the end/),
    ]);
  });

  it('has no partition where the table itself is', () => {
    const disk = new TestDisk(SIZE).put(0, mbr([linux(0, 100), linux(2048, 1)]));
    expect(read(disk)).toMatchObject({
      places: [[2, 2048]],
      notices: [expect.stringMatching(/^partition 1: begins at/)],
    });
  });
});

describe('a chain of extended tables', () => {
  it.each([
    ['itself', 0],
    ['an earlier one', 1000],
  ])('that leads back to %s ends there', (_, back) => {
    const disk = extended().put(11_000 * 512, mbr([linux(63, 200), link(back, 500)]));
    const { places, notices } = read(disk);
    expect(places.slice(-2)).toEqual([
      [5, 10_063],
      [6, 11_063],
    ]);
    expect(notices).toEqual([
      expect.stringMatching(/leads back to the table at 0x.*; the chain ends there$/),
    ]);
  });

  it.each([
    ['past the end', 0xf0000000],
    ['to no table', 3000],
  ])('that leads %s ends there', (_, away) => {
    const disk = extended().put(11_000 * 512, mbr([linux(63, 200), link(away, 500)]));
    const { places, notices } = read(disk);
    expect(places.at(-1)).toEqual([6, 11_063]);
    expect(notices).toEqual([expect.stringMatching(/expected the signature 0xaa55, found .*left out$/)]);
  });

  it('is bounded, with partitions and without', () => {
    for (const part of [linux(1, 1), undefined]) {
      const disk = new TestDisk(SIZE).put(0, mbr([link(2048, 100_000)]));
      for (let table = 0; table < 2000; table += 1) {
        disk.put((2048 + table * 3) * 512, mbr([part, link((table + 1) * 3, 3)]));
      }
      const { places, notices } = read(disk);
      expect(places.length).toBe(part === undefined ? 1 : 256);
      expect(notices[0]).toMatch(/^extended partition table at .*: only (256 logical partitions|512 tables)/);
      expect(disk.bytesRead).toBeLessThan(1 << 20);
    }
  });

  it('numbers what is in the last two entries only where that lies inside', () => {
    const disk = extended().put(
      10_000 * 512,
      mbr([linux(63, 100), link(1000, 500), linux(400, 10), linux(0xfffff, 77)]),
    );
    expect(read(disk).places.slice(3)).toEqual([
      [5, 10_063],
      [6, 10_400],
      [7, 11_063],
    ]);
  });

  it('is followed in each extended partition', () => {
    const disk = extended();
    disk.put(0, mbr([link(10_000, 5000), link(20_000, 100)]));
    disk.put(20_000 * 512, mbr([linux(1, 1)]));
    expect(read(disk).places.at(-1)).toEqual([7, 20_001]);
  });
});

/** The boot sector of a FAT16 volume with a well-formed, plausible table where its code is. */
function fatBootSector(table: readonly MbrPart[]): Buffer {
  const sector = mbr(table);
  sector.write('eb3c90', 0, 'hex');
  sector.write('mkfs.fat', 3, 'latin1');
  sector.writeUInt16LE(512, 0x0b);
  sector[0x0d] = 4;
  sector.writeUInt16LE(1, 0x0e);
  sector[0x10] = 2;
  sector.writeUInt16LE(512, 0x11);
  sector.writeUInt16LE(40_000, 0x13);
  sector[0x15] = 0xf8;
  sector.writeUInt16LE(40, 0x16);
  return sector;
}

describe('no MBR is', () => {
  const none = (disk: TestDisk) => expect(read(disk).table).toMatchObject({ kind: 'none', partitions: [] });

  it('a disk of zeros, or one of a few bytes', () => {
    none(new TestDisk(SIZE));
    none(new TestDisk(511));
  });

  it('a sector without the signature, or with active flags that are none', () => {
    none(new TestDisk(SIZE).put(0, mbr([linux(2048, 2048)], 0, 0xaa54)));
    none(new TestDisk(SIZE).put(0, mbr([linux(2048, 2048), { ...linux(9000, 1), boot: 0x20 }])));
  });

  it('an empty table', () => none(new TestDisk(SIZE).put(0, mbr([]))));

  it('a FAT boot sector, even if a table would fit there', () => {
    const disk = new TestDisk(SIZE).put(0, fatBootSector([linux(2048, 2048)]));
    none(disk.put(512, Buffer.from('f8ffffff', 'hex')));
  });

  it.each(['NTFS    ', 'EXFAT   ', '-FVE-FS-', 'ReFS\0\0\0\0'])('a boot sector named %j', (name) => {
    const sector = mbr([linux(2048, 2048)]);
    sector.write('eb5290', 0, 'hex');
    sector.write(name, 3, 'latin1');
    if (name.startsWith('NTFS')) sector.write('000208', 0x0b, 'hex');
    if (name.startsWith('NTFS')) sector[0x40] = 0xf6;
    if (name.startsWith('EXFAT')) sector.write('0903', 108, 'hex');
    if (name.startsWith('ReFS')) sector.write('FSRS', 16, 'latin1');
    none(new TestDisk(SIZE).put(0, sector));
  });

  it('but a boot loader that kept the geometry of a FAT makes one', () => {
    const disk = new TestDisk(SIZE).put(0, fatBootSector([linux(2048, 2048)]));
    expect(read(disk).table).toMatchObject({ kind: 'mbr', partitions: [{ number: 1 }] });
  });

  it('a stale GPT does not hide a file system over the whole disk', () => {
    const disk = putGpt(new TestDisk(SIZE), [{ number: 1, first: 2048, last: 4095 }]);
    const superblock = Buffer.alloc(1024);
    superblock.writeUInt32LE(64, 0);
    superblock.writeUInt32LE(64, 4);
    superblock.writeUInt16LE(0xef53, 0x38);
    disk.put(0, Buffer.alloc(512)).put(1024, superblock);
    expect(read(disk)).toMatchObject({ table: { kind: 'none' }, notices: [] });
  });
});

it('a disk that cannot be read is an error that says where', () => {
  const disk = new TestDisk(SIZE);
  disk.broken.push([0, 512]);
  expect(() => readTable(new DiskRange(disk), 512, () => {})).toThrow(/the disk at 0x0: .* errno 5/);
});
