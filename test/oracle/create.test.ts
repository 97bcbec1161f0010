/**
 * Images that we made, in other programs' hands: QEMU takes those without parents (fixed VHDs only by name of the
 * format, and VDIs with blocks of 1 MiB), libvhdi all VHDs and VHDXs, children too.
 */

import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readSync, rmSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { GIB, guestOffset, MIB, TIB } from '../../src/base/units.ts';
import { createImage } from '../../src/chain/create.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { driverOf } from '../../src/formats/registry.ts';
import type { FormatId } from '../../src/image/driver.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { openFile } from '../../src/source/file.ts';
import { openDisk, openEditable, readDisk } from '../support/disk.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { random, randomBytes } from '../support/random.ts';

const folder = privateFolder();

async function make(
  format: FormatId,
  name: string,
  some: { readonly size?: number; readonly options?: string; readonly parent?: string },
): Promise<string> {
  const { options, parent, size } = some;
  await createImage({
    path: folder.path(name),
    driver: driverOf(format),
    options: options === undefined || options === '' ? [] : [options],
    virtualSize: size,
    parent: parent === undefined ? undefined : { path: folder.path(parent), format: undefined },
    replace: false,
    context: {
      tables: new TableAllocator(),
      formatOptions: [],
      lock: true,
      report: (text) => expect.fail(text),
      holders: () => [],
    },
    signal: new AbortController().signal,
  });
  return folder.path(name);
}

/** Writes through our editor some bytes that begin and end in 4 KiB units; returns what the disk is then. */
function write(format: FormatId, path: string, seed: number, parent?: Disk): Uint8Array {
  const source = openFile(path, 'write');
  try {
    const { disk } = openEditable(driverOf(format), source, {}, 1 << 20, parent);
    for (const [n, at] of [0, 64 * 1024 * seed, disk.size - 8192].entries()) {
      const bytes = randomBytes(random(seed * 10 + n), 8192);
      expect(disk.write(bytes, 0, bytes.length, guestOffset(at))).toBe(bytes.length);
    }
    expect(disk.close()).toBe(0);
    return readDisk(disk);
  } finally {
    source.close();
  }
}

const QEMU_NAMES = { vhd: 'vpc', vhdx: 'vhdx', vdi: 'vdi', qed: 'qed', raw: 'raw' } as const;

describe.skipIf(!have('qemu-img'))('QEMU (needs qemu-img)', () => {
  const qemu = (...args: string[]): string => execFileSync('qemu-img', args, { encoding: 'utf8' });

  test.each([
    ['vhd', 10 * MIB, ''],
    ['vhd', 2040 * GIB, ''],
    ['vhd', 5 * MIB + 512, 'block-size=512K'],
    ['vhd', 10 * MIB, 'subformat=fixed'],
    ['vhd', 10 * MIB, 'azure'],
    ['vhdx', 10 * MIB, ''],
    ['vhdx', 64 * TIB, ''],
    ['vhdx', 9 * GIB, 'block-size=1M,log-size=4M'],
    ['vhdx', 10 * MIB, 'subformat=fixed'],
    ['vdi', 10 * MIB + 512, ''],
    ['vdi', 10 * MIB, 'subformat=fixed'],
    ['vdi', 100 * TIB, ''],
    ['qed', 10 * MIB, ''],
    ['qed', 64 * TIB + 512, ''],
    ['qed', 10 * MIB, 'cluster-size=4K,table-size=2'],
    ['raw', 10 * MIB, ''],
  ] as const)('%s of %i bytes (%s): opens with its size, clean', async (format, size, options) => {
    const path = await make(format, 'new', { size, options });
    try {
      const name = QEMU_NAMES[format];
      expect(JSON.parse(qemu('info', '--output=json', '-f', name, path))).toMatchObject({
        'virtual-size': size,
      });
      // QEMU checks no VHD.
      if (format !== 'vhd' && format !== 'raw') qemu('check', '-f', name, path);
    } finally {
      rmSync(path);
    }
  });

  test.each([
    ['vhd', ''],
    ['vhd', 'subformat=fixed'],
    ['vhdx', ''],
    ['vhdx', 'subformat=fixed'],
    ['vdi', ''],
    ['vdi', 'subformat=fixed'],
    ['qed', ''],
  ] as const)(
    '%s (%s): what we write is what it reads, and what it writes is what we read',
    async (format, options) => {
      const name = QEMU_NAMES[format];
      const path = await make(format, `${format}-${options}`, { size: 20 * MIB, options });
      const model = write(format, path, 3);
      const raw = folder.path('out.raw');
      qemu('convert', '-f', name, '-O', 'raw', path, raw);
      const source = openFile(raw);
      expect(Buffer.compare(readDisk(openDisk(driverOf('raw'), source).disk), model)).toBe(0);
      source.close();

      execFileSync('qemu-io', ['-f', name, '-c', 'write -P 0x5a 7M 1M', path], { stdio: 'ignore' });
      model.fill(0x5a, 7 * MIB, 8 * MIB);
      const again = openFile(path);
      expect(Buffer.compare(readDisk(openDisk(driverOf(format), again).disk), model)).toBe(0);
      again.close();
    },
  );

  test('a QED on a raw file and on a QED: it reads through', async () => {
    for (const of of ['raw', 'qed'] as const) {
      await make(of, `base.${of}`, { size: 4 * MIB });
      const model = write(of, folder.path(`base.${of}`), 5);
      const child = await make('qed', `on-${of}.qed`, { parent: `base.${of}` });
      const raw = folder.path(`on-${of}.raw`);
      qemu('convert', '-f', 'qed', '-O', 'raw', child, raw);
      const source = openFile(raw);
      expect(Buffer.compare(readDisk(openDisk(driverOf('raw'), source).disk), model)).toBe(0);
      source.close();
    }
  });
});

describe.skipIf(!have('vhdiinfo'))('libvhdi (needs vhdiinfo)', () => {
  test.each([
    ['vhd', 10 * MIB, '', 'Dynamic'],
    ['vhd', 5 * MIB + 512, 'block-size=1M', 'Dynamic'],
    ['vhd', 10 * MIB, 'azure', 'Fixed'],
    ['vhd', 2040 * GIB, '', 'Dynamic'],
    ['vhdx', 10 * MIB, '', 'Dynamic'],
    ['vhdx', 10 * MIB, 'subformat=fixed', 'Fixed'],
    ['vhdx', 64 * TIB, 'logical-sector-size=4096', 'Dynamic'],
  ] as const)('%s of %i bytes (%s)', async (format, size, options, kind) => {
    const path = await make(format, `new.${format}`, { size, options });
    try {
      const text = execFileSync('vhdiinfo', [path], { encoding: 'utf8' });
      expect(text).toMatch(new RegExp(`Disk type\\s*: ${kind}`));
      expect(text).toMatch(new RegExp(`Media size\\s*: .*\\b${size} bytes`));
    } finally {
      rmSync(path);
    }
  });
});

const vhdimount = have('vhdimount') && have('fusermount') && existsSync('/dev/fuse');

describe.skipIf(!vhdimount)('chains in libvhdi (needs vhdimount, fuse)', () => {
  /** What it reads from the last image of a chain. */
  function mounted(path: string, length: number): Buffer {
    const point = `${path}-mount`;
    mkdirSync(point);
    execFileSync('vhdimount', [path, point], { stdio: 'pipe' });
    try {
      const fd = openSync(`${point}/${readdirSync(point).sort().at(-1)}`, 'r');
      const found = Buffer.alloc(length);
      try {
        for (let at = 0; at < length; ) {
          const moved = readSync(fd, found, at, length - at, at);
          if (moved === 0) throw new Error(`the disk ends at ${at}`);
          at += moved;
        }
      } finally {
        closeSync(fd);
      }
      return found;
    } finally {
      execFileSync('fusermount', ['-u', point]);
    }
  }

  test.each([
    ['vhd', ''],
    ['vhd', 'subformat=fixed'],
    ['vhdx', ''],
    ['vhdx', 'subformat=fixed'],
  ] as const)('%s (%s) with a child and a grandchild, each written to', async (format, options) => {
    const names = ['base', 'child', 'grandchild'].map((name) => `${name}-${options}.${format}`);
    let parent: Disk | undefined;
    let model: Uint8Array = new Uint8Array(0);
    const sources = [];
    for (const [n, name] of names.entries()) {
      const over = n === 0 ? { size: 6 * MIB, options } : { parent: names[n - 1]! };
      const path = await make(format, name, over);
      model = write(format, path, n + 1, parent);
      const source = openFile(path);
      sources.push(source);
      parent = openDisk(driverOf(format), source, {}, 1 << 20, parent).disk;
    }
    for (const source of sources) source.close();
    expect(model.some((byte) => byte !== 0)).toBe(true);
    expect(Buffer.compare(mounted(folder.path(names[2]!), model.length), model)).toBe(0);
  });
});
