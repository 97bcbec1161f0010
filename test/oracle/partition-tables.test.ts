/** Partition tables that sfdisk made, and what it says of them; the images of others that have one. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { vhdDriver } from '../../src/formats/vhd/driver.ts';
import { vhdxDriver } from '../../src/formats/vhdx/driver.ts';
import { contentOf, type DiskContent } from '../../src/partitions/content.ts';
import { openFile } from '../../src/source/file.ts';
import { gateOf, must } from '../support/machine.ts';
import { IMAGES, privateFolder, withDisk } from '../support/oracle.ts';

const folder = privateFolder();

interface Sfdisk {
  readonly partitiontable: {
    readonly label: string;
    readonly id: string;
    readonly partitions: readonly {
      readonly node: string;
      readonly start: number;
      readonly size: number;
      readonly type: string;
      readonly uuid?: string;
      readonly name?: string;
    }[];
  };
}

function ours(path: string, notices: string[] = []): DiskContent {
  const source = openFile(path);
  try {
    const read = (target: Uint8Array, start: number, length: number, at: number) =>
      source.readAt(target, start, length, at as never);
    return contentOf({ size: source.size, read }, 512, (text) => notices.push(text));
  } finally {
    source.close();
  }
}

const SCRIPTS: readonly (readonly [string, string])[] = [
  ['a GPT', 'label: gpt\nsize=1M, name="first"\nsize=2M, type=U\nsize=3M, type=S, name="äöü €"\n'],
  [
    'a GPT with gaps in its numbers',
    'label: gpt\n3: start=2048, size=1M\n100: start=9000, size=7\n128: start=20000, size=1\n',
  ],
  ['a GPT of 256 entries', 'label: gpt\ntable-length: 256\n1: size=1M\n200: size=1M\n'],
  [
    'an MBR',
    'label: dos\nlabel-id: 0x01020304\nsize=1M, bootable\nsize=2M, type=7\nsize=3M, type=82\nsize=4M\n',
  ],
  [
    'an MBR with logical partitions',
    'label: dos\n1: size=1M\n3: size=40M, type=f\n5: size=1M\n6: size=2M, type=8e\n7: size=3M\n8: size=1M\n4: size=1M\n',
  ],
  ['an MBR with all of it extended', 'label: dos\n2: type=5\n5: size=1M\n6: size=1M\n'],
];

describe('what sfdisk made is read as sfdisk reads it', () => {
  const gate = gateOf('program: sfdisk');
  for (const [number, [name, script]] of SCRIPTS.entries()) {
    it(gate.title(name), { skip: gate.skip }, async () => {
      const path = folder.path(`disk-${number}.img`);
      await must('truncate', ['-s', '64M', path]);
      await must('sfdisk', ['-q', path], { input: script });
      const { partitiontable: theirs } = JSON.parse(await must('sfdisk', ['--json', path])) as Sfdisk;
      const notices: string[] = [];
      const content = ours(path, notices);
      expect(notices).toEqual([]);
      const gpt = theirs.label === 'gpt';
      expect(content.table).toBe(gpt ? 'gpt' : 'mbr');
      expect(content.uuid).toBe(theirs.id.replace(/^0x/, '').toLowerCase());
      expect(theirs.partitions.length).toBeGreaterThan(1);
      expect(content.partitions).toMatchObject(
        theirs.partitions.map((one) => ({
          number: Number(one.node.slice(path.length)),
          start: one.start * 512,
          length: one.size * 512,
          type: gpt ? one.type.toLowerCase() : `0x${one.type.padStart(2, '0')}`,
          label: one.name ?? '',
          ...(gpt ? { uuid: one.uuid!.toLowerCase() } : {}),
        })),
      );
    });
  }
});

describe('images that others made', () => {
  /** The image, unpacked. */
  async function unpacked(name: string): Promise<string> {
    const path = folder.path(name.replace('/', '-'));
    await must('sh', ['-c', 'xz -dc "$1" > "$2"', 'sh', join(IMAGES, `${name}.xz`), path]);
    return path;
  }
  const gate = (name: string) => {
    const missing = existsSync(join(IMAGES, `${name}.xz`)) ? gateOf('program: xz').skip : true;
    return { skip: missing, title: missing ? `${name} (left out: it is not there, or xz is not)` : name };
  };

  for (const [name, driver] of [
    ['dfvfs/ntfs-dynamic.vhd', vhdDriver],
    ['dfvfs/ntfs-dynamic.vhdx', vhdxDriver],
  ] as const) {
    const { skip, title } = gate(name);
    it(`NTFS: ${title}`, { skip }, async () => {
      const content = withDisk(driver, await unpacked(name), ({ disk }) => contentOf(disk, 512, () => {}));
      expect(content).toMatchObject({
        table: 'mbr',
        partitions: [{ number: 1, fileSystem: { type: 'ntfs' } }],
      });
    });
  }

  const ext2 = gate('dfvfs/ext2.raw');
  it(`one file system: ${ext2.title}`, { skip: ext2.skip }, async () => {
    expect(ours(await unpacked('dfvfs/ext2.raw'))).toMatchObject({
      table: 'none',
      fileSystem: { type: 'ext2' },
    });
  });
});
