/** QED images that QEMU wrote, changed as a whole by us, and looked at by QEMU. */

import { execFileSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { driverOf } from '../../src/formats/registry.ts';
import type { NewParent } from '../../src/image/create.ts';
import type { Image, OpenContext } from '../../src/image/driver.ts';
import type { Reshaping } from '../../src/image/reshape.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { openFile } from '../../src/source/file.ts';
import { finish } from '../powercut/reshape.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { between, random, randomBytes } from '../support/random.ts';

const driver = driverOf('qed');
const { resize, compact, rebase, empty, repair } = driver.reshape as Required<typeof driver.reshape>;
const MIB = 1024 * 1024;
const KIB = 1024;

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('against qemu-img (needs qemu-img, qemu-io)', () => {
  const folder = privateFolder();
  const run = (tool: string, ...args: string[]): string =>
    execFileSync(tool, args, { cwd: folder.at, stdio: 'pipe', maxBuffer: 64 * MIB }).toString();

  function reshaped(
    name: string,
    work: (source: BlockSource, context: OpenContext) => Reshaping<unknown>,
  ): void {
    const source = openFile(folder.path(name), 'write');
    try {
      finish(work(source, { tables: new TableAllocator(), report: () => {}, options: new Map() }));
    } finally {
      source.close();
    }
  }

  /** The disk as QEMU reads it, after it found nothing wrong with the image. */
  function disk(name: string): Buffer {
    run('qemu-img', 'check', '-q', '-f', 'qed', name);
    run('qemu-img', 'convert', '-f', 'qed', '-O', 'raw', name, 'out.raw');
    return readFileSync(folder.path('out.raw'));
  }

  const same = (name: string, wanted: Buffer): void => expect(disk(name).equals(wanted), name).toBe(true);

  function write(name: string, seed: number, size: number): void {
    const next = random(seed);
    const commands = Array.from({ length: 30 }).flatMap(() => {
      const length = 4 * KIB * between(next, 1, 30);
      const at = 4 * KIB * between(next, 0, (size - length) / (4 * KIB));
      if (next() < 0.7) return ['-c', `write -q -P ${between(next, 1, 255)} ${at} ${length}`];
      return ['-c', `write -q -z ${64 * KIB * between(next, 0, size / (64 * KIB) - 3)} ${128 * KIB}`];
    });
    run('qemu-io', '-f', 'qed', ...commands, name);
  }

  it.each([
    [1, 'cluster_size=4096,table_size=2'],
    [2, 'cluster_size=4096,table_size=16'],
    [3, 'cluster_size=65536'],
  ])('resize, compact (%i)', (seed, options) => {
    run('qemu-img', 'create', '-q', '-f', 'qed', '-o', options, 'a.qed', '6M');
    write('a.qed', seed, 6 * MIB);
    const before = disk('a.qed');
    reshaped('a.qed', (source, context) => resize(source, 11 * MIB + 512, context));
    same('a.qed', Buffer.concat([before, Buffer.alloc(5 * MIB + 512)]));
    reshaped('a.qed', (source, context) => resize(source, 3 * MIB - 512, context));
    const size = statSync(folder.path('a.qed')).size;
    reshaped('a.qed', (source, context) => compact(source, context));
    expect(statSync(folder.path('a.qed')).size).toBeLessThanOrEqual(size);
    same('a.qed', before.subarray(0, 3 * MIB - 512));
    // QEMU, growing it again, finds zeros behind the old end.
    run('qemu-img', 'resize', '-q', '-f', 'qed', 'a.qed', '4M');
    same('a.qed', Buffer.concat([before.subarray(0, 3 * MIB - 512), Buffer.alloc(MIB + 512)]));
    write('a.qed', seed + 10, 4 * MIB);
    disk('a.qed');
  });

  it('rebase, empty', () => {
    const base = Buffer.from(randomBytes(random(5), 2 * MIB));
    const long = `${'l'.repeat(250)}/../${'l'.repeat(250)}/../`;
    run('mkdir', 'l'.repeat(250));
    writeFileSync(folder.path('base.raw'), base);
    writeFileSync(folder.path('other.raw'), base);
    run('qemu-img', 'create', '-q', '-f', 'qed', '-b', 'base.raw', '-F', 'raw', 'child.qed');
    write('child.qed', 6, 2 * MIB);
    const before = disk('child.qed');
    for (const relative of ['other.raw', `${long}other.raw`, `${long}base.raw`, 'base.raw']) {
      const parent: NewParent = {
        image: { format: 'raw' } as unknown as Image,
        relative,
        absolute: folder.path(relative),
        modified: 0,
      };
      reshaped('child.qed', (source, context) => rebase(source, parent, context));
      const told = JSON.parse(run('qemu-img', 'info', '--output=json', 'child.qed'));
      expect(told).toMatchObject({ 'backing-filename': relative, 'backing-filename-format': 'raw' });
      same('child.qed', before);
    }
    reshaped('child.qed', (source, context) => empty(source, context));
    same('child.qed', base);
    expect(statSync(folder.path('child.qed')).size).toBe(5 * 64 * KIB);
    reshaped('child.qed', (source, context) => rebase(source, undefined, context));
    same('child.qed', Buffer.alloc(2 * MIB));
  });

  it('repair: two entries with one cluster', () => {
    run('qemu-img', 'create', '-q', '-f', 'qed', 'b.qed', '1M');
    run('qemu-io', '-f', 'qed', '-c', 'write -q -P 7 0 64k', '-c', 'write -q -P 8 64k 64k', 'b.qed');
    const file = readFileSync(folder.path('b.qed'));
    const l2 = Number(file.readBigUInt64LE(Number(file.readBigUInt64LE(40))));
    file.copy(file, l2 + 8, l2, l2 + 8);
    writeFileSync(folder.path('b.qed'), file);
    expect(() => disk('b.qed')).toThrow();
    reshaped('b.qed', (source, context) => repair(source, 'lossless', context));
    same('b.qed', Buffer.concat([Buffer.alloc(128 * KIB, 7), Buffer.alloc(7 * 128 * KIB)]));
  });
});
