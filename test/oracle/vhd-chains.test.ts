/**
 * Differencing VHDs: written by us and read by libvhdi, and one that Windows made. libvhdi finds a parent by its name
 * in the same directory, and takes every bit of a byte of a bitmap as set that follows a set one: so what is written
 * here is whole bytes of bitmaps, 4 KiB. With blocks of 64 KiB version 20210425 passes over single bytes of a bitmap: of
 * such it is not asked.
 */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import { openParents, type Parents } from '../../src/chain/chain.ts';
import { openLayer } from '../../src/chain/layer.ts';
import { DEFAULT_POLICY } from '../../src/chain/policy.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { vhdDriver } from '../../src/formats/vhd/driver.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { openFile } from '../../src/source/file.ts';
import { openDisk, openEditable, readDisk } from '../support/disk.ts';
import { idOf, windowsLocators } from '../support/encoders/vhd-chains.ts';
import { encodeDynamic } from '../support/encoders/vhd-image.ts';
import { have, IMAGES, privateFolder } from '../support/oracle.ts';
import { between, random, randomBytes } from '../support/random.ts';

const MIB = 1 << 20;
const UNIT = 4096;
const folder = privateFolder();

/** An image whose parent is the one of the depth below, without a block. */
function emptyImage(size: number, blockSize: number, depth: number): Uint8Array {
  const parent = `layer${depth - 1}.vhd`;
  return encodeDynamic({
    size,
    blockSize,
    blocks: new Map(),
    footer: { uuid: idOf(depth) },
    ...(depth === 0
      ? {}
      : { parent: { uuid: idOf(depth - 1), name: parent, locators: windowsLocators(parent) } }),
  }).file;
}

/** Writes and zeroes whole units of the image at `path`, over `parent`, as on `model`; ends without a clean end. */
function work(path: string, parent: Disk | undefined, model: Uint8Array, seed: number): void {
  const next = random(seed);
  const source = openFile(path, 'write');
  try {
    const { disk, notices } = openEditable(vhdDriver, source, {}, 1 << 20, parent);
    for (let n = 0; n < 40; n += 1) {
      const at = between(next, 0, model.length / UNIT - 1) * UNIT;
      const length = Math.min(model.length - at, between(next, 1, [2, 20, 300][n % 3]!) * UNIT);
      if (next() < 0.7) {
        const bytes = Buffer.alloc(length, randomBytes(next, 997));
        expect(disk.write(bytes, 0, length, guestOffset(at))).toBe(length);
        model.set(bytes, at);
      } else {
        expect(disk.zero(guestOffset(at), length, next() < 0.5 ? 'punch' : 'keep')).toBe(0);
        model.fill(0, at, at + length);
      }
    }
    expect(seed % 2 === 0 ? disk.close() : disk.flush()).toBe(0);
    expect(notices).toEqual([]);
    const context = { tables: new TableAllocator(), report: () => {}, options: new Map() };
    expect(vhdDriver.check!(source, context)).toMatchObject({ errors: 0, warnings: 0 });
  } finally {
    source.close();
  }
}

const vhdimount = have('vhdimount') && have('fusermount') && existsSync('/dev/fuse');

describe.skipIf(!vhdimount)('a chain that we wrote (needs libvhdi-utils, fuse)', () => {
  it.each([
    ['blocks of 2 MiB', [2 * MIB, 2 * MIB, 2 * MIB]],
    ['blocks of three sizes', [MIB / 2, 2 * MIB, MIB / 4]],
  ] as const)('three images, %s: vhdimount reads the same', (name, blockSizes) => {
    const size = 9 * MIB;
    const directory = folder.path(name.replaceAll(' ', '-'));
    const point = join(directory, 'mountpoint');
    mkdirSync(point, { recursive: true });
    const model = new Uint8Array(size);
    const sources: { close(): void }[] = [];
    let parent: Disk | undefined;
    try {
      for (const [depth, blockSize] of blockSizes.entries()) {
        const path = join(directory, `layer${depth}.vhd`);
        writeFileSync(path, emptyImage(size, blockSize, depth));
        work(path, parent, model, depth + 1);
        const source = openFile(path);
        sources.push(source);
        parent = openDisk(vhdDriver, source, {}, 1 << 20, parent).disk;
        expect(Buffer.compare(readDisk(parent), model), `layer ${depth}`).toBe(0);
      }
    } finally {
      for (const source of sources) source.close();
    }
    execFileSync('vhdimount', [join(directory, 'layer2.vhd'), point], { stdio: 'ignore' });
    try {
      const found = Buffer.alloc(size);
      const fd = openSync(join(point, 'vhdi3'), 'r');
      try {
        for (let at = 0; at < size; at += readSync(fd, found, at, size - at, at));
      } finally {
        closeSync(fd);
      }
      expect(Buffer.compare(found, model)).toBe(0);
    } finally {
      execFileSync('fusermount', ['-u', point]);
    }
  });
});

/** Rows of the list of images: name, what it needs, kind, size, SHA-256 of its disk, … */
const index = (): string[][] =>
  readFileSync(join(IMAGES, 'INDEX.tsv'), 'utf8')
    .split('\n')
    .map((line) => line.split('\t'));

const PACKED = ['fat-differential.vhd', 'fat-parent.vhd'].map((name) => join(IMAGES, 'dfvfs', `${name}.xz`));

describe.skipIf(!PACKED.every((path) => existsSync(path)) || !have('xz'))(
  'a differencing image by Windows (needs shared/images beside the repository, xz-utils)',
  () => {
    it('its parent is found by what it records, and both read as they should', () => {
      const [row] = index().filter(([name]) => name === 'dfvfs/fat-differential.vhd');
      const directory = folder.path('windows');
      mkdirSync(directory);
      for (const path of PACKED) {
        const name = path.slice(path.lastIndexOf('/') + 1, -'.xz'.length);
        writeFileSync(join(directory, name), execFileSync('xz', ['-dc', path], { maxBuffer: 64 * MIB }));
      }
      const notices: string[] = [];
      const context = {
        tables: new TableAllocator(),
        report: (text: string) => notices.push(text),
        formatOptions: [],
        lock: false,
        holders: () => [],
      };
      const top = openLayer(join(directory, 'fat-differential.vhd'), 'read', undefined, context);
      let parents: Parents | undefined;
      try {
        parents = openParents(top, DEFAULT_POLICY, context);
        expect(parents.layers.map(({ path }) => path)).toEqual([join(directory, 'fat-parent.vhd')]);
        expect(parents.readOnly).toBeUndefined();
        expect(notices).toEqual([]);
        const beneath = openDisk(vhdDriver, parents.layers[0]!.source).disk;
        const { disk } = openDisk(vhdDriver, top.source, {}, 1 << 20, beneath);
        expect(`${disk.size}`).toBe(row![3]);
        expect(createHash('sha256').update(readDisk(disk)).digest('hex')).toBe(row![4]);
      } finally {
        for (const { source } of [top, ...(parents?.layers ?? [])]) source.close();
      }
    });
  },
);
