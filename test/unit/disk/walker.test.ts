/** Where the bytes of a disk come from, over a scripted format, and over every format's samples and chains. */

import { describe, expect, test } from 'vitest';
import { EIO } from '../../../src/base/errno.ts';
import { guestOffset as at, type HostOffset, hostOffset, TIB } from '../../../src/base/units.ts';
import { Disk } from '../../../src/disk/disk.ts';
import { type Origin, originsOf } from '../../../src/disk/walker.ts';
import { driverOf } from '../../../src/formats/registry.ts';
import { vhdxDriver } from '../../../src/formats/vhdx/driver.ts';
import { DATA, HOLE, ZERO } from '../../../src/image/extent.ts';
import { openDisk, parentDisk, readDisk } from '../../support/disk.ts';
import { samples as qed, chains as qedChains } from '../../support/encoders/qed.ts';
import { samples as vdi, chains as vdiChains } from '../../support/encoders/vdi.ts';
import { samples as vhd } from '../../support/encoders/vhd.ts';
import { chains as vhdChains } from '../../support/encoders/vhd-chains.ts';
import { samples as vhdx } from '../../support/encoders/vhdx.ts';
import { chains as vhdxChains } from '../../support/encoders/vhdx-chains.ts';
import { buildVhdx } from '../../support/encoders/vhdx-image.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { random, randomBytes } from '../../support/random.ts';
import type { SampleImage } from '../../support/sample.ts';
import { BLOCK, Script, SIZE } from './script.ts';

const bytes = randomBytes(random(9), 4000);
const KINDS = { [HOLE]: 'hole', [ZERO]: 'zero', [DATA]: 'data' };

/** "0+100 data 1@300" */
const shown = ({ at, length, kind, sparse, depth, host }: Origin): string =>
  `${at}+${length} ${sparse ? 'sparse' : KINDS[kind]} ${depth}${kind === DATA ? `@${host}` : ''}`;

const mapOf = (disk: Disk): string[] => [...originsOf(disk.walker())].map(shown);

function scripted(map: readonly number[], parent?: Disk, size = SIZE, source = new MemorySource(bytes)) {
  const script = new Script();
  script.map.splice(0, map.length, ...map);
  return { script, disk: new Disk(size, script, source, { parent }) };
}

describe('one image', () => {
  test('neighbours with the same answer are one run, and data only where it goes on in the file', () => {
    const { disk } = scripted([3, 4, 7, 8, -1, -1, -2, -2, 0, 1]);
    expect(mapOf(disk)).toEqual([
      '0+200 data 0@300',
      '200+200 data 0@700',
      '400+200 hole 0',
      '600+200 zero 0',
      '800+170 data 0@0',
    ]);
  });

  test('data in a hole of the file is told apart, at the byte', () => {
    const source = new MemorySource(bytes);
    // A hole from 350 to 425.
    source.nextData = (host) => (host >= 350 && host < 425 ? hostOffset(425) : host);
    source.nextHole = (host) => (host < 350 ? hostOffset(350) : (source.size as HostOffset));
    const { disk } = scripted([3, 4, 5], undefined, SIZE, source);
    expect(mapOf(disk).slice(0, 4)).toEqual([
      '0+50 data 0@300',
      '50+75 sparse 0@350',
      '125+175 data 0@425',
      '300+670 hole 0',
    ]);
  });

  test('an empty disk has no run', () => {
    expect(mapOf(scripted([], undefined, 0).disk)).toEqual([]);
  });
});

describe('a chain', () => {
  test('the layer is that which was asked last; behind the end of a parent nobody asks it', () => {
    const base = scripted([0, 1, -1, -2, 4, 5], undefined, 5 * BLOCK + 30).disk;
    const middle = scripted([-1, -2, -1, -1, 9], base).disk;
    const top = scripted([-1, -1, -1, -1, -1, -1, -1, 6], middle).disk;
    expect(mapOf(top)).toEqual([
      '0+100 data 2@0',
      '100+100 zero 1',
      '200+100 hole 2',
      '300+100 zero 2',
      '400+100 data 1@900',
      '500+30 data 2@500',
      '530+170 hole 1',
      '700+100 data 0@600',
      '800+170 hole 1',
    ]);
  });

  test('a large hole over a parent in pieces is looked up once', () => {
    const base = scripted([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]).disk;
    const { script, disk } = scripted([], base);
    let asked = 0;
    script.locate = (_at, length, out) => {
      asked += 1;
      return out.set(HOLE, 0, length);
    };
    expect(mapOf(disk)).toHaveLength(10);
    expect(asked).toBe(1);
  });

  test('places may be asked for in any order', () => {
    const base = scripted([0, 1, -1, 5]).disk;
    const walker = scripted([-1, 7, -1, -1], base).disk.walker();
    for (const [place, expected] of [
      [350, '350+50 data 1@550'],
      [120, '120+80 data 0@720'],
      [30, '30+70 data 1@30'],
      [199, '199+1 data 0@799'],
    ] as const) {
      expect(walker.look(at(place))).toBe(0);
      expect(shown(walker)).toBe(expected);
    }
  });
});

describe('damage', () => {
  test('all before it is told, then the place and the errno', () => {
    const base = scripted([0, 1, 2]);
    const { locate } = base.script;
    base.script.locate = (place, ...rest) =>
      place >= 250 ? -EIO : locate.call(base.script, place, Math.min(rest[0], 250 - place), rest[1]);
    const { disk } = scripted([-1, 9], base.disk);
    const told: string[] = [];
    expect(() => {
      for (const run of originsOf(disk.walker())) told.push(shown(run));
    }).toThrow('at 0x12c of the disk: where its bytes are cannot be told (errno 5)');
    expect(told).toEqual(['0+100 data 1@0', '100+100 data 0@900', '200+100 data 1@200']);
  });

  test('a driver that breaks its promise is an error, not an endless loop', () => {
    const { script, disk } = scripted([0]);
    script.locate = (_at, _length, out) => out.set(HOLE, 0, 0);
    expect(() => mapOf(disk)).toThrow('errno 5');
  });

  test('so is data behind the end of the file', () => {
    const { script, disk } = scripted([0]);
    script.locate = (_at, _length, out) => out.set(DATA, 5000, 100);
    expect(() => mapOf(disk)).toThrow('errno 5');
  });
});

/** The files of a sample's chain, the image first. */
const filesOf = (sample: SampleImage): Uint8Array[] => [
  sample.file,
  ...(sample.parent === undefined ? [] : filesOf(sample.parent)),
];

describe.each([
  ['qed', [...qed(3), ...qedChains(random(3))]],
  ['vdi', [...vdi(3), ...vdiChains(random(3))]],
  ['vhd', [...vhd(3), ...vhdChains(random(3))]],
  ['vhdx', [...vhdx(3), ...vhdxChains(random(3))]],
] as const)('samples of %s', (_format, samples) => {
  test.each(samples.map((sample) => [sample.name, sample] as const))(
    '%s: the bytes are where the map says',
    (_name, sample) => {
      const source = new MemorySource(sample.file);
      const parent = parentDisk(sample);
      const { disk } = openDisk(driverOf(sample.format), source, sample.options, 1 << 16, parent);
      const files = filesOf(sample);
      const built = new Uint8Array(disk.size);
      let end = 0;
      for (const { at, length, kind, depth, host } of originsOf(disk.walker())) {
        expect(at).toBe(end);
        end += length;
        if (kind === DATA) built.set(files[depth]!.subarray(host, host + length), at);
      }
      expect(end).toBe(disk.size);
      expect(Buffer.compare(built, readDisk(disk))).toBe(0);
    },
  );
});

test('an empty disk of 64 TiB in blocks of 1 MiB is one run, found by whole pages of the table', () => {
  const file = buildVhdx({ size: 64 * TIB, bat: { at: 3, length: 513 } });
  const { disk } = openDisk(vhdxDriver, file);
  const begun = performance.now();
  expect(mapOf(disk)).toEqual([`0+${64 * TIB} hole 0`]);
  expect(performance.now() - begun).toBeLessThan(20_000);
});
