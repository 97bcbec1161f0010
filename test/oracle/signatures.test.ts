/** File systems that their own programs made, and what blkid says of them: type, version, label and UUID. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { DiskRange } from '../../src/partitions/range.ts';
import { identify } from '../../src/partitions/signatures/identify.ts';
import { openFile } from '../../src/source/file.ts';
import { SYNTHETIC } from '../support/encoders/signatures.ts';
import { gateOf, must, type Need, run } from '../support/machine.ts';
import { privateFolder } from '../support/oracle.ts';

const folder = privateFolder();

/** Fields as blkid names them; undefined: it says nothing. */
interface Known {
  readonly type: string | undefined;
  readonly version: string | undefined;
  readonly label: string | undefined;
  readonly uuid: string | undefined;
}

async function blkid(path: string): Promise<Known> {
  // One field at a time: that is the only way in which it writes it as it is.
  const field = async (name: string): Promise<string | undefined> => {
    const { stdout } = await run('blkid', ['-p', '-s', name, '-o', 'value', path]);
    return stdout.replace(/\n$/, '') || undefined;
  };
  const [type, version, label, uuid] = await Promise.all(['TYPE', 'VERSION', 'LABEL', 'UUID'].map(field));
  return { type, version, label, uuid };
}

function ours(path: string): Known {
  const source = openFile(path);
  try {
    const read = (target: Uint8Array, start: number, length: number, at: number) =>
      source.readAt(target, start, length, at as never);
    const found = identify(new DiskRange({ size: source.size, read }));
    return {
      type: found?.type,
      version: found?.version,
      label: found?.label || undefined,
      uuid: found?.uuid || undefined,
    };
  } finally {
    source.close();
  }
}

/** Name, MiB, the program with its arguments (the file comes last), and the type that it must turn out to be. */
const MADE: readonly (readonly [string, number, readonly string[], string])[] = [
  ['ext2', 8, ['mkfs.ext2', '-q', '-F', '-L', 'zwei'], 'ext2'],
  ['ext3', 16, ['mkfs.ext3', '-q', '-F', '-L', 'drei'], 'ext3'],
  ['ext4', 16, ['mkfs.ext4', '-q', '-F', '-L', 'vier äöü'], 'ext4'],
  ['ext4 without a label', 16, ['mkfs.ext4', '-q', '-F'], 'ext4'],
  ['ext4 without a journal', 16, ['mkfs.ext4', '-q', '-F', '-O', '^has_journal'], 'ext4'],
  [
    'ext4 with 64 KiB blocks',
    64,
    ['mkfs.ext4', '-q', '-F', '-b', '4096', '-C', '65536', '-O', 'bigalloc'],
    'ext4',
  ],
  ['an external journal', 16, ['mkfs.ext4', '-q', '-F', '-O', 'journal_dev'], 'jbd'],
  ['xfs', 320, ['mkfs.xfs', '-q', '-L', 'ixeffess'], 'xfs'],
  ['xfs with 4096-byte sectors', 320, ['mkfs.xfs', '-q', '-s', 'size=4096'], 'xfs'],
  ['btrfs', 120, ['mkfs.btrfs', '-q', '-L', 'butter'], 'btrfs'],
  ['ntfs', 16, ['mkntfs', '-q', '-F', '-f', '-L', 'Größe 1'], 'ntfs'],
  ['ntfs with 4096-byte sectors', 16, ['mkntfs', '-q', '-F', '-f', '-s', '4096', '-L', 'four'], 'ntfs'],
  ['ntfs with 64 KiB clusters', 32, ['mkntfs', '-q', '-F', '-f', '-c', '65536'], 'ntfs'],
  ['ntfs with 1 MiB clusters', 64, ['mkntfs', '-q', '-F', '-f', '-c', '1048576', '-L', 'big'], 'ntfs'],
  ['fat12', 1, ['mkfs.vfat', '-F', '12', '-n', 'FLOPPY'], 'vfat'],
  ['fat16', 16, ['mkfs.vfat', '-F', '16', '-n', 'SIXTEEN'], 'vfat'],
  ['fat32', 64, ['mkfs.vfat', '-F', '32', '-n', 'THIRTY TWO'], 'vfat'],
  ['fat32 without a label', 64, ['mkfs.vfat', '-F', '32'], 'vfat'],
  ['fat32 with 4096-byte sectors', 320, ['mkfs.vfat', '-F', '32', '-S', '4096', '-n', 'FOUR K'], 'vfat'],
  ['exfat', 16, ['mkfs.exfat', '-L', 'exf äß'], 'exfat'],
  ['exfat without a label', 16, ['mkfs.exfat'], 'exfat'],
  ['swap', 4, ['mkswap', '-q', '-L', 'wap'], 'swap'],
  ['swap with pages of 64 KiB', 4, ['mkswap', '-q', '-p', '65536'], 'swap'],
  [
    'LUKS 1',
    16,
    ['cryptsetup', '-q', 'luksFormat', '--type', 'luks1', '--pbkdf-force-iterations', '1000'],
    'crypto_LUKS',
  ],
  [
    'LUKS 2',
    32,
    [
      ...['cryptsetup', '-q', 'luksFormat', '--type', 'luks2', '--label', 'geheim', '--pbkdf', 'pbkdf2'],
      ...['--pbkdf-force-iterations', '1000'],
    ],
    'crypto_LUKS',
  ],
];

const needs = (...programs: string[]): Need[] => programs.map((name): Need => `program: ${name}`);

describe('what blkid knows is known by the same name', () => {
  for (const [number, [name, mib, [program, ...args], type]] of MADE.entries()) {
    const gate = gateOf(...needs('blkid', program!));
    it(gate.title(name), { skip: gate.skip, timeout: 30_000 }, async () => {
      const path = folder.path(`made-${number}`);
      await must('truncate', ['-s', `${mib}M`, path]);
      await must(program!, [...args, path], { input: 'password' });
      const expected = await blkid(path);
      expect(expected.type).toBe(type);
      expect(ours(path)).toEqual(expected);
    });
  }

  const iso = gateOf(...needs('blkid', 'genisoimage'));
  it.each([
    ['short', []],
    ['Mixed Case 16 ch', ['-J']],
    ['a name that is longer than joliet has', ['-J']],
    ['UPPER', ['-J']],
  ])(iso.title('iso9660 %j %j'), { skip: iso.skip }, async (label, options) => {
    const path = folder.path(`${label}.iso`);
    const content = folder.path('content');
    mkdirSync(content, { recursive: true });
    writeFileSync(`${content}/file`, 'x');
    await must('genisoimage', ['-quiet', '-V', label.slice(0, 32), ...options, '-o', path, content]);
    const { version: _, ...expected } = await blkid(path);
    expect(expected.type).toBe('iso9660');
    expect(ours(path)).toMatchObject(expected);
  });

  const squash = gateOf(...needs('blkid', 'mksquashfs'));
  it(squash.title('squashfs'), { skip: squash.skip }, async () => {
    const path = folder.path('squash');
    const content = folder.path('squashed');
    mkdirSync(content, { recursive: true });
    await must('mksquashfs', [content, path, '-quiet', '-no-progress']);
    const expected = await blkid(path);
    expect(expected.type).toBe('squashfs');
    expect(ours(path)).toEqual(expected);
  });
});

describe('what was put together by hand is known, by us and by blkid', () => {
  const gate = gateOf('program: blkid');
  for (const [number, { name, size, put, expected, blkid: theirs }] of SYNTHETIC.entries()) {
    it(gate.title(name), { skip: gate.skip }, async () => {
      const path = folder.path(`synthetic-${number}`);
      const bytes = Buffer.alloc(size);
      put(bytes);
      writeFileSync(path, bytes);
      const nothing = { type: undefined, version: undefined, label: undefined, uuid: undefined };
      expect(ours(path)).toEqual({ ...nothing, ...expected });
      expect(await blkid(path)).toEqual({ ...nothing, ...expected, ...theirs });
    });
  }
});
