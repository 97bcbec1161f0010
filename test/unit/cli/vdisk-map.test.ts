/** `vdisk map` as programs and people meet it. */

import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { main } from '../../../src/cli/vdisk.ts';
import { type QedDescription, qedBytes, withBacking } from '../../support/encoders/qed.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-map-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** `accept` says what comes of a write to standard output. */
async function vdisk(args: string[], accept: () => Error | undefined = () => undefined): Promise<Ran> {
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    vi.spyOn(process[name], 'write').mockImplementation((text, done) => {
      said[name] += text.toString();
      if (typeof done === 'function') (done as (problem?: Error) => void)(accept());
      return true;
    });
  }
  const status = await main(args);
  vi.restoreAllMocks();
  return { status, ...said };
}

const K = 4096;
const ones = new Uint8Array(K).fill(1);

function put(name: string, file: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, file);
  return path;
}

const qed = (clusters: NonNullable<QedDescription['clusters']>, imageSize = 8 * K): QedDescription => ({
  clusterSize: K,
  tableSize: 1,
  imageSize,
  clusters,
});

/** A child of 8 clusters over a raw parent of 5, of which the fourth is a hole of the file. */
function chain(): { child: string; parent: string } {
  const parent = join(folder, 'base.raw');
  const fd = openSync(parent, 'w');
  for (const at of [0, 1, 2, 4]) writeSync(fd, ones, 0, K, at * K);
  ftruncateSync(fd, 5 * K);
  closeSync(fd);
  const content = qed(
    new Map<number, Uint8Array | 'zero'>([
      [1, ones],
      [2, 'zero'],
    ]),
  );
  return { child: put('child.qed', qedBytes(withBacking(content, 'base.raw', true))), parent };
}

type Entry = Record<string, unknown>;
const entries = async (...args: string[]): Promise<Entry[]> => {
  const { status, stdout, stderr } = await vdisk(['map', '--json', ...args]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout);
};

describe('JSON', () => {
  it("has qemu-img's fields, an entry a line", async () => {
    const { child, parent } = chain();
    const found = await entries(child);
    const offset = found[1]!['offset'] as number;
    expect(offset % K).toBe(0);
    const hole = { present: false, zero: true, data: false, compressed: false };
    const data = { present: true, zero: false, data: true, compressed: false };
    expect(found).toEqual([
      { start: 0, length: K, depth: 1, ...data, offset: 0, filename: parent },
      { start: K, length: K, depth: 0, ...data, offset, filename: child },
      { start: 2 * K, length: K, depth: 0, ...hole, present: true },
      { start: 3 * K, length: K, depth: 1, ...hole, present: true, offset: 3 * K, filename: parent },
      { start: 4 * K, length: K, depth: 1, ...data, offset: 4 * K, filename: parent },
      { start: 5 * K, length: 3 * K, depth: 0, ...hole },
    ]);
    const { stdout } = await vdisk(['map', '--json', child]);
    expect(stdout.split('\n')).toHaveLength(found.length + 1);
  });

  it('--layer: what one image holds by itself, a hole being no zeros where a parent stands below', async () => {
    const { child, parent } = chain();
    const brief = (list: Entry[]) =>
      list.map(({ start, depth, present, zero, data }) => [start, depth, present, zero, data]);
    expect(brief(await entries('--layer', '0', child))).toEqual([
      [0, 0, false, false, false],
      [K, 0, true, false, true],
      [2 * K, 0, true, true, false],
      [3 * K, 0, false, false, false],
    ]);
    expect(brief(await entries('--layer=1', child))).toEqual([
      [0, 1, true, false, true],
      [3 * K, 1, true, true, false],
      [4 * K, 1, true, false, true],
    ]);
    rmSync(parent);
    expect(await entries('--layer', '0', child)).toHaveLength(4);
    expect((await vdisk(['map', child])).stderr).toContain('base.raw');
  });
});

describe('--start and --length', () => {
  it('tell a part of the disk, in its own places', async () => {
    const { child } = chain();
    const all = await entries(child);
    const { offset } = all[1]! as { offset: number };
    const part = await entries('--start', '4608', '--length=4K', child);
    expect(part.map(({ start, length, depth, offset: at }) => [start, length, depth, at])).toEqual([
      [4608, K - 512, 0, offset + 512],
      [2 * K, 512, 0, undefined],
    ]);
    expect(await entries('--start=0', '--length=1T', child)).toEqual(all);
    expect(await entries('--start', `${5 * K}`, child)).toEqual(all.slice(5));
    const { stdout } = await vdisk(['map', '--start', '4K', '--length', '8K', child]);
    expect(stdout).toMatch(/^data: 4 KiB.*\nzero: 4 KiB/m);
    expect(stdout).not.toMatch(/^hole:/m);
  });

  it.each([
    [['--start', '32K'], /--start: 32768 is not within the disk, which has 32768 bytes/],
    [['--start', 'x'], /--start: expected one number of bytes/],
    [['--start', '1', '--start', '2'], /--start: expected one number of bytes/],
    [['--length', '0'], /--length: expected one number of bytes above 0/],
    [['--length', '-1'], /--length: expected one number of bytes above 0|argument/],
  ])('refused: %j', async (args, text) => {
    const { child } = chain();
    const { status, stdout, stderr } = await vdisk(['map', ...args, child]);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(text);
  });
});

describe('text', () => {
  it('layers, a table and sums', async () => {
    const { child, parent } = chain();
    const { status, stdout } = await vdisk(['map', child]);
    expect(status).toBe(0);
    expect(stdout.split('\n').map((line) => line.split(/ {2,}/).join(' '))).toEqual([
      `layer 0: ${child} (qed)`,
      `layer 1: ${parent} (raw)`,
      '',
      'start length kind layer offset',
      '0x0 0x1000 data 1 0x0',
      expect.stringMatching(/^0x1000 0x1000 data 0 0x[0-9a-f]+$/),
      '0x2000 0x1000 zero 0',
      '0x3000 0x1000 sparse 1 0x3000',
      '0x4000 0x1000 data 1 0x4000',
      '0x5000 0x3000 hole',
      '',
      'data: 12 KiB (12288 bytes)',
      'sparse: 4 KiB (4096 bytes)',
      'zero: 4 KiB (4096 bytes)',
      'hole: 12 KiB (12288 bytes)',
      '',
    ]);
  });

  it('on a terminal there is a bar of its width', async () => {
    const { child } = chain();
    const { isTTY, columns } = process.stdout;
    vi.stubEnv('LC_ALL', 'C');
    try {
      Object.assign(process.stdout, { isTTY: true, columns: 16 });
      const { stdout } = await vdisk(['map', child]);
      expect(stdout.split('\n').at(-2)).toBe('####....##......');
    } finally {
      Object.assign(process.stdout, { isTTY, columns });
      vi.unstubAllEnvs();
    }
  });
});

describe('what goes wrong', () => {
  it('damage: what is before it is printed, JSON without an end', async () => {
    const damaged = qed(
      new Map<number, Uint8Array | { entry: bigint }>([
        [0, ones],
        [2, { entry: 0x123n }],
      ]),
    );
    const path = put('damaged.qed', qedBytes(damaged));
    const { status, stdout, stderr } = await vdisk(['map', path]);
    expect(status).toBe(1);
    expect(stdout).toContain('\n0x1000  0x1000  hole\n');
    expect(stdout).not.toContain('data:');
    expect(stderr).toContain(`vdisk: ${path}: at 0x2000 of the disk: where its bytes are cannot be told`);
    expect(stderr).toContain('QED');
    expect(stderr).toContain('vdisk check says what is damaged.');
    const json = await vdisk(['map', '--json', path]);
    expect(json.status).toBe(1);
    expect(() => JSON.parse(json.stdout)).toThrow();
  });

  it('usage', async () => {
    const { child } = chain();
    const two = await vdisk(['map', '--layer', '2', child]);
    expect(two.status).toBe(2);
    expect(two.stderr).toBe(`vdisk: ${child}: has no layer 2\n  Its chain has 2 images: --layer=0 to 1.\n`);
    for (const layer of ['-1', 'x', '1.5', '']) {
      expect((await vdisk(['map', `--layer=${layer}`, child])).status, layer).toBe(2);
    }
    expect((await vdisk(['map'])).status).toBe(2);
    expect((await vdisk(['map', child, child])).status).toBe(2);
    expect((await vdisk(['map', join(folder, 'none.vdi')])).status).toBe(2);
  });

  it('a parent that nobody has is told', async () => {
    const { child, parent } = chain();
    const other = put('other.raw', ones);
    const { status, stderr } = await vdisk(['map', `--parent=${other}`, parent]);
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: `vdisk: warning: --parent=${other}: no image has this file as a parent\n`,
    });
    expect((await vdisk(['map', `--parent=${parent}`, child])).stderr).toBe('');
    expect((await vdisk(['map', '--layer=0', `--parent=${parent}`, child])).stderr).toBe('');
  });

  it('a reader that has enough ends it without a word, one that fails is told', async () => {
    const { child } = chain();
    const problem = (code: string) => Object.assign(new Error(`write ${code}`), { code });
    const { status, stderr } = await vdisk(['map', child], () => problem('EPIPE'));
    expect({ status, stderr }).toEqual({ status: 1, stderr: '' });
    const full = await vdisk(['map', child], () => problem('ENOSPC'));
    expect(full.status).toBe(1);
    expect(full.stderr).toContain('write ENOSPC');
  });
});
