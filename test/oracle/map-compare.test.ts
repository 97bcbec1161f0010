/**
 * `vdisk map` and `vdisk compare` against qemu-img, where that is right about the format. It is about QED, raw files and
 * which blocks of a VDI there are. It says of VDI and VHD that what is not allocated is present, it knows neither the
 * sector bitmaps of VHDs nor where the data of a VHDX is: of these it is only asked whether disks are the same.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { main } from '../../src/cli/vdisk.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { between, type Random, random, randomBytes } from '../support/random.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

interface Entry {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly offset?: number;
  readonly filename?: string;
}

describe.skipIf(!have('qemu-img') || !have('qemu-io'))('against qemu-img (needs qemu-img, qemu-io)', () => {
  const folder = privateFolder();
  const qemu = (tool: string, ...args: string[]) =>
    execFileSync(tool, args, { cwd: folder.at, stdio: 'pipe', maxBuffer: 64 * MIB }).toString();

  async function vdisk(...args: string[]): Promise<{ status: number; stdout: string }> {
    let stdout = '';
    const { write } = process.stdout;
    process.stdout.write = ((text: string, done?: () => void) => {
      stdout += text;
      done?.();
      return true;
    }) as typeof write;
    try {
      return { status: await main(args), stdout };
    } finally {
      process.stdout.write = write;
    }
  }

  const ours = async (name: string, ...options: string[]): Promise<Entry[]> => {
    const { status, stdout } = await vdisk('map', '--json', ...options, folder.path(name));
    expect(status).toBe(0);
    return JSON.parse(stdout);
  };
  const theirs = (name: string, format: string, ...options: string[]): Entry[] =>
    JSON.parse(qemu('qemu-img', 'map', '--output=json', '-f', format, ...options, name));

  /** Entries as text, the same answers joined: QEMU may stop at the bounds of its own tables. */
  function joined(list: readonly Entry[], of: (entry: Entry) => string): string[] {
    const runs: { start: number; end: number; text: string; host: number | undefined }[] = [];
    for (const entry of list) {
      const { start, length, offset } = entry;
      const text = of(entry);
      const last = runs.at(-1);
      const follows = last?.host === undefined ? undefined : last.host + last.end - last.start;
      if (last !== undefined && last.text === text && follows === offset) last.end += length;
      else runs.push({ start, end: start + length, text, host: offset });
    }
    return runs.map(({ start, end, text, host }) => `${start}-${end} ${text} @${host}`);
  }

  const all = ({ depth, present, zero, data }: Entry): string => `${depth} ${present} ${zero} ${data}`;

  function writes(next: Random, size: number, count: number, zeros: boolean): string[] {
    return Array.from({ length: count }).flatMap(() => {
      const length = 4 * KIB * between(next, 1, 40);
      const at = 4 * KIB * between(next, 0, (size - length) / (4 * KIB));
      if (!zeros || next() < 0.6) return ['-c', `write -q -P ${between(next, 1, 255)} ${at} ${length}`];
      const start = 64 * KIB * between(next, 0, Math.floor(size / (64 * KIB)) - 3);
      return ['-c', `write -q -z ${start} ${64 * KIB * between(next, 1, 3)}`];
    });
  }

  it.each([1, 2, 3, 4])('map: chains of QED over raw are told alike, entry by entry (%i)', async (seed) => {
    const next = random(seed);
    const sizes = [3 * MIB, 5 * MIB, 4 * MIB + 64 * KIB];
    const names = sizes.map((_size, depth) => (depth === 0 ? 'base.raw' : `layer${depth}.qed`));
    for (const [depth, name] of names.entries()) {
      const format = depth === 0 ? 'raw' : 'qed';
      const backing = depth === 0 ? [] : ['-b', names[depth - 1]!, '-F', depth === 1 ? 'raw' : 'qed'];
      qemu('qemu-img', 'create', '-q', '-f', format, ...backing, name, `${sizes[depth]}`);
      qemu('qemu-io', '-f', format, ...writes(next, sizes[depth]!, 12, depth > 0), name);
    }
    for (const [depth, name] of names.entries()) {
      const [mine, other] = [await ours(name), theirs(name, depth === 0 ? 'raw' : 'qed')];
      // Of zeros in a raw file they know the place too, as we do.
      expect(joined(mine, all)).toEqual(joined(other, all));
      expect(mine.length).toBeGreaterThan(5);
      for (const { filename, depth: at } of mine.filter(({ offset }) => offset !== undefined)) {
        expect(filename).toBe(folder.path(names[depth - at]!));
      }
    }
  });

  it('map: a part of a disk', async () => {
    qemu('qemu-img', 'create', '-q', '-f', 'qed', 'part.qed', '4M');
    qemu('qemu-io', '-f', 'qed', ...writes(random(9), 4 * MIB, 12, true), 'part.qed');
    for (const [start, length] of [
      [0, 100 * KIB],
      [64 * KIB + 512, 3 * MIB],
      [3 * MIB, 8 * MIB],
    ]) {
      const mine = await ours('part.qed', `--start=${start}`, `--length=${length}`);
      const other = theirs('part.qed', 'qed', `--start-offset=${start}`, `--max-length=${length}`);
      expect(joined(mine, all)).toEqual(joined(other, all));
    }
  });

  it('map: data of a VDI, and where it is', async () => {
    qemu('qemu-img', 'create', '-q', '-f', 'vdi', 'disk.vdi', `${40 * MIB}`);
    qemu('qemu-io', '-f', 'vdi', ...writes(random(7), 40 * MIB, 12, false), 'disk.vdi');
    const data = (list: Entry[]) =>
      joined(
        list.filter((entry) => entry.data),
        () => '',
      );
    expect(data((await ours('disk.vdi')).map(withoutSparse))).toEqual(data(theirs('disk.vdi', 'vdi')));
  });

  /** QEMU calls all of a VDI's blocks data, also where they lie in a hole of the file. */
  const withoutSparse = (entry: Entry): Entry => ({
    ...entry,
    data: entry.data || entry.offset !== undefined,
  });

  /** The bytes are where we say; here QEMU is asked for the bytes alone. */
  it.each([
    ['vpc', 'disk.vhd'],
    ['vhdx', 'disk.vhdx'],
    ['vdi', 'place.vdi'],
    ['qed', 'disk.qed'],
  ])('map: the bytes of a %s are at the offsets', async (format, name) => {
    const size = 20 * MIB;
    qemu('qemu-img', 'create', '-q', '-f', format, name, `${size}`);
    qemu('qemu-io', '-f', format, ...writes(random(8), size, 12, false), name);
    qemu('qemu-img', 'convert', '-f', format, '-O', 'raw', name, 'disk.raw');
    const expected = readFileSync(folder.path('disk.raw'));
    const built = Buffer.alloc(expected.length);
    const fd = openSync(folder.path(name), 'r');
    try {
      for (const { start, length, data, offset } of await ours(name)) {
        if (data) expect(readSync(fd, built, start, length, offset!)).toBe(length);
      }
    } finally {
      closeSync(fd);
    }
    expect(Buffer.compare(built, expected)).toBe(0);
    expect(expected.some((byte) => byte !== 0)).toBe(true);
  });

  describe('compare', () => {
    const FORMATS = ['raw', 'vpc', 'vhdx', 'vdi', 'qed'] as const;
    const SIZE = 12 * MIB;
    const options = (format: string): string[] => (format === 'vpc' ? ['-o', 'force_size=on'] : []);

    function make(): Map<string, string> {
      const raw = Buffer.alloc(SIZE);
      const next = random(3);
      for (let n = 0; n < 9; n += 1) raw.set(randomBytes(next, 70_000), between(next, 0, SIZE - 70_000));
      writeFileSync(folder.path('source'), raw);
      return new Map(
        FORMATS.map((format) => {
          const name = `same.${format}`;
          qemu('qemu-img', 'convert', '-f', 'raw', '-O', format, ...options(format), 'source', name);
          return [format, name];
        }),
      );
    }

    const theirStatus = (...args: string[]) =>
      spawnSync('qemu-img', ['compare', ...args], { cwd: folder.at }).status;

    it('every pair of formats: the same; and after one byte is changed, different', async () => {
      const images = make();
      const changed = 5 * MIB + 4321;
      for (const [format, name] of images) {
        const other = `changed.${format}`;
        qemu('cp', name, other);
        const byte = readFileSync(folder.path('source'))[changed]! ^ 0xff;
        qemu('qemu-io', '-f', format, '-c', `write -q -P ${byte} ${changed} 1`, other);
        for (const [second, same] of images) {
          const formats = ['-f', format, '-F', second];
          const [path, with_] = [folder.path(name), folder.path(same)];
          expect(theirStatus(...formats, name, same)).toBe(0);
          expect((await vdisk('compare', path, with_)).status, `${format} ${second}`).toBe(0);
          expect(theirStatus(...formats, other, same)).toBe(1);
          const { status, stdout } = await vdisk('compare', '--json', folder.path(other), with_);
          expect(status, `${format} ${second}`).toBe(1);
          expect(JSON.parse(stdout)).toMatchObject({ difference: 'content', offset: changed });
        }
      }
    }, 120_000);

    it('sizes: statuses as theirs, strict or not', async () => {
      const fd = openSync(folder.path('one.raw'), 'w');
      writeSync(fd, randomBytes(random(1), MIB));
      closeSync(fd);
      qemu('cp', 'one.raw', 'two.raw');
      qemu('truncate', '-s', `${3 * MIB}`, 'two.raw');
      qemu('cp', 'two.raw', 'three.raw');
      qemu('qemu-io', '-f', 'raw', '-c', 'write -q -P 1 2M 1', 'three.raw');
      qemu('qemu-img', 'convert', '-f', 'raw', '-O', 'qed', 'two.raw', 'two.qed');
      const names = ['one.raw', 'two.raw', 'three.raw', 'two.qed', 'none'];
      for (const one of names) {
        for (const two of names) {
          for (const strict of [false, true]) {
            // What of a raw file is a hole is allocated to both, but not in a QED file.
            const mine = await vdisk(
              'compare',
              ...(strict ? ['--strict'] : []),
              folder.path(one),
              folder.path(two),
            );
            const theirs = theirStatus(...(strict ? ['-s'] : []), one, two);
            expect({ one, two, strict, status: mine.status }).toEqual({ one, two, strict, status: theirs });
          }
        }
      }
    });
  });
});
