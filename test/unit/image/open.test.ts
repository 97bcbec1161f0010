/** Which format a file is taken for: by content, and raw only where that cannot be a damaged image. */

import { describe, expect, it, test } from 'vitest';
import { rawDriver } from '../../../src/formats/raw/driver.ts';
import { DRIVERS } from '../../../src/formats/registry.ts';
import type { FormatDriver, FormatId, ProbeVerdict } from '../../../src/image/driver.ts';
import { chooseDriver, type OpenRequest, openImage, sampleOf } from '../../../src/image/open.ts';
import { reportOnce } from '../../../src/image/report-once.ts';
import { TableAllocator } from '../../../src/shared/paged-table.ts';
import { MemorySource } from '../../support/memory-source.ts';

function request(drivers: readonly FormatDriver[], more: Partial<OpenRequest> = {}): OpenRequest {
  const context = { tables: new TableAllocator(), report: () => {}, options: new Map() };
  return { drivers, format: undefined, device: false, context, ...more };
}

function pretending(id: FormatId, verdict: ProbeVerdict): FormatDriver {
  return { ...rawDriver, id, suffixes: [`.${id}`], probe: () => verdict };
}

const YES: ProbeVerdict = { match: 'signature', variant: 'dynamic' };
const NO: ProbeVerdict = { match: 'none' };
const file = (label: string, bytes = 512): MemorySource => new MemorySource(new Uint8Array(bytes), label);

describe('chooseDriver', () => {
  it('goes by content, whatever the name says', () => {
    const vdi = pretending('vdi', YES);
    const drivers = [pretending('vhd', NO), vdi, rawDriver];
    for (const name of ['a.vhd', 'a.img', 'a']) expect(chooseDriver(file(name), request(drivers))).toBe(vdi);
  });

  it('names both formats where two match', () => {
    const drivers = [pretending('vhd', YES), pretending('qed', YES), rawDriver];
    expect(() => chooseDriver(file('a.vhd'), request(drivers))).toThrow(
      expect.objectContaining({
        kind: 'unrecognized',
        message: 'two formats match: vhd (dynamic) and qed (dynamic)',
        hint: expect.stringContaining('--format=vhd'),
      }),
    );
  });

  it('takes the format that the user names without probing', () => {
    const vhd = pretending('vhd', NO);
    expect(chooseDriver(file('x'), request([vhd, pretending('qed', YES)], { format: 'vhd' }))).toBe(vhd);
    expect(() => chooseDriver(file('x'), request([vhd], { format: 'raw' }))).toThrow(/no format "raw"/);
  });

  test.each(['.raw', '.img', '.dd', '.bin', '.001', '.IMG'])(
    'takes %s for raw where nothing matches',
    (suffix) => {
      expect(chooseDriver(file(`disk${suffix}`), request(DRIVERS))).toBe(rawDriver);
    },
  );

  it('takes a device for raw, whatever its name', () => {
    expect(chooseDriver(file('/dev/sdb'), request(DRIVERS, { device: true }))).toBe(rawDriver);
    expect(chooseDriver(file('/dev/x.vhdx'), request(DRIVERS, { device: true }))).toBe(rawDriver);
  });

  test.each([
    ['QFI\xfb\0\0\0\x03', 'QCOW'],
    ['KDMV\x01', 'VMDK'],
    ['# Disk DescriptorFile\nversion=1', 'VMDK'],
    ['WithoutFreeSpace', 'Parallels'],
  ])('never takes %j for raw: %s is not read', (start, title) => {
    const bytes = new Uint8Array(4096);
    bytes.set(Buffer.from(start, 'latin1'));
    for (const more of [{}, { device: true }, { anyNameIsRaw: true }]) {
      expect(() => chooseDriver(new MemorySource(bytes, 'disk.img'), request(DRIVERS, more))).toThrow(
        expect.objectContaining({ kind: 'unrecognized', message: expect.stringContaining(title) }),
      );
    }
    const named = request(DRIVERS, { format: 'raw' });
    expect(chooseDriver(new MemorySource(bytes, 'disk.img'), named)).toBe(rawDriver);
  });

  test('takes a parent of unrecorded format for raw, where its name says nothing else', () => {
    const anyName = request(DRIVERS, { anyNameIsRaw: true });
    for (const name of ['disk', 'base.old', 'a.raw'])
      expect(chooseDriver(file(name), anyName)).toBe(rawDriver);
    expect(() => chooseDriver(file('base.vhdx'), anyName)).toThrow(/the name says VHDX/);
  });

  test.each([
    ['disk.vhdx', /the name says VHDX, but its signature is not there/],
    ['disk.vhd', /the name says VHD, but/],
    ['disk.foo', /neither VHD nor VHDX nor VDI nor QED/],
    ['/a.raw/disk', /neither VHD/],
  ])('refuses %s where nothing matches', (name, message) => {
    expect(() => chooseDriver(file(name), request(DRIVERS))).toThrow(message);
  });
});

describe('sampleOf', () => {
  it('gives head and tail of a large source, and all of a small one twice', () => {
    const bytes = new Uint8Array(3 << 20);
    bytes[0] = 1;
    bytes[bytes.length - 1] = 2;
    const { head, tail, size } = sampleOf(new MemorySource(bytes));
    expect([head.length, head[0], tail.length, tail[1023], size]).toEqual([1 << 20, 1, 1024, 2, 3 << 20]);
    const small = sampleOf(new MemorySource(Uint8Array.of(7, 8)));
    expect([...small.head, ...small.tail]).toEqual([7, 8, 7, 8]);
  });
});

describe('openImage', () => {
  it('refuses an empty file, naming it', () => {
    expect(() => openImage(file('e.img', 0), request(DRIVERS))).toThrow('e.img: the file is empty');
  });

  it('begins every error with the name of the file, and keeps kind and hint', () => {
    const broken: FormatDriver = {
      ...pretending('qed', YES),
      open: () => {
        throw new TypeError('x is undefined');
      },
    };
    expect(() => openImage(file('q.qed'), request([broken]))).toThrow(
      expect.objectContaining({ kind: 'bug', message: 'q.qed: x is undefined' }),
    );
  });
});

describe('reportOnce', () => {
  it('passes a text on once, and a thousand texts at most', () => {
    const told: string[] = [];
    const report = reportOnce((text) => told.push(text));
    for (let round = 0; round < 2; round += 1) for (let n = 0; n < 1200; n += 1) report(`place ${n}`);
    expect(told).toEqual(Array.from({ length: 1000 }, (_, n) => `place ${n}`));
  });
});
