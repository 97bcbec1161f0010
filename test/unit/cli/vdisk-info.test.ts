/** `vdisk info` of images with parents: text, JSON, and what it says where a parent is missing. */

import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { vdisk } from '../../support/vdisk.ts';
import { type Family, qedOn, uuidText, vdiBytes } from '../chain/support.ts';

let folder = '';
beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'vdisk-info-')));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

function put(name: string, content: Uint8Array | Family): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content instanceof Uint8Array ? content : vdiBytes(content));
  return path;
}

const rowsOf = (text: string, ...names: string[]): string[] =>
  text
    .replaceAll(`${folder}/`, '')
    .split('\n')
    .filter((line) => names.some((name) => line.startsWith(`${name}:`)))
    .map((line) => line.replace(/ +/g, ' '));

const STATE = '00001001-4040-4040-4040-404040404040';

describe('an image with parents', () => {
  it('shows what is wanted and what was found', async () => {
    put('a/base.vdi', { id: 1 });
    put('a/middle.vdi', { id: 2, parent: 1 });
    const top = put('a/top.vdi', { id: 3, parent: 2 });
    const { status, stdout, stderr } = await vdisk('info', top);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(rowsOf(stdout, 'parent wanted', 'parent 1', 'parent 2', 'parent 3', 'warning')).toEqual([
      `parent wanted: create UUID ${uuidText(2)}, modify UUID ${STATE}`,
      `parent 1: a/middle.vdi: vdi (differencing), uuid-create ${uuidText(2)}, uuid-modify ${STATE}`,
      `parent 2: a/base.vdi: vdi (dynamic), uuid-create ${uuidText(1)}, uuid-modify ${STATE}`,
    ]);
    const [json] = JSON.parse((await vdisk('info', '--json', top)).stdout);
    expect(json).toMatchObject({
      parent: { identity: `create UUID ${uuidText(2)}, modify UUID ${STATE}`, format: null, places: [] },
      chain: [
        { filename: top, format: 'vdi', variant: 'differencing', identity: { 'uuid-create': uuidText(3) } },
        { filename: join(folder, 'a/middle.vdi'), identity: { 'uuid-create': uuidText(2) } },
        { filename: join(folder, 'a/base.vdi'), variant: 'dynamic' },
      ],
      missing: null,
      warnings: [],
    });
    expect(json.chain).toHaveLength(3);
  });

  it('finds them where the user says', async () => {
    const far = put('b/far/base', { id: 1 });
    const top = put('b/vm/top.vdi', { id: 3, parent: 1 });
    const other = put('b/far/other.vdi', { id: 7 });
    const shown = async (...args: string[]) => {
      const { status, stdout } = await vdisk('info', '--json', ...args, top);
      expect(status).toBe(0);
      const [{ chain, missing }] = JSON.parse(stdout);
      return missing === null ? chain.at(-1).filename : missing.kind;
    };
    expect(await shown()).toBe('missing');
    expect(await shown('--parent', other)).toBe('mismatched');
    expect(await shown('--parent', other, '--parent', far)).toBe(far);
    expect(await shown(`--parent=${other}`, '--force-parent')).toBe(other);
    put('b/far/base.vdi', { id: 1 });
    expect(await shown('--parent-dir', join(folder, 'b'), '--parent-dir', dirname(far))).toBe(`${far}.vdi`);
    expect(await vdisk('info', top, '--parent=')).toMatchObject({ status: 2 });
  });

  it('is described although one is missing', async () => {
    const top = put('c/top.qed', qedOn('../gone.img', true));
    const { status, stdout, stderr } = await vdisk('info', top);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(rowsOf(stdout, 'format', 'parent place', 'parent format', 'warning', 'looked at')).toEqual([
      expect.stringMatching(/^format: qed/),
      'parent place: "../gone.img" (backing file)',
      'parent format: raw',
      'warning: its parent was not found; the image names "../gone.img" (backing file)',
      `looked at: gone.img: it is outside of ${join(folder, 'c')}, where parents may lie`.replace(
        `${folder}/`,
        '',
      ),
      'looked at: c/gone.img: there is no such file',
    ]);
    const [json] = JSON.parse((await vdisk('info', '--json', top)).stdout);
    expect(json).toMatchObject({
      parent: {
        identity: null,
        format: 'raw',
        places: [{ path: '../gone.img', style: 'posix', origin: 'backing file' }],
      },
      chain: [{ filename: top }],
      missing: { kind: 'missing', hint: expect.any(String), wanted: { by: top, looked: expect.any(Array) } },
    });
  });

  it('is checked without them', async () => {
    expect(await vdisk('check', put('d/top.vdi', { id: 3, parent: 2 }))).toMatchObject({
      status: 0,
      stderr: '',
    });
  });
});

describe('an image that stands alone', () => {
  it('says nothing of parents', async () => {
    const path = put('e/alone.vdi', { id: 1 });
    expect((await vdisk('info', path)).stdout).not.toContain('parent');
    const [json] = JSON.parse((await vdisk('info', '--json', path)).stdout);
    expect(json).toMatchObject({ parent: null, missing: null, chain: [{ filename: path }] });
  });
});
