import { describe, expect, it } from 'vitest';
import { driverOf } from '../../../../src/formats/registry.ts';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import type { Image } from '../../../../src/image/driver.ts';
import { openDisk, parentDisk, readDisk } from '../../../support/disk.ts';
import { samples as vdi } from '../../../support/encoders/vdi.ts';
import { chains } from '../../../support/encoders/vhd-chains.ts';
import {
  encodeDynamic,
  encodeFixed,
  type VhdDynamicSpec,
  type VhdLocatorSpec,
} from '../../../support/encoders/vhd-image.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';

const BLOCK = 64 * 1024;
const spec: VhdDynamicSpec = { size: 4 * BLOCK, blockSize: BLOCK, blocks: new Map() };
const wide = (text: string) => new Uint8Array(Buffer.from(text, 'utf16le'));
const utf8 = (text: string) => new TextEncoder().encode(text);
const ID = Uint8Array.from({ length: 16 }, (_, n) => n + 1);
const ID_TEXT = '01020304-0506-0708-090a-0b0c0d0e0f10';

type Link = NonNullable<VhdDynamicSpec['parent']>;

const childFile = (link: Partial<Link>, more: Partial<VhdDynamicSpec> = {}) =>
  encodeDynamic({ ...spec, ...more, parent: { uuid: ID, name: 'base.vhd', locators: [], ...link } }).file;

const open = (file: Uint8Array, options: Record<string, string> = {}) =>
  openDisk(vhdDriver, new MemorySource(file), options);

const opened = (format: 'raw' | 'vdi' | 'vhd', file: Uint8Array): Image =>
  openDisk(driverOf(format), new MemorySource(file)).image;

describe('VHD, what is known of a parent', () => {
  const locators: VhdLocatorSpec[] = [
    { code: 'Wi2k', data: utf8('C:\\OLD.VHD') },
    { code: 'MacX', data: utf8('file:///vm/b%C3%A4se.vhd') },
    { code: 'W2ku', data: wide('C:\\vm\\bäse.vhd'), space: 1 },
    { code: 'Mac ', data: new Uint8Array(10) },
    { code: 'W2ru', data: wide('.\\bäse.vhd') },
  ];

  it('the places, in their order, whatever that of the header is', () => {
    const { image, notices } = open(childFile({ locators }));
    expect(notices).toEqual([]);
    expect(image.variant).toBe('differencing');
    expect(image.parent).toMatchObject({ identity: `unique id ${ID_TEXT}`, format: undefined });
    expect(image.parent!.places).toEqual([
      { path: '.\\bäse.vhd', style: 'windows', origin: 'locator W2ru' },
      { path: 'C:\\vm\\bäse.vhd', style: 'windows', origin: 'locator W2ku' },
      { path: 'file:///vm/b%C3%A4se.vhd', style: 'url', origin: 'locator MacX' },
      { path: 'C:\\OLD.VHD', style: 'windows', origin: 'locator Wi2k' },
      { path: 'base.vhd', style: 'windows', origin: 'name in the header' },
    ]);
  });

  it('all of it is among the facts', () => {
    const { image } = open(childFile({ locators, timestamp: 3600 }));
    expect([...image.facts].filter(([name]) => name.startsWith('parent-'))).toEqual([
      ['parent-unique-id', ID_TEXT],
      ['parent-time-stamp', '2000-01-01T01:00:00.000Z'],
      ['parent-name', '"base.vhd"'],
      ['parent-locator-wi2k', 'absolute path (ANSI) "C:\\\\OLD.VHD"'],
      ['parent-locator-macx', 'file URL "file:///vm/b%C3%A4se.vhd"'],
      ['parent-locator-w2ku', 'absolute path "C:\\\\vm\\\\bäse.vhd"'],
      ['parent-locator-w2ru', 'relative path ".\\\\bäse.vhd"'],
    ]);
  });

  it('paths of Unix hosts under the codes of Windows', () => {
    const { image } = open(
      childFile({ name: '/vm/x.vhd', locators: [{ code: 'W2ku', data: wide('/vm/b.vhd') }] }),
    );
    expect(image.parent!.places.map(({ style }) => style)).toEqual(['posix', 'posix']);
  });

  it('tapdisk: a raw parent, a name in host order, no name', () => {
    const raw = open(childFile({ uuid: new Uint8Array(16), name: 'raw.img' })).image;
    expect(raw.parent).toMatchObject({ identity: undefined, format: 'raw' });
    expect(raw.facts.get('parent-unique-id')).toBe('none (a raw image)');
    expect(raw.parent!.compare(opened('raw', new Uint8Array(1000)))).toBeUndefined();
    const footer = { creator: 'tap\0', creatorVersion: 1 };
    const old = open(childFile({ name: 'base.vhd', hostOrder: true }, { footer, bits: 'lsb' })).image;
    expect(old.parent!.places.map(({ path }) => path)).toEqual(['base.vhd']);
    expect(open(childFile({ name: '' })).image.parent!.places).toEqual([]);
  });

  it.each([
    ['outside the file', { code: 'W2ru', data: wide('x'), offset: 1n << 62n }, /are not inside the file/],
    ['longer than its space', { code: 'W2ru', data: wide('x'), length: 600 }, /do not fit a space of 512/],
    [
      'in a space of half a sector',
      { code: 'W2ru', data: wide('x'), space: 700 },
      /do not fit a space of 700/,
    ],
    ['of odd length', { code: 'W2ku', data: wide('x'), length: 3 }, /3 bytes are no UTF-16 text/],
    ['with a NUL inside', { code: 'W2ku', data: wide('a\0b') }, /NUL inside/],
    ['of an unknown kind', { code: 'Abcd', data: wide('x') }, /platform code is not known/],
  ] as const)('a locator %s is ignored, and said in the check too', (_name, locator, message) => {
    const file = childFile({ locators: [locator] });
    const { image, notices } = open(file);
    expect(notices).toEqual([expect.stringMatching(message)]);
    expect(image.parent!.places.map(({ path }) => path)).toEqual(['base.vhd']);
    const context = { tables: { allocate: () => undefined } as never, report: () => {}, options: new Map() };
    const { findings, warnings } = vhdDriver.check!(new MemorySource(file), context);
    expect(findings.map(({ text }) => text)).toContainEqual(expect.stringMatching(message));
    expect(warnings).toBe(1);
  });

  it('a locator that cannot be read is ignored', () => {
    const file = childFile({ locators: [{ code: 'W2ru', data: wide('x') }] });
    class Faulty extends MemorySource {
      override readAt(target: Uint8Array, start: number, length: number, at: number & never): number {
        return length === 2 ? -5 : super.readAt(target, start, length, at);
      }
    }
    const { notices, image } = openDisk(vhdDriver, new Faulty(file));
    expect(notices).toEqual([expect.stringMatching(/its data at 0x800 cannot be read \(-5\)/)]);
    expect(image.parent!.places).toHaveLength(1);
  });
});

describe('VHD, whether it is the parent', () => {
  const data = randomBytes(random(3), 4096);
  const link = (timestamp = 0) => {
    const { image, notices } = open(childFile({ timestamp }));
    return { parent: image.parent!, notices };
  };
  const fixed = (uuid: Uint8Array, timestamp = 1000) => opened('vhd', encodeFixed(data, { uuid, timestamp }));

  it('by its unique id, whatever its kind', () => {
    const { parent } = link();
    expect(parent.compare(fixed(ID))).toBeUndefined();
    for (const file of [
      encodeDynamic({ ...spec, footer: { uuid: ID } }).file,
      childFile({ uuid: new Uint8Array(16).fill(9) }, { footer: { uuid: ID } }),
    ]) {
      expect(parent.compare(opened('vhd', file))).toBeUndefined();
    }
  });

  it.each([
    ['another image', fixed(new Uint8Array(16).fill(0x77)), 'unique id 77777777-7777-7777-7777-777777777777'],
    ['an image without an id', fixed(new Uint8Array(16)), 'none'],
    ['an image of another format', opened('vdi', vdi(1)[0]!.file), 'none'],
  ])('%s is refused with both identities', (_name, image, found) => {
    expect(link().parent.compare(image)).toEqual({
      severity: 'other',
      wanted: `unique id ${ID_TEXT}`,
      found,
    });
  });

  it('a null unique id is no identity', () => {
    expect(fixed(new Uint8Array(16)).identity).toEqual([]);
    expect(fixed(ID).identity[0]).toEqual({ name: 'unique-id', text: ID_TEXT });
  });

  it('a later time in its footer is said, and changes nothing', () => {
    for (const [recorded, expected] of [
      [0, []],
      [1000, []],
      [5000, []],
      [
        999,
        [
          expect.stringMatching(
            /changed at 2000-01-01T00:16:39.000Z .* its footer is of 2000-01-01T00:16:40/,
          ),
        ],
      ],
    ] as const) {
      const { parent, notices } = link(recorded);
      expect(parent.compare(fixed(ID))).toBeUndefined();
      expect(notices).toEqual(expected);
    }
  });
});

describe('VHD, differencing, read', () => {
  it('opens without its parent: what it has, and holes', () => {
    for (const sample of chains(random(2))) {
      const { disk } = openDisk(vhdDriver, new MemorySource(sample.file), sample.options);
      expect(readDisk(disk)).toHaveLength(sample.disk.length);
    }
  });

  it('bitmaps are never ignored', () => {
    const data = randomBytes(random(4), BLOCK);
    const blocks = new Map([[1, { data, sectors: (sector: number) => sector % 2 === 0 }]]);
    const { notices, disk, image } = open(childFile({}, { blocks }), { 'vhd-bitmap': 'ignore' });
    expect(notices).toEqual([expect.stringMatching(/vhd-bitmap=ignore is not for this image/)]);
    expect(image.facts.get('sector-bitmaps')).toBe('honoured');
    expect(readDisk(disk, BLOCK + 512, 512).every((byte) => byte === 0)).toBe(true);
  });

  it('the parents of the samples are theirs', () => {
    for (const sample of chains(random(2))) {
      for (let at = sample; at.parent?.format === 'vhd'; at = at.parent) {
        const child = openDisk(vhdDriver, new MemorySource(at.file), at.options).image;
        expect(child.parent!.compare(opened('vhd', at.parent.file))).toBeUndefined();
      }
      expect(parentDisk(sample)).toBeDefined();
    }
  });
});
