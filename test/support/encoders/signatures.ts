/** The least bytes by which file systems and containers are known for which no program is at hand. */

import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';

export interface Synthetic {
  readonly name: string;
  /** Bytes of the disk. */
  readonly size: number;
  readonly put: (disk: Buffer) => void;
  readonly expected: {
    readonly type: string;
    readonly version?: string;
    readonly label?: string;
    readonly uuid?: string;
  };
  /** Where blkid says something else, or nothing. */
  readonly blkid?: Readonly<Record<string, string | undefined>>;
}

const MIB = 1024 * 1024;
/** Of floppy disks, blkid takes none for a container. */
const SMALL = 2 * MIB;
const UUID = '00112233-4455-6677-8899-aabbccddeeff';
const UUID_HEX = UUID.replaceAll('-', '');

function lvm(disk: Buffer, sector: number): void {
  const label = disk.subarray(sector * 512, sector * 512 + 512);
  label.write('LABELONE', 0, 'latin1');
  label.writeBigUInt64LE(BigInt(sector), 8);
  label.writeUInt32LE(32, 20);
  label.write('LVM2 001', 24, 'latin1');
  label.write('abcdefGHIJ0123klmn4567opqr89STUV', 32, 'latin1');
  // A CRC-32 from this value on, without the inversions at both ends.
  label.writeUInt32LE(~crc32(label.subarray(20), ~0xf597a6cf >>> 0) >>> 0, 16);
}

/** Version 1.x: a superblock of 256 bytes and no roles, with its own checksum. */
function raid1(disk: Buffer, at: number): void {
  const block = disk.subarray(at, at + 256);
  block.writeUInt32LE(0xa92b4efc, 0);
  block.writeUInt32LE(1, 4);
  block.write(UUID_HEX, 16, 'hex');
  block.write('host:0', 32, 'latin1');
  block.writeBigUInt64LE(BigInt(at / 512), 144);
  let sum = 0n;
  for (let word = 0; word < 256; word += 4) sum += BigInt(block.readUInt32LE(word));
  block.writeUInt32LE(Number(((sum & 0xffffffffn) + (sum >> 32n)) & 0xffffffffn), 216);
}

function raid0(disk: Buffer): void {
  const block = disk.subarray(disk.length - 65536, disk.length - 65536 + 4096);
  block.writeUInt32LE(0xa92b4efc, 0);
  block.writeUInt32LE(90, 8);
  // Words 5, 13, 14 and 15, each in the machine's order.
  for (const [index, at] of [20, 52, 56, 60].entries()) {
    block.writeUInt32LE(Number.parseInt(UUID_HEX.slice(index * 8, index * 8 + 8), 16), at);
  }
  let sum = 0n;
  for (let word = 0; word < 4096; word += 4) sum += BigInt(block.readUInt32LE(word));
  block.writeUInt32LE(Number(((sum & 0xffffffffn) + (sum >> 32n)) & 0xffffffffn), 152);
}

/** A list of one pair after another in XDR, as in a ZFS label. */
function pair(name: string, type: number, value: Buffer): Buffer {
  const text = (bytes: Buffer): Buffer => {
    const all = Buffer.alloc(4 + Math.ceil(bytes.length / 4) * 4);
    all.writeUInt32BE(bytes.length, 0);
    bytes.copy(all, 4);
    return all;
  };
  const u32 = (number: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(number, 0);
    return bytes;
  };
  const body = Buffer.concat([text(Buffer.from(name)), u32(type), u32(1), type === 9 ? text(value) : value]);
  return Buffer.concat([u32(body.length + 8), u32(body.length + 8), body]);
}

function zfs(disk: Buffer): void {
  const guid = Buffer.alloc(8);
  guid.writeBigUInt64BE(12345678901234567890n, 0);
  const version = Buffer.alloc(8);
  version.writeBigUInt64BE(5000n, 0);
  const head = Buffer.from('010100000000000000000001', 'hex');
  const list = Buffer.concat([
    head,
    pair('version', 8, version),
    pair('name', 9, Buffer.from('tank')),
    pair('state', 8, Buffer.alloc(8)),
    pair('pool_guid', 8, guid),
    pair('guid', 8, version),
    Buffer.alloc(8),
  ]);
  for (const label of [0, 262144]) {
    list.copy(disk, label + 16384);
    for (let number = 0; number < 8; number += 1) {
      const at = label + 131072 + number * 1024;
      disk.writeBigUInt64LE(0x00bab10cn, at);
      disk.writeBigUInt64LE(5000n, at + 8);
      disk.writeBigUInt64LE(BigInt(number + 1), at + 16);
      disk.writeBigUInt64LE(BigInt(number + 1), at + 24);
      disk.writeBigUInt64LE(BigInt(number + 1), at + 32);
    }
  }
}

function hfsPlus(disk: Buffer): void {
  const header = disk.subarray(1024, 1536);
  header.write('H+', 0, 'latin1');
  header.writeUInt16BE(4, 2);
  header.writeUInt32BE(4096, 40);
  header.write('0123456789abcdef', 104, 'hex');
  // The catalog's first extent: block 8.
  header.writeUInt32BE(8, 288);
  header.writeUInt32BE(2, 292);
  const catalog = disk.subarray(8 * 4096);
  // Node 0: a header node (1), one record, the first leaf is node 1.
  catalog[8] = 1;
  catalog.writeUInt32BE(1, 20);
  catalog.writeUInt32BE(1, 24);
  catalog.writeUInt16BE(4096, 32);
  const leaf = catalog.subarray(4096, 8192);
  leaf.writeInt8(-1, 8);
  leaf[9] = 1;
  leaf.writeUInt16BE(1, 10);
  const name = Buffer.from('Mäc', 'utf16le').swap16();
  leaf.writeUInt16BE(6 + name.length, 14);
  leaf.writeUInt32BE(1, 16);
  leaf.writeUInt16BE(name.length / 2, 20);
  name.copy(leaf, 22);
}

/** As TN1150's successor computes it: version 3 of RFC 4122 over Apple's own namespace. */
function hfsUuid(id: string): string {
  const hash = createHash('md5')
    .update(Buffer.from(`b3e20f39f29211d697a400306543ecac${id}`, 'hex'))
    .digest();
  hash[6] = 0x30 | (hash[6]! & 0x0f);
  hash[8] = 0x80 | (hash[8]! & 0x3f);
  return hash.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

function apfs(disk: Buffer): void {
  disk.writeBigUInt64LE(1n, 8);
  disk.writeUInt16LE(1, 24);
  disk.writeUInt16LE(0x8000, 26);
  disk.write('NXSB', 32, 'latin1');
  disk.writeUInt32LE(4096, 36);
  disk.write(UUID_HEX, 72, 'hex');
}

function ufs(disk: Buffer, at: number, magic: number, big: boolean): void {
  const u32 = (value: number, where: number) =>
    big ? disk.writeUInt32BE(value, where) : disk.writeUInt32LE(value, where);
  u32(magic, at + 1372);
  u32(0x01020304, at + 144);
  u32(0xa0b0c0d0, at + 148);
  if (magic === 0x19540119) disk.write('beastie', at + 680, 'latin1');
}

function bootSector(disk: Buffer, jump: string, name: string): void {
  disk.write(jump, 0, 'hex');
  disk.write(name, 3, 'latin1');
  disk.writeUInt16LE(512, 11);
  disk[13] = 8;
  disk.writeUInt16LE(0xaa55, 510);
}

/** `pointer`: where the boot sector says where the metadata are. */
function bitlocker(disk: Buffer, name: string, pointer: number): void {
  bootSector(disk, 'eb5890', name);
  disk.writeBigUInt64LE(65536n, pointer);
  disk.write('-FVE-FS-', 65536, 'latin1');
  disk.writeUInt16LE(64, 65544);
  disk.writeUInt16LE(2, 65546);
}

function refs(disk: Buffer): void {
  disk.write('ReFS', 3, 'latin1');
  disk.write('FSRS', 16, 'latin1');
  disk.writeUInt16LE(512, 32);
}

function suspended(disk: Buffer): void {
  disk.writeUInt32LE(1, 1024);
  disk.writeUInt32LE(1000, 1028);
  disk.write(UUID_HEX, 1036, 'hex');
  disk.write('S1SUSPEND\0', 4086, 'latin1');
}

const raidMember = { type: 'linux_raid_member', uuid: UUID };

export const SYNTHETIC: readonly Synthetic[] = [
  ...[0, 1, 3].map(
    (sector): Synthetic => ({
      name: `LVM in sector ${sector}`,
      size: SMALL,
      put: (disk) => lvm(disk, sector),
      expected: { type: 'LVM2_member', version: 'LVM2 001', uuid: 'abcdef-GHIJ-0123-klmn-4567-opqr-89STUV' },
    }),
  ),
  ...(
    [
      ['1.0', 4 * MIB - 8192],
      ['1.1', 0],
      ['1.2', 4096],
    ] as const
  ).map(
    ([version, at]): Synthetic => ({
      name: `RAID ${version}`,
      size: 4 * MIB,
      put: (disk) => raid1(disk, at),
      expected: { ...raidMember, version, label: 'host:0' },
    }),
  ),
  { name: 'RAID 0.90', size: 4 * MIB, put: raid0, expected: { ...raidMember, version: '0.90.0' } },
  {
    name: 'ZFS',
    size: 64 * MIB,
    put: zfs,
    expected: { type: 'zfs_member', label: 'tank', uuid: '12345678901234567890' },
    blkid: { version: '5000' },
  },
  {
    name: 'HFS+',
    size: SMALL,
    put: hfsPlus,
    expected: { type: 'hfsplus', label: 'Mäc', uuid: hfsUuid('0123456789abcdef') },
  },
  { name: 'APFS', size: SMALL, put: apfs, expected: { type: 'apfs', uuid: UUID } },
  {
    name: 'UFS 2',
    size: SMALL,
    put: (disk) => ufs(disk, 65536, 0x19540119, false),
    expected: { type: 'ufs', version: '2', label: 'beastie', uuid: '01020304a0b0c0d0' },
  },
  {
    name: 'UFS 1 of a big-endian machine',
    size: SMALL,
    put: (disk) => ufs(disk, 8192, 0x00011954, true),
    expected: { type: 'ufs', version: '1', uuid: '01020304a0b0c0d0' },
  },
  {
    name: 'BitLocker',
    size: SMALL,
    put: (disk) => bitlocker(disk, '-FVE-FS-', 0xb0),
    expected: { type: 'BitLocker' },
    blkid: { version: '2' },
  },
  {
    name: 'BitLocker To Go',
    size: SMALL,
    put: (disk) => {
      bitlocker(disk, 'MSWIN4.1', 0x1b8);
      disk.write('3bd66749292ed84a8399f6a339e3d001', 0x1a8, 'hex');
    },
    expected: { type: 'BitLocker', version: 'To Go' },
    blkid: { version: '2' },
  },
  { name: 'ReFS', size: SMALL, put: refs, expected: { type: 'ReFS' } },
  {
    name: 'the memory of a sleeping Linux',
    size: SMALL,
    put: suspended,
    expected: { type: 'swsuspend', version: 's1suspend', uuid: UUID },
  },
];
