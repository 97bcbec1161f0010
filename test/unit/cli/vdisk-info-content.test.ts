/** What `vdisk info` says of partitions and file systems. */

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { main } from '../../../src/cli/vdisk.ts';
import { mbr, putGpt, TestDisk } from '../../support/encoders/partitions.ts';
import { SYNTHETIC } from '../../support/encoders/signatures.ts';

const SIZE = 8 * 1024 * 1024;

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-info-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

async function info(bytes: Uint8Array, ...options: string[]): Promise<string> {
  const path = join(folder, 'disk.img');
  writeFileSync(path, bytes);
  if (bytes.length < SIZE) truncateSync(path, SIZE);
  let said = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    said += text.toString();
    return true;
  });
  expect(await main(['info', ...options, path])).toBe(0);
  return said;
}

/** A GPT whose second partition holds what LVM leaves. */
function disk(sectorSize = 512): Buffer {
  const all = putGpt(
    new TestDisk(SIZE),
    [
      { number: 1, first: 256, last: 511, name: 'erste' },
      { number: 2, first: 512, last: 1535 },
    ],
    { sectorSize },
  ).get(0, SIZE);
  const lvm = SYNTHETIC.find(({ name }) => name === 'LVM in sector 1')!;
  lvm.put(all.subarray(512 * sectorSize));
  return all;
}

it('a table of partitions, for people', async () => {
  const text = await info(disk());
  expect(text).toMatch(/^partition table: +gpt, d1d1d1d1-/m);
  expect(text).toMatch(/^ {2}# {2}start +size +type +name +holds$/m);
  expect(text).toMatch(/^ {2}1 {2}128 KiB .* Linux file system {2}erste {2}-$/m);
  expect(text).toMatch(/^ {2}2 {2}256 KiB .* LVM2_member LVM2 001 abcdef-GHIJ-.* \(not looked into\)$/m);
});

it('sectors of 4096 bytes, and what losetup takes for them', async () => {
  const text = await info(disk(4096));
  expect(text).toMatch(/^partition table: +gpt, sectors of 4096 bytes \(losetup -b 4096\)/m);
  expect(text).toMatch(/^warning: .*sectors of 4096 bytes, not in the disk's of 512/m);
});

it('the same for programs', async () => {
  const [found] = JSON.parse(await info(disk(), '--json')) as unknown[];
  expect(found).toMatchObject({
    'partition-table': {
      kind: 'gpt',
      'sector-size': 512,
      partitions: [
        { number: 1, start: 131_072, length: 131_072, label: 'erste', extended: false, 'file-system': null },
        { number: 2, label: null, 'file-system': { type: 'LVM2_member', label: null, container: true } },
      ],
    },
    'file-system': null,
  });
});

it('a disk without a table, and what it holds', async () => {
  const swap = Buffer.alloc(SIZE);
  SYNTHETIC.find(({ name }) => name === 'HFS+')!.put(swap);
  expect(await info(swap)).toMatch(/^partition table: none\nwhole disk: +hfsplus "Mäc" /m);
  expect(await info(Buffer.alloc(SIZE))).toMatch(/^whole disk: +nothing known$/m);
});

it('an extended partition beside its logical ones', async () => {
  const bytes = new TestDisk(SIZE)
    .put(0, mbr([{ type: 5, start: 2048, sectors: 4096 }], 0x1234))
    .put(2048 * 512, mbr([{ type: 0x83, start: 1, sectors: 100 }]))
    .get(0, SIZE);
  const text = await info(bytes);
  expect(text).toMatch(/^partition table: +mbr, 00001234$/m);
  expect(text).toMatch(/^ {2}1 .* Extended$/m);
  expect(text).toMatch(/^ {2}5 .* Linux +-$/m);
});
