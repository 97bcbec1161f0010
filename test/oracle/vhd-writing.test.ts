/** VHDs that we wrote, read by qemu-img and libvhdi. */

import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { vhdDriver } from '../../src/formats/vhd/driver.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { openFile } from '../../src/source/file.ts';
import { openEditable, parentDisk } from '../support/disk.ts';
import { samples } from '../support/encoders/vhd.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { between, type Random, random, randomBytes } from '../support/random.ts';

const MIB = 1 << 20;
const folder = privateFolder();

/** Writes to the image at `path` and to a byte array, ends the mount cleanly or just flushes. */
function write(path: string, model: Uint8Array, next: Random, end: 'close' | 'flush', steps = 60): void {
  const source = openFile(path, 'write');
  try {
    const { disk, notices } = openEditable(vhdDriver, source, {}, 1 << 20);
    for (let n = 0; n < steps; n += 1) one(disk, model, next);
    expect(end === 'close' ? disk.close() : disk.flush()).toBe(0);
    expect(notices).toEqual([]);
    const context = { tables: new TableAllocator(), report: () => {}, options: new Map() };
    expect(vhdDriver.check!(source, context)).toMatchObject({ errors: 0, warnings: 0 });
  } finally {
    source.close();
  }
}

function one(disk: Disk, model: Uint8Array, next: Random): void {
  const most = [3000, 100_000, 3 * MIB, 5 * MIB][between(next, 0, 3)]!;
  const at = between(next, 0, model.length - 1);
  const length = Math.min(model.length - at, between(next, 1, most));
  const chance = next();
  if (chance < 0.6) {
    const bytes = randomBytes(next, 997);
    const piece = Buffer.alloc(length, bytes);
    expect(disk.write(piece, 0, length, guestOffset(at))).toBe(length);
    model.set(piece, at);
  } else if (chance < 0.9) {
    expect(disk.zero(guestOffset(at), length, chance < 0.8 ? 'punch' : 'keep')).toBe(0);
    model.fill(0, at, at + length);
  } else {
    expect(disk.flush()).toBe(0);
  }
}

function compare(path: string, model: Uint8Array): void {
  const raw = `${path}.raw`;
  writeFileSync(raw, model);
  expect(
    execFileSync('qemu-img', ['compare', '-f', 'vpc', '-F', 'raw', path, raw], { encoding: 'utf8' }),
  ).toMatch(/identical/);
}

const CASES = [
  ['dynamic', 'subformat=dynamic', '13M'],
  ['dynamic, exact size', 'subformat=dynamic,force_size=on', '21M'],
  ['dynamic, not a whole block', 'force_size=on', '5000192'],
  ['fixed, exact size', 'subformat=fixed,force_size=on', '6M'],
] as const;

describe.skipIf(!have('qemu-img'))('VHD that we wrote (needs qemu-utils)', () => {
  it.each(CASES)('%s: qemu-img reads the same', (name, options, size) => {
    const next = random(name.length);
    const path = folder.path(`${name.replace(/\W+/g, '-')}.vhd`);
    execFileSync('qemu-img', ['create', '-q', '-f', 'vpc', '-o', options, path, size]);
    const info = JSON.parse(
      execFileSync('qemu-img', ['info', '--output=json', '-f', 'vpc', path], { encoding: 'utf8' }),
    );
    const model = new Uint8Array(info['virtual-size']);
    for (const end of ['flush', 'close', 'flush', 'close'] as const) {
      write(path, model, next, end);
      compare(path, model);
      // qemu writes to it in its turn: what it allocates is where nothing of ours is.
      if (end === 'flush') {
        const at = 512 * between(next, 0, model.length / 512 - 64);
        execFileSync('qemu-io', ['-f', 'vpc', '-c', `write -P 77 ${at} 32k`, path], { stdio: 'ignore' });
        model.fill(77, at, at + 32 * 1024);
      }
    }
    const last = JSON.parse(
      execFileSync('qemu-img', ['info', '--output=json', '-f', 'vpc', path], { encoding: 'utf8' }),
    );
    expect(last['virtual-size']).toBe(model.length);
  });

  it('discarding gives the host its space back', () => {
    const path = folder.path('discard.vhd');
    execFileSync('qemu-img', ['create', '-q', '-f', 'vpc', '-o', 'force_size=on', path, '64M']);
    const source = openFile(path, 'write');
    try {
      const { disk } = openEditable(vhdDriver, source);
      const piece = new Uint8Array(MIB).fill(1);
      for (let n = 0; n < 64; n += 1) expect(disk.write(piece, 0, MIB, guestOffset(n * MIB))).toBe(MIB);
      expect(disk.flush()).toBe(0);
      const before = statSync(path).blocks * 512;
      expect(before).toBeGreaterThanOrEqual(64 * MIB);
      expect(disk.zero(guestOffset(8 * MIB), 48 * MIB, 'punch')).toBe(0);
      expect(disk.flush()).toBe(0);
      expect(statSync(path).blocks * 512).toBeLessThan(before - 47 * MIB);
      const { size } = source;
      for (let n = 8; n < 56; n += 1) expect(disk.write(piece, 0, MIB, guestOffset(n * MIB))).toBe(MIB);
      expect(source.size).toBe(size);
      expect(disk.zero(guestOffset(0), disk.size, 'punch')).toBe(0);
      expect(disk.close()).toBe(0);
      expect(source.size).toBeLessThan(4096);
    } finally {
      source.close();
    }
    compare(path, new Uint8Array(64 * MIB));
  });
});

describe.skipIf(!have('vhdiinfo'))('VHD that we wrote (needs libvhdi-utils)', () => {
  it('libvhdi opens every kind after the first write, those with mended footers too', () => {
    for (const sample of samples(3)) {
      const { name, file, disk } = sample;
      if (/^fixed, 511|version 1\.1|option|ignored|cut off|0\.1|leads nowhere/.test(name)) continue;
      const path = folder.path(`sample-${name.replace(/\W+/g, '-')}.vhd`);
      writeFileSync(path, file);
      const source = openFile(path, 'write');
      try {
        const opened = openEditable(vhdDriver, source, {}, 1 << 20, parentDisk(sample));
        expect(opened.disk.write(Uint8Array.of(1), 0, 1, guestOffset(disk.length - 1))).toBe(1);
        expect(opened.disk.flush()).toBe(0);
      } finally {
        source.close();
      }
      expect(execFileSync('vhdiinfo', [path], { encoding: 'utf8' }), name).toMatch(/Media size/);
    }
  });

  it.skipIf(!have('qemu-img') || !have('vhdimount') || !have('fusermount') || !existsSync('/dev/fuse'))(
    'vhdimount reads the same (needs libvhdi-utils, fuse, qemu-utils)',
    () => {
      const next = random(99);
      const path = folder.path('mounted.vhd');
      const point = folder.path('mountpoint');
      mkdirSync(point);
      execFileSync('qemu-img', ['create', '-q', '-f', 'vpc', '-o', 'force_size=on', path, '17M']);
      const model = new Uint8Array(17 * MIB);
      write(path, model, next, 'flush');
      execFileSync('vhdimount', [path, point], { stdio: 'ignore' });
      try {
        const found = Buffer.alloc(model.length);
        const fd = openSync(join(point, 'vhdi1'), 'r');
        try {
          for (let at = 0; at < found.length; at += readSync(fd, found, at, found.length - at, at));
        } finally {
          closeSync(fd);
        }
        expect(Buffer.compare(found, model)).toBe(0);
      } finally {
        execFileSync('fusermount', ['-u', point]);
      }
    },
  );
});
