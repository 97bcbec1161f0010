/**
 * QED against QEMU: images that qemu-img made and qemu-io filled, compared byte by byte with what
 * `qemu-img convert -O raw` makes of them.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, statSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import { qedDriver } from '../../src/formats/qed/driver.ts';
import { openFile } from '../../src/source/file.ts';
import { openDisk } from '../support/disk.ts';
import { have, privateFolder, withDisk } from '../support/oracle.ts';
import { between, type Random, random } from '../support/random.ts';

const haveQemu = have('qemu-img') && have('qemu-io');

const K = 1024;
const M = 1024 * K;

describe.skipIf(!haveQemu)('QED against QEMU (needs qemu-img and qemu-io)', () => {
  const folder = privateFolder();

  function run(tool: string, ...args: string[]): void {
    const { status, stderr, stdout } = spawnSync(tool, args, { cwd: folder.at, encoding: 'utf8' });
    if (status !== 0) throw new Error(`${tool} ${args.join(' ')}: ${stderr}${stdout}`);
  }

  function create(name: string, size: number, options: string, ...more: string[]): void {
    run('qemu-img', 'create', '-q', '-f', 'qed', '-o', options, ...more, name, String(size));
  }

  function io(name: string, commands: readonly string[]): void {
    run('qemu-io', '-f', 'qed', ...commands.flatMap((command) => ['-c', command]), name);
  }

  /** Writes of every kind at random places: parts of clusters, several clusters, zeros, discards. */
  function commands(next: Random, size: number, clusterSize: number, count: number): string[] {
    const list: string[] = [];
    for (let n = 0; n < count; n += 1) {
      const draw = next();
      const longest = Math.min(size, 3 * clusterSize, 600 * K);
      const length = 512 * between(next, 1, longest / 512);
      const at = 512 * between(next, 0, (size - length) / 512);
      if (draw < 0.7) {
        list.push(`write -q -P ${between(next, 1, 255)} ${at} ${length}`);
      } else {
        const span = Math.min(size, clusterSize * between(next, 1, 3));
        const start = clusterSize * between(next, 0, Math.floor((size - span) / clusterSize));
        list.push(`${draw < 0.9 ? 'write -q -z' : 'discard -q'} ${start} ${span}`);
      }
    }
    return list;
  }

  function compare(name: string): { notices: readonly string[]; allocated: number } {
    run('qemu-img', 'convert', '-f', 'qed', '-O', 'raw', name, `${name}.raw`);
    const raw = openFile(folder.path(`${name}.raw`));
    const source = openFile(folder.path(name));
    try {
      const { image, disk, notices } = openDisk(qedDriver, source, {}, 16 * 4120);
      expect(disk.size).toBe(raw.size);
      const mine = Buffer.alloc(M);
      const theirs = Buffer.alloc(M);
      const step = (at: number) => {
        const length = Math.min(M, disk.size - at);
        expect(disk.read(mine, 0, length, guestOffset(at))).toBe(length);
        expect(raw.readAt(theirs, 0, length, at as never)).toBe(length);
        const same = mine.subarray(0, length).equals(theirs.subarray(0, length));
        if (!same) throw new Error(`${name}: bytes differ between ${at} and ${at + length}`);
      };
      // Where either has data; large disks are holes elsewhere, to both.
      for (let at = 0; at < disk.size; ) {
        const data = disk.seek(guestOffset(at), 'data');
        const next = Math.min(data < 0 ? disk.size : data, raw.nextData(at as never));
        at = next - (next % M);
        if (next >= disk.size) break;
        step(at);
        at += M;
      }
      let allocated = 0;
      for (let from: ReturnType<typeof image.countAllocated> = guestOffset(0); from !== undefined; ) {
        from = image.countAllocated(from, (bytes) => {
          allocated += bytes;
        });
      }
      return { notices, allocated };
    } finally {
      source.close();
      raw.close();
      rmSync(folder.path(`${name}.raw`));
    }
  }

  const shapes: [number, number, number][] = [
    [4 * K, 2, 9 * M + 512],
    [4 * K, 4, 40 * M],
    [4 * K, 8, 3 * M],
    [4 * K, 16, 200 * M],
    [8 * K, 2, 20 * M],
    [16 * K, 16, 20 * M],
    [32 * K, 8, 1536],
    [64 * K, 2, 20 * M],
    [64 * K, 4, 30 * M + 1024],
    [64 * K, 16, 5 * M],
    [256 * K, 2, 12 * M],
    [1 * M, 4, 24 * M],
    [2 * M, 8, 24 * M],
    [4 * M, 2, 50 * M],
  ];
  test.each(shapes)('clusters of %i, table of %i, disk of %i bytes', (clusterSize, tableSize, size) => {
    const next = random(clusterSize * 31 + tableSize);
    const name = `shape-${clusterSize}-${tableSize}.qed`;
    create(name, size, `cluster_size=${clusterSize},table_size=${tableSize}`);
    io(name, commands(next, size, clusterSize, 25));
    const { notices } = compare(name);
    expect(notices).toEqual([]);
    rmSync(folder.path(name));
  });

  test('64 TiB, the default shape, data at both ends', () => {
    const size = 64 * 2 ** 40;
    create('vast.qed', size, 'cluster_size=65536,table_size=4');
    io('vast.qed', [
      'write -q -P 1 0 512',
      `write -q -P 2 ${size - 512} 512`,
      `write -q -P 3 ${size / 2 - 100_352} 200704`,
    ]);
    const source = openFile(folder.path('vast.qed'));
    try {
      const { disk } = openDisk(qedDriver, source, {}, 16 * 4120);
      const target = new Uint8Array(512);
      expect(disk.read(target, 0, 512, guestOffset(size - 512))).toBe(512);
      expect(target.every((byte) => byte === 2)).toBe(true);
      expect(disk.read(target, 0, 512, guestOffset(size / 2))).toBe(512);
      expect(target.every((byte) => byte === 3)).toBe(true);
      expect(disk.read(target, 0, 512, guestOffset(0))).toBe(512);
      expect(target.every((byte) => byte === 1)).toBe(true);
      expect(disk.seek(guestOffset(65_536), 'data')).toBeGreaterThan(size / 2 - 300_000);
    } finally {
      source.close();
    }
  });

  test('an image that qemu-img converted, and one that it enlarged', () => {
    create('small.qed', 2 * M, 'cluster_size=4096,table_size=2');
    io('small.qed', commands(random(3), 2 * M, 4096, 30));
    run('qemu-img', 'resize', '-q', '-f', 'qed', 'small.qed', String(9 * M + 512));
    io('small.qed', [`write -q -P 9 ${9 * M} 512`, 'write -q -P 8 4000k 33k']);
    const { allocated } = compare('small.qed');
    expect(allocated).toBeGreaterThan(0);
    expect(allocated).toBeLessThan(statSync(folder.path('small.qed')).size);
    run('qemu-img', 'convert', '-f', 'qed', '-O', 'qed', '-S', '0', 'small.qed', 'converted.qed');
    expect(compare('converted.qed').allocated).toBe(9 * M + 512);
  });

  test('an image whose writer was killed is read, with a notice', () => {
    create('dirty.qed', 4 * M, 'cluster_size=65536,table_size=2');
    const killed = spawnSync(
      'qemu-io',
      ['-f', 'qed', '-c', 'write -q -P 7 100k 300k', '-c', 'sigraise 9', 'dirty.qed'],
      { cwd: folder.at },
    );
    expect(killed.signal).toBe('SIGKILL');
    const before = readFileSync(folder.path('dirty.qed'));
    expect(before[16]).toBe(2);
    const { notices } = compare('dirty.qed');
    expect(notices).toEqual([expect.stringMatching(/needs a check/)]);
    expect(readFileSync(folder.path('dirty.qed')).equals(before)).toBe(true);
  });

  test('backing files are found; a removed one is forgotten', () => {
    run('qemu-img', 'create', '-q', '-f', 'raw', 'base.raw', String(M));
    run('qemu-img', 'create', '-q', '-f', 'qed', 'base.qed', String(M));
    run('qemu-img', 'create', '-q', '-f', 'qed', '-b', 'base.raw', '-F', 'raw', 'over-raw.qed');
    run('qemu-img', 'create', '-q', '-f', 'qed', '-b', 'base.qed', '-F', 'qed', 'over-qed.qed');
    const parentOf = (name: string) =>
      withDisk(qedDriver, folder.path(name), ({ image: { parent } }) => [
        parent?.places.map(({ path }) => path),
        parent?.format,
      ]);
    expect(parentOf('over-raw.qed')).toEqual([['base.raw'], 'raw']);
    expect(parentOf('over-qed.qed')).toEqual([['base.qed'], undefined]);
    io('over-raw.qed', ['write -q -P 5 300k 100k', 'write -q -z 64k 64k']);
    run('qemu-img', 'rebase', '-q', '-f', 'qed', '-b', '', 'over-raw.qed');
    expect(readFileSync(folder.path('over-raw.qed')).subarray(0, 4096).includes('base.raw')).toBe(true);
    expect(parentOf('over-raw.qed')).toEqual([undefined, undefined]);
    expect(compare('over-raw.qed').allocated).toBeGreaterThan(0);
  });
});
