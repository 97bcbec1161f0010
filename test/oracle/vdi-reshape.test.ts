/** VDI images that we changed as a whole, judged by QEMU, which opens 1.1 with blocks of 1 MiB and without parents. */

import { spawnSync } from 'node:child_process';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { vdiDriver } from '../../src/formats/vdi/driver.ts';
import type { OpenContext } from '../../src/image/driver.ts';
import type { Reshaping } from '../../src/image/reshape.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { openFile } from '../../src/source/file.ts';
import { finish } from '../powercut/reshape.ts';
import { encodeVdi, FREE, ZERO } from '../support/encoders/vdi.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { random } from '../support/random.ts';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const { resize, compact, repair } = vdiDriver.reshape;

describe.skipIf(!have('qemu-img') || !have('qemu-io'))(
  'changed by us, judged by QEMU (needs qemu-img, qemu-io)',
  () => {
    const folder = privateFolder();

    function must(tool: string, ...args: string[]): string {
      const { status, stdout, stderr } = spawnSync(tool, args, { cwd: folder.at, encoding: 'utf8' });
      if (status !== 0) throw new Error(`${tool} ${args.join(' ')}: ${stdout}${stderr}`);
      return stdout;
    }

    function change<T>(name: string, run: (source: BlockSource, context: OpenContext) => Reshaping<T>): T {
      const source = openFile(folder.path(name), 'write');
      try {
        return finish(run(source, { tables: new TableAllocator(), report: () => {}, options: new Map() }));
      } finally {
        source.close();
      }
    }

    function findings(name: string): readonly unknown[] {
      const source = openFile(folder.path(name));
      try {
        return vdiDriver.check!(source, {
          tables: new TableAllocator(),
          report: () => {},
          options: new Map(),
        }).findings;
      } finally {
        source.close();
      }
    }

    /** Both checks are clean, and QEMU reads `raw` in it. */
    function expectSound(name: string, raw: string): void {
      expect(findings(name)).toEqual([]);
      must('qemu-img', 'check', '-f', 'vdi', name);
      const told = JSON.parse(must('qemu-img', 'info', '-f', 'vdi', '--output=json', name)) as Record<
        string,
        unknown
      >;
      expect(told['virtual-size']).toBe(statSync(folder.path(raw)).size);
      must('qemu-img', 'compare', '-f', 'vdi', '-F', 'raw', name, raw);
    }

    const write = (format: string, name: string, ...commands: string[]) =>
      must('qemu-io', '-f', format, ...commands.flatMap((command) => ['-c', command]), name);

    it('an image of QEMU grows without room for its map, is written on, made compact and shrunk', () => {
      must('qemu-img', 'create', '-q', '-f', 'vdi', 'grow.vdi', `${128 * MIB}`);
      writeFileSync(folder.path('grow.raw'), '');
      truncateSync(folder.path('grow.raw'), 128 * MIB);
      const both = (...commands: string[]) => {
        write('vdi', 'grow.vdi', ...commands);
        write('raw', 'grow.raw', ...commands);
      };
      both('write -P 1 100M 1M', 'write -P 2 0 2M', 'write -P 3 50M 64k');
      for (const size of [200 * GIB, 700 * GIB]) {
        change('grow.vdi', (source, context) => resize!(source, size, context));
        truncateSync(folder.path('grow.raw'), size);
        expectSound('grow.vdi', 'grow.raw');
        both(`write -P 4 ${size - 4096} 4096`, 'write -P 5 90M 1M');
        expectSound('grow.vdi', 'grow.raw');
      }
      const size = 60 * MIB;
      change('grow.vdi', (source, context) => resize!(source, size, context));
      truncateSync(folder.path('grow.raw'), size);
      expectSound('grow.vdi', 'grow.raw');
    });

    it('a fixed image of QEMU grows: each block has a place', () => {
      must('qemu-img', 'create', '-q', '-f', 'vdi', '-o', 'static=on', 'fixed.vdi', `${10 * MIB + 512}`);
      write('vdi', 'fixed.vdi', 'write -P 9 1M 2M');
      must('qemu-img', 'convert', '-f', 'vdi', '-O', 'raw', 'fixed.vdi', 'fixed.raw');
      change('fixed.vdi', (source, context) => resize!(source, 21 * MIB, context));
      truncateSync(folder.path('fixed.raw'), 21 * MIB);
      expectSound('fixed.vdi', 'fixed.raw');
      write('vdi', 'fixed.vdi', 'write -P 8 19M 2M');
      write('raw', 'fixed.raw', 'write -P 8 19M 2M');
      expectSound('fixed.vdi', 'fixed.raw');
    });

    it('leaks are given up, where QEMU counts them as errors', () => {
      const { file, disk } = encodeVdi({ map: [6, FREE, 1, 4, ZERO, FREE, FREE], blockSize: MIB }, random(8));
      writeFileSync(folder.path('leak.vdi'), file);
      writeFileSync(folder.path('leak.raw'), disk);
      expect(() => must('qemu-img', 'check', '-f', 'vdi', 'leak.vdi')).toThrow(/allocated blocks mismatch/);
      change('leak.vdi', (source, context) => compact!(source, context));
      expectSound('leak.vdi', 'leak.raw');
      expect(readFileSync(folder.path('leak.vdi')).length).toBe(0x400 + 3 * MIB);
    });

    it('an old image becomes one that QEMU opens, when it grows', () => {
      // Its data begin at a sector: 23 entries reach up to 0x200.
      const map = [1, 0, ...Array<number>(21).fill(FREE)];
      const { file, disk } = encodeVdi({ map, blockSize: MIB, version: 2 }, random(9));
      writeFileSync(folder.path('old.vdi'), file);
      writeFileSync(folder.path('old.raw'), disk);
      change('old.vdi', (source, context) => resize!(source, 40 * MIB, context));
      truncateSync(folder.path('old.raw'), 40 * MIB);
      expectSound('old.vdi', 'old.raw');
    });

    it('damage is mended so that QEMU finds nothing', () => {
      const { file } = encodeVdi({ map: [1, FREE, 0, 2], blockSize: MIB, allocated: 1 }, random(8));
      new DataView(file.buffer).setUint32(0x204, 1, true);
      writeFileSync(folder.path('bad.vdi'), file);
      must('qemu-img', 'convert', '-f', 'vdi', '-O', 'raw', 'bad.vdi', 'bad.raw');
      const repairs = change('bad.vdi', (source, context) => repair!(source, 'lossless', context));
      expect(repairs.length).toBeGreaterThan(1);
      expectSound('bad.vdi', 'bad.raw');
    });
  },
);
