/** Damaging an image at random, in the ways in which images are damaged or forged. */

import { crc32c } from '../../src/base/crc32c.ts';
import type { FormatId } from '../../src/image/driver.ts';
import { between, type Random } from '../support/random.ts';

/** Values that are wrong in interesting ways, as u64. */
const EVIL = [
  0n,
  1n,
  2n,
  3n,
  7n,
  511n,
  512n,
  513n,
  4095n,
  4096n,
  65535n,
  65536n,
  0x7fffffffn,
  0x80000000n,
  0xfffffffen,
  0xffffffffn,
  0x100000000n,
  0x7fffffffffffffffn,
  0x8000000000000000n,
  0xfffffffffffff000n,
  0xffffffffffffffffn,
  (1n << 53n) - 1n,
  1n << 53n,
];

/** Where the structures of each format are, so that most damage hits one: [from, length], negative from the end. */
const HOT: Readonly<Record<FormatId, readonly (readonly [number, number])[]>> = {
  raw: [[0, 512]],
  vhd: [
    [0, 512],
    [512, 1024],
    [1536, 512],
    [-512, 512],
    [-511, 511],
  ],
  vhdx: [
    [0, 64],
    [0x10000, 80],
    [0x20000, 80],
    [0x30000, 80],
    [0x40000, 80],
    [0x100000, 8192],
    [0x200000, 4096],
    [0x210000, 128],
    [0x300000, 512],
  ],
  vdi: [
    [0x40, 448],
    [0x200, 512],
    [0x400, 64],
    [0x1a4, 64],
  ],
  qed: [
    [0, 64],
    [64, 256],
    [4096, 256],
    [65536, 256],
  ],
};

/** A damaged copy of `file`: one to eight changes, sometimes cut, and (mostly) with its checksums made good. */
export function mutate(next: Random, format: FormatId, file: Uint8Array): Uint8Array {
  let damaged: Uint8Array = file.slice();
  for (let change = between(next, 1, 8); change > 0; change -= 1) damaged = damageOnce(next, format, damaged);
  if (next() < 0.8) reseal(format, damaged);
  return damaged;
}

function place(next: Random, format: FormatId, size: number): number {
  if (next() < 0.2) return between(next, 0, size - 1);
  const spots = HOT[format];
  const [from, length] = spots[between(next, 0, spots.length - 1)]!;
  const base = from < 0 ? size + from : from;
  return Math.min(size - 1, Math.max(0, base + between(next, 0, length - 1)));
}

function damageOnce(next: Random, format: FormatId, file: Uint8Array): Uint8Array {
  if (file.length < 16) return file;
  const at = place(next, format, file.length);
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const evil = EVIL[between(next, 0, EVIL.length - 1)]!;
  const aligned = at - (at % 4);
  switch (between(next, 0, 6)) {
    case 0:
      file[at] = between(next, 0, 255);
      return file;
    case 1:
      file[at] = file[at]! ^ (1 << between(next, 0, 7));
      return file;
    case 2:
      if (aligned + 4 <= file.length) view.setUint32(aligned, Number(evil & 0xffffffffn), next() < 0.5);
      return file;
    case 3:
      if (aligned + 8 <= file.length) view.setBigUint64(aligned, evil, next() < 0.5);
      return file;
    case 4: {
      const length = Math.min(between(next, 1, 600), file.length - at);
      file.copyWithin(at, between(next, 0, file.length - length), file.length - length);
      return file;
    }
    case 5:
      file.fill(next() < 0.5 ? 0 : 0xff, at, at + between(next, 1, 600));
      return file;
    default:
      return next() < 0.3 ? file.slice(0, at) : file;
  }
}

/** Makes checksums true again, so that the damage is met behind them. */
export function reseal(format: FormatId, file: Uint8Array): void {
  if (format === 'vhd') {
    sealSum(file, 0, 512, 64);
    sealSum(file, 512, 1024, 36);
    sealSum(file, file.length - 512, 512, 64);
  }
  if (format === 'vhdx') {
    for (const at of [0x10000, 0x20000]) sealCrc(file, at, 4096);
    for (const at of [0x30000, 0x40000]) sealCrc(file, at, 65536);
    const view = new DataView(file.buffer, file.byteOffset, file.length);
    for (let at = 0x100000; at + 4096 <= file.length && at < 0x300000; at += 4096) {
      if (view.getUint32(at, true) !== 0x65676f6c) continue;
      sealCrc(file, at, view.getUint32(at + 8, true));
    }
  }
}

function sealSum(file: Uint8Array, at: number, length: number, field: number): void {
  if (at < 0 || at + length > file.length) return;
  file.fill(0, at + field, at + field + 4);
  let sum = 0;
  for (let n = at; n < at + length; n += 1) sum += file[n]!;
  new DataView(file.buffer, file.byteOffset).setUint32(at + field, ~sum >>> 0);
}

function sealCrc(file: Uint8Array, at: number, length: number): void {
  if (length < 8 || at + length > file.length) return;
  file.fill(0, at + 4, at + 8);
  new DataView(file.buffer, file.byteOffset).setUint32(at + 4, crc32c(file.subarray(at, at + length)), true);
}
