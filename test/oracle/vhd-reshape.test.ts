/** VHDs changed as a whole by us, and read by qemu-img. libvhdi 20210425 goes by the original size, which stays: not asked. */

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import { vhdDriver } from '../../src/formats/vhd/driver.ts';
import type { Reshaping } from '../../src/image/reshape.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { openFile } from '../../src/source/file.ts';
import { finish } from '../powercut/reshape.ts';
import { openEditable } from '../support/disk.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { between, random, randomBytes } from '../support/random.ts';

const MIB = 1 << 20;
const folder = privateFolder();
const context = () => ({
  tables: new TableAllocator(),
  report: () => {},
  options: new Map<string, string>(),
});

function change(path: string, run: (source: BlockSource) => Reshaping<unknown>): void {
  const source = openFile(path, 'write');
  try {
    finish(run(source));
    expect(vhdDriver.check!(source, context())).toMatchObject({ errors: 0, warnings: 0 });
  } finally {
    source.close();
  }
}

/** Writes, and unmaps what was written, so that places become free. */
function work(path: string, model: Uint8Array, seed: number): void {
  const next = random(seed);
  const source = openFile(path, 'write');
  try {
    const { disk } = openEditable(vhdDriver, source);
    for (let n = 0; n < 12; n += 1) {
      const at = between(next, 0, model.length / 4096 - 1) * 4096;
      const length = Math.min(model.length - at, between(next, 1, 400) * 4096);
      const bytes = Buffer.alloc(length, randomBytes(next, 997));
      expect(disk.write(bytes, 0, length, guestOffset(at))).toBe(length);
      model.set(bytes, at);
    }
    const hole = Math.min(model.length, 6 * MIB) - 2 * MIB;
    expect(disk.zero(guestOffset(2 * MIB), hole, 'punch')).toBe(0);
    model.fill(0, 2 * MIB, 2 * MIB + hole);
    expect(disk.flush()).toBe(0);
  } finally {
    source.close();
  }
}

function qemuReads(path: string, model: Uint8Array): void {
  const info = execFileSync('qemu-img', ['info', '--output=json', '-f', 'vpc', path], { encoding: 'utf8' });
  expect(JSON.parse(info)['virtual-size']).toBe(model.length);
  execFileSync('qemu-img', ['convert', '-f', 'vpc', '-O', 'raw', path, `${path}.raw`]);
  expect(Buffer.compare(readFileSync(`${path}.raw`), model)).toBe(0);
}

function resized(model: Uint8Array, size: number): Uint8Array {
  const after = new Uint8Array(size);
  after.set(model.subarray(0, size));
  return after;
}

describe.skipIf(!have('qemu-img'))('VHD changed as a whole (needs qemu-utils)', () => {
  it.each(['dynamic', 'fixed'])('%s: larger, smaller, compacted: others read the same', (kind) => {
    const path = folder.path(`${kind}.vhd`);
    execFileSync('qemu-img', [
      'create',
      '-q',
      '-f',
      'vpc',
      '-o',
      `subformat=${kind},force_size=on`,
      path,
      '13M',
    ]);
    let model: Uint8Array = new Uint8Array(13 * MIB);
    for (const [n, size] of [40 * MIB + 512, 21 * MIB, 300 * MIB, 12 * MIB + 1024].entries()) {
      work(path, model, n + 1);
      if (size < model.length && kind === 'dynamic') {
        const source = openFile(path, 'write');
        const { disk } = openEditable(vhdDriver, source);
        expect(disk.zero(guestOffset(size), model.length - size, 'punch')).toBe(0);
        expect(disk.close()).toBe(0);
        source.close();
      }
      change(path, (source) => vhdDriver.reshape.resize!(source, size, context()));
      model = resized(model, size);
      change(path, (source) => vhdDriver.reshape.compact!(source, context()));
      qemuReads(path, model);
    }
  });
});
