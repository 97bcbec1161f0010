/** What the tests against other programs' images share. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll } from 'vitest';
import type { FormatDriver } from '../../src/image/driver.ts';
import { openFile } from '../../src/source/file.ts';
import { type OpenedDisk, openDisk } from './disk.ts';
import { findProgram } from './machine.ts';

/** Images that other programs wrote, with INDEX.tsv; it may be missing. */
export const IMAGES: string = join(
  fileURLToPath(new URL('../..', import.meta.url)),
  '..',
  'shared',
  'images',
);

export function have(program: string): boolean {
  return findProgram(program) !== undefined;
}

/** A directory for the tests of a file, which goes with them. */
export interface Folder {
  /** Where it is; only known inside tests. */
  readonly at: string;
  path(name: string): string;
}

export function privateFolder(): Folder {
  let at = '';
  beforeAll(() => {
    at = mkdtempSync(join(tmpdir(), 'vdisk-oracle-'));
  });
  afterAll(() => rmSync(at, { recursive: true, force: true }));
  return {
    get at() {
      return at;
    },
    path: (name) => join(at, name),
  };
}

/** Opens a file as an image with few table pages, hands it over, closes it. */
export function withDisk<T>(driver: FormatDriver, path: string, use: (opened: OpenedDisk) => T): T {
  const source = openFile(path);
  try {
    return use(openDisk(driver, source, {}, 16 * 4120));
  } finally {
    source.close();
  }
}
