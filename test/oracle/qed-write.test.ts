/**
 * QED images that we wrote, judged by QEMU: `qemu-img check`, `qemu-img compare` with a raw file, and qemu-io writing
 * on where we stopped. All in real files, on a file system that makes holes.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { checkImage } from '../../src/formats/qed/check.ts';
import { qedDriver } from '../../src/formats/qed/driver.ts';
import { attachSource, openFile } from '../../src/source/file.ts';
import { step } from '../model/workload.ts';
import { openEditable, readDisk } from '../support/disk.ts';
import { have, privateFolder, withDisk } from '../support/oracle.ts';
import { between, type Random, random, randomBytes } from '../support/random.ts';

const haveQemu = have('qemu-img') && have('qemu-io');

const K = 1024;
const M = 1024 * K;

/** Exit codes of `qemu-img check`. */
const SOUND = 0;
const LEAKS = 3;

describe.skipIf(!haveQemu)('QED written by us, judged by QEMU (needs qemu-img and qemu-io)', () => {
  const folder = privateFolder();

  function run(tool: string, ...args: string[]): { status: number | null; output: string } {
    const { status, stdout, stderr } = spawnSync(tool, args, { cwd: folder.at, encoding: 'utf8' });
    return { status, output: `${stdout}${stderr}` };
  }

  function must(tool: string, ...args: string[]): void {
    const { status, output } = run(tool, ...args);
    if (status !== 0) throw new Error(`${tool} ${args.join(' ')}: ${output}`);
  }

  function create(name: string, size: number, clusterSize: number, tableSize: number): void {
    const options = `cluster_size=${clusterSize},table_size=${tableSize}`;
    must('qemu-img', 'create', '-q', '-f', 'qed', '-o', options, name, String(size));
  }

  /** What `qemu-img check` says, and how many leaked clusters it sees. */
  function check(name: string): { status: number | null; leaks: number } {
    const { status, output } = run('qemu-img', 'check', '-f', 'qed', '--output=json', name);
    const found: { corruptions?: number; leaks?: number } = JSON.parse(output.slice(output.indexOf('{')));
    expect(found.corruptions ?? 0).toBe(0);
    return { status, leaks: found.leaks ?? 0 };
  }

  /** The errors that our own check sees, and the leaks in clusters. */
  function ours(name: string, clusterSize: number): { errors: number; leaks: number } {
    const source = openFile(folder.path(name));
    try {
      const { errors, leakedBytes } = checkImage(source);
      return { errors, leaks: leakedBytes / clusterSize };
    } finally {
      source.close();
    }
  }

  /**
   * QEMU sees no corruption, and the leaks that we see: clusters freed between others after a clean end, those that
   * the file grew by too after a crash. Its helper from bytes to clusters divides by one less than the cluster size:
   * after each such many clusters it counts one more, which nobody uses.
   */
  function agree(name: string, clusterSize: number): void {
    const { errors, leaks } = ours(name, clusterSize);
    expect(errors).toBe(0);
    const clusters = statSync(folder.path(name)).size / clusterSize;
    const seen = leaks + Math.floor(clusters / (clusterSize - 1));
    expect(check(name)).toEqual({ status: seen > 0 ? LEAKS : SOUND, leaks: seen });
  }

  function sameAs(name: string, model: Uint8Array): void {
    writeFileSync(folder.path('model.raw'), model);
    const { status, output } = run('qemu-img', 'compare', '-f', 'qed', '-F', 'raw', name, 'model.raw');
    expect([status, output.trim()]).toEqual([0, 'Images are identical.']);
  }

  /** Opens a file for writing, as a mount does, works on it, and ends in order or as if killed after a flush. */
  function edit(name: string, end: 'close' | 'killed', work: (disk: Disk, blockSize: number) => void): void {
    const source = openFile(folder.path(name), 'write');
    try {
      const { disk, image, notices } = openEditable(qedDriver, attachSource(source.share()), {}, 1 << 17);
      work(disk, image.blockSize);
      expect(end === 'close' ? disk.close() : disk.flush()).toBe(0);
      expect(notices.filter((text) => !text.startsWith('QED file: its size'))).toEqual([]);
    } finally {
      source.close();
    }
  }

  /** Fewer steps where they move many bytes. */
  function randomWork(disk: Disk, model: Uint8Array, next: Random, blockSize: number, most: number): void {
    const steps = Math.min(most, Math.ceil((16 * M) / blockSize));
    for (let n = 0; n < steps; n += 1) step(disk, model, next, blockSize);
  }

  const shapes: [number, number, number][] = [
    [4 * K, 2, 9 * M + 512],
    [4 * K, 16, 20 * M],
    [8 * K, 2, 20 * M],
    [32 * K, 8, 1536],
    [64 * K, 2, 20 * M],
    [64 * K, 4, 30 * M + 1024],
    [256 * K, 2, 12 * M],
    [1 * M, 4, 12 * M],
  ];
  test.each(shapes)('clusters of %i, table of %i, disk of %i bytes', (clusterSize, tableSize, size) => {
    const name = `shape-${clusterSize}-${tableSize}.qed`;
    const next = random(clusterSize + tableSize);
    const model = new Uint8Array(size);
    create(name, size, clusterSize, tableSize);
    edit(name, 'close', (disk, blockSize) => randomWork(disk, model, next, blockSize, 200));
    agree(name, clusterSize);
    sameAs(name, model);

    edit(name, 'killed', (disk, blockSize) => randomWork(disk, model, next, blockSize, 100));
    agree(name, clusterSize);
    sameAs(name, model);

    // QEMU writes on a copy of what was left, and we on top of that.
    const writes: string[] = [];
    for (let n = 0; n < 20; n += 1) {
      const length = 512 * between(next, 1, Math.min(size, 3 * clusterSize, 500 * K) / 512);
      const at = 512 * between(next, 0, (size - length) / 512);
      const value = between(next, 0, 255);
      model.fill(value, at, at + length);
      writes.push(
        '-c',
        value === 0 ? `write -q -P 0 ${at} ${length}` : `write -q -P ${value} ${at} ${length}`,
      );
    }
    must('qemu-io', '-f', 'qed', ...writes, name);
    sameAs(name, model);
    edit(name, 'close', (disk, blockSize) => {
      expect(Buffer.compare(readDisk(disk), model)).toBe(0);
      randomWork(disk, model, next, blockSize, 100);
    });
    agree(name, clusterSize);
    sameAs(name, model);
  });

  test('discarding all gives the space back, and the file ends with its tables', () => {
    create('trimmed.qed', 64 * M, 64 * K, 4);
    const bytes = randomBytes(random(1), M);
    edit('trimmed.qed', 'close', (disk) => {
      for (let at = 0; at < 64 * M; at += M) expect(disk.write(bytes, 0, M, guestOffset(at))).toBe(M);
    });
    expect(check('trimmed.qed')).toEqual({ status: SOUND, leaks: 0 });
    expect(statSync(folder.path('trimmed.qed')).blocks * 512).toBeGreaterThanOrEqual(64 * M);
    edit('trimmed.qed', 'close', (disk) => {
      expect(disk.zero(guestOffset(M), 62 * M, 'punch')).toBe(0);
      expect(disk.flush()).toBe(0);
      expect(statSync(folder.path('trimmed.qed')).blocks * 512).toBeLessThan(3 * M);
      expect(disk.zero(guestOffset(0), 64 * M, 'punch')).toBe(0);
    });
    expect(check('trimmed.qed')).toEqual({ status: SOUND, leaks: 0 });
    expect(statSync(folder.path('trimmed.qed')).size).toBe(64 * K + 2 * 4 * 64 * K);
    sameAs('trimmed.qed', new Uint8Array(64 * M));
  });

  test('a vast disk, written at both ends', () => {
    const size = 64 * 2 ** 40;
    create('vast.qed', size, 64 * K, 4);
    const bytes = randomBytes(random(2), 300 * K);
    edit('vast.qed', 'close', (disk) => {
      for (const at of [0, size / 2 - 100 * K, size - bytes.length]) {
        expect(disk.write(bytes, 0, bytes.length, guestOffset(at))).toBe(bytes.length);
      }
      expect(disk.zero(guestOffset(M), 2 ** 40, 'punch')).toBe(0);
    });
    expect(check('vast.qed')).toEqual({ status: SOUND, leaks: 0 });
    const first = bytes[bytes.length - 512]!;
    must('qemu-io', '-r', '-f', 'qed', '-c', `read -q -P ${first} ${size - 512} 1`, 'vast.qed');
    withDisk(qedDriver, folder.path('vast.qed'), ({ disk }) => {
      expect(Buffer.compare(readDisk(disk, size - bytes.length, bytes.length), bytes)).toBe(0);
    });
  });

  test('an image that QEMU did not close is looked through, and no longer marked', () => {
    create('killed.qed', 4 * M, 64 * K, 2);
    const killed = ['-f', 'qed', '-c', 'write -q -P 7 100k 300k', '-c', 'sigraise 9', 'killed.qed'];
    expect(run('qemu-io', ...killed).status).toBe(null);
    const model = new Uint8Array(4 * M).fill(7, 100 * K, 400 * K);
    expect(readFileSync(folder.path('killed.qed'))[16]).toBe(2);
    const source = openFile(folder.path('killed.qed'), 'write');
    try {
      const { disk } = openEditable(qedDriver, attachSource(source.share()));
      expect(disk.write(new Uint8Array(512).fill(1), 0, 512, guestOffset(3 * M))).toBe(512);
      expect(disk.close()).toBe(0);
    } finally {
      source.close();
    }
    model.fill(1, 3 * M, 3 * M + 512);
    expect(check('killed.qed')).toEqual({ status: SOUND, leaks: 0 });
    expect(readFileSync(folder.path('killed.qed'))[16]).toBe(0);
    sameAs('killed.qed', model);
  });
});
