/** `vdisk create`: arguments, what it says, exit status. */

import { mkdtempSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Ran, vdisk } from '../../support/vdisk.ts';

let folder = '';
beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'vdisk-create-')));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
  vi.restoreAllMocks();
});
const at = (name: string): string => join(folder, name);

const create = (...args: string[]): Promise<Ran> => vdisk('create', ...args);

test('one line, status 0', async () => {
  expect(await create('-f', 'vhdx', at('a.vhdx'), '64M')).toEqual({
    status: 0,
    stdout: `${at('a.vhdx')}: vhdx (dynamic), 64 MiB (67108864 bytes)\n`,
    stderr: '',
  });
  expect(statSync(at('a.vhdx')).size).toBe(4 << 20);
});

test('--json, and a child', async () => {
  await create('-f', 'vhd', '-o', 'block-size=512K', at('base.vhd'), '1M');
  const { status, stdout } = await create('-f', 'vhd', '-b', at('base.vhd'), '--json', at('child.vhd'));
  const made = JSON.parse(stdout);
  expect(status).toBe(0);
  expect(made).toMatchObject({
    filename: at('child.vhd'),
    format: 'vhd',
    variant: 'differencing',
    'virtual-size': 1 << 20,
    'block-size': 512 << 10,
    parent: expect.stringMatching(/^unique id [0-9a-f-]{36}$/),
    warnings: [],
  });
  expect(made['file-size']).toBe(statSync(at('child.vhd')).size);
});

test('options of several -o, and a parent whose format is named', async () => {
  const options = ['-o', 'subformat=fixed', '-o', 'block-size=2M'];
  const { stdout } = await create('-f', 'vhdx', ...options, at('a.vhdx'), '4M', '--json');
  expect(JSON.parse(stdout)).toMatchObject({ variant: 'fixed', 'block-size': 2 << 20 });
  // By its content it would be a VHDX.
  const child = await create('-f', 'qed', '-b', at('a.vhdx'), '-F', 'raw', at('a.qed'), '--json');
  expect(JSON.parse(child.stdout)).toMatchObject({ 'virtual-size': statSync(at('a.vhdx')).size });
});

test.each([
  ['vhd', /azure=on\|off.*\n(.*\n)*Parents \(-b\): VHD, RAW\n$/],
  ['vhdx', /log-size=SIZE /],
  ['vdi', /block-size=SIZE /],
  ['qed', /table-size=2\|4\|8\|16 /],
  ['raw', /Parents \(-b\): none\n$/],
])('-f %s -o help', async (format, text) => {
  const { status, stdout } = await create('-f', format, '-o', 'help');
  expect(status).toBe(0);
  expect(stdout).toMatch(text);
});

test('--help says what the statuses are', async () => {
  const { status, stdout } = await create('--help');
  expect(status).toBe(0);
  expect(stdout.replace(/\s+/g, ' ')).toContain('Exit status: 0 made, 1 failed or interrupted, 2 usage.');
});

describe('refused', () => {
  test.each([
    [[], /the file to make is not named\n.*--help/],
    [['A', '1M'], /a: its name does not tell its format\n.*-f vhdx/],
    [['-o', 'help'], /of which format\? Say it with -f/],
    [['-f', 'vhd'], /the file to make is not named\n.*--help/],
    [['-f', 'vhd', 'A'], /a: its size is needed\n.*64G/],
    [['-f', 'vhd', 'A', 'big'], /"big" is no size/],
    [['-f', 'vhd', 'A', '1000'], /expected a multiple of 512\n.*1024/],
    [['-f', 'vhd', 'A', '1M', '2M'], /create: 2M: is too much: vdisk create \[file\] \[size\]/],
    [['-f', 'vhd', '-F', 'raw', 'A', '1M'], /no parent is named/],
    [['-f', 'vhd', '-b', 'x', '-b', 'y', 'A', '1M'], /--parent: is given more than once/],
    [['-f', 'vhd', '-b', '', 'A', '1M'], /parent: is empty/],
    [['-f', 'vhd', '-o', 'colour=red', 'A', '1M'], /colour=red: VHD has no such option\n.*-f vhd -o help/],
    [['-f', 'zip', 'A', '1M'], /--format: "zip" is none of vhd, vhdx, vdi, qed, raw/],
  ])('%j', async (args, text) => {
    const { status, stdout, stderr } = await create(...args.map((word) => (word === 'A' ? at('a') : word)));
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(text);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('a file that is there: 2; with --force it is replaced', async () => {
    await create('-f', 'raw', at('a.raw'), '1M');
    const { status, stderr } = await create('-f', 'raw', at('a.raw'), '2M');
    expect([status, statSync(at('a.raw')).size]).toEqual([2, 1 << 20]);
    expect(stderr).toContain('is there already\n  Name another file; or --force');
    expect((await create('-f', 'raw', '--force', at('a.raw'), '2M')).status).toBe(0);
    expect(statSync(at('a.raw')).size).toBe(2 << 20);
  });

  test('what cannot be done: 1', async () => {
    const { status, stderr } = await create('-f', 'raw', at('a.raw'), '8191T');
    expect(status).toBe(1);
    expect(stderr).toContain('has no files that large');
    expect(readdirSync(folder)).toEqual([]);
  });
});

test.each(['SIGINT', 'SIGTERM'] as const)('%s in the middle: 1, nothing is left', async (signal) => {
  const before = process.listenerCount(signal);
  const running = create('-f', 'raw', '-o', 'preallocation=full', at('a.raw'), '4G');
  while (readdirSync(folder).length === 0) await new Promise((done) => setImmediate(done));
  process.emit(signal, signal);
  const { status, stdout, stderr } = await running;
  expect([status, stdout, stderr]).toEqual([1, '', `vdisk: ${at('a.raw')}: was not made: ${signal}\n`]);
  expect([readdirSync(folder), process.listenerCount(signal)]).toEqual([[], before]);
});
