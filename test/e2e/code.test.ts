/** What is built starts with the code that V8 made of it at build time, and without it where that is of no use. */

import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { Script } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { VERSION } from '../../src/cli/version.ts';
import { REPOSITORY, Stage } from '../support/mount.ts';
import { install } from '../support/user.ts';

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
  let stage: Stage;
  let programs: string;
  let code: string;

  beforeAll(async () => {
    stage = await Stage.open();
    programs = dirname(install(stage.makeDirectory('installed')));
    code = join(programs, '../dist', `${bundles.find((name) => name.startsWith('vdisk-'))}.code`);
  });
  afterAll(() => stage?.close());

  const version = () => spawnSync(join(programs, 'vdisk'), ['--version'], { encoding: 'utf8' });
  const whole = { status: 0, stdout: `${VERSION}\n`, stderr: '' };

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
