/** Images that were written here, as QEMU and libvhdi see them; and QEMU going on with them. */

import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, copyFileSync, ftruncateSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { GIB, guestOffset, MIB } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { vhdxDriver } from '../../src/formats/vhdx/driver.ts';
import type { CheckReport } from '../../src/image/check.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { openFile } from '../../src/source/file.ts';
import { type EditableDisk, openDisk, openEditable, readDisk } from '../support/disk.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { between, type Random, random, randomBytes } from '../support/random.ts';

const folder = privateFolder();

const run = (tool: string, ...args: string[]) => execFileSync(tool, args, { stdio: 'pipe' }).toString();

function create(path: string, options: string, size: number): void {
  run('qemu-img', 'create', '-q', '-f', 'vhdx', '-o', options, path, String(size));
}

function editFile<T>(path: string, work: (opened: EditableDisk) => T): T {
  const source = openFile(path, 'write');
  try {
    return work(openEditable(vhdxDriver, source, {}, 32 * 4120));
  } finally {
    source.close();
  }
}

function check(path: string): CheckReport {
  const source = openFile(path);
  try {
    return vhdxDriver.check!(source, { tables: new TableAllocator(), report: () => {}, options: new Map() });
  } finally {
    source.close();
  }
}

/** The model: a sparse raw file that is written beside the image. */
class RawFile {
  readonly path: string;
  readonly #fd: number;

  constructor(path: string, size: number) {
    this.path = path;
    this.#fd = openSync(path, 'w');
    ftruncateSync(this.#fd, size);
  }

  put(at: number, bytes: Uint8Array): void {
    writeSync(this.#fd, bytes, 0, bytes.length, at);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Random writes and discards at places that repeat, on both. */
function work(disk: Disk, raw: RawFile, next: Random, steps: number, blockSize: number): void {
  const last = Math.floor((disk.size - 1) / blockSize);
  const hot = Array.from({ length: 12 }, (_, n) => between(next, n < 6 ? 0 : Math.max(0, last - 30), last));
  for (let n = 0; n < steps; n += 1) {
    const start = hot[between(next, 0, hot.length - 1)]! * blockSize;
    const chance = next();
    if (chance < 0.6) {
      const at = Math.min(disk.size - 512, start + 512 * between(next, 0, blockSize / 512 - 1));
      const length = Math.min(disk.size - at, 512 * between(next, 1, 300));
      const bytes = randomBytes(next, length);
      expect(disk.write(bytes, 0, length, guestOffset(at))).toBe(length);
      raw.put(at, bytes);
    } else if (chance < 0.85) {
      const length = Math.min(disk.size - start, blockSize * between(next, 1, 2));
      expect(disk.zero(guestOffset(start), length, 'punch')).toBe(0);
      raw.put(start, new Uint8Array(length));
    } else expect(disk.flush()).toBe(0);
  }
}

/** Comparing more than this takes QEMU many seconds, as it reads all that is absent: the end is enough. */
const LARGE = GIB;
const END_MIB = 40;

/** Same bytes, and no complaint from either check. */
function expectGood(image: string, raw: string): void {
  run('qemu-img', 'check', '-q', '-f', 'vhdx', image);
  const { size } = statSync(raw);
  if (size < LARGE) run('qemu-img', 'compare', '-q', '-f', 'vhdx', '-F', 'raw', image, raw);
  else {
    const part = folder.path('part.raw');
    const skip = size / MIB - END_MIB;
    run(
      'qemu-img',
      ...['dd', '-f', 'vhdx', '-O', 'raw', 'bs=1M', `skip=${skip}`, `if=${image}`, `of=${part}`],
    );
    run('cmp', '-n', String(END_MIB * MIB), '-i', `0:${skip * MIB}`, part, raw);
  }
  expect(check(image).errors).toBe(0);
}

const KINDS: readonly (readonly [string, string, number, number])[] = [
  ['dynamic, 1 MiB blocks', 'block_size=1M', 33 * MIB, MIB],
  ['dynamic, 8 MiB blocks', 'subformat=dynamic', 100 * MIB, 8 * MIB],
  ['dynamic, absent blocks as NOT_PRESENT', 'block_size=2M,block_state_zero=off', 64 * MIB, 2 * MIB],
  ['dynamic, odd size', 'block_size=1M', 5 * MIB + 512, MIB],
  ['dynamic, log of 3 MiB', 'block_size=1M,log_size=3M', 20 * MIB, MIB],
  ['dynamic, more than one chunk', 'block_size=1M', 4 * GIB + 20 * MIB, MIB],
  ['fixed', 'subformat=fixed,block_size=1M', 24 * MIB, MIB],
  ['fixed, blocks as NOT_PRESENT', 'subformat=fixed,block_size=1M,block_state_zero=off', 17 * MIB, MIB],
];

describe.skipIf(!have('qemu-img'))('written here, read by QEMU (needs qemu-img and qemu-io)', () => {
  test.each(KINDS)('%s', (name, options, size, blockSize) => {
    const image = folder.path('written.vhdx');
    const raw = new RawFile(folder.path('written.raw'), size);
    create(image, options, size);
    const before = statSync(image).size;
    const next = random(size + options.length);
    for (let round = 0; round < 3; round += 1) {
      editFile(image, ({ disk }) => {
        work(disk, raw, next, 60, blockSize);
        expect(disk.close()).toBe(0);
      });
      expectGood(image, raw.path);
      expect(statSync(image).size % MIB).toBe(0);
      // QEMU writes to it, between.
      const at = Math.min(size - 4096, 512 * between(next, 0, size / 512 - 8));
      run('qemu-io', '-f', 'vhdx', '-c', `write -P ${65 + round} ${at} 4096`, image);
      raw.put(at, new Uint8Array(4096).fill(65 + round));
    }
    expectGood(image, raw.path);
    if (name.startsWith('fixed')) expect(statSync(image).size).toBeGreaterThanOrEqual(before);
    raw.close();
  });

  test.each(KINDS)('killed after a flush: QEMU replays the log: %s', (_name, options, size, blockSize) => {
    const image = folder.path('killed.vhdx');
    const crash = folder.path('crash.vhdx');
    const raw = new RawFile(folder.path('killed.raw'), size);
    create(image, options, size);
    const next = random(2 * size + options.length);
    editFile(image, ({ disk }) => {
      for (let round = 0; round < 4; round += 1) {
        work(disk, raw, next, 30, blockSize);
        expect(disk.flush()).toBe(0);
        copyFileSync(image, crash);
        spoilBat(crash);
        // Says 2 or 3 where it repaired something, a log to replay included.
        spawnSync('qemu-img', ['check', '-q', '-r', 'all', '-f', 'vhdx', crash]);
        expectGood(crash, raw.path);
      }
      expect(disk.close()).toBe(0);
    });
    expectGood(image, raw.path);
    raw.close();
  });

  /** Takes what the newest log entry holds out of the BAT: as if it had never been written in place. */
  function spoilBat(path: string): void {
    const bytes = readFileSync(path);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const fd = openSync(path, 'r+');
    const log = MIB;
    let newest = -1;
    const current = view.getUint32(0x10008, true) > view.getUint32(0x20008, true) ? 0x10000 : 0x20000;
    const guid = bytes.subarray(current + 48, current + 64);
    for (let at = log; at < log + MIB; at += 4096) {
      if (bytes.toString('latin1', at, at + 4) !== 'loge') continue;
      if (Buffer.compare(bytes.subarray(at + 32, at + 48), guid) !== 0) continue;
      if (newest < 0 || view.getUint32(at + 16, true) > view.getUint32(newest + 16, true)) newest = at;
    }
    // All blocks of a fixed image may have been there before.
    const named = guid.some((byte) => byte !== 0);
    if (named && newest < 0) throw new Error('no log entry');
    for (let n = 0; named && n < view.getUint32(newest + 24, true); n += 1) {
      const target = Number(view.getBigUint64(newest + 64 + n * 32 + 16, true));
      writeSync(fd, new Uint8Array(4096), 0, 4096, target);
    }
    closeSync(fd);
  }

  test('trimmed: the image shrinks, and QEMU reads zeros', () => {
    const image = folder.path('trimmed.vhdx');
    const raw = new RawFile(folder.path('trimmed.raw'), 64 * MIB);
    create(image, 'block_size=1M', 64 * MIB);
    const empty = statSync(image);
    editFile(image, ({ disk }) => {
      const bytes = randomBytes(random(8), 4 * MIB);
      for (let at = 0; at < disk.size; at += bytes.length) {
        expect(disk.write(bytes, 0, bytes.length, guestOffset(at))).toBe(bytes.length);
      }
      expect(disk.flush()).toBe(0);
      expect(statSync(image).blocks * 512).toBeGreaterThan(64 * MIB);
      expect(disk.zero(guestOffset(0), disk.size, 'punch')).toBe(0);
      expect(disk.close()).toBe(0);
    });
    expectGood(image, raw.path);
    expect(check(image).allocatedBytes).toBe(0);
    expect(statSync(image).size).toBeLessThanOrEqual(empty.size);
    expect(statSync(image).blocks * 512).toBeLessThan(2 * MIB);
    raw.close();
  });

  test('a dirty log is read from memory, and goes into the file with the first write', () => {
    const image = folder.path('left.vhdx');
    const raw = new RawFile(folder.path('left.raw'), 16 * MIB);
    create(image, 'block_size=1M', 16 * MIB);
    const first = randomBytes(random(1), 70_000);
    editFile(image, ({ disk }) => {
      expect(disk.write(first, 0, first.length, guestOffset(3 * MIB - 512))).toBe(first.length);
      expect(disk.flush()).toBe(0);
    });
    raw.put(3 * MIB - 512, first);
    spoilBat(image);
    const dirty = readFileSync(image);
    editFile(image, ({ disk, image: opened }) => {
      expect(opened.facts.get('log-state')).toMatch(/^dirty/);
      expect(Buffer.compare(readDisk(disk, 3 * MIB - 512, first.length), first)).toBe(0);
      expect(disk.close()).toBe(0);
    });
    // Nobody wrote.
    expect(Buffer.compare(readFileSync(image), dirty)).toBe(0);
    editFile(image, ({ disk }) => {
      expect(disk.write(first, 0, 5, guestOffset(9 * MIB))).toBe(5);
      expect(disk.close()).toBe(0);
    });
    raw.put(9 * MIB, first.subarray(0, 5));
    expectGood(image, raw.path);
    raw.close();
  });
});

describe.skipIf(!have('qemu-img') || !have('vhdiinfo'))('libvhdi (needs qemu-img and vhdiinfo)', () => {
  test.each(KINDS)('reads the facts of what was written here: %s', (_name, options, size, blockSize) => {
    const image = folder.path('facts.vhdx');
    const raw = new RawFile(folder.path('facts.raw'), size);
    create(image, options, size);
    editFile(image, ({ disk }) => {
      work(disk, raw, random(size), 40, blockSize);
      expect(disk.close()).toBe(0);
    });
    raw.close();
    const facts = run('vhdiinfo', image);
    expect(facts).toMatch(/VHDX|version 2/i);
    expect(facts).toContain(`(${size} bytes)`);
    const source = openFile(image);
    const { notices } = openDisk(vhdxDriver, source);
    source.close();
    expect(notices).toEqual([]);
  });
});
