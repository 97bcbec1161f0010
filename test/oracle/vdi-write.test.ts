/**
 * VDI and raw images that we wrote, judged by QEMU: `qemu-img check`, `qemu-img compare` with a raw file, and qemu-io
 * writing on where we stopped. All in real files, on a file system that makes holes.
 */

import { spawnSync } from 'node:child_process';
import { statSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { guestOffset } from '../../src/base/units.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { rawDriver } from '../../src/formats/raw/driver.ts';
import { vdiDriver } from '../../src/formats/vdi/driver.ts';
import type { CheckReport } from '../../src/image/check.ts';
import type { FormatDriver } from '../../src/image/driver.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { attachSource, openFile } from '../../src/source/file.ts';
import { step } from '../model/workload.ts';
import { openEditable, readDisk } from '../support/disk.ts';
import { encodeVdi, randomMap } from '../support/encoders/vdi.ts';
import { have, privateFolder, withDisk } from '../support/oracle.ts';
import { between, random, randomBytes } from '../support/random.ts';

const MIB = 1024 * 1024;
const haveQemu = have('qemu-img') && have('qemu-io');

describe.skipIf(!haveQemu)('written by us, judged by QEMU (needs qemu-img, qemu-io)', () => {
  const folder = privateFolder();

  function run(tool: string, ...args: string[]): { status: number | null; output: string } {
    const { status, stdout, stderr } = spawnSync(tool, args, { cwd: folder.at, encoding: 'utf8' });
    return { status, output: `${stdout}${stderr}` };
  }

  function must(tool: string, ...args: string[]): void {
    const { status, output } = run(tool, ...args);
    if (status !== 0) throw new Error(`${tool} ${args.join(' ')}: ${output}`);
  }

  /** Opens for writing, as the data path does; the caller ends it by `disk.close()`, or leaves it as if killed. */
  function writing<T>(driver: FormatDriver, name: string, use: (disk: Disk) => T): T {
    const file = openFile(folder.path(name), 'write');
    try {
      return use(openEditable(driver, attachSource(file.share()), {}, 16 * 4128).disk);
    } finally {
      file.close();
    }
  }

  function ours(name: string): CheckReport {
    const source = openFile(folder.path(name));
    try {
      return vdiDriver.check!(source, { tables: new TableAllocator(), report: () => {}, options: new Map() });
    } finally {
      source.close();
    }
  }

  /** Both checks are clean, and QEMU reads what the model holds. */
  function expectSound(name: string, model: Uint8Array): void {
    expect(ours(name).findings).toEqual([]);
    must('qemu-img', 'check', '-f', 'vdi', name);
    expectSame('vdi', name, model);
  }

  function expectSame(format: string, name: string, model: Uint8Array): void {
    const raw = `${name}.model`;
    writeFileSync(folder.path(raw), model);
    must('qemu-img', 'compare', '-f', format, '-F', 'raw', name, raw);
  }

  const used = (name: string) => statSync(folder.path(name)).blocks * 512;

  it.each([
    [16 * MIB, 'off'],
    [16 * MIB, 'on'],
    [7 * MIB + 512, 'off'],
    [7 * MIB + 512, 'on'],
    [512, 'off'],
  ])('%i bytes, static=%s: sessions of random work, by us and by qemu-io in turn', (size, fixed) => {
    const name = `turns-${size}-${fixed}.vdi`;
    must('qemu-img', 'create', '-q', '-f', 'vdi', '-o', `static=${fixed}`, name, `${size}`);
    const model = new Uint8Array(size);
    const next = random(size);
    for (let round = 0; round < 4; round += 1) {
      writing(vdiDriver, name, (disk) => {
        expect(disk.size).toBe(size);
        for (let n = 0; n < 40; n += 1) step(disk, model, next, fixed === 'on' ? 0 : MIB);
        expect(disk.close()).toBe(0);
      });
      expectSound(name, model);
      // It allocates at our counter, without looking.
      const at = 512 * between(next, 0, size / 512 - 1);
      const length = Math.min(512 * between(next, 1, 3000), size - at);
      must('qemu-io', '-f', 'vdi', '-c', `write -P ${round + 1} ${at} ${length}`, name);
      model.fill(round + 1, at, at + length);
      expectSound(name, model);
    }
    withDisk(vdiDriver, folder.path(name), ({ disk, notices }) => {
      expect(Buffer.compare(readDisk(disk), model)).toBe(0);
      expect(notices).toEqual([]);
    });
  });

  it('qemu-io reads the bytes at the edges of blocks', () => {
    must('qemu-img', 'create', '-q', '-f', 'vdi', 'edges.vdi', '8M');
    writing(vdiDriver, 'edges.vdi', (disk) => {
      const bytes = new Uint8Array(1024).fill(0x5a);
      for (let block = 1; block < 8; block += 2) {
        expect(disk.write(bytes, 0, 1024, guestOffset(block * MIB - 512))).toBe(1024);
      }
      expect(disk.close()).toBe(0);
    });
    for (let block = 1; block < 8; block += 2) {
      const at = block * MIB - 512;
      const reads = [`read -P 0x5a ${at} 1024`, `read -P 0 ${at - 512} 512`, `read -P 0 ${at + 1024} 512`];
      const { output } = run(
        'qemu-io',
        '-r',
        '-f',
        'vdi',
        ...reads.flatMap((read) => ['-c', read]),
        'edges.vdi',
      );
      expect(output).not.toContain('failed');
    }
  });

  it('killed after a flush: the data are there; the counter is at most too large', () => {
    must('qemu-img', 'create', '-q', '-f', 'vdi', 'killed.vdi', '12M');
    const model = new Uint8Array(12 * MIB);
    const next = random(8);
    for (let round = 0; round < 4; round += 1) {
      writing(vdiDriver, 'killed.vdi', (disk) => {
        for (let n = 0; n < 25; n += 1) step(disk, model, next, MIB);
        expect(disk.flush()).toBe(0);
      });
      expect(ours('killed.vdi').errors).toBe(0);
      // QEMU calls leaks a wrong counter, and nothing else is wrong.
      const { output } = run('qemu-img', 'check', '-f', 'vdi', 'killed.vdi');
      expect(output.replace(/ERROR: allocated blocks mismatch.*\n/, '')).not.toContain('ERROR');
      expectSame('vdi', 'killed.vdi', model);
    }
    writing(vdiDriver, 'killed.vdi', (disk) => {
      step(disk, model, next, MIB);
      disk.write(model.subarray(0, 1), 0, 1, guestOffset(0));
      expect(disk.close()).toBe(0);
    });
    expectSound('killed.vdi', model);
  });

  it('an image as VirtualBox makes it', () => {
    const next = random(3);
    const description = {
      map: randomMap(next, 9),
      blockSize: MIB,
      headerSize: 0x190,
      mapOffset: MIB,
      dataOffset: 2 * MIB,
      lchs: [20, 16, 63, 512] as const,
    };
    const { file, disk: model } = encodeVdi(description, next);
    writeFileSync(folder.path('vbox.vdi'), file);
    writing(vdiDriver, 'vbox.vdi', (disk) => {
      for (let n = 0; n < 60; n += 1) step(disk, model, next, MIB);
      expect(disk.close()).toBe(0);
    });
    expectSound('vbox.vdi', model);
  });

  it('what is discarded is given back: at once, and the file shrinks at the end', () => {
    must('qemu-img', 'create', '-q', '-f', 'vdi', 'trim.vdi', '32M');
    const model = randomBytes(random(5), 32 * MIB);
    const { before, punched } = writing(vdiDriver, 'trim.vdi', (disk) => {
      for (let at = 0; at < 32 * MIB; at += MIB) disk.write(model, at, MIB, guestOffset(at));
      expect(disk.flush()).toBe(0);
      const full = used('trim.vdi');
      for (const [at, length] of [
        [3, 9],
        [20, 12],
      ] as const) {
        expect(disk.zero(guestOffset(at * MIB), length * MIB, 'punch')).toBe(0);
        model.fill(0, at * MIB, (at + length) * MIB);
      }
      const now = used('trim.vdi');
      expect(disk.close()).toBe(0);
      return { before: full, punched: now };
    });
    expect(before - punched).toBeGreaterThanOrEqual(21 * MIB - 64 * 1024);
    expect(statSync(folder.path('trim.vdi')).size).toBeLessThan(21 * MIB);
    expectSound('trim.vdi', model);
    // Freed numbers are filled from the bottom: QEMU allocates behind them.
    must('qemu-io', '-f', 'vdi', '-c', `write -P 9 ${30 * MIB} 1M`, 'trim.vdi');
    model.fill(9, 30 * MIB, 31 * MIB);
    expectSound('trim.vdi', model);
  });

  it('fixed: discards punch, and the image stays fixed', () => {
    must('qemu-img', 'create', '-q', '-f', 'vdi', '-o', 'static=on', 'fixed.vdi', '8M');
    const model = randomBytes(random(6), 8 * MIB);
    writing(vdiDriver, 'fixed.vdi', (disk) => {
      expect(disk.write(model, 0, model.length, guestOffset(0))).toBe(model.length);
      disk.flush();
      const full = used('fixed.vdi');
      expect(disk.zero(guestOffset(MIB), 6 * MIB, 'punch')).toBe(0);
      expect(full - used('fixed.vdi')).toBeGreaterThanOrEqual(6 * MIB - 64 * 1024);
      expect(disk.close()).toBe(0);
    });
    model.fill(0, MIB, 7 * MIB);
    expectSound('fixed.vdi', model);
    const { output } = run('qemu-img', 'info', '--output=json', 'fixed.vdi');
    expect(JSON.parse(output)['virtual-size']).toBe(8 * MIB);
  });

  it('a disk of 1 TiB takes what was written to it', () => {
    must('qemu-img', 'create', '-q', '-f', 'vdi', 'large.vdi', '1T');
    const places = [0, 5e11, 1024 ** 4 - 512].map((at) => at - (at % 512));
    writing(vdiDriver, 'large.vdi', (disk) => {
      for (const at of places)
        expect(disk.write(new Uint8Array(512).fill(7), 0, 512, guestOffset(at))).toBe(512);
      expect(disk.close()).toBe(0);
    });
    must('qemu-img', 'check', '-f', 'vdi', 'large.vdi');
    expect(ours('large.vdi')).toMatchObject({ findings: [], allocatedBytes: 3 * MIB });
    for (const at of places) must('qemu-io', '-r', '-f', 'vdi', '-c', `read -P 7 ${at} 512`, 'large.vdi');
  });

  it('more blocks discarded at once than can be remembered: none is lost', () => {
    const blocks = 2 ** 18 + 5000;
    const dataOffset = 0x200 + 4 * blocks;
    const { file: head } = encodeVdi({ map: [], blockSize: 512, dataOffset }, random(1));
    const view = new DataView(head.buffer);
    view.setBigUint64(0x170, BigInt(blocks * 512), true);
    view.setUint32(0x180, blocks, true);
    view.setUint32(0x184, blocks, true);
    const map = Uint32Array.from({ length: blocks }, (_, n) => n);
    writeFileSync(folder.path('many.vdi'), Buffer.concat([head.subarray(0, 0x200), Buffer.from(map.buffer)]));
    truncateSync(folder.path('many.vdi'), dataOffset + blocks * 512);
    expect(ours('many.vdi')).toMatchObject({ findings: [], allocatedBytes: blocks * 512 });
    writing(vdiDriver, 'many.vdi', (disk) => {
      const bytes = new Uint8Array(MIB).fill(1);
      expect(disk.write(bytes, 0, MIB, guestOffset(disk.size - MIB))).toBe(MIB);
      expect(disk.zero(guestOffset(0), disk.size, 'punch')).toBe(0);
      const found = new Uint8Array(MIB);
      expect(disk.read(found, 0, MIB, guestOffset(disk.size - MIB))).toBe(MIB);
      expect(Buffer.compare(found, new Uint8Array(MIB))).toBe(0);
      expect(disk.close()).toBe(0);
    });
    expect(ours('many.vdi').findings).toEqual([]);
  });

  describe('raw', () => {
    it.each([12 * MIB, 3 * MIB + 512])('%i bytes: random work compares', (size) => {
      const name = `work-${size}.raw`;
      writeFileSync(folder.path(name), '');
      truncateSync(folder.path(name), size);
      const model = new Uint8Array(size);
      const next = random(size);
      writing(rawDriver, name, (disk) => {
        for (let n = 0; n < 80; n += 1) step(disk, model, next, 0);
        expect(disk.close()).toBe(0);
      });
      expect(statSync(folder.path(name)).size).toBe(size);
      expectSame('raw', name, model);
    });

    it('writes are sparse, punched space is given back, kept space is not', () => {
      writeFileSync(folder.path('sparse.raw'), '');
      truncateSync(folder.path('sparse.raw'), 64 * MIB);
      writing(rawDriver, 'sparse.raw', (disk) => {
        const bytes = randomBytes(random(1), 8 * MIB);
        expect(disk.write(bytes, 0, bytes.length, guestOffset(16 * MIB))).toBe(bytes.length);
        disk.flush();
        const full = used('sparse.raw');
        expect(full).toBeLessThan(9 * MIB);
        expect(disk.zero(guestOffset(16 * MIB), 2 * MIB, 'keep')).toBe(0);
        disk.flush();
        expect(used('sparse.raw')).toBeGreaterThanOrEqual(full - MIB);
        expect(disk.zero(guestOffset(17 * MIB), 4 * MIB, 'punch')).toBe(0);
        disk.flush();
        expect(used('sparse.raw')).toBeLessThan(full - 3 * MIB);
        expect(disk.close()).toBe(0);
        const model = new Uint8Array(64 * MIB);
        model.set(bytes.subarray(5 * MIB), 21 * MIB);
        expectSame('raw', 'sparse.raw', model);
      });
      expect(statSync(folder.path('sparse.raw')).size).toBe(64 * MIB);
    });
  });
});
