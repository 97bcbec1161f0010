/** Every pair of formats, beside qemu-img convert: the same content, sound images, and no more space than its own take. */

import { execFileSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { KIB, MIB } from '../../src/base/units.ts';
import { DRIVERS } from '../../src/formats/registry.ts';
import type { FormatId } from '../../src/image/driver.ts';
import { convertTo } from '../support/convert.ts';
import { gateOf } from '../support/machine.ts';
import { privateFolder } from '../support/oracle.ts';
import { between, random, randomBytes } from '../support/random.ts';
import { builtThread } from '../support/threads.ts';

const gate = gateOf('program: qemu-img');
const folder = privateFolder();
const script = builtThread('src/convert/convert-thread.ts');

const SIZE = 37 * MIB + 3 * 512;
const FORMATS = DRIVERS.map(({ id }) => id);
const QEMU = { raw: 'raw', vhd: 'vpc', vhdx: 'vhdx', vdi: 'vdi', qed: 'qed' } as const;
/** With which they keep the size that is asked for. */
const EXACT: Partial<Record<FormatId, string[]>> = { vhd: ['-o', 'force_size=on'] };
/** What the formats allocate at once, in the images compared here. */
const BLOCK = { raw: 4 * KIB, vhd: 2 * MIB, vhdx: 32 * MIB, vdi: MIB, qed: 64 * KIB } as const;

const qemu = (...args: string[]): string => execFileSync('qemu-img', args, { encoding: 'utf8' });
const source = (format: FormatId): string => folder.path(`source.${format}`);
const onDisk = (path: string): number => statSync(path).blocks * 512;

/** Data, zeros that are written, and holes, of random lengths at random sectors. */
function makeSource(path: string, seed: number): void {
  const next = random(seed);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, SIZE);
  for (let at = 0; at < SIZE; ) {
    const length = Math.min(SIZE - at, between(next, 1, 1200) * 512);
    const kind = between(next, 0, 3);
    if (kind === 0) writeSync(fd, randomBytes(next, length), 0, length, at);
    else if (kind === 1) writeSync(fd, new Uint8Array(length), 0, length, at);
    at += length;
  }
  closeSync(fd);
}

describe(gate.title('convert beside qemu-img'), { skip: gate.skip }, () => {
  beforeAll(() => {
    makeSource(source('raw'), 11);
    for (const format of FORMATS.filter((id) => id !== 'raw')) {
      qemu(
        'convert',
        '-f',
        'raw',
        '-O',
        QEMU[format],
        ...(EXACT[format] ?? []),
        source('raw'),
        source(format),
      );
    }
  });

  test.each(FORMATS.flatMap((from) => FORMATS.map((to) => [from, to] as const)))(
    '%s to %s',
    async (from, to) => {
      const [ours, theirs] = [folder.path('ours'), folder.path('theirs')];
      try {
        const made = await convertTo(
          { sources: [[source(from), from]], path: ours, format: to, verify: true },
          script(),
        );
        const { 'virtual-size': size } = JSON.parse(
          qemu('info', '--output=json', '-f', QEMU[from], source(from)),
        );
        expect({ size: made.image.virtualSize, notices: made.notices }).toEqual({ size, notices: [] });
        qemu('compare', '-f', 'raw', '-F', QEMU[to], source('raw'), ours);
        if (to !== 'raw' && to !== 'vhd') qemu('check', '-f', QEMU[to], ours);
        qemu('convert', '-f', QEMU[from], '-O', QEMU[to], ...(EXACT[to] ?? []), source(from), theirs);
        execFileSync('sync', [ours, theirs]);
        expect(onDisk(ours)).toBeLessThanOrEqual(onDisk(theirs) * 1.02 + BLOCK[to]);
      } finally {
        rmSync(ours, { force: true });
        rmSync(theirs, { force: true });
      }
    },
  );

  test('several sources are one disk, its last sector filled up', async () => {
    const odd = folder.path('odd.raw');
    const bytes = randomBytes(random(5), 5000);
    writeFileSync(odd, bytes);
    const whole = folder.path('whole.vhdx');
    try {
      const made = await convertTo(
        {
          sources: [
            [odd, 'raw'],
            [source('qed'), 'qed'],
            [odd, 'raw'],
          ],
          path: whole,
          format: 'vhdx',
          verify: true,
        },
        script(),
      );
      const size = Math.ceil((SIZE + 10_000) / 512) * 512;
      expect(made.image.virtualSize).toBe(size);
      expect(made.notices).toEqual([
        expect.stringContaining(`${size - SIZE - 10_000} zeros are added behind`),
      ]);
      const wanted = folder.path('wanted');
      execFileSync('sh', ['-c', 'cat "$1" "$2" "$1" > "$0"', wanted, odd, source('raw')]);
      expect(qemu('compare', '-f', 'raw', '-F', 'vhdx', wanted, whole)).toContain('identical');
    } finally {
      rmSync(whole, { force: true });
    }
  });

  test('a chain becomes one image', async () => {
    const child = folder.path('child.qed');
    const flat = folder.path('flat.vdi');
    qemu('create', '-q', '-f', 'qed', '-b', source('raw'), '-F', 'raw', child);
    execFileSync('qemu-io', ['-f', 'qed', '-c', 'write -P 0x5a 3M 1M', '-c', 'write -z 9M 1M', child], {
      stdio: 'ignore',
    });
    await convertTo({ sources: [[child, 'qed']], path: flat, format: 'vdi' }, script());
    expect(qemu('compare', '-f', 'qed', '-F', 'vdi', child, flat)).toContain('identical');
    expect(readdirSync(folder.at).filter((name) => name.startsWith('.vdisk'))).toEqual([]);
  });
});
