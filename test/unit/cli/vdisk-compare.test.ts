/** `vdisk compare` as programs and people meet it. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { main } from '../../../src/cli/vdisk.ts';
import { openFile } from '../../../src/source/file.ts';
import { lockImage } from '../../../src/source/image-lock.ts';
import { qedBytes } from '../../support/encoders/qed.ts';
import { chains, encodeVdi, FREE, samples, ZERO } from '../../support/encoders/vdi.ts';
import { random } from '../../support/random.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-compare-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

async function compare(...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      said[name] += text.toString();
      return true;
    });
  }
  const status = await main(['compare', ...args]);
  vi.restoreAllMocks();
  return { status, ...said };
}

function put(name: string, file: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, file);
  return path;
}

const K = 4096;
const image = encodeVdi({ map: [2, FREE, 0, ZERO, 1], blockSize: K }, random(1));

describe('0: the same', () => {
  it('an image and its bytes, in either order', async () => {
    const [vdi, raw] = [put('a.vdi', image.file), put('a.raw', image.disk)];
    const said = { status: 0, stdout: 'the same: 20 KiB (20480 bytes)\n', stderr: '' };
    expect(await compare(vdi, raw)).toEqual(said);
    expect(await compare(raw, vdi)).toEqual(said);
    expect(await compare(vdi, vdi)).toEqual(said);
    expect(readFileSync(vdi)).toEqual(Buffer.from(image.file));
  });

  it('every sample of VDI and its bytes', async () => {
    for (const { name, file, disk, options, parent } of samples(2)) {
      if (options !== undefined || parent !== undefined) continue;
      const { status, stderr } = await compare(put('s.vdi', file), put('s.raw', disk));
      expect({ name, status, stderr }).toMatchObject({ name, status: 0 });
    }
  });

  it('a chain is one disk', async () => {
    let sample = chains(random(5)).find(({ parent }) => parent !== undefined)!;
    while (sample.parent?.parent !== undefined) sample = sample.parent;
    const child = put('child.vdi', sample.file);
    const parent = put('parent.vdi', sample.parent!.file);
    expect((await compare(child, put('flat.raw', sample.disk))).status).toBe(0);
    expect((await compare(child, parent)).status).toBe(1);
    rmSync(parent);
    const { status, stderr } = await compare(child, child);
    expect(status).toBe(2);
    expect(stderr).toContain('looked at');
  });

  it('of different sizes, where the rest is zeros', async () => {
    const small = put('small.raw', image.disk);
    const larger = put('larger.raw', Buffer.concat([image.disk, new Uint8Array(K)]));
    const text = `the same: 20 KiB (20480 bytes), and what ${larger} has behind is zeros\n`;
    expect(await compare(small, larger)).toEqual({ status: 0, stdout: text, stderr: '' });
    expect(await compare(larger, small)).toEqual({ status: 0, stdout: text, stderr: '' });
    expect(await compare('--strict', larger, small)).toEqual({
      status: 1,
      stdout: 'different: one disk has 24 KiB (24576 bytes), the other 20 KiB (20480 bytes)\n',
      stderr: '',
    });
  });
});

describe('1: different', () => {
  it('the first byte is told', async () => {
    const vdi = put('a.vdi', image.file);
    const other = image.disk.slice();
    other[4 * K + 7]! ^= 1;
    const raw = put('other.raw', other);
    expect(await compare(vdi, raw)).toEqual({
      status: 1,
      stdout: 'different: the first byte that is not the same is at 0x4007 (16391)\n',
      stderr: '',
    });
    const { status, stdout } = await compare('--json', vdi, raw);
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toEqual({
      images: [
        { filename: vdi, format: 'vdi', 'virtual-size': 5 * K },
        { filename: raw, format: 'raw', 'virtual-size': 5 * K },
      ],
      result: 'different',
      difference: 'content',
      offset: 16391,
    });
  });

  it('--strict: allocation', async () => {
    const vdi = put('a.vdi', image.file);
    const loose = put('loose.vdi', encodeVdi({ map: [2, FREE, 0, FREE, 1], blockSize: K }, random(1)).file);
    expect((await compare(vdi, loose)).status).toBe(0);
    expect((await compare('--strict', vdi, vdi)).status).toBe(0);
    expect(await compare('--strict', vdi, loose)).toMatchObject({
      status: 1,
      stdout: 'different: not allocated alike from 0x3000 (12288) on\n',
    });
  });
});

describe('on a terminal', () => {
  it('says now and then how far it is, and takes it away at the end', async () => {
    const [vdi, raw] = [put('a.vdi', image.file), put('a.raw', image.disk)];
    const { isTTY, columns } = process.stderr;
    let now = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => {
      now += 150;
      return now;
    });
    try {
      Object.assign(process.stderr, { isTTY: true, columns: 80 });
      const { status, stderr } = await compare(vdi, raw);
      expect(status).toBe(0);
      expect(clock).toHaveBeenCalled();
      const shown = stderr.split('\r').slice(1);
      expect(shown.at(-1)).toBe('\x1b[K');
      expect(shown.length).toBeGreaterThan(1);
      for (const text of shown.slice(0, -1)) expect(text).toMatch(/^vdisk: comparing: \d+ % of 0\.00 GiB/);
    } finally {
      Object.assign(process.stderr, { isTTY, columns });
    }
    expect((await compare(vdi, raw)).stderr).toBe('');
  });
});

describe('2 and more: not compared', () => {
  it('2: usage, and what cannot be opened', async () => {
    const vdi = put('a.vdi', image.file);
    for (const args of [
      [],
      [vdi],
      [vdi, vdi, vdi],
      [vdi, join(folder, 'none')],
      [vdi, folder],
      ['--nonsense', vdi, vdi],
    ]) {
      const { status, stdout, stderr } = await compare(...args);
      expect({ args, status, stdout }).toEqual({ args, status: 2, stdout: '' });
      expect(stderr).toMatch(/^vdisk: /);
    }
    const nothing = put('nothing', new Uint8Array(K).fill(7));
    expect((await compare(vdi, nothing)).status).toBe(2);
  });

  it('each image has a format of its own', async () => {
    const bytes = put('unknown', image.disk);
    const vdi = put('a.vdi', image.file);
    expect((await compare('--second-format', 'raw', vdi, bytes)).status).toBe(0);
    expect((await compare('--format', 'raw', bytes, vdi)).status).toBe(0);
    expect((await compare('--format', 'raw', vdi, bytes)).status).toBe(2);
    expect((await compare('--format', 'raw', '--second-format', 'raw', vdi, vdi)).status).toBe(0);
  });

  it('2: a virtual machine writes to it, unless --force-share', async () => {
    const vdi = put('locked.vdi', image.file);
    const writer = openFile(vdi, 'write');
    try {
      lockImage(writer.share().fd, vdi, 'write', () => '');
      const { status, stderr } = await compare(vdi, vdi);
      expect(status).toBe(2);
      expect(stderr).toContain('--force-share');
      expect((await compare('-U', vdi, vdi)).status).toBe(0);
    } finally {
      writer.close();
    }
  });

  it('3: a damaged table, where and in which; what is different before it is found first', async () => {
    const ones = new Uint8Array(K).fill(1);
    const clusters = new Map<number, Uint8Array | { entry: bigint }>([
      [0, ones],
      [2, { entry: 0x123n }],
    ]);
    const damaged = put(
      'damaged.qed',
      qedBytes({ clusterSize: K, tableSize: 1, imageSize: 4 * K, clusters }),
    );
    const disk = new Uint8Array(4 * K).fill(1, 0, K);
    const raw = put('good.raw', disk);
    const { status, stdout, stderr } = await compare(raw, damaged);
    expect({ status, stdout }).toEqual({ status: 3, stdout: '' });
    expect(stderr).toContain(`vdisk: ${damaged}: at 0x2000 of the disk: a table cannot be read`);
    expect((await compare(put('bad.raw', disk.fill(3, 0, 1)), damaged)).status).toBe(1);
  });

  it('a parent that neither has is told, once', async () => {
    const [vdi, other] = [put('a.vdi', image.file), put('other.raw', new Uint8Array(K))];
    const { status, stderr } = await compare(`--parent=${other}`, vdi, vdi);
    expect(status).toBe(0);
    expect(stderr).toBe(`vdisk: warning: --parent=${other}: no image has this file as a parent\n`);
  });
});
