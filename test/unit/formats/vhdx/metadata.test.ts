/** The metadata region and the parent locator: what is refused, in which words. */

import { describe, expect, test } from 'vitest';
import { MIB, TIB } from '../../../../src/base/units.ts';
import {
  buildVhdx,
  encodeLocator,
  encodeMetadata,
  guid,
  ITEM_GUIDS,
  type ItemPlan,
  joined,
  little,
  REGION_GUIDS,
  type RegionPlan,
  standardItems,
  standardRegions,
} from '../../../support/encoders/vhdx-image.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';
import { outcome, plan } from './outcome.ts';

describe('metadata', () => {
  const items = standardItems(plan);
  const withItems = (list: readonly ItemPlan[], count?: number): SparseSource => {
    const file = buildVhdx(plan);
    file.put(2 * MIB, new Uint8Array(MIB));
    file.put(2 * MIB, encodeMetadata(list, count));
    return file;
  };
  const replaced = (id: string, data: Uint8Array, more: Partial<ItemPlan> = {}): SparseSource =>
    withItems(items.map((item) => (item.guid === id ? { ...item, data, ...more } : item)));
  const parameters = (blockSize: number, flags = 0) =>
    replaced(ITEM_GUIDS.parameters, joined(little(4, blockSize), little(4, flags)));

  test('signature and count of the table', () => {
    const file = buildVhdx(plan);
    file.put(2 * MIB, new TextEncoder().encode('METADATA'));
    expect(outcome(file)).toBe(
      'corrupt: VHDX metadata table at 0x200000: expected signature "metadata", found "METADATA"',
    );
    expect(outcome(withItems(items, 2048))).toContain('has 2048 entries, expected at most 2047');
  });

  test('a metadata region behind the end of the file', () => {
    const regions: RegionPlan[] = [
      standardRegions(plan)[0]!,
      { guid: REGION_GUIDS.metadata, at: 50 * MIB, length: MIB },
    ];
    expect(outcome(buildVhdx({ ...plan, regions }))).toBe(
      'corrupt: VHDX metadata table at 0x3200000: the file ends too early, expected 65536 bytes, found 0',
    );
  });

  test.each([
    [ITEM_GUIDS.parameters, 'file parameters'],
    [ITEM_GUIDS.size, 'virtual disk size'],
    [ITEM_GUIDS.id, 'virtual disk id'],
    [ITEM_GUIDS.logical, 'logical sector size'],
    [ITEM_GUIDS.physical, 'physical sector size'],
  ])('without item %s', (id, title) => {
    expect(outcome(withItems(items.filter((item) => item.guid !== id)))).toBe(
      `corrupt: VHDX metadata table at 0x200000: has no ${title} item`,
    );
    expect(outcome(replaced(id, new Uint8Array(7)))).toMatch(
      new RegExp(`^corrupt: VHDX ${title} item: has 7 bytes, expected \\d+$`),
    );
  });

  test.each([0, 1, 512, MIB - 1, MIB / 2, 3 * MIB, 512 * MIB, 0x80000000, 0xffffffff])(
    'block size %i',
    (size) => {
      expect(outcome(parameters(size))).toBe(
        `corrupt: VHDX file parameters: the block size is ${size}, expected a power of two from 1 MiB to 256 MiB`,
      );
    },
  );

  test.each([0, 1, 511, 520, 2048, 8192, 0xffffffff])('sector size %i', (size) => {
    expect(outcome(replaced(ITEM_GUIDS.logical, little(4, size)))).toBe(
      `corrupt: VHDX logical sector size item: is ${size}, expected 512 or 4096`,
    );
    expect(outcome(replaced(ITEM_GUIDS.physical, little(4, size)))).toContain(
      'VHDX physical sector size item',
    );
  });

  test.each([513n, BigInt(64 * TIB) + 512n, 2n ** 64n - 512n])('disk size %i', (size) => {
    expect(outcome(replaced(ITEM_GUIDS.size, little(8, size)))).toBe(
      `corrupt: VHDX virtual disk size item: is ${size}, expected at most 64 TiB and a multiple of the ` +
        'logical sector size 512',
    );
  });

  test('a disk size of odd 512-byte sectors with 4096-byte ones', () => {
    expect(outcome(buildVhdx({ size: MIB + 512, logical: 4096 }))).toContain(
      'multiple of the logical sector size 4096',
    );
  });

  test('unknown items: required ones are refused, optional ones are not', () => {
    const unknown = { guid: '12345678-0000-0000-0000-000000000001', data: new Uint8Array(9) };
    expect(outcome(withItems([...items, { ...unknown, flags: 4 }]))).toBe(
      'unsupported: VHDX metadata table at 0x200000: the VHDX metadata item ' +
        '12345678-0000-0000-0000-000000000001 is marked as required and not known',
    );
    expect(outcome(withItems([...items, { ...unknown, flags: 2 }]))).toBe('opened');
    // The same GUID as a user's item is another item.
    expect(outcome(withItems([...items, { ...unknown, guid: ITEM_GUIDS.size, flags: 1 }]))).toBe('opened');
  });

  test.each<[string, Partial<ItemPlan>, string]>([
    [
      'before the items',
      { offset: 65535 },
      'has 8 bytes at 0xffff, expected at most 1 MiB within 0x10000 to 0x100000',
    ],
    ['behind the region', { offset: MIB - 7 }, 'has 8 bytes at 0xffff9'],
    ['far outside', { offset: 0xffffffff }, 'has 8 bytes at 0xffffffff'],
    ['over another', { offset: 65536 + 20 }, 'overlaps the VHDX'],
    ['too long', { length: MIB + 1 }, 'has 1048577 bytes at 0x10008'],
    ['empty but somewhere', { length: 0 }, 'has 0 bytes at 0x10008'],
  ])('an item %s', (_name, more, text) => {
    expect(outcome(replaced(ITEM_GUIDS.size, little(8, plan.size), more))).toContain(
      'corrupt: VHDX metadata',
    );
    expect(outcome(replaced(ITEM_GUIDS.size, little(8, plan.size), more))).toContain(text);
  });

  test('an item twice, and too many of users', () => {
    expect(outcome(withItems([...items, items[1]!]))).toContain(
      'entry 5 repeats the VHDX virtual disk size item',
    );
    const user = (n: number): ItemPlan => ({
      guid: `12345678-0000-0000-0000-${n.toString(16).padStart(12, '0')}`,
      data: new Uint8Array(0),
      flags: 1,
    });
    const users = (count: number) => Array.from({ length: count }, (_, n) => user(n));
    expect(outcome(withItems([...items, ...users(1024)]))).toBe('opened');
    expect(outcome(withItems([...items, ...users(1025)]))).toContain(
      'has 1025 user items, expected at most 1024',
    );
  });

  test('reserved flags and a locator without a parent are only noted', () => {
    expect(outcome(parameters(MIB, 0x80000000))).toBe(
      'opened; VHDX file parameters: reserved flags are set (0x80000000)',
    );
    expect(outcome(withItems([...items, { guid: ITEM_GUIDS.locator, data: new Uint8Array(3) }]))).toBe(
      'opened; VHDX parent locator item: is there although the image says that it has no parent; ignored',
    );
  });
});

describe('differencing images', () => {
  const LINK = '{BBBBBBBB-0000-0000-0000-000000000002}';
  const child = (locator: Uint8Array | undefined): SparseSource =>
    buildVhdx({
      ...plan,
      flags: 2,
      ...(locator === undefined ? {} : { items: [{ guid: ITEM_GUIDS.locator, data: locator }] }),
    });

  test('open without their parent', () => {
    const locator = encodeLocator([
      ['parent_linkage', LINK],
      ['relative_path', '.\\base.vhdx'],
    ]);
    expect(outcome(child(locator))).toBe('opened');
  });

  test('a second linkage that is no GUID is noted', () => {
    const locator = encodeLocator([
      ['volume_path', '\\\\?\\Volume{1}\\b.vhdx'],
      ['parent_linkage', LINK],
      ['parent_linkage2', '{0}'],
    ]);
    expect(outcome(child(locator))).toBe(
      'opened; VHDX parent locator item: parent_linkage2 is "{0}", expected a GUID in braces; ignored',
    );
  });

  test.each<[string, Uint8Array | undefined, string]>([
    ['no locator', undefined, 'corrupt: VHDX metadata table at 0x200000: has no parent locator item'],
    [
      'a short one',
      new Uint8Array(19),
      'corrupt: VHDX parent locator item: has 19 bytes, expected at least 20',
    ],
    [
      'another type',
      encodeLocator([], '00000000-0000-0000-0000-000000000001'),
      'unsupported: VHDX parent locator item: the locator type is 00000000-0000-0000-0000-000000000001',
    ],
    [
      'no linkage',
      encodeLocator([['relative_path', 'x']]),
      'corrupt: VHDX parent locator item: has no parent_linkage',
    ],
    [
      'a linkage that is no GUID',
      encodeLocator([
        ['relative_path', 'x'],
        ['parent_linkage', 'base'],
      ]),
      'corrupt: VHDX parent locator item: parent_linkage is "base", expected a GUID in braces',
    ],
    [
      'no path',
      encodeLocator([['parent_linkage', LINK]]),
      'corrupt: VHDX parent locator item: names no path, expected one of relative_path',
    ],
    [
      'a key twice',
      encodeLocator([
        ['parent_linkage', LINK],
        ['parent_linkage', LINK],
      ]),
      'corrupt: VHDX parent locator item: entry 1 repeats the key "parent_linkage"',
    ],
    [
      'an empty value',
      encodeLocator([['parent_linkage', '']]),
      'corrupt: VHDX parent locator item: entry 0 has 0 bytes of text at 60',
    ],
    [
      'more entries than bytes',
      joined(guid('b04aefb7-d19e-4a81-b789-25b8e9445913'), little(2, 0), little(2, 65535)),
      'corrupt: VHDX parent locator item: 65535 entries need 786440 bytes, the item has 20',
    ],
    [
      'text outside of the item',
      joined(
        guid('b04aefb7-d19e-4a81-b789-25b8e9445913'),
        little(4, 0x10000),
        little(8, 0xffffffff00000020n),
        little(4, 0x00020002),
      ),
      'corrupt: VHDX parent locator item: entry 0 has 2 bytes of text at 32, expected whole UTF-16 units within 32',
    ],
  ])('with %s', (_name, locator, text) => {
    expect(outcome(child(locator))).toContain(text);
  });
});
