/** Real images: made by qemu-img and qemu-io, and those gathered beside the repository. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { vdiDriver } from '../../src/formats/vdi/driver.ts';
import { encodeVdi, FREE, randomMap, ZERO } from '../support/encoders/vdi.ts';
import { have, IMAGES, privateFolder, withDisk } from '../support/oracle.ts';
import { between, random } from '../support/random.ts';

const MIB = 1024 * 1024;
const folder = privateFolder();

const run = (tool: string, ...args: string[]) => execFileSync(tool, args, { stdio: 'pipe' }).toString();

/** Every byte of the disk is that of the raw file. */
function expectSame(disk: Disk, raw: string): void {
  const fd = openSync(raw, 'r');
  try {
    const ours = new Uint8Array(MIB);
    const theirs = new Uint8Array(MIB);
    for (let at = 0; at < disk.size; at += MIB) {
      const wanted = Math.min(MIB, disk.size - at);
      expect(disk.read(ours, 0, MIB, guestOffset(at))).toBe(wanted);
      expect(readSync(fd, theirs, 0, MIB, at)).toBe(wanted);
      if (Buffer.compare(ours.subarray(0, wanted), theirs.subarray(0, wanted)) !== 0) {
        expect.fail(`the MiB at ${at} differs`);
      }
    }
    expect(readSync(fd, theirs, 0, 1, disk.size)).toBe(0);
  } finally {
    closeSync(fd);
  }
}

/** [offset, length] of what qemu-img map says has data, neighbours joined. */
function dataOf(path: string): [number, number][] {
  const list = JSON.parse(run('qemu-img', 'map', '-f', 'vdi', '--output=json', path)) as {
    start: number;
    length: number;
    data: boolean;
  }[];
  const joined: [number, number][] = [];
  for (const { start, length, data } of list) {
    if (!data) continue;
    const before = joined.at(-1);
    if (before !== undefined && before[0] + before[1] === start) before[1] += length;
    else joined.push([start, length]);
  }
  return joined;
}

/** The same by SEEK_DATA and SEEK_HOLE. */
function dataBySeek(disk: Disk): [number, number][] {
  const list: [number, number][] = [];
  for (let at = 0; ; ) {
    const from = disk.seek(guestOffset(at), 'data');
    if (from < 0) return list;
    at = disk.seek(guestOffset(from), 'hole');
    list.push([from, at - from]);
  }
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('images of qemu (needs qemu-img, qemu-io)', () => {
  describe.each([
    { size: 16 * MIB, fixed: false },
    { size: 16 * MIB, fixed: true },
    { size: 7 * MIB + 512, fixed: false },
    { size: 7 * MIB + 512, fixed: true },
    { size: 512, fixed: false },
    { size: 400 * MIB, fixed: false },
    { size: 400 * MIB, fixed: true },
  ])('$size bytes, fixed: $fixed', ({ size, fixed }) => {
    const name = `${size}-${fixed}`;

    it('reads as qemu-img converts it', () => {
      const path = folder.path(`${name}.vdi`);
      const raw = folder.path(`${name}.raw`);
      run('qemu-img', 'create', '-f', 'vdi', '-o', `static=${fixed ? 'on' : 'off'}`, path, `${size}`);
      const next = random(size);
      const commands: string[] = [];
      for (let n = 0; n < 12; n += 1) {
        const at = 512 * between(next, 0, size / 512 - 1);
        const length = Math.min(512 * between(next, 1, next() < 0.5 ? 16 : 5000), size - at);
        const what = next() < 0.2 ? '-z' : `-P ${between(next, 1, 255)}`;
        commands.push('-c', `write ${what} ${at} ${length}`);
      }
      commands.push('-c', `write -P 165 ${size - 512} 512`);
      run('qemu-io', '-f', 'vdi', ...commands, path);
      run('qemu-img', 'convert', '-f', 'vdi', '-O', 'raw', path, raw);
      withDisk(vdiDriver, path, ({ disk, image, notices }) => {
        expect(image.variant).toBe(fixed ? 'fixed' : 'dynamic');
        expect(image.virtualSize).toBe(size);
        expect(image.facts.get('creator')).toBe('QEMU VM Virtual Disk Image');
        expectSame(disk, raw);
        expect(notices).toEqual([]);
        if (!fixed) expect(blocksOf(dataBySeek(disk))).toEqual(blocksOf(dataOf(path)));
      });
      rmSync(path);
      rmSync(raw);
    });
  });

  it('an empty image has no data', () => {
    const path = folder.path('empty.vdi');
    run('qemu-img', 'create', '-f', 'vdi', path, '100G');
    withDisk(vdiDriver, path, ({ disk, image }) => {
      expect(disk.size).toBe(100 * 1024 * MIB);
      expect(dataBySeek(disk)).toEqual([]);
      let bytes = 0;
      for (let from = guestOffset(0); ; ) {
        const next = image.countAllocated(from, (some) => {
          bytes += some;
        });
        if (next === undefined) break;
        from = next;
      }
      expect(bytes).toBe(0);
    });
  });

  it('a disk of 0 bytes opens', () => {
    const path = folder.path('zero.vdi');
    run('qemu-img', 'create', '-f', 'vdi', path, '0');
    withDisk(vdiDriver, path, ({ disk, notices }) => {
      expect(disk.size).toBe(0);
      expect(notices).toEqual(['VDI header at 0x170: disk size is 0']);
    });
  });

  it.each([1, 2, 3])('an image of our encoder reads alike, seed %i', (seed) => {
    const next = random(seed);
    const path = folder.path(`ours-${seed}.vdi`);
    const raw = folder.path(`ours-${seed}.raw`);
    const map = [...randomMap(next, 7), FREE, ZERO];
    const diskSize = map.length * MIB - 512 * between(next, 0, 2000);
    const { file, disk: model } = encodeVdi({ map, blockSize: MIB, diskSize }, next);
    writeFileSync(path, file);
    run('qemu-img', 'convert', '-f', 'vdi', '-O', 'raw', path, raw);
    expect(Buffer.compare(readFileSync(raw), model)).toBe(0);
    withDisk(vdiDriver, path, ({ disk }) => expectSame(disk, raw));
  });
});

/** The 1 MiB blocks that ranges touch: qemu and the host see holes inside a block at different grains. */
function blocksOf(ranges: [number, number][]): number[] {
  const blocks = new Set<number>();
  for (const [at, length] of ranges) {
    for (let block = Math.floor(at / MIB); block * MIB < at + length; block += 1) blocks.add(block);
  }
  return [...blocks];
}

const gathered = existsSync(IMAGES)
  ? readFileSync(join(IMAGES, 'INDEX.tsv'), 'utf8')
      .split('\n')
      .slice(1)
      .map((line) => line.split('\t'))
      .filter(([file]) => file?.endsWith('.vdi') === true)
      .map(([file, , , size, hash]) => ({ file: file ?? '', size: Number(size), hash: hash ?? '' }))
  : [];

describe.skipIf(gathered.length === 0 || !have('xz'))('gathered images (need the images folder, xz)', () => {
  it.each(gathered)('$file', ({ file, size, hash }) => {
    const path = folder.path(file.replaceAll('/', '-'));
    writeFileSync(path, execFileSync('xz', ['-dc', join(IMAGES, `${file}.xz`)], { maxBuffer: 64 * MIB }));
    withDisk(vdiDriver, path, ({ disk }) => {
      expect(disk.size).toBe(size);
      const sha256 = createHash('sha256');
      const chunk = new Uint8Array(MIB);
      for (let at = 0; at < size; at += MIB) {
        const moved = disk.read(chunk, 0, MIB, guestOffset(at));
        expect(moved).toBeGreaterThan(0);
        sha256.update(chunk.subarray(0, moved));
      }
      expect(sha256.digest('hex')).toBe(hash);
    });
  });
});
