import { describe, expect, it } from 'vitest';
import { EIO } from '../../../../src/base/errno.ts';
import { ImageError } from '../../../../src/base/errors.ts';
import { guestOffset, type HostOffset } from '../../../../src/base/units.ts';
import { vdiDriver } from '../../../../src/formats/vdi/driver.ts';
import { openDisk, readDisk } from '../../../support/disk.ts';
import { encodeVdi, FREE, samples, type VdiDescription, ZERO } from '../../../support/encoders/vdi.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, random } from '../../../support/random.ts';

const GOOD: VdiDescription = { map: [0, FREE, 1], blockSize: 4096 };
const OLD = 2;

const fileOf = (vdi: VdiDescription) => encodeVdi(vdi, random(1)).file;

function patched(vdi: VdiDescription, at: number, value: number): Uint8Array {
  const file = fileOf(vdi);
  new DataView(file.buffer).setUint32(at, value, true);
  return file;
}

function refusal(file: Uint8Array, options: Record<string, string> = {}): ImageError {
  try {
    openDisk(vdiDriver, new MemorySource(file), options);
  } catch (problem) {
    if (problem instanceof ImageError) return problem;
    throw problem;
  }
  return expect.fail('the image was opened');
}

describe('refused', () => {
  const cases: [string, Uint8Array, string, string][] = [
    [
      'an empty file',
      new Uint8Array(),
      'corrupt',
      'VDI pre-header at 0x0: it takes 72 bytes, the file has 0 of them',
    ],
    [
      'a header cut off',
      fileOf(GOOD).subarray(0, 0x1c0),
      'corrupt',
      'VDI header at 0x48: it takes 384 bytes, the file has 376 of them',
    ],
    [
      'an old header cut off',
      fileOf({ ...GOOD, version: OLD }).subarray(0, 0x1a3),
      'corrupt',
      'VDI header at 0x48: it takes 348 bytes, the file has 347 of them',
    ],
    [
      'another signature',
      patched(GOOD, 0x40, 0x12345678),
      'corrupt',
      'VDI pre-header at 0x40: signature is 0x12345678, expected 0xbeda107f',
    ],
    [
      'version 2.0',
      patched(GOOD, 0x44, 0x20000),
      'unsupported',
      'VDI pre-header at 0x44: version is 2.0, supported are 1.1 and 0.2',
    ],
    [
      'version 0.1',
      patched(GOOD, 0x44, 1),
      'unsupported',
      'VDI pre-header at 0x44: version is 0.1, supported are 1.1 and 0.2',
    ],
    [
      'a header size too small',
      patched(GOOD, 0x48, 0x17f),
      'corrupt',
      'VDI header at 0x48: header size is 0x17f, expected at least 0x180',
    ],
    [
      'a header that reaches into the map',
      patched(GOOD, 0x48, 0x1b9),
      'corrupt',
      'VDI block map at 0x200: it overlaps the header, which ends at 0x201',
    ],
    [
      'the largest header size',
      patched(GOOD, 0x48, 0xffffffff),
      'corrupt',
      'VDI block map at 0x200: it overlaps the header, which ends at 0x100000047',
    ],
    [
      'an unknown type',
      patched(GOOD, 0x4c, 9),
      'unsupported',
      'VDI header at 0x4c: image type is 9, known are 1 to 4',
    ],
    [
      'an unknown type, 0.2',
      patched({ ...GOOD, version: OLD }, 0x48, 0),
      'unsupported',
      'VDI header at 0x48: image type is 0, known are 1 to 4',
    ],
    [
      'a map in the header',
      patched(GOOD, 0x154, 0x1c7),
      'corrupt',
      'VDI block map at 0x1c7: it overlaps the header, which ends at 0x1c8',
    ],
    [
      'data in the map',
      patched(GOOD, 0x158, 0x20b),
      'corrupt',
      'VDI data area at 0x20b: it overlaps the block map, which ends at 0x20c',
    ],
    [
      'a map beyond the file',
      patched({ ...GOOD, dataOffset: 0x7fffffff, map: [FREE] }, 0x154, 0x7000000).subarray(0, 0x2000),
      'corrupt',
      'VDI block map at 0x7000000: its 1 entries end at 0x7000004, the file ends at 0x2000',
    ],
    [
      'a map that the file cuts off',
      fileOf({ ...GOOD, spareBlocks: 100 }).subarray(0, 0x200 + 411),
      'corrupt',
      'VDI block map at 0x200: its 103 entries end at 0x39c, the file ends at 0x39b',
    ],
    [
      'too few blocks',
      patched({ ...GOOD, diskSize: 8193 + 511 }, 0x180, 2),
      'corrupt',
      'VDI header at 0x180: the image has 2 blocks of 4096 bytes, ' +
        '3 are needed for the disk size of 8704 bytes',
    ],
    [
      'block size 0',
      patched(GOOD, 0x178, 0),
      'corrupt',
      'VDI header at 0x178: block size is 0, expected a power of two from 512 on',
    ],
    [
      'block size 256',
      patched(GOOD, 0x178, 256),
      'corrupt',
      'VDI header at 0x178: block size is 256, expected a power of two from 512 on',
    ],
    [
      'block size 1 MiB and 1',
      patched(GOOD, 0x178, 0x100001),
      'corrupt',
      'VDI header at 0x178: block size is 1048577, expected a power of two from 512 on',
    ],
    [
      'a block size of 512 MiB',
      patched(GOOD, 0x178, 0x20000000),
      'unsupported',
      'VDI header at 0x178: block size is 536870912, at most 268435456 is supported',
    ],
    [
      'block size 0, 0.2',
      patched({ ...GOOD, version: OLD }, 0x168, 0),
      'corrupt',
      'VDI header at 0x168: block size is 0, expected a power of two from 512 on',
    ],
    [
      'a disk size above 2^53',
      patched(GOOD, 0x174, 0x200000),
      'unsupported',
      'VDI header at 0x170: disk size is 9007199254753280 bytes, at most 2^53 - 1 are supported',
    ],
    [
      'sectors of 4096 bytes',
      fileOf({ ...GOOD, sectorSize: 4096 }),
      'unsupported',
      'VDI header at 0x168: sector size is 4096, supported is 512',
    ],
    [
      'sectors of 4096 bytes, 0.2',
      fileOf({ ...GOOD, sectorSize: 4096, version: OLD }),
      'unsupported',
      'VDI header at 0x15c: sector size is 4096, supported is 512',
    ],
    [
      'sectors of 4096 bytes in the logical geometry',
      fileOf({ ...GOOD, headerSize: 0x190, lchs: [1, 1, 1, 4096] }),
      'unsupported',
      'VDI logical geometry at 0x1d4: sector size is 4096, supported is 512',
    ],
  ];

  it.each(cases)('%s', (_name, file, kind, message) => {
    const problem = refusal(file);
    expect(problem.message).toBe(message);
    expect(problem.kind).toBe(kind);
  });

  it('a source that fails', () => {
    class Failing extends MemorySource {
      override readAt(): number {
        return -EIO;
      }
    }
    expect(() => openDisk(vdiDriver, new Failing(fileOf(GOOD)))).toThrow(
      'VDI pre-header at 0x0: it cannot be read (errno 5)',
    );
  });
});

describe('the option vdi-header-size', () => {
  it('lets a wrong header size pass, but none that covers the map', () => {
    const { file, disk: model } = encodeVdi({ ...GOOD, headerSize: 0 }, random(1));
    expect(refusal(file, { 'vdi-header-size': 'checked' }).hint).toContain('vdi-header-size=any');
    const { disk } = openDisk(vdiDriver, new MemorySource(file), { 'vdi-header-size': 'any' });
    expect(readDisk(disk)).toEqual(model);
    const overlap = patched({ ...GOOD, headerSize: 0 }, 0x154, 0x1c7);
    expect(refusal(overlap, { 'vdi-header-size': 'any' }).message).toContain('ends at 0x1c8');
  });
});

describe('let pass with a notice', () => {
  it.each([
    [{ flags: 3 }, 'VDI header at 0x50: flags are 0x3, only bit 0 is known'],
    [{ allocated: 4 }, 'VDI header at 0x184: 4 blocks are said to be allocated, the image has 3'],
    [{ create: new Uint8Array(16) }, 'VDI header at 0x188: the create UUID is null'],
    [{ modify: new Uint8Array(16) }, 'VDI header at 0x198: the modify UUID is null'],
    [{ comment: new Uint8Array(256).fill(65) }, 'VDI header at 0x54: the comment has no terminating NUL'],
    [{ map: [], diskSize: 0 }, 'VDI header at 0x170: disk size is 0'],
    [{ version: 0x10000 }, 'VDI pre-header at 0x44: version is 1.0; the header is read as that of 1.1'],
    [
      { type: 4 },
      'VDI header at 0x4c: image type is differencing, but no parent is named; free blocks read as zeros',
    ],
    [
      { diskSize: 3 * 4096 - 511 },
      'VDI header at 0x170: disk size is 11777 bytes, not a multiple of 512; ' +
        'the last 1 bytes were visible to no guest and are left out',
    ],
  ])('%j', (some, notice) => {
    const { file, disk: model } = encodeVdi({ ...GOOD, ...some }, random(1));
    const { disk, notices } = openDisk(vdiDriver, new MemorySource(file));
    expect(notices).toEqual([notice]);
    expect(readDisk(disk)).toEqual(model);
  });

  it('nothing where all is well', () => {
    expect(openDisk(vdiDriver, new MemorySource(fileOf(GOOD))).notices).toEqual([]);
    const plus = fileOf({ ...GOOD, headerSize: 0x190, lchs: [1, 1, 1, 512], flags: 1 });
    expect(openDisk(vdiDriver, new MemorySource(plus)).notices).toEqual([]);
  });
});

describe('a damaged entry', () => {
  const block = new Uint8Array(4096);
  const vdi: VdiDescription = { map: [0, 1, 2, FREE, ZERO, 3], blockSize: 4096 };

  it.each([
    [6, 'VDI block map entry 1 at 0x204: physical block is 6, the image has 6 blocks'],
    [0xfffffffd, 'VDI block map entry 1 at 0x204: physical block is 4294967293, the image has 6 blocks'],
    [4, 'VDI block map entry 1 at 0x204: physical block 4 is at 0x4400 to 0x5400, the file ends at 0x4400'],
    [5, 'VDI block map entry 1 at 0x204: physical block 5 is at 0x5400 to 0x6400, the file ends at 0x4400'],
  ])('%i is an error there and nowhere else', (entry, message) => {
    const { disk: model } = encodeVdi(vdi, random(1));
    const { disk, notices, image } = openDisk(vdiDriver, new MemorySource(patched(vdi, 0x204, entry)));
    for (const n of [0, 2, 3, 4, 5]) {
      expect(disk.read(block, 0, 4096, guestOffset(n * 4096))).toBe(4096);
      expect(Buffer.compare(block, model.subarray(n * 4096, (n + 1) * 4096))).toBe(0);
    }
    expect(notices).toEqual([]);
    expect(disk.read(block, 0, 100, guestOffset(4096))).toBe(-EIO);
    expect(disk.read(block, 0, 4096, guestOffset(8191))).toBe(-EIO);
    expect(disk.read(block, 0, 4096, guestOffset(1))).toBe(-EIO);
    expect(new Set(notices)).toEqual(new Set([message]));
    let allocated = 0;
    image.countAllocated(guestOffset(0), (bytes) => {
      allocated += bytes;
    });
    expect(allocated).toBe(3 * 4096);
  });

  it('is told by its place in a map of odd offset, with extra bytes', () => {
    const { file } = encodeVdi({ ...vdi, extra: 3, mapOffset: 0x201, dataOffset: 0x301 }, random(1));
    new DataView(file.buffer).setUint32(0x205, 5, true);
    const { disk, notices } = openDisk(vdiDriver, new MemorySource(file));
    expect(disk.read(block, 0, 100, guestOffset(4096))).toBe(-EIO);
    const at = 0x301 + 5 * 4099 + 3;
    expect(notices).toEqual([
      `VDI block map entry 1 at 0x205: physical block 5 is at 0x${at.toString(16)} to ` +
        `0x${(at + 4096).toString(16)}, the file ends at 0x${file.length.toString(16)}`,
    ]);
  });

  it('a block that the file cuts off is read as far as it goes', () => {
    const { file, disk: model } = encodeVdi({ map: [1, 0, 2], blockSize: 4096 }, random(1));
    const { disk, notices } = openDisk(vdiDriver, new MemorySource(file.subarray(0, file.length - 1000)));
    const target = new Uint8Array(3096);
    expect(disk.read(target, 0, 3096, guestOffset(8192))).toBe(3096);
    expect(Buffer.compare(target, model.subarray(8192, 8192 + 3096))).toBe(0);
    expect(disk.read(target, 0, 1, guestOffset(8192 + 3096))).toBe(-EIO);
    expect(disk.read(target, 0, 3096, guestOffset(8193))).toBe(-EIO);
    expect(notices[0]).toBe(
      `VDI block map entry 2 at 0x208: physical block 2 is at 0x2400 to 0x3400, the file ends at 0x3018`,
    );
  });

  it('a fixed image that ends with its disk is whole', () => {
    const fixed: VdiDescription = { map: [0, 1], blockSize: 4096, diskSize: 4096 + 512, type: 2 };
    const { file, disk: model } = encodeVdi(fixed, random(1));
    const { disk } = openDisk(vdiDriver, new MemorySource(file.subarray(0, file.length - 4096 + 512)));
    expect(readDisk(disk)).toEqual(model);
  });
});

describe('a map page that cannot be read', () => {
  class Failing extends MemorySource {
    failing = false;
    override readAt(target: Uint8Array, start: number, length: number, at: HostOffset): number {
      if (this.failing && at < 0x200 + 8192 && at + length > 0x200 + 4096) return -EIO;
      return super.readAt(target, start, length, at);
    }
  }

  it('is an error at its blocks, said with its place, and is tried again', () => {
    const map = Array.from({ length: 3000 }, (_, n) => n);
    const { file, disk: model } = encodeVdi({ map, blockSize: 512 }, random(1));
    const source = new Failing(file);
    const { disk, image, notices } = openDisk(vdiDriver, source);
    source.failing = true;
    const target = new Uint8Array(512);
    expect(disk.read(target, 0, 512, guestOffset(1024 * 512))).toBe(-EIO);
    expect(notices).toEqual(['VDI block map at 0x1200: 4096 bytes cannot be read (errno 5)']);
    expect(disk.read(target, 0, 512, guestOffset(1023 * 512))).toBe(512);
    expect(disk.read(target, 0, 512, guestOffset(2048 * 512))).toBe(512);
    expect(() => image.countAllocated(guestOffset(0), () => {})).toThrow(ImageError);
    source.failing = false;
    expect(disk.read(target, 0, 512, guestOffset(1024 * 512))).toBe(512);
    expect(Buffer.compare(target, model.subarray(1024 * 512, 1025 * 512))).toBe(0);
  });
});

describe('random damage', () => {
  it('gives the typed error or bytes, and nothing else', () => {
    const next = random(11);
    const small = samples(2).filter((sample) => sample.file.length < 100_000);
    const target = new Uint8Array(65536);
    let opened = 0;
    for (let round = 0; round < 1500; round += 1) {
      const file = small[round % small.length]!.file.slice();
      for (let n = between(next, 1, 3); n > 0; n -= 1) {
        // Mostly the header's numbers, sometimes the map.
        const at = next() < 0.7 ? between(next, 0x40, 0x1d8) : between(next, 0, file.length - 1);
        file[Math.min(at, file.length - 1)] = next() < 0.5 ? between(next, 0, 255) : 0xff;
      }
      const cut = next() < 0.2 ? between(next, 0, file.length) : file.length;
      try {
        const { disk } = openDisk(vdiDriver, new MemorySource(file.subarray(0, cut)), {}, 16 * 4120);
        opened += 1;
        for (let read = 0; read < 10; read += 1) {
          const at = Math.floor(next() * disk.size);
          const moved = disk.read(target, 0, target.length, guestOffset(at));
          expect(moved === -EIO || moved === Math.min(target.length, disk.size - at)).toBe(true);
        }
      } catch (problem) {
        if (!(problem instanceof ImageError)) throw problem;
      }
    }
    expect(opened).toBeGreaterThan(300);
  });
});
