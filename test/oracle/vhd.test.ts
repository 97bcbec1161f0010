/** VHDs that others made: qemu-img's, read against qemu-img convert, and a collection of images found in the wild. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import { vhdDriver } from '../../src/formats/vhd/driver.ts';
import { openFile } from '../../src/source/file.ts';
import { type OpenedDisk, readDisk } from '../support/disk.ts';
import { have, IMAGES, privateFolder, withDisk } from '../support/oracle.ts';
import { between, random } from '../support/random.ts';

const folder = privateFolder();

function hashOf({ disk }: OpenedDisk): string {
  const hash = createHash('sha256');
  for (let at = 0; at < disk.size; at += 1 << 20) {
    hash.update(readDisk(disk, at, Math.min(1 << 20, disk.size - at)));
  }
  return hash.digest('hex');
}

interface QemuCase {
  readonly name: string;
  readonly create: readonly string[];
  readonly size: string;
  /** Bytes that the patterns reach. */
  readonly reach: number;
}

const MIB = 1 << 20;
const QEMU_CASES: readonly QemuCase[] = [
  { name: 'dynamic', create: ['subformat=dynamic'], size: '13M', reach: 13 * MIB },
  { name: 'dynamic, exact size', create: ['subformat=dynamic,force_size=on'], size: '13M', reach: 13 * MIB },
  { name: 'dynamic, not a whole block', create: ['force_size=on'], size: '5000192', reach: 5000192 },
  { name: 'dynamic, large', create: ['force_size=on'], size: '300G', reach: 9 * MIB },
  { name: 'fixed', create: ['subformat=fixed'], size: '3M', reach: 3 * MIB },
  { name: 'fixed, exact size', create: ['subformat=fixed,force_size=on'], size: '3M', reach: 3 * MIB },
];

describe.skipIf(!have('qemu-img'))('VHD made by qemu-img (needs qemu-utils)', () => {
  it.each(QEMU_CASES.map((one) => [one.name, one] as const))('%s', (name, { create, size, reach }) => {
    const next = random(name.length);
    const path = folder.path(`${name.replace(/\W+/g, '-')}.vhd`);
    execFileSync('qemu-img', ['create', '-q', '-f', 'vpc', '-o', create.join(','), path, size]);
    const commands: string[] = [];
    for (let count = 0; count < 12; count += 1) {
      const length = 512 * between(next, 1, [3, 100, 2000][count % 3]!);
      const at = 512 * between(next, 0, Math.floor((reach - length) / 512));
      const value = count % 4 === 3 ? '-z' : `-P ${between(next, 1, 255)}`;
      commands.push('-c', `write ${value} ${at} ${length}`);
    }
    execFileSync('qemu-io', ['-f', 'vpc', ...commands, path], { stdio: 'ignore' });
    withDisk(vhdDriver, path, (opened) => {
      const info = execFileSync('qemu-img', ['info', '--output=json', '-f', 'vpc', path], {
        encoding: 'utf8',
      });
      const virtual: unknown = JSON.parse(info)['virtual-size'];
      expect(opened.disk.size).toBe(virtual);
      expect(opened.notices).toEqual([]);
      const raw = `${path}.raw`;
      execFileSync('qemu-img', ['convert', '-f', 'vpc', '-O', 'raw', path, raw]);
      const expected = Buffer.alloc(Math.min(opened.disk.size, 16 * MIB));
      readFileInto(raw, expected);
      expect(Buffer.compare(expected, readDisk(opened.disk, 0, expected.length))).toBe(0);
      if (opened.disk.size > expected.length) {
        expect(opened.disk.seek(guestOffset(expected.length), 'data')).toBeLessThan(0);
      }
      rmSync(raw);
    });
  });
});

function readFileInto(path: string, target: Buffer): void {
  const source = openFile(path);
  try {
    source.readAt(target, 0, target.length, 0 as never);
  } finally {
    source.close();
  }
}

interface Entry {
  readonly name: string;
  readonly kind: string;
  readonly size: number;
  readonly content: string;
}

function collection(): Entry[] {
  const index = join(IMAGES, 'INDEX.tsv');
  if (!existsSync(index)) return [];
  const rows = readFileSync(index, 'utf8')
    .split('\n')
    .slice(1)
    .map((line) => line.split('\t'));
  return rows
    .filter((row) => row[2]?.startsWith('VHD '))
    .map((row) => ({
      name: row[0]!,
      kind: row[2]!.split(' ')[1]!,
      size: Number(row[3]),
      content: row[4]!,
    }));
}

describe.skipIf(!existsSync(IMAGES))('VHDs of others (needs shared/images beside the repository)', () => {
  const entries = collection();

  it('has some of every kind', () => {
    expect(new Set(entries.map((entry) => entry.kind))).toEqual(
      new Set(['fixed', 'dynamic', 'differencing']),
    );
  });

  // Those with a parent are read in vhd-chains.test.ts.
  const alone = entries.filter((entry) => entry.kind !== 'differencing');
  it.each(alone.map((entry) => [entry.name, entry] as const))('%s', (name, { kind, size, content }) => {
    const path = unpacked(name);
    withDisk(vhdDriver, path, (opened) => {
      expect(opened.disk.size).toBe(size);
      expect(opened.notices).toEqual([]);
      expect(opened.image.variant).toBe(kind);
      if (content.includes('all zeros')) {
        expect(opened.disk.seek(guestOffset(0), 'data')).toBeLessThan(0);
      } else {
        expect(hashOf(opened)).toBe(content);
      }
    });
  });

  function unpacked(name: string): string {
    const path = folder.path(name.replaceAll('/', '-'));
    const output = openSync(path, 'w');
    try {
      const packed = existsSync(join(IMAGES, name)) ? join(IMAGES, name) : join(IMAGES, `${name}.xz`);
      const [tool, flags] = packed.endsWith('.xz') ? ['xz', ['-dc']] : ['cat', []];
      execFileSync(tool as string, [...(flags as string[]), packed], {
        stdio: ['ignore', output, 'inherit'],
      });
    } finally {
      closeSync(output);
    }
    return path;
  }
});
