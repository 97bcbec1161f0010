/** What is built starts with the code that V8 made of it at build time, and without it where that is of no use. */

import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Script } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { REPOSITORY } from '../support/mount.ts';

const DIST = join(REPOSITORY, 'dist');
const BUNDLE = /-[\w-]{8}\.cjs$/;
const bundles = readdirSync(DIST).filter((name) => BUNDLE.test(name));
const { compile } = createRequire(import.meta.url)(join(DIST, 'code.cjs')) as {
  compile(path: string): Script;
};

describe('the code of each bundle', () => {
  it('there are bundles of all programs and threads', () => {
    const stubs = readdirSync(DIST).filter((name) => name.endsWith('.cjs') && !BUNDLE.test(name));
    expect(bundles.map((name) => name.replace(BUNDLE, '.cjs')).sort()).toEqual(
      stubs.filter((name) => name !== 'code.cjs').sort(),
    );
    expect(bundles.length).toBeGreaterThan(5);
  });

  it.each(bundles)('%s: V8 takes it', (name) => {
    expect(compile(join(DIST, name)).cachedDataRejected).toBe(false);
  });
});

describe('code that is of no use', () => {
  let folder = '';
  let code = '';

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'vdisk-code-'));
    for (const part of ['bin', 'dist', 'package.json']) {
      cpSync(join(REPOSITORY, part), join(folder, part), { recursive: true });
    }
    symlinkSync(join(REPOSITORY, 'node_modules'), join(folder, 'node_modules'));
    code = join(folder, 'dist', `${bundles.find((name) => name.startsWith('vdisk-'))}.code`);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const version = () => spawnSync(join(folder, 'bin/vdisk'), ['--version'], { encoding: 'utf8' });
  const whole = { status: 0, stdout: `${versionOfPackage()}\n`, stderr: '' };

  it('is there', () => expect(version()).toMatchObject(whole));

  it('of another version of V8', () => {
    const other = readFileSync(code);
    // Its second word is a hash of the version.
    other.writeUInt32LE((other.readUInt32LE(4) ^ 1) >>> 0, 4);
    writeFileSync(code, other);
    expect(compile(code.replace(/\.code$/, '')).cachedDataRejected).toBe(true);
    expect(version()).toMatchObject(whole);
  });

  it('cut short', () => {
    writeFileSync(code, readFileSync(code).subarray(0, 1000));
    expect(version()).toMatchObject(whole);
  });

  it('empty', () => {
    writeFileSync(code, '');
    expect(version()).toMatchObject(whole);
  });

  it('missing', () => {
    rmSync(code);
    expect(version()).toMatchObject(whole);
  });
});

function versionOfPackage(): string {
  const text = readFileSync(join(REPOSITORY, 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
