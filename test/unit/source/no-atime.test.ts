/** Files that are read without a trace in their access time, where the host lets us. */

import { statSync, utimesSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { hostOffset } from '../../../src/base/units.ts';
import { openFile } from '../../../src/source/file.ts';
import { privateFolder } from '../../support/oracle.ts';

const folder = privateFolder();

/** A file that was not read since it was written: reading sets its access time, also where that is lazy. */
function fresh(name: string): string {
  const path = folder.path(name);
  writeFileSync(path, 'x'.repeat(5000));
  utimesSync(path, 1_000_000_000, 1_100_000_000);
  return path;
}

/** Opens and reads; what was found at the opening, and the access time afterwards. */
function read(path: string, noAtime: boolean) {
  const source = openFile(path, 'read', noAtime);
  expect(source.readAt(new Uint8Array(5000), 0, 5000, hostOffset(0))).toBe(5000);
  source.close();
  return { found: source.found!, accessed: Math.round(statSync(path).atimeMs) };
}

describe('openFile without access time', () => {
  it('leaves it alone', () => {
    const { found, accessed } = read(fresh('quiet'), true);
    expect(found.noAtime).toBe(true);
    expect(found.stat.atimeNs).toBe(1_000_000_000_000_000_000n);
    expect(accessed).toBe(1_000_000_000_000);
  });

  it('is not the way in which files are opened otherwise', () => {
    expect(read(fresh('loud'), false).found.noAtime).toBe(false);
  });

  const isRoot = process.geteuid?.() === 0;
  it.skipIf(!isRoot)('falls back where the file is somebody else’s, and says so (needs root)', () => {
    process.seteuid!(65534);
    try {
      const source = openFile('/etc/passwd', 'read', true);
      expect(source.found!.noAtime).toBe(false);
      source.close();
    } finally {
      process.seteuid!(0);
    }
  });

  it('says what cannot be opened at all', () => {
    expect(() => openFile(folder.path('missing'), 'read', true)).toThrow(/no such file/);
  });
});
