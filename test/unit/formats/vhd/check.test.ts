import { describe, expect, it } from 'vitest';
import { ImageError } from '../../../../src/base/errors.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import { properGeometrySize } from '../../../../src/formats/vhd/geometry.ts';
import type { CheckReport, Severity } from '../../../../src/image/check.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { samples } from '../../../support/encoders/vhd.ts';
import {
  encodeDynamic,
  encodeFixed,
  type VhdBlockSpec,
  type VhdDynamicSpec,
} from '../../../support/encoders/vhd-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';

const BLOCK = 32 * 1024;
const data = randomBytes(random(1), BLOCK);
const full = (...blocks: number[]) => new Map<number, VhdBlockSpec>(blocks.map((block) => [block, { data }]));
const spec: VhdDynamicSpec = { size: 8 * BLOCK, blockSize: BLOCK, blocks: full(3, 1) };
const tapdisk = { creator: 'tap\0', creatorVersion: 0x10003 };

const check = (file: Uint8Array, options: Record<string, string> = {}): CheckReport =>
  vhdDriver.check!(new MemorySource(file), {
    tables: new TableAllocator(),
    report: () => {},
    options: new Map(Object.entries(options)),
  });

function dynamic(change: Partial<VhdDynamicSpec>, patch: (view: DataView) => void = () => {}): Uint8Array {
  const { file } = encodeDynamic({ ...spec, ...change });
  patch(new DataView(file.buffer));
  return file;
}

const geometry = (size: number) => properGeometrySize(size) / 512;

describe('VHD, check', () => {
  it('sound images: nothing', () => {
    for (const file of [
      encodeFixed(data),
      dynamic({}),
      dynamic({ blocks: full() }),
      dynamic({ align: 4096 }),
      dynamic({ footer: tapdisk, batmap: { version: 0x10002, blocks: [1, 3] } }),
      dynamic({ maxEntries: 1000, tableAt: 'end' }),
    ]) {
      expect(check(file)).toMatchObject({ findings: [], errors: 0, leaks: 0, warnings: 0 });
    }
    expect(check(dynamic({})).allocatedBytes).toBe(2 * BLOCK);
    expect(check(encodeFixed(data)).allocatedBytes).toBe(BLOCK);
  });

  const garbage = (): Uint8Array => {
    const file = dynamic({});
    const longer = new Uint8Array(file.length + 2 * BLOCK);
    longer.set(file.subarray(0, -512));
    longer.set(file.subarray(-512), longer.length - 512);
    return longer;
  };

  it.each<[string, Uint8Array, Severity, RegExp]>([
    ['footers differ', dynamic({ head: { uuid: new Uint8Array(16) } }), 'warning', /the same as the copy/],
    ['no footer at the end', dynamic({ tail: 'none' }), 'warning', /the copy at 0x0 is used/],
    ['no copy', dynamic({ head: null }), 'warning', /the footer at the end is used/],
    [
      'header checksum',
      dynamic({}, (view) => view.setUint32(548, 1)),
      'warning',
      /checksum is 0x1, computed/,
    ],
    ['header version', dynamic({ headerVersion: 0x10001 }), 'warning', /version is 0x10001/],
    ['footer version', encodeFixed(data, { version: 0x10001 }), 'warning', /version is 0x10001/],
    ['features', encodeFixed(data, { features: 4 }), 'warning', /features are 0x4/],
    ['saved state', encodeFixed(data, { savedState: 1 }), 'warning', /suspended/],
    ['time', encodeFixed(data, { timestamp: 0xf0000000 }), 'warning', /in the future/],
    [
      'geometry',
      encodeFixed(data, { geometry: [99, 4, 17] }),
      'warning',
      /geometry says 3446784 bytes, expected at/,
    ],
    [
      'entry on metadata',
      dynamic({}, (view) => view.setUint32(1536, 2)),
      'error',
      /block 0: .*0x600 says sector 0x2/,
    ],
    [
      'entry behind the end',
      dynamic({}, (view) => view.setUint32(1536, 999)),
      'error',
      /expected it to end before/,
    ],
    [
      'two entries',
      dynamic({}, (view) => view.setUint32(1536, 4)),
      'error',
      /two table entries say sector 0x4/,
    ],
    ['overlap', dynamic({}, (view) => view.setUint32(1536, 6)), 'error', /at sectors 0x4 and 0x6 overlap/],
    ['unused', dynamic({}, (view) => view.setUint32(1536 + 12, 0xffffffff)), 'leak', /33280 bytes at 0x800/],
    ['garbage before the footer', garbage(), 'leak', /65536 bytes at/],
    [
      'data under clear bits',
      dynamic({ blocks: new Map([[2, { data, sectors: (sector: number) => sector !== 9 }]]) }),
      'warning',
      /block 2: the sector at 0x1c00 is not set in the bitmap/,
    ],
    [
      'batmap of a block that is not there',
      dynamic({ footer: tapdisk, batmap: { version: 0x10002, blocks: [0] } }),
      'error',
      /block 0: the batmap calls it full, it is not allocated/,
    ],
    [
      'batmap of a block that is not full',
      dynamic({
        footer: tapdisk,
        batmap: { version: 0x10002, blocks: [2] },
        blocks: new Map([[2, { data, sectors: (sector: number) => sector !== 9 }]]),
      }),
      'error',
      /block 2: the batmap calls it full, its bitmap at 0xc00 does not/,
    ],
    [
      'batmap checksum',
      dynamic({ footer: tapdisk, batmap: { version: 0x10002, blocks: [1] } }, (view) =>
        view.setUint8(2560, 0),
      ),
      'warning',
      /batmap at 0x800: checksum/,
    ],
    [
      'cut off',
      dynamic({ tail: 'none' }).subarray(0, -1024),
      'error',
      /block 1: its data at .* is cut off, 1024 bytes/,
    ],
  ])('%s', (_name, file, severity, text) => {
    const report = check(file);
    const counts = { error: report.errors, leak: report.leaks, warning: report.warnings };
    expect(report.findings.map((finding) => finding.text)).toContainEqual(expect.stringMatching(text));
    expect(report.findings.find((finding) => text.test(finding.text))!.severity).toBe(severity);
    expect(counts[severity]).toBeGreaterThan(0);
    if (severity !== 'error') expect(report.errors).toBe(0);
  });

  it('counts what is not used', () => {
    const file = dynamic({}, (view) => view.setUint32(1536 + 12, 0xffffffff));
    expect(check(file)).toMatchObject({ leaks: 1, leakedBytes: BLOCK + 512, allocatedBytes: BLOCK });
  });

  it('zeros under clear bits are as they should be, and bitmaps that are ignored say nothing', () => {
    const clear = {
      data: data.slice().fill(0, 9 * 512, 10 * 512),
      sectors: (sector: number) => sector !== 9,
    };
    expect(check(dynamic({ blocks: new Map([[2, clear]]) }))).toMatchObject({ findings: [] });
    const dirty = dynamic({ blocks: new Map([[2, { data, sectors: () => false }]]) });
    expect(check(dirty, { 'vhd-bitmap': 'ignore' })).toMatchObject({ findings: [] });
  });

  it('locators outside the file', () => {
    const file = dynamic({}, (view) => {
      view.setUint32(512 + 576, 0x57327275);
      view.setUint32(512 + 576 + 4, 512);
      view.setUint32(512 + 576 + 8, 100);
      view.setBigUint64(512 + 576 + 16, 1n << 40n);
    });
    expect(check(file).findings.map(({ text }) => text)).toContainEqual(
      expect.stringMatching(/locator 1 .* not inside/),
    );
  });

  it('throws as open does', () => {
    expect(() => check(new Uint8Array(1000))).toThrow(ImageError);
  });

  it('no sample of ours has an error', () => {
    for (const { name, file, options } of samples(7)) expect(check(file, options).errors, name).toBe(0);
  });
});

describe('VHD geometry', () => {
  it.each([
    [1 << 20, 30 * 4 * 17],
    [10 << 20, 301 * 4 * 17],
    [100 << 20, 1003 * 12 * 17],
    [500 << 20, 1015 * 16 * 63],
    [528482304, 1024 * 16 * 63],
    [2 ** 30, 2080 * 16 * 63],
    [2 ** 32, 8322 * 16 * 63],
    [33822350848, 65534 * 16 * 63],
    [33822351360, 16191 * 16 * 255],
    [127 * 2 ** 30, 65278 * 16 * 255],
    [2 ** 41, 65535 * 16 * 255],
  ])('%d bytes', (size, sectors) => {
    expect(geometry(size)).toBe(sectors);
  });
});
