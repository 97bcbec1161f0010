/** Real images: made by qemu-img and qemu-io, and those gathered beside the repository. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ENXIO } from '../../src/base/errno.ts';
import { GIB, guestOffset, hostOffset, MIB, TIB } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { vhdxDriver } from '../../src/formats/vhdx/driver.ts';
import { openFile } from '../../src/source/file.ts';
import { openDisk } from '../support/disk.ts';
import { samples } from '../support/encoders/vhdx.ts';
import { batEntry, buildVhdx, fileBytes, type VhdxPlan } from '../support/encoders/vhdx-image.ts';
import { have, IMAGES, privateFolder, withDisk } from '../support/oracle.ts';
import { between, random } from '../support/random.ts';

const folder = privateFolder();

const run = (tool: string, ...args: string[]) => execFileSync(tool, args, { stdio: 'pipe' }).toString();

const STEP = 8 * MIB;
const zeros = new Uint8Array(STEP);

/** Runs of the disk in order: with data in a buffer that is used again, or known to be zeros (undefined). */
function* runs(disk: Disk): Generator<{ at: number; length: number; bytes: Uint8Array | undefined }> {
  const buffer = new Uint8Array(STEP);
  let at = 0;
  while (at < disk.size) {
    const found = disk.seek(guestOffset(at), 'data');
    if (found < 0 && found !== -ENXIO) throw new Error(`seek at ${at}: errno ${-found}`);
    const data = found < 0 ? disk.size : found;
    for (; at < data; at += Math.min(STEP, data - at)) {
      yield { at, length: Math.min(STEP, data - at), bytes: undefined };
    }
    if (at >= disk.size) return;
    const hole = disk.seek(guestOffset(at), 'hole');
    while (at < hole) {
      const length = Math.min(STEP, hole - at);
      const moved = disk.read(buffer, 0, length, guestOffset(at));
      if (moved !== length) throw new Error(`read of ${length} at ${at}: ${moved}`);
      yield { at, length, bytes: buffer.subarray(0, length) };
      at += length;
    }
  }
}

/** Every byte of the disk is that of the raw file, and what seek calls a hole reads as zeros. */
function expectSame(disk: Disk, path: string): void {
  const wanted = new Uint8Array(STEP);
  const raw = openFile(path);
  try {
    expect(disk.size).toBe(raw.size);
    for (const { at, length, bytes } of runs(disk)) {
      // Both have a hole here: the same zeros.
      if (bytes === undefined && raw.nextData(hostOffset(at)) >= at + length) continue;
      expect(raw.readAt(wanted, 0, length, hostOffset(at))).toBe(length);
      const found = bytes ?? zeros.subarray(0, length);
      if (Buffer.compare(found, wanted.subarray(0, length)) !== 0) throw new Error(`differs near ${at}`);
    }
  } finally {
    raw.close();
  }
}

function digest(disk: Disk): string {
  const hash = createHash('sha256');
  for (const { length, bytes } of runs(disk)) hash.update(bytes ?? zeros.subarray(0, length));
  return hash.digest('hex');
}

/** Seeded writes at random places, most of them not aligned to blocks, some of zeros. */
function patterns(seed: number, size: number): string[] {
  const next = random(seed);
  const commands: string[] = [];
  for (let count = 0; count < 14; count += 1) {
    const length = Math.min(size, 512 * between(next, 1, 600));
    const at = 512 * between(next, 0, (size - length) / 512);
    const kind = between(next, 0, 4) === 0 ? '-z' : `-P ${between(next, 1, 255)}`;
    commands.push('-c', `write ${kind} ${at} ${length}`);
  }
  return commands;
}

describe.skipIf(!have('qemu-img'))('images made by qemu-img (needs qemu-img and qemu-io)', () => {
  test.each([
    ['dynamic', 'subformat=dynamic', 64 * MIB],
    ['dynamic, 1 MiB blocks', 'subformat=dynamic,block_size=1M', 33 * MIB],
    ['dynamic, 2 MiB blocks, absent blocks as NOT_PRESENT', 'block_size=2M,block_state_zero=off', 101 * MIB],
    ['dynamic, 16 MiB blocks', 'subformat=dynamic,block_size=16M,block_state_zero=on', 200 * MIB],
    ['dynamic, 256 MiB blocks', 'block_size=256M,block_state_zero=off', 300 * MIB],
    ['dynamic, log of 3 MiB', 'log_size=3M,block_size=1M', 20 * MIB],
    ['dynamic, more than one chunk', 'block_size=1M', 10 * GIB],
    ['dynamic, odd size', 'block_size=1M', 5 * MIB + 512],
    ['fixed', 'subformat=fixed', 24 * MIB],
    ['fixed, blocks as NOT_PRESENT', 'subformat=fixed,block_size=1M,block_state_zero=off', 17 * MIB],
    ['fixed, odd size', 'subformat=fixed,block_size=2M', 5 * MIB + 512],
  ])('%s', (name, options, size) => {
    const image = folder.path('made.vhdx');
    const raw = folder.path('made.raw');
    run('qemu-img', 'create', '-q', '-f', 'vhdx', '-o', options, image, String(size));
    run('qemu-io', '-f', 'vhdx', ...patterns(size + options.length, size), image);
    run('qemu-img', 'convert', '-f', 'vhdx', '-O', 'raw', image, raw);
    withDisk(vhdxDriver, image, ({ disk, image: opened, notices }) => {
      expect(opened.variant).toBe(name.startsWith('fixed') ? 'fixed' : 'dynamic');
      expect(opened.facts.get('log-state')).toBe('clean');
      expect(opened.facts.get('creator')).toMatch(/^QEMU v/);
      expectSame(disk, raw);
      expect(notices).toEqual([]);
    });
    rmSync(image);
    rmSync(raw);
  });

  test('converted from data', () => {
    const raw = folder.path('from.raw');
    const content = new Uint8Array(9 * MIB);
    const next = random(5);
    for (let at = 0; at < content.length; at += 4096)
      content.fill(next() < 0.3 ? 0 : at >> 12, at, at + 4096);
    writeFileSync(raw, content);
    for (const subformat of ['fixed', 'dynamic']) {
      const image = folder.path(`${subformat}.vhdx`);
      run('qemu-img', 'convert', '-f', 'raw', '-O', 'vhdx', '-o', `subformat=${subformat}`, raw, image);
      withDisk(vhdxDriver, image, ({ disk }) => expectSame(disk, raw));
    }
  });

  // QEMU opens what the tests' own encoder makes, and reads the same: so the encoder is no private dialect. Not
  // asked of it: what it does not support.
  const understood = samples(3).filter(
    ({ name, parent }) =>
      parent === undefined && !/4096-byte|region table|no log area|sequence 0|unknown optional/.test(name),
  );
  test.each(understood.map((sample) => [sample.name, sample] as const))(
    'QEMU reads the sample: %s',
    (_name, sample) => {
      const image = folder.path('sample.vhdx');
      const raw = folder.path('sample.raw');
      writeFileSync(image, sample.file);
      // Replays a dirty log into the copy.
      run('qemu-img', 'check', '-q', '-r', 'all', '-f', 'vhdx', image);
      run('qemu-img', 'convert', '-f', 'vhdx', '-O', 'raw', image, raw);
      expect(Buffer.compare(readFileSync(raw), sample.disk)).toBe(0);
      withDisk(vhdxDriver, image, ({ disk }) => expectSame(disk, raw));
    },
  );
});

test('64 TiB with 1 MiB blocks in a sparse file: opens at once, in little memory', () => {
  const plan: VhdxPlan = { size: 64 * TIB, bat: { at: 3, length: 513 } };
  const small = buildVhdx(plan);
  const path = folder.path('huge.vhdx');
  const fd = openSync(path, 'w');
  writeSync(fd, fileBytes(small, 0, 3 * MIB), 0, 3 * MIB, 0);
  const last = 64 * MIB - 1;
  writeSync(fd, batEntry(6, 600), 0, 8, 3 * MIB + (last + Math.floor(last / 4096)) * 8);
  writeSync(fd, Uint8Array.of(42), 0, 1, 600 * MIB);
  closeSync(fd);
  truncateSync(path, 601 * MIB);

  const before = process.memoryUsage();
  withDisk(vhdxDriver, path, ({ disk, image }) => {
    const after = process.memoryUsage();
    expect(after.arrayBuffers + after.external - before.arrayBuffers - before.external).toBeLessThan(8 * MIB);
    expect(image.facts.get('bat-entries')).toBe(String(64 * MIB + 16383));
    const byte = new Uint8Array(1);
    expect(disk.read(byte, 0, 1, guestOffset(64 * TIB - MIB))).toBe(1);
    expect(byte[0]).toBe(42);
  });
});

interface Listed {
  readonly name: string;
  readonly needs: string;
  readonly size: number;
  readonly sha256: string;
}

const index = join(IMAGES, 'INDEX.tsv');
const listed: Listed[] = existsSync(index)
  ? readFileSync(index, 'utf8')
      .split('\n')
      .map((line) => line.split('\t'))
      .filter(([name]) => name?.endsWith('.vhdx'))
      .map(([name = '', needs = '', , size, sha256 = '']) => ({ name, needs, size: Number(size), sha256 }))
  : [];

describe.skipIf(listed.length === 0)('gathered images (need shared/images beside the repository)', () => {
  const unpack = (name: string): string => {
    const path = folder.path(name.replaceAll('/', '-'));
    const fd = openSync(path, 'w');
    try {
      execFileSync('xz', ['-dc', join(IMAGES, `${name}.xz`)], { stdio: ['ignore', fd, 'pipe'] });
    } finally {
      closeSync(fd);
    }
    return path;
  };

  test('there are some', () => {
    expect(listed.length).toBeGreaterThan(0);
  });

  for (const { name, needs, size, sha256 } of listed) {
    if (needs !== '') {
      test(`${name}: size and SHA-256 of the disk, over ${needs}`, () => {
        withDisk(vhdxDriver, unpack(needs), (parent) => {
          const source = openFile(unpack(name));
          try {
            const { disk, image, notices } = openDisk(vhdxDriver, source, {}, 16 * 4120, parent.disk);
            expect(image.variant).toBe('differencing');
            expect(image.parent?.compare(parent.image)).toBeUndefined();
            const base = needs.slice(needs.lastIndexOf('/') + 1);
            expect(image.parent?.places.filter(({ path }) => path.endsWith(`\\${base}`))).not.toEqual([]);
            expect(image.virtualSize).toBe(size);
            expect(digest(disk)).toBe(sha256);
            expect(notices).toEqual([]);
          } finally {
            source.close();
          }
        });
      });
      continue;
    }
    // Hashing 10 GiB takes longer than everything else here; that image has a test of its own below.
    if (size > 4 * GIB) continue;
    test(`${name}: size and SHA-256 of the disk`, () => {
      withDisk(vhdxDriver, unpack(name), ({ disk, image }) => {
        expect(image.virtualSize).toBe(size);
        expect(digest(disk)).toBe(sha256);
      });
    });
  }

  test.skipIf(!listed.some(({ name }) => name.includes('dirtylog')))(
    'the dirty log of QEMU 1.6 (needs that image): 18 MiB of 0xa5, then nothing',
    () => {
      withDisk(vhdxDriver, unpack('qemu/iotest-dirtylog-10G-4M.vhdx'), ({ disk, image, notices }) => {
        expect(disk.size).toBe(10 * GIB);
        expect(image.facts.get('log-state')).toMatch(/^dirty: \d+ entr(y|ies) replayed in memory$/);
        const bytes = new Uint8Array(18 * MIB + 1);
        expect(disk.read(bytes, 0, bytes.length, guestOffset(0))).toBe(bytes.length);
        expect(bytes.subarray(0, 18 * MIB).every((byte) => byte === 0xa5)).toBe(true);
        expect(bytes[18 * MIB]).toBe(0);
        expect(disk.seek(guestOffset(18 * MIB), 'data')).toBe(-ENXIO);
        expect(notices).toEqual([]);
      });
    },
  );
});
