/** `vdisk check` as programs and people meet it: exit statuses, JSON, text. */

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { DRIVERS } from '../../../src/formats/registry.ts';
import { openFile } from '../../../src/source/file.ts';
import { lockImage } from '../../../src/source/image-lock.ts';
import { samples as qed } from '../../support/encoders/qed.ts';
import { encodeVdi, FREE, type VdiDescription } from '../../support/encoders/vdi.ts';
import { samples as vhd } from '../../support/encoders/vhd.ts';
import { samples as vhdx } from '../../support/encoders/vhdx.ts';
import { random } from '../../support/random.ts';
import { vdisk } from '../../support/vdisk.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-check-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

function put(name: string, file: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, file);
  return path;
}

const K = 4096;
const vdi = (name: string, some: Partial<VdiDescription> = {}) =>
  put(name, encodeVdi({ map: [0, FREE, 1], blockSize: K, ...some }, random(1)).file);

describe('exit status and text', () => {
  it('0: clean, one line', async () => {
    const path = vdi('clean.vdi');
    expect(await vdisk('check', path)).toEqual({
      status: 0,
      stdout: `${path}: clean; vdi, 8 KiB (8192 bytes) allocated\n`,
      stderr: '',
    });
  });

  it('0: warnings are told, and do not count', async () => {
    const path = vdi('warned.vdi', { create: new Uint8Array(16) });
    const { status, stdout } = await vdisk('check', path);
    expect(status).toBe(0);
    expect(stdout).toBe(
      `${path}: clean, 1 warning; vdi, 8 KiB (8192 bytes) allocated\n` +
        '  warning: VDI header at 0x188: the create UUID is null\n',
    );
  });

  it('2: errors, before all else', async () => {
    const path = vdi('bad.vdi', { map: [2, FREE, 3, FREE], allocated: 1 });
    const { status, stdout } = await vdisk('check', path);
    expect(status).toBe(2);
    expect(stdout.split('\n').map((line) => line.split(' at ')[0])).toEqual([
      `${path}: 1 error, 1 leak (8 KiB (8192 bytes)); vdi, 8 KiB (8192 bytes) allocated`,
      '  error: VDI header',
      '  leak: VDI data area',
      '',
    ]);
  });

  it('3: leaks alone', async () => {
    const { status, stdout } = await vdisk('check', vdi('leaky.vdi', { map: [2, FREE, 0] }));
    expect(status).toBe(3);
    expect(stdout).toContain('1 leak (4 KiB (4096 bytes))');
  });

  it('63: raw has nothing to check', async () => {
    const path = put('some.raw', new Uint8Array(1024));
    expect(await vdisk('check', path)).toEqual({
      status: 63,
      stdout: `${path}: not checked: raw has no structure to check\n`,
      stderr: '',
    });
  });

  it.each([
    ['no such file', [join('/nowhere', 'x.vdi')], 'vdisk: /nowhere/x.vdi: no such file\n'],
    ['no image named', [], 'vdisk: check: more is needed: vdisk check <images...>'],
    ['an unknown option', ['x.vdi', '--mend'], 'vdisk: check has no option --mend'],
  ])('1: %s', async (_name, args, text) => {
    const { status, stdout, stderr } = await vdisk('check', ...args);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(text);
  });

  it('1: it cannot be opened as its format, and the line begins with its name', async () => {
    const file = encodeVdi({ map: [0], blockSize: K }, random(1)).file;
    const path = put('cut.vdi', file.subarray(0, 0x100));
    const { status, stderr } = await vdisk('check', path);
    expect(status).toBe(1);
    expect(stderr).toBe(`vdisk: ${path}: VDI header at 0x48: it takes 384 bytes, the file has 184 of them\n`);
  });

  it('of several images the gravest, and all are looked at', async () => {
    const [clean, leaky, raw] = [
      vdi('a.vdi'),
      vdi('b.vdi', { map: [1, FREE] }),
      put('c.img', new Uint8Array(512)),
    ];
    const bad = vdi('d.vdi', { map: [1, 0], allocated: 1 });
    expect((await vdisk('check', clean, raw)).status).toBe(63);
    expect((await vdisk('check', raw, leaky, clean)).status).toBe(3);
    expect((await vdisk('check', leaky, '/nowhere', clean)).status).toBe(1);
    const all = await vdisk('check', bad, '/nowhere', leaky, raw, clean);
    expect(all.status).toBe(2);
    expect(all.stdout.split('\n').filter((line) => line.startsWith('/'))).toHaveLength(4);
  });

  it('many findings are cut off for people', async () => {
    const map = Array.from({ length: 400 }, (_, n) => (n === 0 ? 399 : n % 2 === 0 ? n : FREE));
    const path = vdi('many.vdi', { map, blockSize: 512 });
    const { stdout } = await vdisk('check', path);
    expect(stdout).toContain('199 leaks');
    expect(stdout.split('\n').filter((line) => line.startsWith('  leak: '))).toHaveLength(50);
    expect(stdout).toContain('  and 149 more (see --json)\n');
    const [json] = JSON.parse((await vdisk('check', '--json', path)).stdout);
    expect(json.findings).toHaveLength(199);
    expect(json['findings-omitted']).toBe(0);
  });
});

describe('for programs', () => {
  it('--json has counts and findings', async () => {
    const path = vdi('json.vdi', { map: [2, FREE, 0], create: new Uint8Array(16) });
    const raw = put('json.raw', new Uint8Array(512));
    const { status, stdout } = await vdisk('check', '--json', path, raw);
    expect(status).toBe(3);
    expect(JSON.parse(stdout)).toEqual([
      {
        filename: path,
        format: 'vdi',
        result: 'leaks',
        errors: 0,
        leaks: 1,
        'leaked-bytes': K,
        warnings: 1,
        'allocated-bytes': 2 * K,
        findings: [
          { severity: 'warning', text: 'VDI header at 0x188: the create UUID is null' },
          { severity: 'leak', text: 'VDI data area at 0x1400: no entry names physical block 1' },
        ],
        'findings-omitted': 0,
      },
      {
        filename: raw,
        format: 'raw',
        result: 'unsupported',
        errors: 0,
        leaks: 0,
        'leaked-bytes': 0,
        warnings: 0,
        'allocated-bytes': 0,
        findings: [],
        'findings-omitted': 0,
      },
    ]);
  });

  it('--json is an array also where nothing could be checked', async () => {
    const { status, stdout } = await vdisk('check', '--json', '/nowhere');
    expect({ status, stdout }).toEqual({ status: 1, stdout: '[]\n' });
  });
});

describe('every format that has a check', () => {
  const images = [vhd(3)[0]!, vhdx(3)[0]!, qed(3)[0]!];
  it.each(images.map((image) => [image.format, image] as const))('%s', async (format, image) => {
    expect(DRIVERS.find(({ id }) => id === format)?.check).toBeDefined();
    const path = put(`sample.${format}`, image.file);
    const options = Object.entries(image.options ?? {}).map(([name, value]) => `--${name}=${value}`);
    const { status, stdout } = await vdisk('check', ...options, path);
    expect(stdout).toContain(`${path}: clean`);
    expect(status).toBe(0);
  });
});

describe('the image', () => {
  it('is not changed', async () => {
    const path = vdi('same.vdi', { map: [2, FREE, 0], allocated: 1 });
    const [bytes, { mtimeMs, ctimeMs }] = [readFileSync(path), statSync(path)];
    await vdisk('check', path);
    expect(Buffer.compare(readFileSync(path), bytes)).toBe(0);
    expect(statSync(path)).toMatchObject({ mtimeMs, ctimeMs });
  });

  it('is left alone while somebody writes to it, but with --force-share', async () => {
    const path = vdi('locked.vdi');
    const writer = openFile(path, 'write');
    try {
      lockImage(writer.share().fd, path, 'write', () => '');
      const { status, stderr } = await vdisk('check', path);
      expect(status).toBe(1);
      expect(stderr).toMatch(
        /^vdisk: .*locked\.vdi: is in use for writing.*\n {2}Stop it first, or use --force-share/,
      );
      expect((await vdisk('check', '-U', path)).status).toBe(0);
    } finally {
      writer.close();
    }
  });
});

describe('other commands', () => {
  it('--help says how, with examples and the statuses', async () => {
    const { status, stdout } = await vdisk('check', '--help');
    expect(status).toBe(0);
    for (const part of ['vdisk check <images..>', '--json', '--force-share', 'Examples:', '63']) {
      expect(stdout).toContain(part);
    }
    expect((await vdisk('--help')).stdout).toContain('vdisk check <images..>');
  });

  it('info has its own statuses', async () => {
    const path = vdi('info.vdi');
    expect(await vdisk('info', path)).toMatchObject({ status: 0, stderr: '' });
    expect((await vdisk('info', '/nowhere')).status).toBe(2);
    expect((await vdisk('info')).status).toBe(2);
  });
});
