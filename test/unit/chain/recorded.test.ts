/** What the paths mean that images record of their parents. */

import { describe, expect, it } from 'vitest';
import { readRecorded } from '../../../src/chain/recorded.ts';
import type { ParentPlace } from '../../../src/image/parent.ts';

type Style = ParentPlace['style'];

/** "here a/b", "here / a/b" for absolute ones, "elsewhere (reason) a/b", "refused (reason)"; "~" where case is folded. */
function meaning(path: string, style: Style): string {
  const read = readRecorded({ path, style });
  if (read.kind === 'refused') return `refused (${read.reason})`;
  const parts = `${read.parts.join('/')}${read.fold ? ' ~' : ''}`;
  return read.kind === 'here'
    ? `here ${read.absolute ? '/ ' : ''}${parts}`
    : `elsewhere (${read.reason}) ${parts}`;
}

const NEVER = 'refused (it is a URL or names a protocol, which is never opened)';

describe('Windows', () => {
  it.each([
    ['base.vhdx', 'here base.vhdx ~'],
    ['.\\base.vhdx', 'here base.vhdx ~'],
    ['..\\base\\Disk One.vhd', 'here ../base/Disk One.vhd ~'],
    ['..\\..\\..\\etc\\shadow', 'here ../../../etc/shadow ~'],
    ['sub/dir\\base.vhd', 'here sub/dir/base.vhd ~'],
    ['C:\\VMs\\base.vhd', 'elsewhere (it is on a drive of Windows) VMs/base.vhd ~'],
    ['c:/VMs/base.vhd', 'elsewhere (it is on a drive of Windows) VMs/base.vhd ~'],
    ['C:base.vhd', 'elsewhere (it is on a drive of Windows) base.vhd ~'],
    ['\\VMs\\base.vhd', 'elsewhere (it is on a drive of Windows) VMs/base.vhd ~'],
    ['\\\\?\\C:\\VMs\\base.vhdx', 'elsewhere (it is on a drive of Windows) VMs/base.vhdx ~'],
    ['\\??\\C:\\VMs\\base.vhdx', 'elsewhere (it is on a drive of Windows) VMs/base.vhdx ~'],
    [
      '\\\\?\\Volume{2dc27766-f623-4200-9d64-115e9bfd4a08}\\VMs\\base.vhdx',
      'elsewhere (it is on a volume of Windows) VMs/base.vhdx ~',
    ],
    ['\\\\server\\share\\vm\\base.vhd', 'elsewhere (it is on a share of another host) share/vm/base.vhd ~'],
    ['//server/share/base.vhd', 'elsewhere (it is on a share of another host) share/base.vhd ~'],
    ['\\\\?\\UNC\\server\\share\\base.vhd', 'elsewhere (it is on a share of another host) share/base.vhd ~'],
    ['\\\\server', 'refused (it names no file)'],
    ['\\\\.\\PhysicalDrive0', 'refused (it is a device of Windows)'],
    ['\\\\.\\pipe\\x', 'refused (it is a device of Windows)'],
    ['\\\\?\\GLOBALROOT\\Device\\Harddisk0', 'refused (it is a device or an object of Windows)'],
    // VirtualBox on Linux.
    ['/home/u/VMs/base.vhd', 'here / home/u/VMs/base.vhd'],
    ['C:\\', 'refused (it is on a drive of Windows)'],
    ['..', 'refused (it names no file)'],
    ['C:\\VMs\\..', 'refused (it is on a drive of Windows)'],
    ['.\\', 'refused (it names no file)'],
    ['', 'refused (it is empty)'],
    ['base.vhd\0.txt', 'refused (it has a NUL inside)'],
    ['https://host/base.vhd', NEVER],
    ['nbd:localhost:10809', NEVER],
    ['base.vhd:stream', NEVER],
  ])('%j', (path, expected) => {
    expect(meaning(path, 'windows')).toBe(expected);
  });
});

describe('POSIX', () => {
  it.each([
    ['base.qed', 'here base.qed'],
    ['./base: 1.qed', 'here base: 1.qed'],
    ['../vm/base.img', 'here ../vm/base.img'],
    ['/vm/base.img', 'here / vm/base.img'],
    ['a\\b.img', 'here a\\b.img'],
    ['//vm///base.img', 'here / vm/base.img'],
    ['C:\\VMs\\base.qed', 'elsewhere (it is on a drive of Windows) VMs/base.qed ~'],
    ['nbd:unix:/run/x', NEVER],
    ['json:{"driver":"raw","file":{"filename":"/etc/shadow"}}', NEVER],
    ['ssh://u@host/vm/base.img', NEVER],
    ['host_device:/dev/sda', NEVER],
    ['fat:rw:/home', NEVER],
    [': odd', NEVER],
    ['/', 'refused (it names no file)'],
    ['../..', 'refused (it names no file)'],
    ['a'.repeat(5000), 'refused (it has 5000 characters, at most 4096 are looked at)'],
    [`${'a/'.repeat(200)}b`, 'refused (it has 201 parts, at most 128 are looked at)'],
  ])('%j', (path, expected) => {
    expect(meaning(path, 'posix')).toBe(expected);
  });
});

describe('URLs', () => {
  it.each([
    ['file:///Users/u/base%20disk.vhd', 'here / Users/u/base disk.vhd'],
    ['file://localhost/vm/base.vhd', 'here / vm/base.vhd'],
    ['FILE:///vm/base.vhd', 'here / vm/base.vhd'],
    ['file:/vm/base.vhd', 'here / vm/base.vhd'],
    ['file:base.qed', 'here base.qed'],
    // tapdisk
    ['file://./base.vhd', 'here base.vhd'],
    ['file://../vm/base.vhd', 'here ../vm/base.vhd'],
    ['file:///vm/100%.vhd', 'here / vm/100%.vhd'],
    // The decoded path counts, whatever it hid.
    ['file:///vm/%2e%2e/%2E%2E/etc%2Fshadow', 'here / vm/../../etc/shadow'],
    ['file:///vm/base%00.vhd', 'refused (it has a NUL inside)'],
    ['file://server/vm/base.vhd', 'elsewhere (it is on another host) vm/base.vhd'],
    ['file://', 'refused (it names no file)'],
    ['http://host/base.vhd', NEVER],
    ['smb://server/share/base.vhd', NEVER],
    ['base.vhd', NEVER],
  ])('%j', (path, expected) => {
    expect(meaning(path, 'url')).toBe(expected);
  });
});
