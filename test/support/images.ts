/** Disk images for the end-to-end suite: made by qemu-img, with known bytes or known file systems in them. */

import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { FormatId } from '../../src/image/driver.ts';
import { must, type Need } from './machine.ts';
import type { Stage } from './mount.ts';
import { random, randomBytes } from './random.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** One way in which qemu-img writes an image. */
export interface Kind {
  /** "vhd dynamic" */
  readonly name: string;
  readonly format: FormatId;
  readonly suffix: string;
  /** qemu-img's name of the format. */
  readonly qemu: string;
  /** qemu-img's options of the format, for -o. */
  readonly options: string;
  /** Bytes in which the image allocates; 0 where all of the disk is in the file, as sparse as that is. */
  readonly unit: number;
}

const kind = (
  name: string,
  format: FormatId,
  qemu: string,
  suffix: string,
  unit: number,
  options = '',
): Kind => ({ name, format, qemu, suffix, unit, options });

/** Every format and subformat that qemu-img can write. */
export const KINDS: readonly Kind[] = [
  kind('raw', 'raw', 'raw', '.raw', 0),
  kind('vhd dynamic', 'vhd', 'vpc', '.vhd', 2 * MIB, 'subformat=dynamic'),
  kind('vhd dynamic with its exact size', 'vhd', 'vpc', '.vhd', 2 * MIB, 'subformat=dynamic,force_size=on'),
  kind('vhd fixed', 'vhd', 'vpc', '.vhd', 0, 'subformat=fixed,force_size=on'),
  kind('vhdx dynamic', 'vhdx', 'vhdx', '.vhdx', MIB, 'subformat=dynamic,block_size=1M'),
  kind('vhdx fixed', 'vhdx', 'vhdx', '.vhdx', 0, 'subformat=fixed'),
  kind('vdi dynamic', 'vdi', 'vdi', '.vdi', MIB),
  kind('vdi static', 'vdi', 'vdi', '.vdi', 0, 'static=on'),
  kind('qed', 'qed', 'qed', '.qed', 64 * KIB),
];

export const kindNamed = (name: string): Kind => KINDS.find((candidate) => candidate.name === name)!;

export const TO_MAKE_IMAGES: Need = 'program: qemu-img';

/** Makes `path` an image of `kind` with the bytes of the raw file `raw`. */
export async function convert(kind: Kind, raw: string, path: string): Promise<void> {
  const options = kind.options === '' ? [] : ['-o', kind.options];
  await must('qemu-img', ['convert', '-f', 'raw', '-O', kind.qemu, ...options, raw, path]);
}

/** What qemu-img reads from an image: the raw file at `path` is the oracle for our own. */
export async function convertBack(kind: Kind, image: string, path: string): Promise<void> {
  await must('qemu-img', ['convert', '-f', kind.qemu, '-O', 'raw', image, path]);
}

/** Where the pattern disk has data: offset and length, in bytes, whole sectors. */
const PATTERN: readonly (readonly [number, number])[] = [
  [0, 64 * KIB],
  // Not at a block's edge, not a whole number of pages.
  [MIB + 3 * 512, 137 * 512],
  [17 * MIB - 512, 3 * MIB],
  // A single sector of a block.
  [40 * MIB + 7 * 512, 512],
  [96 * MIB - 5 * 512, 8 * 512],
];

/** Bytes of the pattern disk: no whole number of MiB. */
export const PATTERN_SIZE: number = 96 * MIB + 3 * 512;

/** A sparse raw file whose bytes are random where PATTERN says so, and zero elsewhere. */
export function makePatternDisk(path: string, seed: number): void {
  const next = random(seed);
  const fd = openSync(path, 'wx');
  try {
    ftruncateSync(fd, PATTERN_SIZE);
    for (const [at, length] of PATTERN) writeSync(fd, randomBytes(next, length), 0, length, at);
  } finally {
    closeSync(fd);
  }
}

/** Bytes that an image with units of `unit` bytes allocates for the pattern disk. */
export function patternAllocation(unit: number): number {
  const units = new Set<number>();
  for (const [at, length] of PATTERN) {
    for (let number = Math.floor(at / unit); number * unit < at + length; number += 1) units.add(number);
  }
  return units.size * unit;
}

/** Bytes of data in the pattern disk. */
export const PATTERN_DATA: number = PATTERN.reduce((sum, [, length]) => sum + length, 0);

export interface FileSystemKind {
  readonly name: 'ext4' | 'xfs' | 'btrfs';
  readonly size: number;
  readonly make: readonly string[];
  /** Options to mount it read-only without writing to the device. */
  readonly mount: string;
  /** A check that writes nothing; it must end with 0. */
  readonly check: readonly string[];
  readonly needs: readonly Need[];
}

/** Each in the smallest size that its mkfs takes. */
export const FILE_SYSTEMS: readonly FileSystemKind[] = [
  {
    name: 'ext4',
    size: 64 * MIB,
    make: ['mkfs.ext4', '-q', '-F'],
    mount: 'ro,noload',
    check: ['e2fsck', '-n', '-f'],
    needs: ['kernel: ext4', 'program: mkfs.ext4', 'program: e2fsck'],
  },
  {
    name: 'xfs',
    size: 320 * MIB,
    make: ['mkfs.xfs', '-q'],
    mount: 'ro,norecovery,nouuid',
    check: ['xfs_repair', '-n'],
    needs: ['kernel: xfs', 'program: mkfs.xfs', 'program: xfs_repair'],
  },
  {
    name: 'btrfs',
    size: 120 * MIB,
    make: ['mkfs.btrfs', '-q'],
    mount: 'ro',
    check: ['btrfs', 'check', '--readonly'],
    needs: ['kernel: btrfs', 'program: mkfs.btrfs', 'program: btrfs'],
  },
];

/** A raw file with a file system in it. */
export interface FileSystemDisk {
  readonly path: string;
  /** Path inside the file system → SHA-256 in hexadecimal. */
  readonly files: ReadonlyMap<string, string>;
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Makes a file system with some files in it. It is mounted for that, on the stage. */
export async function makeFileSystem(stage: Stage, kind: FileSystemKind): Promise<FileSystemDisk> {
  const path = stage.fresh(kind.name);
  closeSync(openSync(path, 'wx'));
  await must('truncate', ['-s', `${kind.size}`, path]);
  const [program, ...options] = kind.make;
  await must(program!, [...options, path]);
  const device = await stage.attachLoop(path, []);
  const mountpoint = stage.makeDirectory('make');
  await must('mount', ['-t', kind.name, device, mountpoint]);
  const files = fill(mountpoint, kind.size);
  await must('umount', [mountpoint]);
  await stage.detachLoop(device);
  return { path, files };
}

/** Small files, a large one, one with holes, one deep in directories: name → SHA-256. */
export function fill(directory: string, seed: number): Map<string, string> {
  const next = random(seed);
  const files = new Map<string, string>();
  const add = (name: string, bytes: Uint8Array): void => {
    writeFileSync(join(directory, name), bytes);
    files.set(name, sha256(bytes));
  };
  mkdirSync(join(directory, 'a', 'b', 'c'), { recursive: true });
  add('empty', new Uint8Array(0));
  add('large', randomBytes(next, 5 * MIB + 123));
  add('a/b/c/deep', randomBytes(next, 70_000));
  for (let number = 0; number < 40; number += 1) add(`a/small-${number}`, randomBytes(next, 1 + number * 97));
  const holes = new Uint8Array(2 * MIB);
  holes.set(randomBytes(next, 5000), MIB + 77);
  add('holes', holes);
  return files;
}

/** The files of a mounted file system that are not as they were made: empty where all is well. */
export async function differingFiles(
  mountpoint: string,
  files: ReadonlyMap<string, string>,
): Promise<string[]> {
  // By another program: this process must not wait for a mount that it tests.
  const sums = await must('sha256sum', ['--', ...files.keys()], { cwd: mountpoint });
  const found = new Map(
    sums
      .trimEnd()
      .split('\n')
      .map((line) => [line.slice(66), line.slice(0, 64)]),
  );
  return [...files].filter(([name, hash]) => found.get(name) !== hash).map(([name]) => name);
}
