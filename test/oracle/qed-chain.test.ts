/**
 * QED images with backing files against QEMU, both ways: chains that qemu-img made and qemu-io filled, read by us; the
 * same written by us, read and checked by QEMU, which then writes on. Backing files of every format that both know.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openParents } from '../../src/chain/chain.ts';
import { type LayerContext, openContextOf, openLayer } from '../../src/chain/layer.ts';
import { openOverlay } from '../../src/chain/overlay.ts';
import { DEFAULT_POLICY } from '../../src/chain/policy.ts';
import type { Disk } from '../../src/disk/disk.ts';
import { checkImage } from '../../src/formats/qed/check.ts';
import { NOTE } from '../../src/formats/qed/create.ts';
import { qedHeader } from '../../src/formats/qed/structs.ts';
import { attachLayers } from '../../src/fuse/tree.ts';
import { IoGate } from '../../src/shared/io-gate.ts';
import { PagePool } from '../../src/shared/page-pool.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { step } from '../model/workload.ts';
import { readDisk } from '../support/disk.ts';
import { sha256 } from '../support/images.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { between, type Random, random } from '../support/random.ts';

const haveQemu = have('qemu-img') && have('qemu-io');

const K = 1024;
const M = 1024 * K;

describe.skipIf(!haveQemu)('QED chains against QEMU (needs qemu-img and qemu-io)', () => {
  const folder = privateFolder();

  function run(tool: string, ...args: string[]): string {
    const { status, stdout, stderr } = spawnSync(tool, args, { cwd: folder.at, encoding: 'utf8' });
    if (status !== 0) throw new Error(`${tool} ${args.join(' ')}: ${stderr}${stdout}`);
    return stdout;
  }

  /** QEMU's names of formats. */
  interface Link {
    readonly name: string;
    readonly format: string;
    readonly size: number;
    readonly options?: string;
  }

  /** The chain, the base first; each with some writes, zeros and discards of its own. */
  function makeChain(chain: readonly Link[], next: Random): void {
    for (const [n, { name, format, size, options }] of chain.entries()) {
      const below = chain[n - 1];
      const backing = below === undefined ? [] : ['-b', below.name, '-F', below.format];
      const shape = options === undefined ? [] : ['-o', options];
      run('qemu-img', 'create', '-q', '-f', format, ...shape, ...backing, name, String(size));
      run('qemu-io', '-f', format, ...writes(next, size, format, 12), name);
    }
  }

  function writes(next: Random, size: number, format: string, count: number): string[] {
    const list: string[] = [];
    for (let n = 0; n < count; n += 1) {
      const length = 512 * between(next, 1, Math.min(size, 150 * K) / 512);
      const at = 512 * between(next, 0, (size - length) / 512);
      if (format === 'qed' && next() < 0.3) {
        const start = 64 * K * between(next, 0, Math.floor(size / (64 * K)) - 1);
        list.push('-c', `${next() < 0.5 ? 'write -q -z' : 'discard -q'} ${start} ${64 * K}`);
      } else list.push('-c', `write -q -P ${between(next, 1, 255)} ${at} ${length}`);
    }
    return list;
  }

  /** The bytes of the disk as QEMU reads them. */
  function theirs(name: string): Uint8Array {
    run('qemu-img', 'convert', '-f', 'qed', '-O', 'raw', name, 'theirs.raw');
    return readFileSync(folder.path('theirs.raw'));
  }

  const context = (): LayerContext => ({
    tables: new TableAllocator(),
    report: () => {},
    formatOptions: [],
    lock: true,
    holders: () => [],
  });

  /** Opens a chain as a mount does, hands its disk over, closes it. */
  function withChain<T>(
    name: string,
    access: 'read' | 'write',
    use: (disk: Disk, blockSize: number) => T,
  ): T {
    const shared = context();
    const top = openLayer(folder.path(name), access, undefined, shared);
    const opened = [top];
    try {
      opened.push(...openParents(top, DEFAULT_POLICY, shared).layers);
      const edit = access === 'write' ? top.image.prepareEdit(openContextOf(top.path, shared)) : undefined;
      const [first, ...rest] = opened.map(({ image, source }) => ({
        image: image.share(),
        source: source.share(),
      }));
      const seed = { ...first!, image: { ...first!.image, edit } };
      const disk = attachLayers([seed, ...rest], top.image.virtualSize, {
        pool: new PagePool(PagePool.seed(1 << 17)),
        gate: new IoGate(IoGate.seed(1), 0),
        report: (text) => {
          throw new Error(text);
        },
      });
      return use(disk, top.image.blockSize);
    } finally {
      for (const { source } of opened) source.close();
    }
  }

  function expectSame(found: Uint8Array, wanted: Uint8Array): void {
    if (Buffer.compare(found, wanted) === 0) return;
    const at = wanted.findIndex((byte, n) => byte !== found[n]);
    throw new Error(`${found.length} and ${wanted.length} bytes, they differ at ${at}`);
  }

  const CHAINS: readonly (readonly [string, readonly Link[]])[] = [
    [
      'on raw',
      [
        { name: 'base.raw', format: 'raw', size: 3 * M + 512 },
        { name: 'top.qed', format: 'qed', size: 4 * M },
      ],
    ],
    [
      'on QED on raw, each larger',
      [
        { name: 'base.raw', format: 'raw', size: M + 1536 },
        { name: 'middle.qed', format: 'qed', size: 2 * M, options: 'cluster_size=4096,table_size=2' },
        { name: 'top.qed', format: 'qed', size: 5 * M + 512 },
      ],
    ],
    [
      'on QED on QED, each smaller',
      [
        { name: 'base.qed', format: 'qed', size: 5 * M, options: 'cluster_size=262144,table_size=2' },
        { name: 'middle.qed', format: 'qed', size: 3 * M },
        { name: 'top.qed', format: 'qed', size: 2 * M + 512, options: 'cluster_size=4096,table_size=2' },
      ],
    ],
    [
      'on VHDX',
      [
        { name: 'base.vhdx', format: 'vhdx', size: 4 * M, options: 'block_size=1M' },
        { name: 'top.qed', format: 'qed', size: 4 * M },
      ],
    ],
    [
      'on VHD',
      [
        { name: 'base.vhd', format: 'vpc', size: 4 * M, options: 'force_size=on' },
        { name: 'top.qed', format: 'qed', size: 4 * M, options: 'cluster_size=16384,table_size=4' },
      ],
    ],
    [
      'on VDI',
      [
        { name: 'base.vdi', format: 'vdi', size: 4 * M },
        { name: 'top.qed', format: 'qed', size: 6 * M },
      ],
    ],
  ];

  test.each(CHAINS)('%s', { timeout: 60_000 }, (name, chain) => {
    const next = random(name.length * 77);
    makeChain(chain, next);
    const top = chain.at(-1)!;
    const below = chain.slice(0, -1).map((link) => folder.path(link.name));
    const before = below.map((path) => [sha256(readFileSync(path)), statSync(path).mtimeMs]);
    const model = theirs(top.name);
    expectSame(
      withChain(top.name, 'read', (disk) => readDisk(disk)),
      model,
    );

    const work = (end: 'close' | 'killed') =>
      withChain(top.name, 'write', (disk, blockSize) => {
        for (let n = 0; n < 60; n += 1) step(disk, model, next, blockSize);
        expect(end === 'close' ? disk.close() : disk.flush()).toBe(0);
      });
    for (const end of ['close', 'killed'] as const) {
      work(end);
      expectSame(theirs(top.name), model);
      const found = JSON.parse(check(top.name)) as { corruptions?: number };
      expect(found.corruptions ?? 0).toBe(0);
    }

    // QEMU writes on where we stopped, and we on top of that.
    run('qemu-io', '-f', 'qed', ...writes(next, top.size, 'qed', 10), top.name);
    model.set(theirs(top.name));
    expectSame(
      withChain(top.name, 'read', (disk) => readDisk(disk)),
      model,
    );
    work('close');
    expectSame(theirs(top.name), model);
    expect(below.map((path) => [sha256(readFileSync(path)), statSync(path).mtimeMs])).toEqual(before);
    for (const link of chain) rmSync(folder.path(link.name));
  });

  /** 0: sound, 3: leaks. */
  function check(name: string): string {
    const args = ['check', '-f', 'qed', '--output=json', name];
    const { status, stdout } = spawnSync('qemu-img', args, { cwd: folder.at, encoding: 'utf8' });
    expect([0, 3]).toContain(status);
    return stdout;
  }

  test('an overlay of ours: QEMU takes it, and leaves our record alone until it gives it another base', () => {
    const bytes = Uint8Array.from({ length: M }, (_, n) => n % 251);
    writeFileSync(folder.path('plain.raw'), bytes);
    writeFileSync(folder.path('other.raw'), bytes);
    const shared = context();
    const base = openLayer(folder.path('plain.raw'), 'read', undefined, shared);
    const place = folder.path('over.qed');
    const request = { place, access: 'write', force: false } as const;
    const overlaid = (): string[] => {
      const notices: string[] = [];
      const { layer } = openOverlay(base, [], request, { ...shared, report: (text) => notices.push(text) });
      layer.source.close();
      return notices;
    };
    try {
      expect(overlaid()).toEqual([]);
      const record = () => readFileSync(place).subarray(NOTE.at, NOTE.at + NOTE.bytes);
      const made = Buffer.from(record());
      const told = JSON.parse(run('qemu-img', 'info', '--output=json', 'over.qed')) as Record<
        string,
        unknown
      >;
      expect(told).toMatchObject({ format: 'qed', 'virtual-size': M, 'backing-filename': 'plain.raw' });
      run('qemu-img', 'compare', '-f', 'qed', '-F', 'raw', 'over.qed', 'plain.raw');
      run('qemu-img', 'check', '-q', '-f', 'qed', 'over.qed');
      run('qemu-io', '-f', 'qed', '-c', 'write -q -P 5 100k 300k', '-c', 'write -q -z 512k 64k', 'over.qed');
      run('qemu-img', 'check', '-q', '-f', 'qed', '-r', 'all', 'over.qed');
      expect(record()).toEqual(made);
      expect(overlaid()).toEqual([]);
      // The name changes, and the record stays: it is not believed any more.
      run('qemu-img', 'rebase', '-q', '-u', '-f', 'qed', '-b', 'other.raw', '-F', 'raw', 'over.qed');
      expect(record()).toEqual(made);
      expect(overlaid).toThrow(/is an overlay of other\.raw, not of .*plain\.raw/);
      run('qemu-img', 'rebase', '-q', '-u', '-f', 'qed', '-b', 'plain.raw', '-F', 'raw', 'over.qed');
      expect(overlaid()).toEqual([]);
      // One that QEMU made.
      run('qemu-img', 'create', '-q', '-f', 'qed', '-b', 'plain.raw', '-F', 'raw', 'qemu.qed');
      const asked = { ...request, place: join(folder.at, 'qemu.qed') };
      const notices: string[] = [];
      const report = (text: string) => notices.push(text);
      openOverlay(base, [], asked, { ...shared, report }).layer.source.close();
      expect(notices).toEqual([expect.stringMatching(/does not record for which state/)]);
    } finally {
      base.source.close();
    }
    const source = openLayer(place, 'read', 'qed', shared).source;
    expect(checkImage(source).errors).toBe(0);
    source.close();
  });

  test('an image that is enlarged shows zeros behind what its cluster held, not the parent', () => {
    // The parent is longer than the image was: those bytes must not come up from a cluster that we copied.
    writeFileSync(folder.path('long.raw'), new Uint8Array(M).fill(9));
    run('qemu-img', 'create', '-q', '-f', 'qed', '-b', 'long.raw', '-F', 'raw', 'short.qed', String(100 * K));
    withChain('short.qed', 'write', (disk) => {
      expect(disk.write(Uint8Array.of(1), 0, 1, (99 * K) as never)).toBe(1);
      expect(disk.close()).toBe(0);
    });
    const before = theirs('short.qed');
    // As a resize does; qemu-img makes none where the parent is longer.
    const file = readFileSync(folder.path('short.qed'));
    qedHeader.encode({ ...qedHeader.decode(file), imageSize: BigInt(128 * K) }, file);
    writeFileSync(folder.path('short.qed'), file);
    const after = theirs('short.qed');
    expectSame(after.subarray(0, 100 * K), before);
    expect(after.subarray(100 * K).every((byte) => byte === 0)).toBe(true);
    expectSame(
      withChain('short.qed', 'read', (disk) => readDisk(disk)),
      after,
    );
  });
});
