/** New image files: whole or not at all, never over another by accident, and found as children by the chain layer. */

import {
  chmodSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { openParents } from '../../../src/chain/chain.ts';
import { createImage, type MadeImage } from '../../../src/chain/create.ts';
import { type LayerContext, openLayer } from '../../../src/chain/layer.ts';
import { DEFAULT_POLICY } from '../../../src/chain/policy.ts';
import { driverOf } from '../../../src/formats/registry.ts';
import type { FormatId } from '../../../src/image/driver.ts';
import { TableAllocator } from '../../../src/shared/paged-table.ts';
import { openFile } from '../../../src/source/file.ts';
import { lockImage } from '../../../src/source/image-lock.ts';

let folder = '';
let notices: string[] = [];
beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'vdisk-create-')));
  notices = [];
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const at = (name: string): string => join(folder, name);
const contextOf = (): LayerContext => ({
  tables: new TableAllocator(),
  formatOptions: [],
  lock: true,
  report: (text) => notices.push(text),
  holders: () => [],
});

interface Some {
  readonly size?: number;
  readonly options?: string;
  readonly parent?: string;
  readonly replace?: boolean;
  readonly signal?: AbortSignal;
  readonly progress?: (done: number, total: number) => void;
}

function make(format: FormatId, name: string, some: Some = {}): Promise<MadeImage> {
  const { size, options, parent, replace = false, signal = new AbortController().signal, progress } = some;
  return createImage({
    path: at(name),
    driver: driverOf(format),
    options: options === undefined ? [] : [options],
    virtualSize: size,
    parent: parent === undefined ? undefined : { path: at(parent), format: undefined },
    replace,
    context: contextOf(),
    signal,
    ...(progress === undefined ? {} : { progress }),
  });
}

/** How many files this process has open. */
const openFiles = (): number => readdirSync('/proc/self/fd').length;

/** That it is refused, with nothing left behind: no file, no descriptor. */
async function refused(making: () => Promise<unknown>, expected: object): Promise<void> {
  const [before, open] = [readdirSync(folder), openFiles()];
  await expect(making()).rejects.toMatchObject(expected);
  expect(readdirSync(folder)).toEqual(before);
  expect(openFiles()).toBe(open);
}

function chainOf(name: string): string[] {
  const context = contextOf();
  const top = openLayer(at(name), 'read', undefined, context);
  try {
    const { layers, readOnly } = openParents(top, DEFAULT_POLICY, context);
    for (const { source } of layers) source.close();
    expect(readOnly).toBeUndefined();
    return layers.map(({ path }) => path.slice(folder.length + 1));
  } finally {
    top.source.close();
  }
}

describe('files', () => {
  test('the file is there, as planned, and nothing else', async () => {
    const open = openFiles();
    const made = await make('vhdx', 'a.vhdx', { size: 10 * MIB });
    expect([made.path, made.fileSize, made.image.virtualSize]).toEqual([at('a.vhdx'), 4 * MIB, 10 * MIB]);
    expect(statSync(made.path).size).toBe(made.fileSize);
    expect([readdirSync(folder), notices, openFiles()]).toEqual([['a.vhdx'], [], open]);
  });

  test('one that is there stays, unless it is to be replaced', async () => {
    writeFileSync(at('a.vhd'), 'dear', { mode: 0o600 });
    await refused(() => make('vhd', 'a.vhd', { size: MIB }), {
      kind: 'usage',
      message: `${at('a.vhd')}: is there already`,
      hint: expect.stringContaining('--force'),
    });
    expect(readFileSync(at('a.vhd'), 'utf8')).toBe('dear');
    await make('vhd', 'a.vhd', { size: MIB, replace: true });
    // As private as the one that was there.
    expect(statSync(at('a.vhd')).mode & 0o777).toBe(0o600);
    expect(chainOf('a.vhd')).toEqual([]);
    await make('vhd', 'b.vhd', { size: MIB, replace: true });
    expect(readdirSync(folder)).toEqual(['a.vhd', 'b.vhd']);
  });

  test('one that somebody makes meanwhile stays too', async () => {
    const progress = () => writeFileSync(at('a.vhd'), 'dear');
    await expect(make('vhd', 'a.vhd', { size: MIB, progress })).rejects.toMatchObject({ kind: 'usage' });
    expect([readFileSync(at('a.vhd'), 'utf8'), readdirSync(folder)]).toEqual(['dear', ['a.vhd']]);
  });

  test('one that is in use is not replaced', async () => {
    await make('vhd', 'a.vhd', { size: MIB });
    const source = openFile(at('a.vhd'));
    try {
      lockImage(source.share().fd, 'a.vhd', 'read', () => '');
      await refused(() => make('vhd', 'a.vhd', { size: MIB, replace: true }), { kind: 'in-use' });
    } finally {
      source.close();
    }
  });

  test('a link is followed; a directory is not replaced', async () => {
    writeFileSync(at('real.raw'), 'old');
    symlinkSync('real.raw', at('link.raw'));
    await make('raw', 'link.raw', { size: MIB, replace: true });
    expect([statSync(at('real.raw')).size, readdirSync(folder)]).toEqual([MIB, ['link.raw', 'real.raw']]);
    mkdirSync(at('d'));
    await refused(() => make('raw', 'd', { size: MIB, replace: true }), { kind: 'usage' });
    await refused(() => make('raw', 'none/x', { size: MIB }), { kind: 'usage' });
    symlinkSync('loop', at('loop'));
    await refused(() => make('raw', 'loop', { size: MIB }), { kind: 'io' });
  });

  test('a file that its file system cannot hold', async () => {
    await refused(() => make('raw', 'a.raw', { size: Number.MAX_SAFE_INTEGER }), {
      kind: 'io',
      message: expect.stringContaining('has no files that large'),
    });
  });

  test('stopped in the middle, nothing is left', async () => {
    const stop = new AbortController();
    let calls = 0;
    const progress = () => {
      calls += 1;
      if (calls === 3) stop.abort('SIGINT');
    };
    const some = { size: 64 * MIB, options: 'preallocation=full', signal: stop.signal, progress };
    await refused(() => make('raw', 'a.raw', some), { kind: 'interrupted' });
    expect(calls).toBe(3);
  });
});

describe('space', () => {
  test.each(['raw', 'vhd', 'vhdx', 'vdi'] as const)('%s: off, falloc, full', async (format) => {
    const fixed = format === 'raw' ? '' : 'subformat=fixed,';
    const made = async (how: string) =>
      (await make(format, how, { size: 16 * MIB, options: `${fixed}preallocation=${how}` })).allocated;
    expect(await made('off')).toBeLessThan(2 * MIB);
    expect(await made('falloc')).toBeGreaterThanOrEqual(16 * MIB);
    expect(await made('full')).toBeGreaterThanOrEqual(16 * MIB);
    const data = readFileSync(at('full')).subarray(0, 16 * MIB);
    if (format === 'raw' || format === 'vhd') expect(data.every((byte) => byte === 0)).toBe(true);
  });

  test('there is none to reserve in a dynamic image', async () => {
    await refused(() => make('vdi', 'a.vdi', { size: MIB, options: 'preallocation=full' }), {
      kind: 'usage',
      hint: expect.stringContaining('subformat=fixed'),
    });
  });
});

describe('children', () => {
  test.each([
    ['vhd', 'vhd'],
    ['vhd', 'raw'],
    ['vhdx', 'vhdx'],
    ['vdi', 'vdi'],
    ['vdi', 'vhd'],
    ['qed', 'qed'],
    ['qed', 'raw'],
    ['qed', 'vhdx'],
  ] as const)('%s on %s: found, and as large as its parent', async (format, of) => {
    await make(of, `base.${of}`, { size: 3 * MIB });
    const made = await make(format, `child.${format}`, { parent: `base.${of}` });
    expect(made.image.virtualSize).toBe(3 * MIB);
    expect(chainOf(`child.${format}`)).toEqual([`base.${of}`]);
    expect(notices).toEqual([]);
  });

  test('a child of a child, in a directory above it', async () => {
    mkdirSync(at('sub'));
    await make('vhdx', 'sub/base.vhdx', { size: MIB });
    await make('vhdx', 'sub/mid.vhdx', { parent: 'sub/base.vhdx' });
    await make('vhdx', 'top.vhdx', { parent: 'sub/mid.vhdx' });
    expect(chainOf('top.vhdx')).toEqual(['sub/mid.vhdx', 'sub/base.vhdx']);
    expect(notices).toEqual([]);
  });

  test('a parent that is not below the child: what a mount has to be told', async () => {
    mkdirSync(at('sub'));
    await make('vhd', 'base.vhd', { size: MIB });
    await make('vhd', 'sub/child.vhd', { parent: 'base.vhd' });
    expect(notices).toEqual([
      `${at('sub/child.vhd')}: to find its parent, a mount has to be told where: --parent-dir=${folder}`,
    ]);
    expect(() => chainOf('sub/child.vhd')).toThrow();
  });

  test('the path is that from where the child really is', async () => {
    mkdirSync(at('real/deep'), { recursive: true });
    symlinkSync('real/deep', at('short'));
    await make('qed', 'real/deep/base.qed', { size: MIB });
    const { image } = await make('qed', 'short/child.qed', { parent: 'short/base.qed' });
    expect(image.parent?.places[0]?.path).toBe('base.qed');
  });

  test('larger than its parent, but not smaller; a size in no whole sectors is rounded up', async () => {
    writeFileSync(at('base.raw'), Buffer.alloc(1000));
    expect((await make('qed', 'a.qed', { parent: 'base.raw' })).image.virtualSize).toBe(1024);
    expect((await make('qed', 'b.qed', { parent: 'base.raw', size: MIB })).image.virtualSize).toBe(MIB);
    await refused(() => make('qed', 'c.qed', { parent: 'base.raw', size: 512 }), {
      message: expect.stringContaining('its parent has 1000, and would be cut off'),
    });
  });

  test('as private as its parent', async () => {
    await make('qed', 'base.qed', { size: MIB });
    chmodSync(at('base.qed'), 0o600);
    await make('qed', 'child.qed', { parent: 'base.qed' });
    expect(statSync(at('child.qed')).mode & 0o777).toBe(0o600);
  });

  test('what cannot be a parent', async () => {
    await make('vhd', 'base.vhd', { size: MIB });
    await refused(() => make('vhdx', 'a.vhdx', { parent: 'base.vhd' }), {
      message: `${at('base.vhd')}: is a VHD image; the parent of a VHDX is VHDX`,
    });
    await refused(() => make('raw', 'a.raw', { parent: 'base.vhd' }), {
      message: 'a RAW image cannot have a parent',
    });
    await refused(() => make('vhd', 'a.vhd', { parent: 'none.vhd' }), { kind: 'usage' });
    await refused(() => make('vhd', 'a.vhd'), { message: expect.stringContaining('its size is needed') });
    const source = openFile(at('base.vhd'), 'write');
    try {
      lockImage(source.share().fd, 'base.vhd', 'write', () => '');
      await refused(() => make('vhd', 'a.vhd', { parent: 'base.vhd' }), { kind: 'in-use' });
    } finally {
      source.close();
    }
  });

  test('no image of the chain is replaced, whatever its name', async () => {
    await make('qed', 'base.qed', { size: MIB });
    await make('qed', 'mid.qed', { parent: 'base.qed' });
    linkSync(at('base.qed'), at('other.qed'));
    for (const name of ['mid.qed', 'base.qed', 'other.qed']) {
      await refused(() => make('qed', name, { parent: 'mid.qed', replace: true }), {
        kind: 'usage',
        message: `${at(name)}: is what the new image would stand on, and is not replaced`,
      });
    }
    expect(chainOf('mid.qed')).toEqual(['base.qed']);
  });
});
