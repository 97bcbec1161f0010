/**
 * Chains of VHDX images that were written here, as libvhdi reads them. It is right about blocks in states 0, 6 and 7 of
 * images without a log to replay; what is discarded it takes from the parent, so nothing is discarded here.
 */

import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { guestOffset, MIB } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { vhdxDriver } from '../../src/formats/vhdx/driver.ts';
import { openFile } from '../../src/source/file.ts';
import { openDisk, openEditable, readDisk } from '../support/disk.ts';
import { locatorOf } from '../support/encoders/vhdx-chains.ts';
import {
  type BlockPlan,
  buildVhdx,
  expectedDisk,
  fileBytes,
  guid,
  type VhdxPlan,
} from '../support/encoders/vhdx-image.ts';
import { MemorySource } from '../support/memory-source.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { between, type Random, random, randomBytes } from '../support/random.ts';

const folder = privateFolder();

/** What libvhdi reads from an image, whose parents are beside it. */
function mounted(path: string, length: number): Buffer {
  const point = `${path}-mount`;
  mkdirSync(point, { recursive: true });
  execFileSync('vhdimount', [path, point], { stdio: 'pipe' });
  try {
    // One file for each image of the chain, the one without a parent first.
    const last = readdirSync(point).sort().at(-1)!;
    const fd = openSync(join(point, last), 'r');
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

/** Random writes to an image file and to the model of its disk; the image is closed in order. */
function edit(path: string, model: Uint8Array, parent: Disk, next: Random, blockSize: number): void {
  const source = openFile(path, 'write');
  try {
    const { disk } = openEditable(vhdxDriver, source, {}, 16 * 4120, parent);
    const put = (at: number, length: number) => {
      const bytes = randomBytes(next, length);
      expect(disk.write(bytes, 0, length, guestOffset(at))).toBe(length);
      model.set(bytes, at);
    };
    for (let n = 0; n < 60; n += 1) {
      const at = between(next, 0, disk.size - 1);
      put(at, Math.min(disk.size - at, between(next, 1, 20_000)));
    }
    // A block in one piece, one from its end to its start.
    put(blockSize, blockSize);
    for (let at = 3 * blockSize; at > 2 * blockSize; at -= 64 * 1024) put(at - 64 * 1024, 64 * 1024);
    expect(disk.close()).toBe(0);
  } finally {
    source.close();
  }
}

const open = (path: string, parent?: Disk) =>
  openDisk(vhdxDriver, new MemorySource(readFileSync(path)), {}, 1 << 20, parent);

const ready = have('vhdimount') && have('fusermount') && existsSync('/dev/fuse');

describe.skipIf(!ready)('libvhdi (needs libvhdi-utils, fuse)', () => {
  test.each([
    ['512-byte sectors', 512, 1, 2, 1],
    ['4096-byte sectors', 4096, 2, 1, 2],
    ['512-byte sectors, blocks of 4 MiB over 1 MiB', 512, 1, 1, 4],
  ])('a chain of three: %s', (name, logical, ...mibs) => {
    const next = random(name.length);
    const size = 16 * MIB;
    const at = folder.path(name.replace(/\W+/g, '-'));
    mkdirSync(at);
    const paths = ['base', 'middle', 'top'].map((stem) => join(at, `${stem}.vhdx`));
    let model: Uint8Array = new Uint8Array(0);
    let below: Disk | undefined;
    let linkage: Uint8Array | undefined;
    for (const [depth, path] of paths.entries()) {
      const blockSize = mibs[depth]! * MIB;
      const sectors = blockSize / logical;
      const blocks = new Map<number, BlockPlan>([
        [0, { state: 6, data: randomBytes(next, blockSize) }],
        [size / blockSize - 1, { state: 6, data: randomBytes(next, blockSize) }],
      ]);
      // Where a block of an image without a parent is not present, it reads the start of the file.
      for (let n = 1; depth === 0 && n + 1 < size / blockSize; n += 1) {
        blocks.set(n, n % 3 === 0 ? { state: 2 } : { state: 6, data: randomBytes(next, blockSize) });
      }
      if (depth > 0) {
        const present: [number, number][] = [
          [1, 2],
          [30, 70],
          [sectors - 9, sectors],
        ];
        blocks.set(2, { state: 7, data: randomBytes(next, blockSize), present });
      }
      // It looks at the bits of absent blocks.
      const plan: VhdxPlan = { size, blockSize, logical, physical: 4096, blocks, bitmapFill: 0 };
      if (linkage !== undefined) {
        const stem = ['base', 'middle'][depth - 1]!;
        // It wants this key, of which it takes the last part.
        plan.locator = [...locatorOf(linkage, stem), ['absolute_win32_path', `\\\\?\\C:\\vm\\${stem}.vhdx`]];
      }
      writeFileSync(path, fileBytes(buildVhdx(plan)));
      model = expectedDisk(plan, model);
      if (below !== undefined) {
        expect(Buffer.compare(mounted(path, size), model)).toBe(0);
        edit(path, model, below, next, blockSize);
      }
      const { disk, image } = open(path, below);
      expect(Buffer.compare(readDisk(disk), model)).toBe(0);
      if (below !== undefined) {
        expect(execFileSync('vhdiinfo', [path]).toString()).toContain('Differential');
        expect(Buffer.compare(mounted(path, size), model)).toBe(0);
      }
      below = disk;
      linkage = guid(image.identity[0]!.text);
    }
  });
});
