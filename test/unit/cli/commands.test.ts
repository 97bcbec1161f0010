/** Every command of `vdisk` as a new user meets it: help, wrong usage, wrong files. One table, taken from the reference. */

import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { referenceOfVdisk } from '../../../src/cli/reference.ts';
import { commandsDeclared } from '../../../src/cli/vdisk.ts';
import { vdisk } from '../../support/vdisk.ts';

const declareCommands = await commandsDeclared();

const { commands } = referenceOfVdisk(declareCommands);
const names = commands.map(({ name }) => name);

/** Where 1 or 2 say something else, or a statement of its own is made. */
const USAGE: Readonly<Record<string, number>> = { check: 1 };
const usageOf = (name: string): number => USAGE[name] ?? 2;

/** Of those that take an image: all that they need, with FILE for it. */
const ON_IMAGES: readonly (readonly [name: string, ...words: string[]])[] = [
  ['info', 'FILE'],
  ['check', 'FILE'],
  ['check', '--repair', 'FILE'],
  ['map', 'FILE'],
  ['compare', 'FILE', 'SOUND'],
  ['compare', 'SOUND', 'FILE'],
  ['hash', 'FILE'],
  ['verify', 'FILE'],
  ['create', '-b', 'FILE', 'NEW'],
  ['convert', 'FILE', 'NEW'],
  ['resize', 'FILE', '+1M'],
  ['compact', 'FILE'],
  ['rebase', '-b', '', 'FILE'],
  ['rebase', '-b', 'FILE', 'SOUND'],
  ['commit', 'FILE'],
];

let folder = '';
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-commands-'));
  mkdirSync(join(folder, 'directory.vhdx'));
  writeFileSync(join(folder, 'empty.vhdx'), '');
  writeFileSync(join(folder, 'text.vhdx'), 'not an image\n');
  writeFileSync(join(folder, 'file'), '');
  expect((await vdisk('create', join(folder, 'sound.vhdx'), '4M')).status).toBe(0);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A line that begins so, and hints below it: no stack. */
function expectComplaint(stderr: string, begin: string): void {
  expect(stderr.startsWith(`vdisk: ${begin}`), stderr).toBe(true);
  expect(stderr).toMatch(/^vdisk: .+\n( {2}\S.*\n)*$/);
  expect(stderr).not.toMatch(/^ +at |node:|undefined|\bE[A-Z]{4,}\b/m);
}

describe.each(names)('%s', (name) => {
  const command = commands.find((candidate) => candidate.name === name)!;

  it('--help: what it is, examples, exit statuses', async () => {
    const { status, stdout, stderr } = await vdisk(name, '--help');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(command.doc.split(' ')[0]);
    expect(stdout).toMatch(/\nExamples:\n/);
    expect(stdout.replace(/\s+/g, ' ')).toMatch(/Exit status/);
  });

  it('an option that it does not have, whatever else is wrong', async () => {
    const { status, stdout, stderr } = await vdisk(name, '--nonsense', 'x');
    expect({ status, stdout }).toEqual({ status: usageOf(name), stdout: '' });
    expect(stderr).toBe(`vdisk: ${name} has no option --nonsense\n  See vdisk ${name} --help.\n`);
  });

  const isEnough = command.operands.every(({ isOptional }) => isOptional);
  if (isEnough) return;

  it('nothing given: what is needed', async () => {
    const { status, stdout, stderr } = await vdisk(name);
    expect({ status, stdout }).toEqual({ status: usageOf(name), stdout: '' });
    expectComplaint(stderr, `${name}: more is needed: vdisk ${name} <${command.operands[0]!.name}`);
    expect(stderr).toContain(`  See vdisk ${name} --help.\n`);
  });
});

describe.each(ON_IMAGES.map((words) => [words.join(' '), ...words]))('vdisk %s', (_title, name, ...words) => {
  const failing = name === 'check' ? [1] : name === 'compare' ? [2] : [1, 2];

  test.each([
    ['none.vhdx', /no such file/],
    ['directory.vhdx', /is a directory/],
    ['empty.vhdx', name === 'verify' ? /is no record/ : /the file is empty/],
    ['text.vhdx', name === 'verify' ? /is no record/ : /no known format: the name says VHDX/],
    ['file/in.vhdx', /a part of the path is not a directory/],
  ])('%s', async (file, text) => {
    const path = join(folder, file);
    const places: Record<string, string> = {
      FILE: path,
      NEW: join(folder, 'new.vhdx'),
      SOUND: join(folder, 'sound.vhdx'),
    };
    const before = readdirSync(folder);
    const { status, stdout, stderr } = await vdisk(name!, ...words.map((word) => places[word] ?? word));
    expect(failing).toContain(status);
    expect(stdout).toBe('');
    expectComplaint(stderr, path);
    expect(stderr).toMatch(text);
    expect(readdirSync(folder)).toEqual(before);
  });
});

describe('what is meant', () => {
  test.each([
    [['inf', 'x.vhd'], 'inf: is no command\n  Is it vdisk info? See vdisk --help.'],
    [['nonsense'], 'nonsense: is no command\n  See vdisk --help.'],
    [['info', '--jsn', 'x.vhd'], 'info has no option --jsn\n  Is it --json? See vdisk info --help.'],
    [
      ['compact', 'x.vhd', 'y.vhd'],
      'compact: y.vhd: is too much: vdisk compact <image>\n  See vdisk compact --help.',
    ],
    [['rebase', 'x.vhd'], 'rebase: --new-parent is needed\n  See vdisk rebase --help.'],
    [
      ['info', '-f', 'zip', 'x'],
      'info: --format: "zip" is none of vhd, vhdx, vdi, qed, raw\n  See vdisk info --help.',
    ],
    [[], 'a command is needed\n  See vdisk --help.'],
  ])('%j', async (words, text) => {
    const { status, stdout, stderr } = await vdisk(...words);
    expect({ status, stdout, stderr }).toEqual({ status: 2, stdout: '', stderr: `vdisk: ${text}\n` });
  });
});
